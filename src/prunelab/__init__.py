"""Pruning studies that anybody can repeat: one command, every number and every picture."""

# It is that of pyproject.toml. The metadata of an installation may be those of another checkout.
__version__ = "0.1.0"
