"""Pruning studies that anybody can repeat: one command, every number and every picture."""
