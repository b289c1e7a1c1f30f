"""Training: the loop, optimizers, progress, checkpoints, and masks while training."""
