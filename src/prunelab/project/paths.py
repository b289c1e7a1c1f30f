"""The paths and names of dvc.yaml that commands look for."""

from pathlib import Path

# The target of studies and sweeps, and what it leaves behind.
TARGET = "evaluate_focus"
METRICS = Path("metrics/focus.json")
ENVIRONMENT = Path("metrics/environment/focus.json")
FOCUS = Path("models/focus/finetuned")

# The dense network and the grid.
BASE = Path("models/base/final")
DENSE_METRICS = Path("metrics/base.json")
GRID = Path("metrics/grid")

# Data as downloaded or put there by hand.
RAW = Path("data/raw")

# The module that `prunelab repro` starts its workers from.
WORKER = "prunelab.commands.repro.worker"
