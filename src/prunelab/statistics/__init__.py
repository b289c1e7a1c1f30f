"""Intervals over seeds and images, and comparisons of results."""
