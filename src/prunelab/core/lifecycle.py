"""What a stage's process owes its surroundings before it imports anything heavy: to end when it should, and to say why.

Only the standard library and psutil here: the guards must stand before torch, whose import takes seconds.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
RENDEZVOUS = "PRUNELAB_RENDEZVOUS"  # where the processes started by `launch` meet; torchrun's know by themselves
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # of torchrun, which `launch` sets too
EXIT_GRACE_S = 30.0  # how long a process that fails because of another one waits to be ended, before it speaks itself
RESUME_HINT = "the same command goes on from the last finished epoch"
INTERRUPTED = f"\ninterrupted; {RESUME_HINT}"
STOP_SIGNALS = {
    signal.SIGINT: INTERRUPTED,
    signal.SIGTERM: f"told to end by SIGTERM; {RESUME_HINT}",
}


def setup_process() -> None:
    """Set up a stage's process: the right environment, an end at once when told so, no life beyond DVC's."""
    if find_spec("torch") is None:
        sys.exit(
            f"{sys.executable} lacks prunelab's packages; activate them first: source .venv/bin/activate"
        )
    for number in STOP_SIGNALS:
        signal.signal(number, _end_at_once)
    # Started by hand, outliving the terminal is the user's choice; one process of several is nothing by itself.
    if {"DVC_STAGE", RENDEZVOUS, "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        die_with_parent()


def _end_at_once(number: int, _: object) -> None:
    try:
        if (
            os.environ.get("RANK", "0") == "0"
        ):  # of several processes, which all hear of it, one speaks
            _say_stopped(number)
    finally:
        os._exit(128 + number)  # whatever was being written has only a temporary name


def _say_stopped(number: int) -> None:
    # Past Python's buffers, for this may come in the middle of a print, which cannot be entered twice.
    os.write(2, f"{STOP_SIGNALS[signal.Signals(number)]}\n".encode())


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


def process_count() -> int:
    """How many processes this one is among, started by `launch` or by torchrun; 0 if by neither."""
    return int(os.environ["WORLD_SIZE"]) if os.environ.keys() >= set(PLACE) else 0


def launch(command: list[str], count: int) -> None:
    """Run a command as `count` processes that share a training, until all have ended; one that fails ends all.

    Each learns its place from the variables that torchrun sets, and is a process group of its own, so that Ctrl-C
    reaches this process alone and what a process has started (workers that read data) ends with it.

    Raises:
        SystemExit: with one line that names the process and how it ended, if one failed.
    """
    ranks: list[subprocess.Popen] = []
    for number in STOP_SIGNALS:
        signal.signal(number, _stopped)
    with tempfile.TemporaryDirectory() as folder:
        meeting = {
            RENDEZVOUS: (Path(folder) / "store").as_uri(),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
        }
        try:
            for rank in range(count):
                ranks.append(
                    subprocess.Popen(
                        command,
                        env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdin=subprocess.DEVNULL,
                        process_group=0,
                    )
                )
            _wait_for(ranks)
        except BaseException:
            for process in ranks:
                with suppress(
                    ProcessLookupError
                ):  # at once: whatever was being written has only a temporary name
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise


def _wait_for(ranks: list[subprocess.Popen], interval_s: float = 0.1) -> None:
    while None in (codes := [process.poll() for process in ranks]) or any(codes):
        for rank, code in enumerate(codes):
            if code:
                how = (
                    f"was killed by {signal.Signals(-code).name}"
                    if code < 0
                    else f"ended with exit code {code}"
                )
                sys.exit(f"rank {rank} of {len(ranks)} {how}, so all were ended; {RESUME_HINT}")
        time.sleep(interval_s)


def _stopped(number: int, _: object) -> None:
    _say_stopped(number)
    sys.exit(128 + number)  # which `launch` hears of, and ends the processes
