"""What a run does: the workflow language, its replay, and the engine that drives them."""
