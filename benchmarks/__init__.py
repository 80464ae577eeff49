"""Measurements, as ratios within one run: absolute times on shared machines drift, ratios hold."""
