"""What to remove, and removing it. Nothing here reads a file."""
