"""A sweep over many machines, by Ray."""
