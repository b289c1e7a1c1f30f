"""Unstructured pruning: masks drop single weights, or small units of them, and shapes stay."""
