"""How the process of a stage starts and ends, and how several share a training.

It imports the standard library and psutil only: signal handlers must be in place before torch is
imported, which takes seconds. For the same reason `launch` is not torchrun, which imports torch in
the parent and reports a failure as a traceback. Every command of a stage imports this module, so
what few of them need is imported where it is used.
"""

import gc
import os
import re
import signal
import sys
import time
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from prunelab.core.processor import has_portable_bits, is_without_avx2

# What type checkers take for true. To import `typing` would slow the start of every stage.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen

# NumPy has logarithms, sorts and the like of its own for AVX-512, which differ from those elsewhere
# in the last bit or in the order of equals, enough for another picture. It reads this when it is
# imported. The names are NumPy's: from version 2.4 on, and before.
NUMPY_VARIABLE = "NPY_DISABLE_CPU_FEATURES"
NUMPY_WITHOUT_AVX512 = "X86_V4 AVX512_ICL AVX512_SPR"
OLD_NUMPY_WITHOUT_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"
NUMPY_OF_NEW_NAMES = (2, 4)

# The products of matrices of NumPy and SciPy add in an order that the processor and the number of
# its cores choose. Every processor with AVX2 has the code that is named for Haswell.
OPENBLAS_VARIABLES = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1"}

# A waiting thread of OpenMP spins by default. Beside other work it then keeps a core from those it
# waits for, and a step of training can take a hundred times longer. OpenMP reads this when it is
# loaded. The names are OpenMP's and libgomp's.
WAIT_VARIABLE = "OMP_WAIT_POLICY"
WAIT_ASLEEP = "PASSIVE"
SPIN_VARIABLE = "GOMP_SPINCOUNT"

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
# The address at which the processes of `launch` meet. Those of torchrun have their own.
RENDEZVOUS = "PRUNELAB_RENDEZVOUS"
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # set by torchrun, and by `launch` as well
# A process that fails because another one died waits so long to be ended before it reports itself.
EXIT_GRACE_S = 30.0
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
RESUME_HINT = "run the same command again to continue from the last finished epoch"
INTERRUPTED = f"\ninterrupted; {RESUME_HINT}"
STOP_SIGNALS = {
    signal.SIGINT: INTERRUPTED,
    signal.SIGTERM: f"stopped by SIGTERM; {RESUME_HINT}",
}


def setup_process() -> None:
    """Prepare a stage's process: it needs torch, ends at once on a signal, and ends with DVC."""
    if find_spec("torch") is None:
        sys.exit(
            f"{sys.executable} lacks prunelab's packages; "
            "activate them first: source .venv/bin/activate"
        )

    for number in STOP_SIGNALS:
        signal.signal(number, _exit_at_once)
    set_load_time_variables()

    # A stage that was started by hand may outlive its terminal: that is the user's choice.
    if {"DVC_STAGE", RENDEZVOUS, "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        die_with_parent()

    # Importing torch makes 200,000 containers, hardly any of them garbage. Looking for some again
    # and again takes a fifth of the import.
    gc.disable()


def set_load_time_variables() -> None:
    """Set what libraries read when they are loaded, here and in the processes that this one starts.

    NumPy and SciPy compute the same bits on every x86-64 processor with AVX2, whatever the user has
    chosen. Threads of OpenMP sleep while they wait, unless the user has chosen otherwise.
    """
    os.environ.update(bits_variables())
    if SPIN_VARIABLE not in os.environ:
        os.environ.setdefault(WAIT_VARIABLE, WAIT_ASLEEP)


@cache
def bits_variables() -> dict[str, str]:
    """The variables on which the bits of NumPy and SciPy depend: none but on x86-64."""
    if not has_portable_bits():
        return {}

    features = NUMPY_WITHOUT_AVX512
    if _numpy_version() < NUMPY_OF_NEW_NAMES:
        features = OLD_NUMPY_WITHOUT_AVX512
    variables = {NUMPY_VARIABLE: features}
    if not is_without_avx2():  # OpenBLAS does not ask whether the processor has the chosen code
        variables |= OPENBLAS_VARIABLES
    return variables


def _numpy_version() -> tuple[int, int]:
    """Major and minor version of NumPy, which must not be loaded yet."""
    spec = find_spec("numpy")
    if spec is None or spec.origin is None:
        return NUMPY_OF_NEW_NAMES

    text = (Path(spec.origin).parent / "version.py").read_text()
    found = re.search(r'version = "(\d+)\.(\d+)', text)
    if found is None:
        return NUMPY_OF_NEW_NAMES
    return int(found[1]), int(found[2])


def sets_load_time_variable(name: str, value: str) -> bool:
    """Whether `set_load_time_variables` may have given a variable its value."""
    return (name, value) in {*bits_variables().items(), (WAIT_VARIABLE, WAIT_ASLEEP)}


def start_collections() -> None:
    """Collect garbage from now on in a process that `setup_process` prepared.

    What was imported so far stays, and no collection looks at it, not even the one at exit.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _exit_at_once(number: int, _: object) -> None:
    try:
        # All processes of a training get the signal. The first one reports it.
        if os.environ.get("RANK", "0") == "0":
            _report_stop(number)
    finally:
        os._exit(128 + number)  # files that are being written have temporary names


def _report_stop(number: int) -> None:
    # Not through Python's buffers: the signal may interrupt a print, which is not reentrant.
    os.write(2, f"{STOP_SIGNALS[signal.Signals(number)]}\n".encode())


def die_with_parent(interval_s: float = 0.5) -> None:
    """End this process when the DVC that started it ends, or at once if it has ended already.

    A killed DVC leaves its stage running, and that orphan would later overwrite what a rerun wrote.
    There may be a shell between DVC and us, so we watch every ancestor up to the first that is no
    shell.
    """
    import threading

    import psutil  # it comes with DVC, and only DVC needs it

    watched = []
    for ancestor in psutil.Process().parents():
        watched.append(ancestor)
        if ancestor.name() not in SHELLS:
            break

    def is_alive(process: psutil.Process) -> bool:
        try:
            # is_running compares start times, so a reused process id does not mislead it.
            return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def watch() -> None:
        while all(map(is_alive, watched)):
            time.sleep(interval_s)
        os._exit(1)

    # The parent of an orphan is init or the like. DVC is a Python program, even in a container.
    started_by = ""
    if watched:
        started_by = " ".join(watched[-1].cmdline())
    if "dvc" not in started_by and "python" not in started_by:
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="die-with-parent").start()


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process, a fork of the process `parent`, as soon as that has ended.

    Unlike `die_with_parent` it takes no thread and no time, but Linux alone can do it: elsewhere
    this does nothing.
    """
    if sys.platform != "linux":
        return

    import ctypes  # few processes need it

    if ctypes.CDLL(None, use_errno=True).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL) != 0:
        raise OSError(
            ctypes.get_errno(), "prctl: the kernel refuses to end a child with its parent"
        )
    if os.getppid() != parent:
        os._exit(1)  # it ended before


def process_count() -> int:
    """How many processes share this training; 0 if `launch` and torchrun did not start this one."""
    if not os.environ.keys() >= set(RANK_VARIABLES):
        return 0
    return int(os.environ["WORLD_SIZE"])


def launch(command: list[str], count: int) -> None:
    """Run a command as `count` processes that share a training, until all of them have ended.

    If one fails, all are killed. Each process gets torchrun's variables. Each is a process group of
    its own: Ctrl-C reaches only the parent, and a killed process takes its data workers with it.

    Raises:
        SystemExit: with one line that names the process that failed and how it ended.
    """
    import subprocess
    import tempfile

    for number in STOP_SIGNALS:
        signal.signal(number, _exit_from_launch)

    processes: list[Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = (Path(folder) / "store").as_uri()
        try:
            for rank in range(count):
                environment = os.environ | {
                    RENDEZVOUS: rendezvous,
                    "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                }
                processes.append(
                    subprocess.Popen(
                        command, env=environment, stdin=subprocess.DEVNULL, process_group=0
                    )
                )
            _wait_for(processes)
        except BaseException:
            _kill(processes)
            raise


def _wait_for(processes: "list[Popen[bytes]]", interval_s: float = 0.1) -> None:
    """Return when all processes have ended well; exit when one has failed."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code:
                end = describe_exit(code)
                sys.exit(f"rank {rank} of {len(processes)} {end}, so all were ended; {RESUME_HINT}")

        if None not in codes:
            return
        time.sleep(interval_s)


def describe_exit(code: int) -> str:
    """How a process ended, by its exit status: negative for a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # real-time signals have no name here
        return f"was killed by signal {-code}"


def _kill(processes: "list[Popen[bytes]]") -> None:
    # Killing loses nothing: files that are being written have temporary names.
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _exit_from_launch(number: int, _: object) -> None:
    _report_stop(number)
    sys.exit(128 + number)  # `launch` catches this and kills the processes
