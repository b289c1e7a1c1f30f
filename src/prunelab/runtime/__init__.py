"""Device, precision, seeds, determinism, and several processes."""
