"""Unstructured pruning: single weights, or small groups of them, are masked."""
