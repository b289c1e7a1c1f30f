"""The commands of `prunelab`, one module or folder each."""
