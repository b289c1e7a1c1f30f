"""Measurements that depend on a clock: latency, memory, energy. They never repeat to the bit."""
