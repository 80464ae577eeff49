"""A small shop and a recorded flow through it: what `make demo` drives from end to end."""
