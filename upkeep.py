"""What is past its time: kept as long as the settings say, then removed."""
