"""`prunelab predict`: the classes of a person's own images or texts."""
