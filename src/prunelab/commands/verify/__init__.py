"""`prunelab verify`: repeat a pipeline in fresh clones and compare every output."""
