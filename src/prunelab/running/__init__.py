"""`prunelab repro`: the pipeline's stages in parallel on one machine."""
