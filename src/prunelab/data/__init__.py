"""Data sets: raw files to prepared arrays to batches on the device. Nothing here knows a network."""
