"""The project around the code: Git, DVC, and the paths of the pipeline.

Only this package, and the worker of `prunelab repro`, may import DVC.
"""
