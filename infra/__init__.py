"""Engines that others made, behind the smallest interface that this project needs."""
