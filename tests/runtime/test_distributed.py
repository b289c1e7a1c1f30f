"""Several processes that train one network: the same gradients as one, the same end if one dies, nothing left over."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from helpers.data import EVERYTHING, mapped
from helpers.networks import DIGITS_SHAPE
from helpers.params import PROJECT, edit_params
from helpers.shared_training import EXAMPLES, assert_steps_of_one, by_two
from helpers.stages import TRAIN, command, files, stage
from scipy import stats

from prunelab.core.errors import InputError
from prunelab.core.lifecycle import RENDEZVOUS
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.models.catalogue import build
from prunelab.runtime.device import Execution
from prunelab.runtime.distributed import Distributed, require_gpus
from prunelab.stages.entry import single_process

SOURCES = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
LAUNCH = "import sys; from prunelab.core.lifecycle import launch; launch([sys.executable, '-c', sys.argv[1]], 3)"


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty folder with the shipped parameters."""
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    for variable in ("DVC_STAGE", "RANK", "WORLD_SIZE", RENDEZVOUS):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 100])
def test_shares_cover_everything_once_and_differ_by_one_at_most(size, count):
    shares = [range(count)[Distributed(rank, size).part(count)] for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(shares[0]) == max(map(len, shares))


@pytest.mark.parametrize("kind", ["resident", "streamed", "resized"])
@pytest.mark.parametrize("size", [2, 3])
def test_parts_of_augmented_batches_are_those_of_the_whole(
    digits, normalise, execution, tmp_path, kind, size
):
    split = digits.at(np.arange(21))
    if kind == "streamed":
        split = mapped(split, tmp_path)
    if kind == "resized":
        split = Split(split.inputs, split.labels, size=(12, 12))
    data = BatchLoader(split, normalise, execution)
    for batch_size in (9, 2):  # of 2, the last of three processes has none
        whole = list(data.shuffled(batch_size, EVERYTHING, seed=1, epoch=2))
        parts = [
            list(
                data.shuffled(
                    batch_size, EVERYTHING, seed=1, epoch=2, part=Distributed(rank, size).part
                )
            )
            for rank in range(size)
        ]
        for (inputs, labels), *shares in zip(whole, *parts, strict=True):
            assert torch.equal(torch.cat([part for _, part in shares]), labels)
            torch.testing.assert_close(torch.cat([part for part, _ in shares]), inputs)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What two processes that met over gloo have made of every case."""
    folder = tmp_path_factory.mktemp("two")
    by_two(folder, "cpu")
    return folder


@pytest.mark.parametrize("case", EXAMPLES)
def test_two_processes_take_the_steps_of_one(two, case):
    assert_steps_of_one(two, case, "cpu")


def test_a_batch_too_small_for_batch_norm_is_refused_before_any_work(trainer, recipe):
    shared = replace(trainer, distributed=Distributed(0, 40))
    with pytest.raises(InputError, match="too small for 40 processes.*Use at most 32 processes"):
        shared.fit(build("resnet8", 10, DIGITS_SHAPE), recipe)


def test_more_processes_than_gpus_are_refused_with_what_there_is(monkeypatch):
    gpu = Execution(torch.device("cuda"), None, torch.contiguous_format)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_gpus(2, gpu)
    with pytest.raises(
        InputError,
        match="runtime.processes: 3 processes need a GPU each, but there are 2; valid: 1 to 2",
    ):
        require_gpus(3, gpu)
    require_gpus(3, Execution(torch.device("cpu"), None, torch.contiguous_format))


def test_a_stage_for_one_process_refuses_to_be_several(monkeypatch):
    done = []
    for variable in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    single_process(done.append)("one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError,
        match="runs as one process, not as 2; only train_base and finetune can share their work",
    ):
        single_process(done.append)("two")
    assert done == ["one"]


def launched(program: str, folder: Path) -> subprocess.Popen:
    """Three processes that leave their numbers in the folder, end with their launcher, and then do as the program says.

    Each has started another one, as those do that read data.
    """
    beginning = """
import os, pathlib, subprocess, sys, time
from prunelab.core.lifecycle import setup_process
setup_process()
rank, reader = os.environ["RANK"], subprocess.Popen(["sleep", "100"])
pathlib.Path(f"{rank}.tmp").write_text(f"{os.getpid()} {reader.pid}")
pathlib.Path(f"{rank}.tmp").replace(rank)
while not all(map(os.path.exists, "012")):
    time.sleep(0.01)
"""
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, beginning + program],
        cwd=folder, env=SOURCES, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def started(folder: Path) -> list[psutil.Process]:
    """Processes and what they have started; all of them, once the last one is there."""
    deadline = time.monotonic() + 60
    while (
        not all((folder / str(rank)).exists() for rank in range(3)) and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    numbers = [
        [int(word) for word in (folder / str(rank)).read_text().split()] for rank in range(3)
    ]
    return [
        psutil.Process(number) for pair in numbers for number in pair if psutil.pid_exists(number)
    ]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return all(
        process.status() == psutil.STATUS_ZOMBIE for process in alive
    )  # left to whoever is to reap orphans


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.kill(os.getpid(), 9)", "rank 1 of 3 was killed by SIGKILL"),
        ("os.kill(os.getpid(), 11)", "rank 1 of 3 was killed by SIGSEGV"),
        ("sys.exit(7)", "rank 1 of 3 ended with exit code 7"),
    ],
)
def test_a_process_that_dies_ends_all_and_is_named(tmp_path, end, told):
    launcher = launched(f"if rank == '1': {end}\ntime.sleep(100)", tmp_path)
    _, said = launcher.communicate(timeout=60)  # the others would sleep for longer
    assert launcher.returncode == 1
    (line,) = said.splitlines()
    assert line.startswith(told)
    assert "goes on from the last finished epoch" in line
    assert gone(started(tmp_path))


def test_processes_that_all_end_well_are_a_success(tmp_path):
    launcher = launched("reader.kill(); print('done\\n', end='')", tmp_path)
    said, complaint = launcher.communicate(timeout=60)
    assert launcher.returncode == 0
    assert said.split() == ["done"] * 3
    assert not complaint


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_process_outlives_its_launcher(tmp_path, number, code):
    launcher = launched("time.sleep(100)", tmp_path)
    processes = started(tmp_path)
    assert len(processes) == 6
    launcher.send_signal(number)
    assert launcher.wait(timeout=20) == code
    if (
        number == signal.SIGKILL
    ):  # which it does not hear of: processes end by themselves, and `sleep` knows no better
        assert gone(processes[::2])
        for sleeper in processes[1::2]:
            sleeper.kill()
    assert gone(processes)
    _, said = launcher.communicate()
    assert ("interrupted" in said) == (number == signal.SIGINT)
    assert len(said.splitlines()) <= 2


def train(*launcher: str) -> subprocess.Popen:
    """Base training as dvc.yaml runs it, or by torchrun."""
    words = (
        command(*TRAIN)
        if not launcher
        else [sys.executable, "-m", *launcher, "-m", f"prunelab.stages.{TRAIN[0]}"]
    )
    return subprocess.Popen(
        words if not launcher else [*words, *TRAIN[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rank_of(launcher: subprocess.Popen, rank: int) -> psutil.Process:
    """The process of this rank, once the first has finished an epoch."""
    deadline = time.monotonic() + 300
    while not list(Path(".prunelab/checkpoints").rglob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return next(
        p for p in psutil.Process(launcher.pid).children() if p.environ().get("RANK") == str(rank)
    )


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_costs_nothing_but_time(workspace, killed):
    edit_params(
        workspace / "params.yaml",
        seeds=[0],
        train__epochs=6,
        runtime__processes=2,
        runtime__threads=1,
    )
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
    whole = train()
    said, complaint = whole.communicate()
    assert (whole.returncode, complaint) == (0, "")
    assert said.count("validation accuracy") == 1  # one of them speaks
    expected = files(workspace / "models")
    for path in (workspace / "models").rglob("*.*"):
        path.unlink()

    launcher = train()
    processes = [rank_of(launcher, rank) for rank in range(2)]
    processes[killed].kill()
    _, complaint = launcher.communicate(timeout=60)  # a collective would wait for half an hour
    assert launcher.returncode == 1
    (line,) = complaint.splitlines()
    assert line.startswith(f"rank {killed} of 2 was killed by SIGKILL")
    assert gone(processes)
    assert not (workspace / "models/history/base.json").exists()

    resumed = train()
    said, _ = resumed.communicate()
    assert resumed.returncode == 0
    assert said.count("going on after epoch") == 1
    assert files(workspace / "models") == expected
    assert not list((workspace / ".prunelab/checkpoints").iterdir())


@pytest.mark.slow
def test_torchrun_gives_the_same_bits_and_its_processes_end_with_it(workspace):
    edit_params(
        workspace / "params.yaml",
        seeds=[0],
        train__epochs=4,
        runtime__processes=2,
        runtime__threads=1,
    )
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
    assert stage(*TRAIN).returncode == 0
    expected = files(workspace / "models")
    for path in (workspace / "models").rglob("*.*"):
        path.unlink()

    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    launcher = train(*torchrun)
    processes = [rank_of(launcher, rank) for rank in range(2)]
    launcher.kill()
    launcher.communicate(timeout=60)  # whose pipes close when the last of them is gone
    assert gone(processes)
    resumed = train(*torchrun)
    said, _ = resumed.communicate()
    assert resumed.returncode == 0
    assert said.count("going on after epoch") == 1
    assert files(workspace / "models") == expected


@pytest.mark.slow
def test_networks_of_two_processes_are_as_good_as_those_of_one(workspace):
    """The mean over three seeds lies within what seeds alone make of it: batch norm sees half batches."""
    edit_params(
        workspace / "params.yaml", train__epochs=12, train__learning_rate=0.05, runtime__threads=1
    )
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
    accuracies = {}
    for processes in (1, 2):
        edit_params(workspace / "params.yaml", runtime__processes=processes)
        assert stage(*TRAIN).returncode == 0
        rows = json.loads((workspace / "models/history/base.json").read_text())
        accuracies[processes] = [row["validation_accuracy"] for row in rows if row["epoch"] == 12]
    one, two = (np.array(accuracies[processes]) for processes in (1, 2))
    assert len(one) == len(two) == 3
    assert one.min() > 0.9
    # Welch's interval of the difference holds 0, or it is below what one image in a hundred makes.
    interval = stats.ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
    assert interval.low <= 0 <= interval.high or abs(one.mean() - two.mean()) < 0.01
