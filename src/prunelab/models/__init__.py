"""Networks by name, and the safe import of weights trained elsewhere. Nothing here prunes."""
