"""`prunelab allocate`: ratios of their own for every layer, out of what the stage sensitivity measured."""
