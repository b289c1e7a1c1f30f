"""Commands in forks of a loaded process: nobody can tell them from processes of their own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from helpers.params import PROJECT
from helpers.stages import loaded_stages, wait_for_socket
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.core.cores import available_cores
from prunelab.core.lifecycle import (
    NUMPY_VARIABLE,
    NUMPY_WITHOUT_AVX512,
    OPENBLAS_VARIABLES,
    WAIT_ASLEEP,
    WAIT_VARIABLE,
    bits_variables,
)
from prunelab.warm import address, client, companion, control, server

pytestmark = pytest.mark.skipif(not address.supported(), reason="forks need Linux")

STAND_IN = """
import sys
from prunelab.warm.client import exit_as, run_in_fork

status = run_in_fork(sys.argv[1], sys.argv[2:])
if status is None:
    sys.exit("cold")
exit_as(status)
"""

# What a process can know of itself, as JSON; `forked` tells whether torch was there beforehand.
PROBE = """
import json, os, sys
umask = os.umask(0)
os.umask(umask)
facts = {
    "arguments": sys.argv[1:],
    "main": sys.modules["__main__"].__file__,
    "folder": os.getcwd(),
    "variables": {key: value for key, value in os.environ.items() if key != "PRUNELAB_WARM"},
    "umask": umask,
    "cores": sorted(os.sched_getaffinity(0)),
    "path": sys.path[1:],
    "input": sys.stdin.read(),
    "terminal": [sys.stdout.isatty(), sys.stderr.isatty()],
    "buffering": [sys.stdout.line_buffering, sys.stderr.line_buffering],
}
print("to stderr", file=sys.stderr)
print(json.dumps([facts, "torch" in sys.modules]))
"""

# Which code the libraries take: MKL's branch (3 is the portable one), and roots and logarithms.
BITS = """
import hashlib, sys
import numpy, torch
from prunelab.config.params import Runtime
from prunelab.runtime import portable
from prunelab.runtime.device import configure
runtime = Runtime(bits=sys.argv[1], device="cpu", precision="fp32", processes=1, threads=1,
                  deterministic=True, channels_last=True, cuda_graphs="off")
values = numpy.arange(1, 5000)
print(configure(runtime).portable, portable._mkl_branch(), sys.argv[2],
      hashlib.sha256(numpy.log10(values).tobytes()).hexdigest())
"""

# It says that it runs, and then waits for whatever the test does to it.
SLEEPER = """
import os, signal, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"])
def stop(number, frame):
    print("got", number, flush=True)
    child.kill()
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""


# What DVC is to its stages: it runs their commands in a shell, one after another.
DVC = """
import os, subprocess, sys
for command in sys.argv[1:]:
    subprocess.run(["/bin/sh", "-c", f"{command}; exit $?"], env={**os.environ, "DVC_STAGE": "a"})
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The variables by which commands find a loaded process."""
    with loaded_stages(tmp_path_factory.mktemp("logs")) as variables:
        yield variables


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    return tmp_path


def variables_for(folder: Path, loaded: dict[str, str], **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(folder), str(PROJECT / "src")])
    return {**os.environ, "PYTHONPATH": path, **loaded, **more}


def run_warm(folder, loaded, module, *arguments, **options) -> subprocess.CompletedProcess[str]:
    more = options.pop("variables", {})
    return subprocess.run(
        [sys.executable, "stand_in.py", module, *arguments],
        cwd=folder,
        env=variables_for(folder, loaded, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )


@pytest.fixture
def sleeper(folder, loaded) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A command that waits in a fork: its stand-in, its process id, and that of its child."""
    with subprocess.Popen(
        [sys.executable, "stand_in.py", "sleeper"],
        cwd=folder,
        env=variables_for(folder, loaded),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pid, child = map(int, process.stdout.readline().split())
        try:
            yield process, pid, child
        finally:
            process.kill()


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and not is_zombie(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- the fork is what the process would have been ---


def test_a_fork_sees_what_a_process_of_its_own_sees(folder, loaded):
    cores = available_cores()[:1]
    options = {
        "input": "line 1\nline 2\n",
        "umask": 0o027,
        "preexec_fn": lambda: os.sched_setaffinity(0, cores),
    }
    arguments = ["a b", "--option", "é"]
    variables = {"SOME_VARIABLE": "1", "EMPTY": ""}

    warm = run_warm(folder, loaded, "probe", *arguments, variables=variables, **options)
    cold = subprocess.run(
        [sys.executable, "-m", "probe", *arguments],
        cwd=folder,
        env=variables_for(folder, loaded, **variables),
        capture_output=True,
        text=True,
        check=True,
        **options,
    )

    assert warm.returncode == 0, warm.stderr
    warm_facts, was_loaded = json.loads(warm.stdout)
    cold_facts, cold_was_loaded = json.loads(cold.stdout)
    assert warm.returncode == 0
    assert (was_loaded, cold_was_loaded) == (True, False)
    assert warm_facts == cold_facts
    assert warm_facts["cores"] == cores
    assert warm.stderr == cold.stderr == "to stderr\n"


ENDS = {
    "return": "pass",
    "number": "raise SystemExit(3)",
    "large number": "raise SystemExit(256 + 4)",
    "words": "raise SystemExit('these words')",
    "nothing": "raise SystemExit(None)",
    "an error": "1 / 0",
    "at once": "import os; os._exit(9)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "terminated": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "aborted": "import os; os.abort()",
    "at exit": "import atexit; atexit.register(print, 'the last words')",
    "interrupted": "raise KeyboardInterrupt",
    "a full disk": "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('lost')",
    "a thread": "import threading, time; "
    "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_fork_ends_as_a_process_of_its_own_ends(end, folder, loaded):
    (folder / "ending.py").write_text(f"print('started')\n{ENDS[end]}\n")

    warm = run_warm(folder, loaded, "ending")
    cold = subprocess.run(
        [sys.executable, "-m", "ending"], cwd=folder, capture_output=True, text=True, check=False
    )

    assert warm.returncode == cold.returncode
    assert warm.stdout == cold.stdout
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_a_fork_runs_the_code_that_is_in_the_module_path_now(folder, loaded):
    package = folder / "prunelab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    stand_in = STAND_IN.replace(
        "import sys", f"import sys; sys.path.insert(0, {str(PROJECT / 'src')!r})"
    )
    stand_in = stand_in.replace("status =", f"sys.path[0] = {str(folder)!r}; status =")
    (folder / "stand_in.py").write_text(stand_in)

    for word in ("first", "second"):
        (package / "core.py").write_text(f"WORD = {word!r}")
        (package / "speak.py").write_text("from prunelab.core import WORD; print(WORD)")
        assert run_warm(folder, loaded, "prunelab.speak").stdout == f"{word}\n"


def json_of(folder, loaded, code: str, **options) -> object:
    """What a command prints that runs in a fork."""
    (folder / "command.py").write_text(f"import json, os, signal, sys\n{code}")
    process = run_warm(folder, loaded, "command", **options)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_arguments_and_variables_may_be_any_bytes(folder, loaded):
    code = "print(json.dumps([os.fsencode(sys.argv[1]).hex(), os.environb[b'BYTES'].hex()]))"
    long = os.fsdecode(b"\xff\xfe\n" + 100_000 * b"x")
    variables = {"BYTES": os.fsdecode(b"\xfd=")}
    (folder / "command.py").write_text(f"import json, os, sys; {code}")

    process = run_warm(folder, loaded, "command", long, variables=variables)

    assert json.loads(process.stdout) == [os.fsencode(long).hex(), b"\xfd=".hex()]


def test_waiting_threads_sleep_in_forks(folder, monkeypatch, tmp_path):
    monkeypatch.delenv(WAIT_VARIABLE, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "true")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    with loaded_stages(tmp_path) as variables:
        assert run_warm(folder, variables, "platform").returncode == 0  # it is loaded now

    shown = (tmp_path / "warm.log").read_text()
    if "OPENMP DISPLAY" not in shown:
        pytest.skip("OpenMP shows nothing")
    assert f"{WAIT_VARIABLE} = '{WAIT_ASLEEP}'" in shown


def test_forks_do_not_share_random_numbers(folder, loaded):
    code = (
        "import numpy, random, torch\n"
        "print(json.dumps([random.random(), numpy.random.rand(), torch.rand(1).item()]))"
    )

    first, second = (json_of(folder, loaded, code) for _ in range(2))

    assert all(one != other for one, other in zip(first, second, strict=True))


@pytest.mark.skipif(len(available_cores()) < 2, reason="needs two cores")
def test_libraries_use_as_many_threads_as_the_fork_has_cores(folder, loaded, monkeypatch):
    for name in server.THREAD_VARIABLES:
        if name in os.environ:
            pytest.skip(f"{name} decides it")
    code = (
        "import threadpoolctl, torch\n"
        "pools = threadpoolctl.threadpool_info()\n"
        "threads = {'openmp': {torch.get_num_threads()}, 'blas': set()}\n"
        "for pool in pools:\n"
        "    threads[pool['user_api']].add(pool['num_threads'])\n"
        "print(json.dumps([sorted(threads['openmp']), sorted(threads['blas'])]))"
    )
    core = available_cores()[:1]

    on_one = json_of(folder, loaded, code, preexec_fn=lambda: os.sched_setaffinity(0, core))

    # The order in which NumPy adds must not depend on the cores.
    one_of_blas = [int(OPENBLAS_VARIABLES["OPENBLAS_NUM_THREADS"])]
    assert on_one == [[1], one_of_blas]
    assert json_of(folder, loaded, code) == [[len(available_cores())], one_of_blas]


def test_each_fork_chooses_its_bits_and_numpy_has_portable_ones(folder, loaded):
    (folder / "bits.py").write_text(BITS)
    portable = run_warm(folder, loaded, "bits", "portable", "fork").stdout.split()
    native = run_warm(folder, loaded, "bits", "native", "fork").stdout.split()
    variables = variables_for(folder, {}, **bits_variables())
    alone = subprocess.check_output(
        [sys.executable, "bits.py", "portable", "alone"], cwd=folder, env=variables, text=True
    ).split()

    assert portable[:2] == ["True", "3"]
    assert native[:2] != portable[:2]
    assert native[1] != "3"
    assert alone[:2] == ["True", "3"]
    assert portable[-1] == native[-1] == alone[-1]


def test_a_fork_ignores_and_blocks_the_signals_that_its_stand_in_does(folder, loaded):
    code = (
        "ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
        "print(json.dumps([ignored, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))]))"
    )

    def ignore_and_block() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    # Whoever runs the tests may ignore it too, as nohup does.
    ignored_here = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert json_of(folder, loaded, code) == [ignored_here, []]
    changed = json_of(folder, loaded, code, preexec_fn=ignore_and_block)
    assert changed == [True, [signal.SIGUSR1]]


# --- signals, cores and death ---


def test_signals_reach_the_fork_whose_end_is_reported(sleeper):
    process, _, child = sleeper

    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)

    assert output == f"got {signal.SIGTERM.value}\n"
    assert process.returncode == 7
    wait_until_gone(child)


def test_a_killed_stand_in_takes_the_fork_and_its_children_along(sleeper):
    process, pid, child = sleeper

    process.kill()

    wait_until_gone(pid, child)


def test_a_killed_conversation_ends_both_sides(sleeper):
    process, pid, _ = sleeper

    psutil.Process(pid).parent().kill()

    assert process.wait(20) == 1
    wait_until_gone(pid)


def test_a_fork_stops_and_continues_with_its_stand_in(sleeper):
    process, pid, _ = sleeper

    process.send_signal(signal.SIGTSTP)
    wait_for_status(pid, psutil.STATUS_STOPPED)
    wait_for_status(process.pid, psutil.STATUS_STOPPED)

    process.send_signal(signal.SIGCONT)
    wait_for_status(pid, psutil.STATUS_SLEEPING)


def wait_for_status(pid: int, status: str) -> None:
    deadline = time.monotonic() + 20
    while psutil.Process(pid).status() != status:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(len(available_cores()) < 2, reason="needs two cores")
def test_a_fork_moves_to_the_cores_to_which_its_stand_in_is_moved(sleeper):
    process, pid, child = sleeper
    cores = set(available_cores()[:1])

    os.sched_setaffinity(process.pid, cores)

    deadline = time.monotonic() + 20
    while os.sched_getaffinity(pid) != cores or os.sched_getaffinity(child) != cores:
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- who shares, and who does not ---


@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "1"},
        {"PYTHONHASHSEED": "3"},
        {"TQDM_DISABLE": "1"},
        {"HOME": "/"},
        {"TMPDIR": "/"},
        {"PRUNELAB_WARM": "off"},
    ],
)
def test_other_settings_of_libraries_are_not_shared(variables, folder, loaded):
    process = run_warm(folder, loaded, "probe", variables=variables)

    assert (process.returncode, process.stderr) == (1, "cold\n")


def test_another_copy_of_a_package_is_not_shared(folder, loaded):
    (folder / "torch").mkdir()

    assert run_warm(folder, loaded, "probe").stderr == "cold\n"


def test_another_limit_of_resources_is_not_shared(folder, loaded):
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    if soft == 0:
        pytest.skip("the limit is in force already")

    assert run_warm(folder, loaded, "probe", preexec_fn=limit).stderr == "cold\n"


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [
        (NUMPY_VARIABLE, NUMPY_WITHOUT_AVX512, "AVX2"),
        *[(name, value, "2") for name, value in OPENBLAS_VARIABLES.items()],
        (WAIT_VARIABLE, WAIT_ASLEEP, "ACTIVE"),
    ],
)
def test_what_stages_set_for_libraries_is_shared_and_another_choice_is_not(
    name, own, other, monkeypatch
):
    monkeypatch.delenv(name, raising=False)
    before = address.identity()
    monkeypatch.setenv(name, own)
    assert address.identity() == before
    monkeypatch.setenv(name, other)
    assert address.identity() != before


def test_a_changed_environment_has_another_identity(monkeypatch, tmp_path):
    before = address.identity()
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch-9.9.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with_other_torch = address.identity()
    (tmp_path / "torch-9.9.dist-info").rename(tmp_path / "torch-9.10.dist-info")

    assert len({before, with_other_torch, address.identity()}) == 3


def test_a_socket_without_a_process_is_ignored(folder, tmp_path):
    (tmp_path / "dead.sock").touch()

    for name in ("dead.sock", "missing.sock"):
        variables = {address.ADDRESS_VARIABLE: str(tmp_path / name)}
        assert run_warm(folder, variables, "probe").stderr == "cold\n"


def test_a_folder_that_others_may_enter_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = address.socket_folder()
    assert folder.stat().st_mode & 0o777 == 0o700

    folder.chmod(0o750)

    with pytest.raises(PermissionError):
        address.socket_folder()


def test_a_link_in_place_of_the_folder_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    address.socket_folder().rename(tmp_path / "elsewhere")
    address.socket_folder().rmdir()
    (tmp_path / f"prunelab-{os.getuid()}").symlink_to(tmp_path / "elsewhere")

    with pytest.raises((PermissionError, FileExistsError)):
        address.socket_folder()


def test_the_loaded_process_of_another_user_is_not_used(folder, loaded, monkeypatch):
    monkeypatch.setattr(client, "is_own", lambda endpoint: False)
    monkeypatch.setenv(address.ADDRESS_VARIABLE, loaded[address.ADDRESS_VARIABLE])

    assert client.run_in_fork("probe", []) is None


def test_an_answer_of_another_kind_is_ignored(folder, tmp_path):
    for answer in (b"[]\n", b"{}\n", b"nonsense\n", b""):
        path = tmp_path / "s.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            threading.Thread(target=answer_once, args=(listener, answer)).start()
            process = run_warm(folder, {address.ADDRESS_VARIABLE: str(path)}, "probe")
        path.unlink()

        assert process.stderr == "cold\n"


def answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(answer)


def test_only_a_stage_that_needs_torch_waits_until_it_is_loaded(folder, tmp_path):
    hurried = STAND_IN.replace("[2:])", "[2:], needs_torch=False)")
    (folder / "hurried.py").write_text(hurried)
    with control.loaded_process(tmp_path) as variables:
        listening = Path(variables[address.ADDRESS_VARIABLE])
        while not listening.exists() or not address.is_loading(listening):
            time.sleep(0.001)
        number = control.process_id(listening)
        assert number is not None
        psutil.Process(number).suspend()  # as if loading took for ever
        process = subprocess.run(
            [sys.executable, "hurried.py", "probe"],
            cwd=folder,
            env=variables_for(folder, variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.stderr == "cold\n"

        psutil.Process(number).resume()
        warm = run_warm(folder, variables, "probe", input="")
        assert json.loads(warm.stdout)[1]
        assert "Traceback" not in (tmp_path / "warm.log").read_text()


def test_no_stage_waits_for_a_server_that_has_ended_while_others_run(folder, tmp_path):
    with control.loaded_process(tmp_path) as variables, Sleeping(folder, variables) as running:
        path = Path(variables[address.ADDRESS_VARIABLE])
        number = control.process_id(path)
        assert number is not None

        os.kill(number, signal.SIGSTOP)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            os.kill(number, signal.SIGKILL)
            waiting.settimeout(20)
            with suppress(ConnectionResetError):
                assert waiting.recv(1) == b""  # not a time-out

        assert running.poll() is None


class Sleeping:
    """A command that waits in a fork."""

    def __init__(self, folder: Path, loaded: dict[str, str]) -> None:
        wait_for_socket(Path(loaded[address.ADDRESS_VARIABLE]))
        self.process = subprocess.Popen(
            [sys.executable, "stand_in.py", "sleeper"],
            cwd=folder,
            env=variables_for(folder, loaded),
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> subprocess.Popen[str]:
        assert self.process.stdout is not None
        assert self.process.stdout.readline()
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("fault", ["folder", "disk", "namespaces"])
def test_without_a_place_for_the_socket_stages_start_by_themselves(fault, monkeypatch, tmp_path):
    def fail(*_: object) -> None:
        raise PermissionError("not allowed")

    names = {"folder": "socket_folder", "disk": "default_socket", "namespaces": "identity"}
    monkeypatch.delenv(address.ADDRESS_VARIABLE, raising=False)
    monkeypatch.setattr(control, names[fault], fail)

    with control.loaded_process(tmp_path) as variables:
        assert variables == {}


def test_an_error_in_the_body_passes_through(monkeypatch, tmp_path):
    monkeypatch.setattr(control, "_start_owned", lambda *_: None)

    with pytest.raises(OSError, match="of the body"), control.loaded_process(tmp_path):
        raise OSError("of the body")


# --- a loaded process of DVC's own ---


@pytest.fixture
def dvc_folder(folder, monkeypatch) -> Iterator[Path]:
    """A folder with a program of the name of DVC, and with stages that start a companion."""
    # The path of a socket may have about 100 characters, and those of pytest's folders are longer.
    runtime = tempfile.mkdtemp(prefix="prunelab-test-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.delenv(address.ADDRESS_VARIABLE, raising=False)
    (folder / "dvc").write_text(DVC)
    (folder / "loaded_by.py").write_text(
        "import os, sys\nprint(os.getppid(), 'torch' in sys.modules, os.getpgrp())"
    )
    yield folder
    control.stop()
    shutil.rmtree(runtime)


def run_by_dvc(folder: Path, *commands: str, program: str = "dvc") -> list[str]:
    process = subprocess.run(
        [sys.executable, program, *commands],
        cwd=folder,
        env=variables_for(folder, {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return (process.stdout + process.stderr).splitlines()


def sockets() -> list[Path]:
    return list(address.socket_folder().glob("*.sock"))


def test_stages_of_one_dvc_share_a_loaded_process_that_ends_with_it(dvc_folder):
    stage = f"{sys.executable} stand_in.py loaded_by"
    listed = f"ls {address.socket_folder()}"
    first, after_first, second, after_second = run_by_dvc(dvc_folder, stage, listed, stage, listed)

    assert first.split()[1] == second.split()[1] == "True"
    assert after_first == after_second
    assert after_first.startswith("dvc-")

    deadline = time.monotonic() + 20
    while sockets():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_dvc_takes_its_loaded_process_along(dvc_folder):
    command = f"{sys.executable} stand_in.py sleeper"
    with subprocess.Popen(
        [sys.executable, "dvc", command],
        cwd=dvc_folder,
        env=variables_for(dvc_folder, {}),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        [socket_file] = sockets()
        server_number = control.process_id(socket_file)
        process.kill()

    assert server_number is not None
    wait_until_gone(server_number)
    assert not sockets()


def test_a_stage_that_no_dvc_started_starts_by_itself(dvc_folder):
    (dvc_folder / "other").write_text(DVC)
    command = f"{sys.executable} stand_in.py probe"

    assert run_by_dvc(dvc_folder, command, program="other") == ["cold"]
    assert run_warm(dvc_folder, {}, "probe").stderr == "cold\n"
    assert not sockets()


def test_a_loaded_process_that_runs_already_is_preferred_to_one_of_dvc(dvc_folder):
    control.start(idle_s=60)
    running = sockets()

    lines = run_by_dvc(dvc_folder, f"{sys.executable} stand_in.py loaded_by")

    assert lines[0].split()[1] == "True"
    assert sockets() == running


def test_a_process_that_cannot_start_leaves_the_stage_to_itself(dvc_folder, monkeypatch):
    monkeypatch.setattr(companion, "_dvc", os.getpid)
    monkeypatch.setattr(companion, "SERVER", "prunelab.warm.missing")

    assert companion.companion() is None


# --- the command ---


@pytest.fixture
def own_folder(monkeypatch, tmp_path) -> Iterator[None]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv(address.ADDRESS_VARIABLE, raising=False)
    yield
    control.stop()


def test_warm_starts_one_process_that_stop_ends(own_folder, folder):
    first = CliRunner().invoke(app, ["warm"])
    second = CliRunner().invoke(app, ["warm"])
    warm = run_warm(folder, {}, "probe", input="")
    stopped = CliRunner().invoke(app, ["warm", "--stop"])
    number = int(first.output.split()[1])

    assert second.output == f"process {number} has the packages loaded already\n"
    assert json.loads(warm.stdout)[1]
    assert stopped.output == f"stopped process {number}\n"
    wait_until_gone(number)
    assert CliRunner().invoke(app, ["warm", "--stop"]).output == "no loaded process runs\n"


def test_two_that_start_at_the_same_time_start_one_process(own_folder):
    code = "from prunelab.warm.control import start; print(*start(60))"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].split() for process in both]

    (number, _), (other, _) = answers
    assert number == other
    assert sorted(is_new for _, is_new in answers) == ["False", "True"]
    assert control.stop() == [int(number)]
    wait_until_gone(int(number))


def test_stop_ends_a_process_that_is_still_loading(own_folder):
    code = "from prunelab.warm.control import start; start(60)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as starting:
        stopped: list[int] = []
        deadline = time.monotonic() + 30
        while not stopped and time.monotonic() < deadline:
            stopped = control.stop()

        assert starting.wait(60) in (0, 1)
    wait_until_gone(*stopped)
    assert stopped
    assert not list(address.socket_folder().glob("*.sock"))


def test_an_idle_process_ends(own_folder):
    number, _ = control.start(idle_s=1)

    wait_until_gone(number)
    assert not list(address.socket_folder().glob("*.sock"))


def test_a_loaded_process_ends_with_its_owner(own_folder, tmp_path):
    owner = (
        "import os, sys\nfrom pathlib import Path\n"
        "from prunelab.warm.control import loaded_process\n"
        f"with loaded_process(Path({str(tmp_path)!r})):\n    os.kill(os.getpid(), 9)"
    )

    subprocess.run([sys.executable, "-c", owner], check=False)

    deadline = time.monotonic() + 30
    while list(address.socket_folder().glob("*.sock")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
