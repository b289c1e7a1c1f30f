"""Splits in memory or on disk, and their batches on the device. Nothing here knows a network."""
