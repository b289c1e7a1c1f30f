"""`prunelab apply`: the parameters and results of an experiment, brought into the working tree."""
