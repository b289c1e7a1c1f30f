"""`prunelab export`: a pruned network for other programs and other people."""
