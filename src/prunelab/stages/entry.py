"""How every stage starts and how it fails: one line per problem and the way back, never a traceback for bad input."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from prunelab.errors import Refused

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}


def run(main: Callable[..., None]) -> None:
    """Run a stage's function as a command; its arguments are typed by Typer."""
    import typer

    die_with_parent()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(main)
    try:
        app()
    except Refused as refused:
        _explain(refused)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("prunelab"):
            raise
        _say(f"this Python lacks {error.name}; activate the environment first: source .venv/bin/activate")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from the last finished epoch")
        sys.exit(130)


def _explain(refused: Refused) -> None:
    # A stage checks only what it uses; the full check adds whatever else is wrong, so that one round mends it all.
    full = subprocess.run([sys.executable, "-m", "prunelab", "check"], capture_output=True, text=True, check=False)
    known = full.stderr.splitlines() if full.returncode == 1 else []
    own = [line for line in refused.problems if not any(line in other for other in known)]
    for line in [*own, *known]:
        _say(line)
    if "DVC_STAGE" in os.environ:
        # DVC has already changed params.yaml (exp run -S) and deleted this stage's outputs.
        _say("nothing was computed; the way back: git checkout params.yaml && dvc checkout")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def die_with_parent(interval_s: float = 0.5) -> None:
    """End this process once the DVC that started it is gone.

    A killed DVC leaves its stage running, and that orphan would later overwrite what the rerun wrote. The stage's
    parent may be a shell between DVC and us, so every ancestor up to the first that is no shell is watched.
    """
    if "DVC_STAGE" not in os.environ:  # started by hand: outliving the terminal is then the user's choice
        return
    import psutil  # comes with DVC, and is not needed without it

    watched = []
    for ancestor in psutil.Process().parents():
        watched.append(ancestor)
        if ancestor.name() not in SHELLS:
            break

    def watch() -> None:
        while all(map(_alive, watched)):
            time.sleep(interval_s)
        os._exit(1)

    def _alive(process: psutil.Process) -> bool:
        try:  # is_running compares start times too: a reused process id is not mistaken for the parent
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    threading.Thread(target=watch, daemon=True, name="die-with-parent").start()
