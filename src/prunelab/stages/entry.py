"""How every stage starts and how it fails: one line per problem and the way back, never a traceback for bad input."""

import os
import subprocess
import sys
from collections.abc import Callable

import typer

from prunelab.errors import Refused


def run(main: Callable[..., None]) -> None:
    """Run a stage's function as a command; its arguments are typed by Typer."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(main)
    try:
        app()
    except Refused as refused:
        _explain(refused)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that cannot be written: earlier results stand as they were
        print(f"{type(error).__name__}: {error}; nothing half-written was left", file=sys.stderr)
        sys.exit(1)


def _explain(refused: Refused) -> None:
    # A stage checks only what it uses; the full check adds whatever else is wrong, so that one round mends it all.
    full = subprocess.run([sys.executable, "-m", "prunelab", "check"], capture_output=True, text=True, check=False)
    known = full.stderr.splitlines() if full.returncode == 1 else []
    own = [line for line in refused.problems if not any(line in other for other in known)]
    for line in [*own, *known]:
        print(line, file=sys.stderr)
    if "DVC_STAGE" in os.environ:
        # DVC has already changed params.yaml (exp run -S) and deleted this stage's outputs.
        way_back = "git checkout params.yaml && dvc checkout"
        print(f"nothing was computed; the way back: {way_back}", file=sys.stderr)
