"""Structured pruning: whole channels, heads and units are removed from the network."""
