"""The pipeline killed at random moments, by every signal and at every stage, and what a kill may leave behind.

`pytest tests/test_kills.py --kills 100 -s` kills a hundred times and prints what it did.
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
from ruamel.yaml import YAML

from prunelab.project.dvc_lock import HEADER, split_entries
from prunelab.project.recovery import repair

# DVC's own use of another package.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

SEED = 20240611  # of all that is drawn; another one: PRUNELAB_KILL_SEED
CHAIN = 10  # kills of one pipeline, between nothing and its end
HANGS_S = 1200.0  # DVC may miss a Ctrl-C that comes as it starts a stage, and runs on to the end
ENDS_S = 20.0  # for what was killed and what hung on it; a stage looks for its DVC twice a second
BLOCKED = ("dvc.lock", "rwlock")  # DVC's own files, which DVC does not write in one step
WAYS = [
    *(
        (target, number)
        for target in ("stage", "dvc", "group")
        for number in (signal.SIGKILL, signal.SIGTERM)
    ),
    *(
        (target, signal.SIGINT) for target in ("stage", "group")
    ),  # DVC by itself ignores it while a stage runs
]
# Every checkpoint saved is a line in this file, so that an epoch done twice is a line that is there twice.
RECORD = """
        from pathlib import Path as _Path

        with _Path(".prunelab/saved.log").open("a") as log:
            print(self._path, len(state["fitted"]["history"]), file=log, flush=True)
"""


def tiny(folder: Path) -> Clone:
    """All stages on one cell and one seed, with epochs long enough to be killed in."""
    clone = Clone(folder)
    edit_params(
        clone.folder / "params.yaml",
        seeds=[0],
        grid__methods=["l1_channel_iterative"],
        grid__ratios=[0.5],
        method="l1_unstructured",
        train__epochs=6,
        finetune__epochs=4,
        prune__iterations=2,
        sensitivity__ratios=[0.5],
        benchmark={"batch_sizes": [1], "backends": ["eager"], "rounds": 2, "seconds": 0.02},
    )
    path = clone.folder / "src/prunelab/training/checkpoints.py"
    save = "        write(self._path, content.getvalue())\n"
    assert save in path.read_text()
    path.write_text(path.read_text().replace(save, save + RECORD))
    clone.commit("Tiny configuration")
    return clone


@dataclass
class Reference:
    """A run never killed: every output, and for how long each stage had DVC, in the order of stages."""

    clone: Clone
    outputs: dict[str, str]
    seconds: dict[str, float]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    clone = tiny(tmp_path_factory.mktemp("reference"))
    begun = {"start": time.monotonic()}
    with started(clone) as dvc:
        for line in dvc.stdout:
            if names := stages_run(line):
                begun[names[0]] = time.monotonic()
    assert dvc.returncode == 0
    times = [*begun.values(), time.monotonic()]
    return Reference(
        clone,
        outputs(clone.folder),
        {name: b - a for name, a, b in zip(begun, times, times[1:], strict=False)},
    )


def started(clone: Clone, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command or ("dvc", "repro"), cwd=clone.folder, env=clone.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def alive_in(folder: Path) -> list[psutil.Process]:
    """Processes that work in a folder, zombies left out."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(
                folder
            ):
                found.append(process)
    return found


def strike(dvc: subprocess.Popen[str], target: str, number: int) -> str:
    """Send a signal; what it hit."""
    if target == "group":
        os.killpg(dvc.pid, number)
        return "group"
    with suppress(psutil.Error):
        for process in psutil.Process(dvc.pid).children(recursive=True):
            if target == "stage" and "prunelab.stages." in " ".join(process.cmdline()):
                process.send_signal(number)
                return "stage"
    dvc.send_signal(number)
    return "dvc"


@dataclass
class Tally:
    """What was tried and what it came to."""

    tried: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    blocked: list[str] = field(default_factory=list)
    resumed: int = 0
    longest_interrupt_s: float = 0.0

    def describe(self) -> Iterator[str]:
        yield f"{sum(self.tried.values())} kills: {dict(sorted(self.tried.items()))}"
        yield f"at {dict(self.stages.most_common())}"
        yield f"trainings that went on from an epoch: {self.resumed}"
        yield f"the longest time from Ctrl-C to the end of everything: {self.longest_interrupt_s:.2f} s"
        yield f"DVC alone was blocked {len(self.blocked)} times, until `prunelab check`: {self.blocked}"


def now(said: list[str]) -> str:
    """The stage that DVC began last, by what it has said so far."""
    return (stages_run("".join(said)) or ["start"])[-1]


def kill_once(
    clone: Clone, stage: str, delay_s: float, target: str, number: int, tally: Tally
) -> bool:
    """Run the pipeline and kill it so long after a stage began, or as that one ends; False if all has ended before."""
    said: list[str] = []
    with started(clone) as dvc:
        listener = Thread(target=lambda: said.extend(dvc.stdout), daemon=True)
        listener.start()
        while dvc.poll() is None and stage not in {"start", *stages_run("".join(said))}:
            time.sleep(0.01)
        moment = time.monotonic() + delay_s
        while dvc.poll() is None and time.monotonic() < moment and now(said) == stage:
            time.sleep(0.01)
        if dvc.poll() is not None:
            listener.join()
            assert dvc.returncode == 0 or any(name in "".join(said) for name in BLOCKED), "".join(
                said
            )
            return False
        hit = strike(dvc, target, number)
        sent = time.monotonic()
        dvc.wait(timeout=HANGS_S)
        listener.join(
            timeout=HANGS_S
        )  # orphans hold its output open: one that lives on is found here
        assert not listener.is_alive()
    while number == signal.SIGINT and alive_in(clone.folder) and time.monotonic() < sent + ENDS_S:
        time.sleep(0.01)
    if number == signal.SIGINT:
        tally.longest_interrupt_s = max(tally.longest_interrupt_s, time.monotonic() - sent)
    tally.tried[f"{signal.Signals(number).name} to {hit}"] += 1
    tally.stages[stage] += 1
    tally.resumed += "".join(said).count("going on after epoch")
    return True


def go_on(clone: Clone, tally: Tally) -> str:
    """What `dvc repro` says; where it stumbles over a file of DVC's own, `make repro`'s first step must help."""
    done = clone.run("dvc", "repro", check=False)
    if done.returncode != 0:
        said = done.stdout + done.stderr
        assert any(name in said for name in BLOCKED), said
        tally.blocked.append(next(name for name in BLOCKED if name in said))
        clone.run("python", "-m", "prunelab", "check")
        done = clone.run("dvc", "repro")
    tally.resumed += done.stdout.count("going on after epoch")
    return done.stdout


def unblock(clone: Clone, tally: Tally) -> None:
    """As `go_on`, but without running anything."""
    done = clone.run("dvc", "repro", "--dry", check=False)
    said = done.stdout + done.stderr
    if done.returncode != 0 and any(name in said for name in BLOCKED):
        tally.blocked.append(next(name for name in BLOCKED if name in said))
        clone.run("python", "-m", "prunelab", "check")


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_bits_of_a_run_never_killed(reference, tmp_path, request):
    wanted = request.config.getoption("--kills")
    seed = int(os.environ.get("PRUNELAB_KILL_SEED", SEED))
    draw, tally = random.Random(seed), Tally()
    order, ways = list(reference.seconds), list(WAYS)
    print(f"\nseed {seed}; a run never killed takes {sum(reference.seconds.values()):.0f} s")
    targets = [
        stage for _ in range(wanted // len(order) + 1) for stage in draw.sample(order, len(order))
    ][:wanted]
    while targets:
        chain, targets = sorted(targets[:CHAIN], key=order.index), targets[CHAIN:]
        (tmp_path / str(len(targets))).mkdir()
        clone = tiny(tmp_path / str(len(targets)))
        for stage in chain:
            if not ways:
                ways = list(WAYS)
            target, number = ways.pop(draw.randrange(len(ways)))
            delay = draw.uniform(0, reference.seconds[stage])
            done = kill_once(clone, stage, delay, target, number, tally)
            late = "" if done else ", too late"
            print(
                f"{stage} after {delay:.2f} s: {signal.Signals(number).name} to {target}{late}",
                flush=True,
            )
            if done:
                unblock(clone, tally)
        go_on(clone, tally)
        assert stages_run(clone.run("dvc", "repro").stdout) == []
        deadline = time.monotonic() + ENDS_S
        while alive_in(clone.folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert alive_in(clone.folder) == []
        assert outputs(clone.folder) == reference.outputs
        assert not list(clone.folder.rglob("*.partial"))
        saved = (clone.folder / ".prunelab/saved.log").read_text().splitlines()
        assert [line for line, times in Counter(saved).items() if times > 1] == []
    print("\n".join(tally.describe()))
    assert sum(tally.tried.values()) >= wanted / 2  # a kill that comes too late kills nothing


@pytest.mark.slow
def test_ctrl_c_ends_all_of_dvc_within_two_seconds_and_says_how_to_go_on(reference):
    """As in a terminal, where everybody in the foreground hears of it; in the middle of training."""
    with started(reference.clone, "dvc", "repro", "--force", "train_base") as dvc:
        for line in dvc.stdout:
            if "Running stage 'train_base'" in line:
                break
        saved = reference.clone.folder / ".prunelab/checkpoints/models-base"
        while not list(saved.rglob("*.pt")) and dvc.poll() is None:
            time.sleep(0.01)
        os.killpg(dvc.pid, signal.SIGINT)
        sent = time.monotonic()
        said = dvc.stdout.read()
        dvc.wait()
        took = time.monotonic() - sent
    print(f"\n{took:.2f} s")
    assert "interrupted; run the same command again to continue from the last finished epoch" in said
    assert "Traceback" not in said
    assert alive_in(reference.clone.folder) == []
    assert took < 2
    assert dvc.returncode != 0


GUARDED = "from prunelab.core.lifecycle import setup_process; setup_process(); print('up', flush=True); import time; time.sleep(600)"


@pytest.mark.parametrize("listened_to", [True, False])
@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")]
)
def test_a_stage_that_is_told_to_end_does_so_with_a_line_and_the_signals_code(
    number, told, listened_to
):
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    with subprocess.Popen(
        [sys.executable, "-c", GUARDED],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as stage:
        stage.stdout.readline()
        if not listened_to:
            stage.stderr.close()  # the terminal is gone, too
        stage.send_signal(number)
        said = stage.stderr.read() if listened_to else ""
    assert stage.returncode == 128 + number
    assert (
        not listened_to
        or said.strip() == f"{told}; run the same command again to continue from the last finished epoch"
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A pipeline of two commands, made."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("made")
    stages = {
        "first": {"cmd": "seq 1 9 > first.txt", "params": ["seeds"], "outs": ["first.txt"]},
        "last": {
            "cmd": "head -n 2 first.txt > last.txt",
            "deps": ["first.txt"],
            "outs": ["last.txt"],
        },
    }
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    (folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    Repo.init(str(folder), no_scm=True).close()
    with contextlib.chdir(folder):
        reproduced(folder)
    return folder


@pytest.fixture
def pipeline(made, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the working folder."""
    folder = shutil.copytree(made, tmp_path / "made", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def reproduced(folder: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        repo.reproduce(force=True)


@pytest.fixture
def foreign() -> Iterator[subprocess.Popen]:
    """A process that is alive and has nothing to do with DVC."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_process_id_used_again_blocks_nobody(pipeline, foreign):
    """DVC alone takes whoever has the number for the one it noted, and that cannot be helped from outside."""
    from dvc.exceptions import DvcException

    folder = pipeline
    table, user = folder / ".dvc/tmp/rwlock", {"pid": foreign.pid, "cmd": "/usr/bin/dvc repro"}
    table.write_text(json.dumps({"write": {str(folder / "last.txt"): user}, "read": {}}))
    with pytest.raises(DvcException) as refused:
        reproduced(folder)
    assert "is busy" in str(refused.value.__cause__)
    (line,) = repair(folder)
    assert str(foreign.pid) in line
    reproduced(folder)
    assert list(repair(folder)) == []


def test_so_it_is_where_the_number_went_to_another_dvc_and_a_living_one_keeps_its_marks(pipeline):
    folder = pipeline
    table, its = (
        folder / ".dvc/tmp/rwlock",
        {"pid": os.getpid(), "cmd": "dvc repro"},
    )  # this is a Python, and alive
    content = {"write": {str(folder / "last.txt"): its}, "read": {str(folder / "first.txt"): [its]}}
    table.write_text(json.dumps(content))
    assert list(repair(folder)) == []
    assert json.loads(table.read_text()) == content
    os.utime(
        table, times=(0, psutil.Process().create_time() - 60)
    )  # written before this process was there
    assert len(list(repair(folder))) == 1
    assert not any(json.loads(table.read_text()).values())


def test_what_nobody_has_reaped_yet_uses_no_files(pipeline):
    zombie = subprocess.Popen(["/bin/sh", "-c", ": dvc"])
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    table = pipeline / ".dvc/tmp/rwlock"
    user = {"pid": zombie.pid, "cmd": "dvc repro"}
    table.write_text(json.dumps({"write": {str(pipeline / "last.txt"): user}, "read": {}}))
    (line,) = repair(pipeline)
    assert str(zombie.pid) in line
    assert zombie.wait() == 0


@pytest.mark.parametrize("left", [b"", b'{"write": {"/x": {"pi', b"\xff\xfe"])
def test_a_table_cut_short_blocks_nobody(pipeline, left):
    folder = pipeline
    (folder / ".dvc/tmp/rwlock").write_bytes(left)
    (line,) = repair(folder)
    assert "cut short" in line
    reproduced(folder)


def test_a_lock_cut_short_anywhere_is_mended_and_nothing_whole_is_lost(pipeline):
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml

    folder = pipeline
    lock = folder / "dvc.lock"
    text, mended = lock.read_text(), 0
    whole = split_entries(text)
    for length in range(0, len(text), len(text) // 9):
        lock.write_text(text[:length])
        mended += len(list(repair(folder)))
        if lock.exists():
            COMPILED_LOCKFILE_SCHEMA(parse_yaml(lock.read_text(), "dvc.lock"))
            if text[:length].startswith(HEADER + whole["first"] + "  last:\n"):
                assert whole["first"] in lock.read_text()
    assert mended > 2
    lock.write_text(text)
    reproduced(folder)
    assert lock.read_text() == text


@pytest.mark.parametrize("damage", [b"<<<<<<< ours\n", b"datasets: [\n", b"\xff\n"])
def test_a_lock_damaged_otherwise_is_left_for_people(pipeline, damage):
    folder = pipeline
    lock = folder / "dvc.lock"
    lock.write_bytes(lock.read_bytes().replace(b"  last:\n", damage + b"  last:\n"))
    before = lock.read_bytes()
    assert list(repair(folder)) == []
    assert lock.read_bytes() == before
