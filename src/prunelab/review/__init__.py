"""`prunelab review`: what a change does to the results, as one Markdown document that needs no data and no models."""
