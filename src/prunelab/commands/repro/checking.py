"""`prunelab check` in a process of its own, beside DVC's start: it may load torch, DVC does not."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prunelab.commands.check.verdicts import FILE as PASSED_CHECKS
from prunelab.core.errors import InputError
from prunelab.core.lifecycle import describe_exit
from prunelab.warm.control import loaded_process

# It waits until the check has ended, and raises InputError if the check has found problems.
Check = Callable[[], None]


@contextmanager
def started_check(root: Path, logs: Path) -> Iterator[tuple[Check, Mapping[str, str] | None]]:
    """Check the project while the body runs.

    A study that was never checked needs torch for it. So the process in whose forks its stages will
    run is loaded now, for the check too, and it stays for as long as the body runs.

    Args:
        root: the folder of the project, which is the working folder.
        logs: where the log of the loaded process goes.

    Yields:
        What waits for the check, and the variables by which stages find the loaded process; None
        if it was not started.
    """
    with ExitStack() as stack:
        variables = None
        if not (root / PASSED_CHECKS).exists():
            variables = stack.enter_context(loaded_process(logs))

        process = subprocess.Popen(
            [sys.executable, "-m", "prunelab.warm", "prunelab", "check"],
            env=os.environ | (variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(_end, process)

        lines: list[str] = []

        def check() -> None:
            if process.returncode is None:
                _, errors = process.communicate()
                lines.extend(errors.splitlines())
            if process.returncode:
                # A check that is killed, as happens if memory runs out, says nothing.
                ended = f"`prunelab check` {describe_exit(process.returncode)}; run it by itself"
                raise InputError(lines or ended)

        yield check, variables


def _end(process: "subprocess.Popen[str]") -> None:
    """End the check, if it still runs."""
    if process.returncode is None:
        process.kill()
        process.communicate()
