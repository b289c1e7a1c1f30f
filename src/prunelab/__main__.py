"""`python -m prunelab` is the command `prunelab`."""

from prunelab.cli import app

app()
