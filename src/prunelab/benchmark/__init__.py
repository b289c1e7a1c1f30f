"""Measurements that rest on a clock: latency, memory, energy. Their results never repeat to the bit."""
