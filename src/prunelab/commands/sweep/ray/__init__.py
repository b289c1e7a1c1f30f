"""A sweep on many machines, by Ray."""
