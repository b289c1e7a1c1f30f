"""What pictures and tables show, prepared from metrics and rows. Nothing here computes a metric.

Nothing here may import torch.
"""
