"""The paths and stage names of dvc.yaml that commands use."""

from pathlib import Path

# The pipeline.
PIPELINE_FILE = Path("dvc.yaml")
# DVC's record of every stage's inputs and outputs.
LOCK_FILE = Path("dvc.lock")

# The stage that studies and sweeps run, and what it writes.
TARGET = "evaluate_focus"
METRICS = Path("metrics/focus.json")
ENVIRONMENT = Path("metrics/environment/focus.json")
FOCUS = Path("models/focus/finetuned")

# The dense network and the grid.
BASE = Path("models/base/final")
DENSE_METRICS = Path("metrics/base.json")
DENSE_ENVIRONMENT = Path("metrics/environment/base.json")
GRID = Path("metrics/grid")

# What people look at.
TABLE = Path("metrics/table.md")
TRADEOFF = Path("plots/tradeoff.json")
PAGE = Path("plots/report.html")

# Raw data, as downloaded or as the user put it there.
RAW = Path("data/raw")

# The module that `prunelab repro` runs in its worker processes.
WORKER = "prunelab.commands.repro.worker"
