"""`prunelab new`: a project in an empty folder, and parameters that fit one's own data."""
