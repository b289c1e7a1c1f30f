"""How a stage finds a loaded process, and stands in for its fork there until that has ended."""

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prunelab.warm.address import (
    ADDRESS_VARIABLE,
    OFF,
    default_socket,
    identity,
    is_loading,
    supported,
)
from prunelab.warm.messages import STREAMS, Connection, is_own

# A process that is still loading packages answers as soon as it has them.
GREETING_TIMEOUT_S = 120.0
CORES_INTERVAL_S = 0.5
LOST = "the loaded process in which this stage ran has ended; run the same command again"

# The signals that are passed on: SIGTSTP, by which a terminal stops a process, in a way of its own.
SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGTSTP,
)


def run_in_fork(module: str, arguments: Sequence[str], *, needs_torch: bool = True) -> int | None:
    """Run a module in a fork of a loaded process, if there is one for this environment.

    A module that needs torch waits for a process that is still loading it, and DVC's first stage
    starts one for those that follow it. Another one had better run by itself then.

    The fork has this process's arguments, working folder, variables, standard streams and cores. It
    gets the signals that this process gets, and it ends when this process ends.

    Returns:
        The exit status, negative for a signal; None if there is no such process and nothing ran.
    """
    if not supported() or os.environ.get(ADDRESS_VARIABLE) == OFF:
        return None

    try:
        connection = _connect(needs_torch)
        if connection is None:
            return None
        _send_request(connection, module, arguments)
    except (OSError, ValueError, LookupError, TypeError):  # whatever is off: it runs by itself
        return None

    _pass_on_signals(connection)
    return _wait(connection)


def _connect(needs_torch: bool) -> Connection | None:
    """A connection to a process that this one may be a fork of."""
    environment = identity()
    address = _address(environment, needs_torch)
    if address is None or not address.exists():
        return None
    if not needs_torch and is_loading(address):
        return None

    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        endpoint.settimeout(GREETING_TIMEOUT_S)
        endpoint.connect(str(address))
        if is_own(endpoint):
            connection = Connection(endpoint)
            greeting = connection.receive()
            if greeting is not None and greeting["environment"] == environment:
                endpoint.settimeout(None)
                return connection
    except BaseException:
        endpoint.close()
        raise

    endpoint.close()
    return None


def _address(environment: str, needs_torch: bool) -> Path | None:
    """Where a loaded process may listen."""
    given = os.environ.get(ADDRESS_VARIABLE)
    if given:
        return Path(given)

    address = default_socket(environment)
    if needs_torch and not address.exists():
        from prunelab.warm.companion import companion  # few stages need it

        return companion()
    return address


def _send_request(connection: Connection, module: str, arguments: Sequence[str]) -> None:
    for stream in STREAMS:
        os.fstat(stream)  # a closed stream cannot be handed over

    connection.send_streams(STREAMS)
    umask = os.umask(0o077)
    os.umask(umask)
    connection.send(
        {
            "module": module,
            "arguments": list(arguments),
            "command": sys.orig_argv,
            "path": sys.path,
            "folder": str(Path.cwd()),
            "variables": dict(os.environ),
            "umask": umask,
            "unbuffered": sys.stdout.write_through,  # type: ignore[union-attr]
            "cores": sorted(os.sched_getaffinity(0)),
            "ignored_signals": [number for number in SIGNALS if _is_ignored(number)],
            "blocked_signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        }
    )


def _is_ignored(number: int) -> bool:
    """Whether this process ignores a signal, such as SIGHUP below nohup."""
    return signal.getsignal(number) is signal.SIG_IGN


def _pass_on_signals(connection: Connection) -> None:
    def pass_on(number: int, _: object) -> None:
        _send(connection, signal=number)

    def stop(number: int, _: object) -> None:
        _send(connection, signal=signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)

    for number in SIGNALS:
        if not _is_ignored(number):
            signal.signal(number, stop if number == signal.SIGTSTP else pass_on)


def _send(connection: Connection, **message: object) -> None:
    with suppress(OSError):  # the other end is gone, which `_wait` notices
        connection.send(message)


def _wait(connection: Connection) -> int:
    """Wait for the fork's end. The fork follows when this process is moved to other cores."""
    cores = os.sched_getaffinity(0)
    while True:
        readable, _, _ = select.select([connection.endpoint], [], [], CORES_INTERVAL_S)
        if readable:
            break

        if os.sched_getaffinity(0) != cores:
            cores = os.sched_getaffinity(0)
            _send(connection, cores=sorted(cores))

    try:
        answer = connection.receive()
    except (OSError, json.JSONDecodeError):
        answer = None
    if answer is None:
        print(LOST, file=sys.stderr)
        return 1
    return int(answer["status"])


def exit_as(status: int) -> None:
    """End this process as the fork ended: with its exit status, or by the same signal."""
    if status >= 0:
        sys.exit(status)

    with suppress(OSError):  # SIGKILL has no handler
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    sys.exit(128 - status)
