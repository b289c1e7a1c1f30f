"""What every other room builds on. It imports nothing of ours, and no torch."""
