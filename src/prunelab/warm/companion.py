"""A loaded process that the first stage of a DVC command starts for those that follow it.

It lives as long as that command. The standard library alone is imported here, as in `address`.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from prunelab.warm.address import socket_folder

SERVER = "prunelab.warm.server"
POLL_INTERVAL_S = 0.01
FIRST_TICK = 21  # of /proc/PID/stat: when the process started, counted from 0
PARENT = 3


def companion() -> Path | None:
    """The socket of the loaded process that belongs to the DVC which runs this stage.

    It is started if there is none yet.

    Returns:
        None if no DVC runs this stage, or if the process did not start.
    """
    dvc = _dvc()
    if dvc is None:
        return None

    # With the time of its start, the name is that of no earlier process of the same number. It is
    # short, as the path of a socket must be.
    started = _status(dvc)[FIRST_TICK]
    address = socket_folder() / f"dvc-{dvc}-{started}.sock"
    if not address.exists() and not _start(address, dvc):
        return None
    return address


def _dvc() -> int | None:
    """The process of DVC that started this stage, perhaps through a shell."""
    number = os.getppid()
    while number > 1:
        variables = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        if not any(variable.startswith(b"DVC_STAGE=") for variable in variables):
            break
        number = int(_status(number)[PARENT])

    words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    if any(word.rpartition(b"/")[2] == b"dvc" for word in words):
        return number
    return None


def _status(number: int) -> list[str]:
    """The fields of /proc/PID/stat. The second, a name, may hold spaces and brackets."""
    text = Path(f"/proc/{number}/stat").read_text(errors="replace")
    before, _, after = text.rpartition(")")
    return [*before.split(" (", 1), *after.split()]


def _start(address: Path, dvc: int) -> bool:
    """Start the process; whether it listens. It goes on loading then."""
    process = subprocess.Popen(
        [sys.executable, "-m", SERVER, str(address), "--with-process", str(dvc)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        if address.exists():
            return True
        time.sleep(POLL_INTERVAL_S)
    return False
