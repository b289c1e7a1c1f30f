"""The pipeline killed at random moments, by every signal and at every stage.

Also tested: the repair of what a kill leaves behind.

`pytest -m slow tests/system/test_kills.py --kills 100 -s` kills a hundred times and prints the
result.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import psutil
import pytest
from helpers.params import PROJECT, edit_params
from helpers.repository import Clone, outputs, stages_run
from helpers.stages import loaded_stages
from ruamel.yaml import YAML

from prunelab.project.dvc_lock import HEADER, split_entries
from prunelab.project.recovery import repair

# DVC's own use of another package.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

SEED = 20240611  # of all random choices; PRUNELAB_KILL_SEED sets another one
KILLS_PER_PIPELINE = 10  # between nothing and the end of the pipeline
POLL_S = 0.01
HANG_TIMEOUT_S = 1200.0  # DVC may miss a Ctrl-C as it starts a stage; it then runs to the end
END_TIMEOUT_S = 20.0  # for orphans: a stage looks for its DVC twice a second
DVC_FILES = ("dvc.lock", "rwlock")  # DVC does not write these in one step
RESUMED = "going on after epoch"
RESUME_HINT = "run the same command again to continue from the last finished epoch"

# DVC alone ignores Ctrl-C while a stage runs, so (dvc, SIGINT) is missing.
WAYS = [
    ("stage", signal.SIGKILL),
    ("stage", signal.SIGTERM),
    ("dvc", signal.SIGKILL),
    ("dvc", signal.SIGTERM),
    ("group", signal.SIGKILL),
    ("group", signal.SIGTERM),
    ("stage", signal.SIGINT),
    ("group", signal.SIGINT),
]

SAVED_LOG = ".prunelab/saved.log"
# Appended to the module of checkpoints: every checkpoint saved becomes a line of a file. An epoch
# that runs twice is then a line that occurs twice.
LOG_CHECKPOINTS = f"""

_save = Checkpoint.save


def _save_and_log(self, state):
    _save(self, state)
    with Path("{SAVED_LOG}").open("a") as log:
        print(self._path, len(state["result"]["history"]), file=log, flush=True)


Checkpoint.save = _save_and_log
"""


def tiny(folder: Path) -> Clone:
    """All stages on one cell and two seeds, with epochs that are long enough to be killed in.

    On two cores the seeds run side by side.
    """
    clone = Clone(folder)
    edit_params(
        clone.folder / "params.yaml",
        seeds=[0, 1],
        grid__methods=["l1_channel_iterative"],
        grid__ratios=[0.5],
        method="l1_unstructured",
        train__epochs=6,
        finetune__epochs=4,
        prune__iterations=2,
        sensitivity__ratios=[0.5],
        benchmark={"batch_sizes": [1], "backends": ["eager"], "rounds": 2, "seconds": 0.02},
    )
    with (clone.folder / "src/prunelab/training/checkpoints.py").open("a") as file:
        file.write(LOG_CHECKPOINTS)
    clone.commit("Tiny configuration")
    return clone


@dataclass
class Reference:
    """A run that was never killed: its outputs, and the seconds of each stage, in their order."""

    clone: Clone
    outputs: dict[str, str]
    seconds: dict[str, float]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    clone = tiny(tmp_path_factory.mktemp("reference"))

    start_times = {"start": time.monotonic()}
    with started(clone) as dvc:
        for line in dvc.stdout:
            for stage in stages_run(line):
                start_times[stage] = time.monotonic()
    assert dvc.returncode == 0

    end_times = [*start_times.values(), time.monotonic()][1:]
    seconds = {}
    for (stage, start), end in zip(start_times.items(), end_times, strict=True):
        seconds[stage] = end - start
    return Reference(clone, outputs(clone.folder), seconds)


def started(clone: Clone, *command: str) -> subprocess.Popen[str]:
    """Start a command, `dvc repro` by default, in a session of its own."""
    return subprocess.Popen(
        command or ("dvc", "repro"),
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def alive_in(folder: Path) -> list[psutil.Process]:
    """Processes that work in a folder, without zombies."""
    alive = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_inside = Path(process.cwd()).is_relative_to(folder)
            if is_inside and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def wait_until_dead(folder: Path, poll_s: float = POLL_S) -> None:
    """Wait until no process works in a folder, up to END_TIMEOUT_S."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while alive_in(folder) and time.monotonic() < deadline:
        time.sleep(poll_s)


def strike(dvc: subprocess.Popen[str], folder: Path, target: str, number: int) -> str:
    """Send a signal and return what it hit."""
    if target == "group":
        os.killpg(dvc.pid, number)
        return "group"

    if target == "stage":
        processes = stage_processes(folder)
        if processes:
            with suppress(psutil.Error):
                processes[number % len(processes)].send_signal(number)
                return "stage"
    dvc.send_signal(number)
    return "dvc"


def stage_processes(folder: Path) -> list[psutil.Process]:
    """The stage that DVC started, its fork of a loaded process if there is one, and its seeds'."""
    processes = []
    for process in alive_in(folder):
        with suppress(psutil.Error):
            command = process.cmdline()
            if "prunelab.stages" in command or "prunelab.warm.server" in command:
                processes.append(process)
    return processes


@dataclass
class Tally:
    """What was tried, and its results."""

    tried: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    blocked: list[str] = field(default_factory=list)
    resumed: int = 0
    longest_interrupt_s: float = 0.0

    def describe(self) -> Iterator[str]:
        yield f"{sum(self.tried.values())} kills: {dict(sorted(self.tried.items()))}"
        yield f"at {dict(self.stages.most_common())}"
        yield f"trainings that were resumed: {self.resumed}"
        yield f"longest time from Ctrl-C to the end of everything: {self.longest_interrupt_s:.2f} s"
        yield f"DVC was blocked {len(self.blocked)} times before a repair: {self.blocked}"


@dataclass(frozen=True)
class Kill:
    """A signal to a target, `delay_s` seconds after a stage has begun."""

    stage: str
    delay_s: float
    target: str
    number: int

    def describe(self) -> str:
        signal_name = signal.Signals(self.number).name
        return f"{self.stage} after {self.delay_s:.2f} s: {signal_name} to {self.target}"


class Output:
    """What a process prints, collected by a thread while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: list[str] = []
        self.thread = Thread(target=lambda: self._lines.extend(process.stdout), daemon=True)
        self.thread.start()

    @property
    def text(self) -> str:
        return "".join(self._lines)

    @property
    def stages(self) -> list[str]:
        """The stages that DVC has begun."""
        return ["start", *stages_run(self.text)]


def kill_once(clone: Clone, kill: Kill, tally: Tally) -> bool:
    """Run the pipeline and kill it. Returns False if everything ended before.

    The kill comes after the delay, or at the end of the stage if that is earlier.
    """
    with started(clone) as dvc:
        output = Output(dvc)
        wait_for_moment(dvc, output, kill)
        if dvc.poll() is not None:
            output.thread.join()
            is_blocked = any(name in output.text for name in DVC_FILES)
            assert dvc.returncode == 0 or is_blocked, output.text
            return False

        hit = strike(dvc, clone.folder, kill.target, kill.number)
        kill_time = time.monotonic()
        dvc.wait(timeout=HANG_TIMEOUT_S)

        # An orphan holds DVC's output open, so one that lives on is found here.
        output.thread.join(timeout=HANG_TIMEOUT_S)
        assert not output.thread.is_alive()

    if kill.number == signal.SIGINT:
        wait_until_dead(clone.folder)
        seconds = time.monotonic() - kill_time
        tally.longest_interrupt_s = max(tally.longest_interrupt_s, seconds)
    tally.tried[f"{signal.Signals(kill.number).name} to {hit}"] += 1
    tally.stages[kill.stage] += 1
    tally.resumed += output.text.count(RESUMED)
    return True


def wait_for_moment(dvc: subprocess.Popen[str], output: Output, kill: Kill) -> None:
    while dvc.poll() is None and kill.stage not in output.stages:
        time.sleep(POLL_S)

    moment = time.monotonic() + kill.delay_s
    while dvc.poll() is None and time.monotonic() < moment and output.stages[-1] == kill.stage:
        time.sleep(POLL_S)


def finish(clone: Clone, tally: Tally) -> None:
    """Run `dvc repro`. If a file of DVC's own blocks it, `prunelab check` must repair that file."""
    process = clone.run("dvc", "repro", check=False)
    if process.returncode != 0:
        text = process.stdout + process.stderr
        blocking = [name for name in DVC_FILES if name in text]
        assert blocking, text
        tally.blocked.append(blocking[0])
        clone.run("python", "-m", "prunelab", "check")
        process = clone.run("dvc", "repro")
    tally.resumed += process.stdout.count(RESUMED)


def unblock(clone: Clone, tally: Tally) -> None:
    """Repair the file that blocks DVC, if there is one, without running anything."""
    process = clone.run("dvc", "repro", "--dry", check=False)
    text = process.stdout + process.stderr
    blocking = [name for name in DVC_FILES if name in text]
    if process.returncode != 0 and blocking:
        tally.blocked.append(blocking[0])
        clone.run("python", "-m", "prunelab", "check")


def draw_kills(draw: random.Random, count: int, seconds: dict[str, float]) -> list[list[Kill]]:
    """Random kills, those of each pipeline in the order of stages.

    All stages and all ways come up equally often.
    """
    order = list(seconds)
    stages: list[str] = []
    for _ in range(count // len(order) + 1):
        stages += draw.sample(order, len(order))
    stages = stages[:count]

    pipelines = []
    ways = list(WAYS)
    for first in range(0, count, KILLS_PER_PIPELINE):
        kills = []
        for stage in sorted(stages[first : first + KILLS_PER_PIPELINE], key=order.index):
            if not ways:
                ways = list(WAYS)
            target, number = ways.pop(draw.randrange(len(ways)))
            kills.append(Kill(stage, draw.uniform(0, seconds[stage]), target, number))
        pipelines.append(kills)
    return pipelines


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The variables by which stages find a loaded process, to run in forks of it."""
    with loaded_stages(tmp_path_factory.mktemp("loaded")) as variables:
        yield variables


@pytest.mark.slow
def test_a_killed_pipeline_ends_with_the_same_bits(reference, loaded, tmp_path, request):
    count = request.config.getoption("--kills")
    seed = int(os.environ.get("PRUNELAB_KILL_SEED", SEED))
    tally = Tally()
    print(f"\nseed {seed}; a run never killed takes {sum(reference.seconds.values()):.0f} s")

    pipelines = draw_kills(random.Random(seed), count, reference.seconds)
    for number, kills in enumerate(pipelines):
        folder = tmp_path / str(number)
        folder.mkdir()
        clone = tiny(folder)
        if number % 2 == 0:  # the others start cold, as the reference does
            clone.environment |= loaded
        for kill in kills:
            killed = kill_once(clone, kill, tally)
            print(f"{kill.describe()}{'' if killed else ', too late'}", flush=True)
            if killed:
                unblock(clone, tally)
        finish(clone, tally)
        assert_as_never_killed(clone, reference)

    print("\n".join(tally.describe()))
    assert sum(tally.tried.values()) >= count / 2  # a kill that comes too late kills nothing


def assert_as_never_killed(clone: Clone, reference: Reference) -> None:
    """No stage is left to run, no process is left, the bits are the same, no epoch ran twice."""
    assert stages_run(clone.run("dvc", "repro").stdout) == []

    wait_until_dead(clone.folder, poll_s=0.1)
    assert alive_in(clone.folder) == []

    assert outputs(clone.folder) == reference.outputs
    assert not list(clone.folder.rglob("*.partial"))

    saved = Counter((clone.folder / SAVED_LOG).read_text().splitlines())
    assert [line for line, times in saved.items() if times > 1] == []


@pytest.mark.slow
def test_ctrl_c_ends_dvc_within_two_seconds_with_a_hint(reference):
    """As in a terminal, where every process in the foreground receives it, during training."""
    clone = reference.clone
    with started(clone, "dvc", "repro", "--force", "train_base") as dvc:
        for line in dvc.stdout:
            if "Running stage 'train_base'" in line:
                break
        checkpoints = clone.folder / ".prunelab/checkpoints/models-base"
        while not list(checkpoints.rglob("*.pt")) and dvc.poll() is None:
            time.sleep(POLL_S)

        os.killpg(dvc.pid, signal.SIGINT)
        kill_time = time.monotonic()
        text = dvc.stdout.read()
        dvc.wait()
        seconds = time.monotonic() - kill_time

    print(f"\n{seconds:.2f} s")
    assert f"interrupted; {RESUME_HINT}" in text
    assert "Traceback" not in text
    assert alive_in(clone.folder) == []
    assert seconds < 2
    assert dvc.returncode != 0


WAITING_STAGE = """
import time
from prunelab.core.lifecycle import setup_process

setup_process()
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("with_terminal", [True, False])
@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")]
)
def test_a_signal_ends_a_stage_with_a_hint_and_its_exit_code(number, reason, with_terminal):
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    text = ""

    with subprocess.Popen(
        [sys.executable, "-c", WAITING_STAGE],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as stage:
        stage.stdout.readline()
        if not with_terminal:
            stage.stderr.close()
        stage.send_signal(number)
        if with_terminal:
            text = stage.stderr.read()

    assert stage.returncode == 128 + number
    if with_terminal:
        assert text.strip() == f"{reason}; {RESUME_HINT}"


@pytest.fixture(scope="module")
def finished_pipeline(tmp_path_factory) -> Path:
    """A pipeline of two commands that has run."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("finished")
    first = {"cmd": "seq 1 9 > first.txt", "params": ["seeds"], "outs": ["first.txt"]}
    last = {
        "cmd": "head -n 2 first.txt > last.txt",
        "deps": ["first.txt"],
        "outs": ["last.txt"],
    }
    YAML().dump({"stages": {"first": first, "last": last}}, folder / "dvc.yaml")
    shutil.copyfile(PROJECT / "params.yaml", folder / "params.yaml")

    Repo.init(str(folder), no_scm=True).close()
    with contextlib.chdir(folder):
        reproduce_all(folder)
    return folder


@pytest.fixture
def pipeline(finished_pipeline, tmp_path, monkeypatch) -> Path:
    """A copy of the finished pipeline, which is the working folder."""
    folder = shutil.copytree(finished_pipeline, tmp_path / "pipeline", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def reproduce_all(folder: Path) -> None:
    """Run all stages by DVC alone."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        repo.reproduce(force=True)


def table_of(folder: Path) -> Path:
    """DVC's table of files in use."""
    return folder / ".dvc/tmp/rwlock"


@pytest.fixture
def unrelated_process() -> Iterator[subprocess.Popen]:
    """A process that is alive and has nothing to do with DVC."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_reused_process_id_does_not_block(pipeline, unrelated_process):
    """DVC takes any process with the number for the one in its table. A repair is needed."""
    from dvc.exceptions import DvcException

    user = {"pid": unrelated_process.pid, "cmd": "/usr/bin/dvc repro"}
    content = {"write": {str(pipeline / "last.txt"): user}, "read": {}}
    table_of(pipeline).write_text(json.dumps(content))
    with pytest.raises(DvcException) as raised:
        reproduce_all(pipeline)
    assert "is busy" in str(raised.value.__cause__)

    (line,) = repair(pipeline)

    assert str(unrelated_process.pid) in line
    reproduce_all(pipeline)
    assert list(repair(pipeline)) == []


def test_rwlock_entries_of_a_live_dvc_are_kept(pipeline):
    user = {"pid": os.getpid(), "cmd": "dvc repro"}  # this process is a Python, and alive
    content = {
        "write": {str(pipeline / "last.txt"): user},
        "read": {str(pipeline / "first.txt"): [user]},
    }
    table = table_of(pipeline)
    table.write_text(json.dumps(content))

    assert list(repair(pipeline)) == []

    assert json.loads(table.read_text()) == content


def test_rwlock_entries_older_than_their_process_are_cleared(pipeline):
    """The number then went to another DVC."""
    user = {"pid": os.getpid(), "cmd": "dvc repro"}
    content = {
        "write": {str(pipeline / "last.txt"): user},
        "read": {str(pipeline / "first.txt"): [user]},
    }
    table = table_of(pipeline)
    table.write_text(json.dumps(content))
    os.utime(table, times=(0, psutil.Process().create_time() - 60))

    assert len(list(repair(pipeline))) == 1

    assert not any(json.loads(table.read_text()).values())


def test_rwlock_entries_of_a_zombie_are_cleared(pipeline):
    zombie = subprocess.Popen(["/bin/sh", "-c", ": dvc"])
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(POLL_S)
    user = {"pid": zombie.pid, "cmd": "dvc repro"}
    content = {"write": {str(pipeline / "last.txt"): user}, "read": {}}
    table_of(pipeline).write_text(json.dumps(content))

    (line,) = repair(pipeline)

    assert str(zombie.pid) in line
    assert zombie.wait() == 0


@pytest.mark.parametrize("content", [b"", b'{"write": {"/x": {"pi', b"\xff\xfe"])
def test_an_rwlock_cut_short_does_not_block(pipeline, content):
    table_of(pipeline).write_bytes(content)

    (line,) = repair(pipeline)

    assert "cut short" in line
    reproduce_all(pipeline)


def test_a_lock_cut_short_is_repaired_and_keeps_whole_entries(pipeline):
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml

    lock = pipeline / "dvc.lock"
    text = lock.read_text()
    first_entry = split_entries(text)["first"]

    repairs = 0
    for length in range(0, len(text), len(text) // 9):
        lock.write_text(text[:length])
        repairs += len(list(repair(pipeline)))
        if lock.exists():
            COMPILED_LOCKFILE_SCHEMA(parse_yaml(lock.read_text(), "dvc.lock"))
            if text[:length].startswith(HEADER + first_entry + "  last:\n"):
                assert first_entry in lock.read_text()
    assert repairs > 2

    lock.write_text(text)
    reproduce_all(pipeline)
    assert lock.read_text() == text


@pytest.mark.parametrize("damage", [b"<<<<<<< ours\n", b"datasets: [\n", b"\xff\n"])
def test_a_lock_with_other_damage_is_left_alone(pipeline, damage):
    lock = pipeline / "dvc.lock"
    lock.write_bytes(lock.read_bytes().replace(b"  last:\n", damage + b"  last:\n"))
    damaged = lock.read_bytes()

    assert list(repair(pipeline)) == []

    assert lock.read_bytes() == damaged
