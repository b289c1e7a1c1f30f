"""Intervals over seeds and images, classification scores, and which results are alike."""
