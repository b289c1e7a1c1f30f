"""`prunelab review`: what a change did to the results, as Markdown for a pull request."""
