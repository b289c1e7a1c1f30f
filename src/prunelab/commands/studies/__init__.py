"""`prunelab study`: published studies, run as DVC experiments and compared."""
