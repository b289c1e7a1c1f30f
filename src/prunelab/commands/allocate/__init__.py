"""`prunelab allocate`: a ratio for every layer, from measured sensitivity."""
