"""`prunelab check`: everything that is wrong with a study, before any work starts."""
