"""`prunelab compare`: the results of several commits and experiments side by side."""
