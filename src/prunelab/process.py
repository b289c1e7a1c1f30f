"""What a stage's process owes its surroundings before it imports anything heavy: to end when it should, and to say why.

Only the standard library and psutil here: the guards must stand before torch, whose import takes seconds.
"""

import os
import signal
import sys
import threading
import time
from importlib.util import find_spec

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}


def guard() -> None:
    """Set up a stage's process: the right environment, a way to end on Ctrl-C, no life beyond DVC's."""
    if find_spec("torch") is None:
        sys.exit(f"{sys.executable} lacks prunelab's packages; activate them first: source .venv/bin/activate")
    signal.signal(signal.SIGINT, _interrupted)
    if "DVC_STAGE" in os.environ:  # started by hand: outliving the terminal is then the user's choice
        die_with_parent()


def _interrupted(*_: object) -> None:
    print("\ninterrupted; the same command goes on from the last finished epoch", file=sys.stderr, flush=True)
    os._exit(130)  # at once: whatever was being written has only a temporary name


def die_with_parent(interval_s: float = 0.5) -> None:
    """End this process once the DVC that started it is gone, or at once if it is gone already.

    A killed DVC leaves its stage running, and that orphan would later overwrite what the rerun wrote. The stage's
    parent may be a shell between DVC and us, so every ancestor up to the first that is no shell is watched.
    """
    import psutil  # comes with DVC, and is not needed without it

    watched = []
    for ancestor in psutil.Process().parents():
        watched.append(ancestor)
        if ancestor.name() not in SHELLS:
            break

    def alive(process: psutil.Process) -> bool:
        try:  # is_running compares start times too: a reused process id is not mistaken for the parent
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def watch() -> None:
        while all(map(alive, watched)):
            time.sleep(interval_s)
        os._exit(1)

    # Orphans are handed to init or the like; DVC is a Python program, even as the first process of a container.
    started_by = " ".join(watched[-1].cmdline()) if watched else ""
    if "dvc" not in started_by and "python" not in started_by:
        os._exit(1)
    threading.Thread(target=watch, daemon=True, name="die-with-parent").start()
