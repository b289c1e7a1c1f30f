"""`prunelab search`: the smallest network that loses little enough, with evidence."""
