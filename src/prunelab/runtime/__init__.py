"""How to compute: device, precision, seeds, determinism, and several processes."""
