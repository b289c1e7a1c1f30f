"""The loaded process: it imports packages once, and runs each command in a fork of itself.

Run as `python -m prunelab.warm.server SOCKET`. Every connection gets a process of its own, which
forks the command, hands on signals and cores, reports how it ended, and kills it if the other end
is gone.
"""

import argparse
import atexit
import gc
import importlib
import os
import runpy
import select
import selectors
import signal
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from prunelab.core.cores import pin
from prunelab.core.lifecycle import end_with_parent, set_load_time_variables
from prunelab.warm.address import LOADED_MODE, LOADING_MODE, PRELOADED, identity
from prunelab.warm.client import SIGNALS, exit_as
from prunelab.warm.messages import STREAMS, Connection, is_own

POLL_INTERVAL_S = 0.5
# Without these, libraries start as many threads as there are cores for them when they are loaded.
# OpenBLAS always has one.
THREAD_VARIABLES = {
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
}
FLUSH_FAILED = 120  # the exit status of Python if it cannot write what is left in its buffers


class WarmServer(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Runs each command that it receives in a fork of itself.

    It ends on SIGTERM. With `idle_s`, it also ends after so many seconds without a command;
    otherwise once `owner` becomes readable: a pipe that its owner closes, or the owner's pidfd.
    """

    block_on_close = False  # the processes of connections end with their commands
    max_children = sys.maxsize
    request_queue_size = 128

    def __init__(self, address: str, environment: str, idle_s: float, owner: int = 0) -> None:
        self.environment = environment
        self.idle_s = idle_s
        self._owner = owner
        self._last_used = time.monotonic()
        self.stopped = False
        self._cores = len(os.sched_getaffinity(0))
        self._thread_pools: Any = None
        super().__init__(address, _Conversation)

    def load_packages(self) -> None:
        """Import what stages import, as far as it is installed."""
        configuration = os.environ.get("MPLCONFIGDIR")
        set_load_time_variables()
        for name in PRELOADED:
            if self._has_lost_owner():
                sys.exit()
            with suppress(ImportError):  # a stage that needs it says so itself
                importlib.import_module(name)
        if "pydantic.main" in sys.modules:
            # The first model looks for plugins among all installed packages.
            sys.modules["pydantic.main"].create_model("First")

        if threading.active_count() > 1 or sys.modules["torch"].cuda.is_initialized():
            sys.exit("a package has started threads or the GPU, so stages cannot be forked")
        if os.environ.get("MPLCONFIGDIR") != configuration:
            sys.exit("matplotlib has made a temporary folder, which the first fork would delete")
        with suppress(ImportError):
            controllers = importlib.import_module("threadpoolctl")
            self._thread_pools = controllers.ThreadpoolController()
        gc.collect()
        gc.freeze()  # collections in a fork would copy the memory that all forks share

    def set_threads(self) -> None:
        """Let a fork's libraries use as many threads as they would if they were loaded by it."""
        cores = len(os.sched_getaffinity(0))
        if cores == self._cores or THREAD_VARIABLES & os.environ.keys():
            return
        if self._thread_pools is not None:
            self._thread_pools.select(user_api="openmp").limit(limits=cores)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(cores)

    def serve(self) -> None:
        """Serve until it is time to end."""
        self.timeout = POLL_INTERVAL_S
        self._last_used = time.monotonic()
        while not self._is_over():
            self.handle_request()
            self.collect_children()

    def _is_over(self) -> bool:
        if self.stopped or self._has_lost_owner():
            return True
        if self.active_children:
            self._last_used = time.monotonic()
        return bool(self.idle_s) and time.monotonic() - self._last_used > self.idle_s

    def _has_lost_owner(self) -> bool:
        if self.idle_s:
            return False
        readable, _, _ = select.select([self._owner], [], [], 0)
        return bool(readable)

    def verify_request(self, request: Any, client_address: object) -> bool:
        """Serve nobody but the user."""
        return is_own(request)


class _Conversation(socketserver.BaseRequestHandler):
    """The process of one connection."""

    server: WarmServer

    def handle(self) -> None:
        # Nobody would accept what else arrives at the socket once the server has ended.
        self.server.socket.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        connection = Connection(self.request)
        try:
            connection.send({"environment": self.server.environment})
            streams = connection.receive_streams(len(STREAMS))
            request = connection.receive()
        except OSError:
            return  # the other end did not wait
        if request is None:
            return

        conversation = os.getpid()
        command = os.fork()
        if command == 0:
            end_with_parent(conversation)
            self.request.close()
            _run(request, streams, self.server)

        for stream in streams:
            os.close(stream)
        _attend(command, connection)


def _attend(command: int, connection: Connection) -> None:
    """Pass on what happens to the other end, until the command or the other end is gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.setpgid(command, command)  # the command does so too; whoever is first

    with selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(command)
        selector.register(ended, selectors.EVENT_READ)
        selector.register(connection.endpoint, selectors.EVENT_READ)

        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if ended in ready:
                _, status = os.waitpid(command, 0)
                with suppress(OSError):
                    connection.send({"status": os.waitstatus_to_exitcode(status)})
                return

            if not _pass_on(command, connection):
                _signal(command, signal.SIGKILL)
                os.waitpid(command, 0)
                return


def _pass_on(command: int, connection: Connection) -> bool:
    """Handle the messages that have arrived; False if the other end is gone."""
    while True:
        try:
            message = connection.receive()
        except OSError:
            return False
        if message is None:
            return False

        if "signal" in message:
            _signal(command, message["signal"])
        if "cores" in message:
            pin(command, message["cores"])
        if not connection.holds_message:
            return True


def _signal(command: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(command, number)


def _run(request: dict[str, Any], streams: Sequence[int], server: WarmServer) -> NoReturn:
    """Become the process that the other end would have been, and run its module."""

    def run() -> None:
        _become(request, streams)
        server.set_threads()
        _run_module(request["module"])

    _leave(_exit_status(run))


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    os.setpgid(0, 0)
    _take_over_signals(request["ignored_signals"], request["blocked_signals"])

    for stream, target in zip(streams, STREAMS, strict=True):
        os.dup2(stream, target)
        os.close(stream)
    unbuffered = request["unbuffered"]
    for output in (sys.stdout, sys.stderr):
        by_line = not unbuffered and (output is sys.stderr or output.isatty())
        output.reconfigure(write_through=unbuffered, line_buffering=by_line)  # type: ignore[union-attr]

    os.environ.clear()
    os.environ.update(request["variables"])
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.sched_setaffinity(0, request["cores"])

    sys.path[:] = request["path"]
    sys.argv = [request["module"], *request["arguments"]]
    sys.orig_argv = request["command"]
    _seed_generators()


def _take_over_signals(ignored: Sequence[int], blocked: Sequence[int]) -> None:
    """Handle signals as Python does at its start. The server's own dispositions do not count."""
    for number in SIGNALS:
        if number in ignored:
            signal.signal(number, signal.SIG_IGN)
        elif number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        else:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _seed_generators() -> None:
    """Give libraries' own random generators a new state. Python seeds its own in every fork."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


def _run_module(module: str) -> None:
    """Run a module as `python -m` does, with prunelab's code as it is now in the module path."""
    for name in list(sys.modules):
        if name.split(".")[0] == "prunelab":
            del sys.modules[name]
    importlib.invalidate_caches()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _exit_status(function: Callable[[], None]) -> int:
    """Call a function as the interpreter calls a program, and return its exit status."""
    try:
        function()
    except SystemExit as end:
        if end.code is None:
            return 0
        if isinstance(end.code, int):
            return end.code & 0xFF

        print(end.code, file=sys.stderr)
        return 1

    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1

    return 0


def _leave(status: int) -> NoReturn:
    """End as the interpreter does, but without freeing what is shared with other forks."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for output in (sys.stdout, sys.stderr):
            output.flush()
        if status < 0:
            exit_as(status)
    except BaseException:
        status = FLUSH_FAILED
    os._exit(status)


def _go_to_background(server: WarmServer) -> None:
    """Go on in a fork. This process, for which whoever started it waits, ends."""
    is_ready, ready = os.pipe()
    if os.fork() > 0:
        os.close(ready)
        os.read(is_ready, 1)
        os._exit(0)

    server.server_activate()  # from now on the socket names this process
    os.close(is_ready)
    os.close(ready)


def main() -> None:
    parser = argparse.ArgumentParser(prog="prunelab.warm.server")
    parser.add_argument("socket")
    parser.add_argument("--idle-s", type=float, default=0.0)
    parser.add_argument("--with-process", type=int, metavar="PID")
    arguments = parser.parse_args()

    owner = sys.stdin.fileno()
    if arguments.with_process is not None:
        owner = os.pidfd_open(arguments.with_process)

    address = Path(arguments.socket)
    with WarmServer(str(address), identity(), arguments.idle_s, owner) as server:
        # Stages that come while packages are being loaded wait: loading them too would take longer.
        bound = address.stat().st_ino
        try:
            address.chmod(LOADING_MODE)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, no end is reported
            signal.signal(signal.SIGTERM, lambda *_: setattr(server, "stopped", True))
            os.chdir("/")
            server.load_packages()
            address.chmod(LOADED_MODE)
            if arguments.idle_s:
                _go_to_background(server)
            server.serve()
        finally:
            with suppress(OSError):
                if address.stat().st_ino == bound:  # and not that of a later process
                    address.unlink()


if __name__ == "__main__":
    main()
