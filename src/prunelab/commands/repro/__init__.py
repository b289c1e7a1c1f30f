"""`prunelab repro`: the pipeline of dvc.yaml, several stages at a time."""
