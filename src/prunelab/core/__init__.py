"""The ground that everything stands on. Imports nothing of ours, and no torch."""
