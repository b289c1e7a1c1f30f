"""Whether a commit's results come out again: the pipeline repeated in clones, its outputs compared to the bit."""
