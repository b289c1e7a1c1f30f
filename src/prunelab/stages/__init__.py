"""One file per DVC stage: read parameters, load, call the library once per seed, save."""

import sys

from prunelab.core.lifecycle import setup_process

# Python imports a package before its modules, so this runs ahead of a stage's own, slow imports.
# `python -m prunelab.stages NAME` and `python -m prunelab.stages.NAME` both start a stage.
if any(f"{argument}.".startswith("prunelab.stages.") for argument in sys.orig_argv):
    setup_process()
