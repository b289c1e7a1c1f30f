"""Starting, finding and stopping loaded processes. Stages only need `client`."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prunelab.core.errors import InputError
from prunelab.warm.address import (
    ADDRESS_VARIABLE,
    default_socket,
    identity,
    socket_folder,
    supported,
)
from prunelab.warm.messages import peer

SERVER = "prunelab.warm.server"
ANSWER_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 1.0  # one that is still loading packages takes longer, and is killed


def process_id(address: Path) -> int | None:
    """The process of this user that listens at a socket, loading or loaded; None if none does."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.settimeout(ANSWER_TIMEOUT_S)
        endpoint.connect(str(address))
        number, user = peer(endpoint)
        if user == os.getuid():
            return number
    return None


def start(idle_s: float) -> tuple[int, bool]:
    """Start a process for this environment that outlives this one, unless there is one already.

    It ends once it has had nothing to do for `idle_s` seconds.

    Returns:
        Its process id, and whether it was started now.

    Raises:
        InputError: if this system cannot run stages in forks, or the process did not start.
    """
    if not supported():
        raise InputError("stages cannot run in forks on this system; they start by themselves")

    address = default_socket(identity())
    with address.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that start at the same time start one process
        return _start(address, idle_s)


def _start(address: Path, idle_s: float) -> tuple[int, bool]:
    running = process_id(address)
    if running is not None:
        return running, False

    address.unlink(missing_ok=True)  # of a process that was killed
    log = address.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.run(
            [sys.executable, "-m", SERVER, str(address), "--idle-s", str(idle_s)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            check=False,
        )

    started = process_id(address)
    if process.returncode or started is None:
        raise InputError(f"the process did not start: {_last_line(log)}")
    return started, True


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it was killed")


def stop() -> list[int]:
    """Stop all loaded processes of this user, for whatever environment; return their ids.

    Stages that run in forks of them go on.
    """
    stopped = []
    for address in socket_folder().glob("*.sock"):
        running = process_id(address)
        if running is None:
            address.unlink(missing_ok=True)
            continue
        with suppress(ProcessLookupError):
            os.kill(running, signal.SIGTERM)
            stopped.append(running)
    return stopped


@contextmanager
def loaded_process(folder: Path) -> Iterator[dict[str, str]]:
    """Keep a loaded process for as long as the body runs.

    Args:
        folder: where its log goes.

    Yields:
        The variables by which stages find it: none if one runs already, or if this system cannot
        run stages in forks.
    """
    owned = None
    if supported() and ADDRESS_VARIABLE not in os.environ:
        with suppress(OSError):  # no folder for the socket, a full disk: stages start by themselves
            owned = _start_owned(folder)
    if owned is None:
        yield {}
        return

    process, address = owned
    try:
        yield {ADDRESS_VARIABLE: str(address)}
    finally:
        _end(process)
        address.unlink(missing_ok=True)


def _start_owned(folder: Path) -> tuple[subprocess.Popen[bytes], Path] | None:
    """Start a process that ends with this one; None if there is one to use already."""
    if process_id(default_socket(identity())) is not None:
        return None

    # A socket's path is short, so it does not stand in the folder of the project.
    address = socket_folder() / f"run-{os.getpid()}.sock"
    address.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "warm.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", SERVER, str(address)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    return process, address


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()  # its owner's end is what it waits for
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
