"""Several processes that train one network.

Their gradients are those of one process. If one dies, all end, and nothing is left over.
"""

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
from helpers.shared_training import EXAMPLES, assert_same_as_one_process, train_with_two_processes
from helpers.stages import TRAIN, command, files, stage
from scipy import stats

from prunelab.core.errors import InputError
from prunelab.core.lifecycle import RENDEZVOUS
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.models.networks import build
from prunelab.runtime.device import Execution
from prunelab.runtime.distributed import Distributed, require_gpus
from prunelab.stages.entry import single_process

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
LAUNCH_THREE = (
    "import sys; from prunelab.core.lifecycle import launch; "
    "launch([sys.executable, '-c', sys.argv[1]], 3)"
)
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty folder with the shipped parameters."""
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    for variable in ("DVC_STAGE", "RANK", "WORLD_SIZE", RENDEZVOUS):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


# --- Shares of a batch ---


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 100])
def test_shares_cover_all_examples_and_differ_by_at_most_one(size, count):
    shares = [range(count)[Distributed(rank, size).part(count)] for rank in range(size)]
    lengths = [len(share) for share in shares]

    assert [index for share in shares for index in share] == list(range(count))
    assert max(lengths) - min(lengths) <= 1
    assert lengths[0] == max(lengths)


@pytest.mark.parametrize("kind", ["resident", "streamed", "resized"])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("batch_size", [9, 2])  # of 2, the last of three processes has none
def test_shares_of_augmented_batches_add_up_to_the_whole_batch(
    digits, normalise, execution, tmp_path, kind, size, batch_size
):
    split = digits.at(np.arange(21))
    if kind == "streamed":
        split = mapped(split, tmp_path)
    if kind == "resized":
        split = Split(split.inputs, split.labels, size=(12, 12))
    loader = BatchLoader(split, normalise, execution)

    whole_batches = list(loader.shuffled(batch_size, EVERYTHING, seed=1, epoch=2))
    batches_by_rank = []
    for rank in range(size):
        part = Distributed(rank, size).part
        shares = loader.shuffled(batch_size, EVERYTHING, seed=1, epoch=2, part=part)
        batches_by_rank.append(list(shares))

    for (inputs, labels), *shares in zip(whole_batches, *batches_by_rank, strict=True):
        shared_inputs, shared_labels = zip(*shares, strict=True)
        assert torch.equal(torch.cat(shared_labels), labels)
        torch.testing.assert_close(torch.cat(shared_inputs), inputs)


# --- Steps ---


@pytest.fixture(scope="module")
def steps_of_two(tmp_path_factory) -> Path:
    """The results of two processes that met over gloo, for every case."""
    folder = tmp_path_factory.mktemp("two")
    train_with_two_processes(folder, "cpu")
    return folder


@pytest.mark.parametrize("case", EXAMPLES)
def test_two_processes_take_the_steps_of_one(steps_of_two, case):
    assert_same_as_one_process(steps_of_two, case, "cpu")


def test_batch_too_small_for_batch_norm_is_refused_before_any_work(trainer, recipe):
    shared = replace(trainer, distributed=Distributed(0, 40))

    with pytest.raises(InputError, match="too small for 40 processes.*Use at most 32 processes"):
        shared.fit(build("resnet8", 10, DIGITS_SHAPE), recipe)


def test_batch_norms_that_keep_their_statistics_need_no_examples(trainer, recipe, monkeypatch):
    class BegunError(Exception):
        """The processes would meet now."""

    def begin(distributed: Distributed, model: torch.nn.Module) -> None:
        raise BegunError

    monkeypatch.setattr(Distributed, "align", begin)
    shared = replace(trainer, distributed=Distributed(0, 40))

    with pytest.raises(BegunError):
        shared.fit(build("resnet8", 10, DIGITS_SHAPE), recipe.model_copy(update={"norm": "eval"}))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = Execution(torch.device("cuda"), None, torch.contiguous_format)
    cpu = Execution(torch.device("cpu"), None, torch.contiguous_format)

    require_gpus(2, gpu)
    require_gpus(3, cpu)

    with pytest.raises(
        InputError,
        match="runtime.processes: 3 processes need a GPU each, but there are 2; valid: 1 to 2",
    ):
        require_gpus(3, gpu)


def test_stage_for_one_process_refuses_several(monkeypatch):
    calls = []
    for variable in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    single_process(calls.append)("one")

    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(
        InputError,
        match="runs as one process, not as 2; only train_base and finetune can share their work",
    ):
        single_process(calls.append)("two")
    assert calls == ["one"]


# --- Starting and ending ---


def launched(program: str, folder: Path) -> subprocess.Popen:
    """Start `launch` with three processes that run a program.

    Each has a child of its own, as processes with data workers have. Before the program, each
    writes both process ids to a file named after its rank, and waits for the files of the others.
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
        [sys.executable, "-c", LAUNCH_THREE, beginning + program],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started_processes(folder: Path) -> list[psutil.Process]:
    """The three processes, each followed by its child, as far as they are alive."""
    paths = [folder / str(rank) for rank in range(3)]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.01)

    pids = [int(word) for path in paths for word in path.read_text().split()]
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def have_ended(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    # A zombie waits for whoever reaps orphans here.
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("os.kill(os.getpid(), 9)", "rank 1 of 3 was killed by SIGKILL"),
        ("os.kill(os.getpid(), 11)", "rank 1 of 3 was killed by SIGSEGV"),
        ("sys.exit(7)", "rank 1 of 3 ended with exit code 7"),
    ],
)
def test_process_that_dies_ends_all_and_is_named(tmp_path, end, message):
    launcher = launched(f"if rank == '1': {end}\ntime.sleep(100)", tmp_path)
    _, errors = launcher.communicate(timeout=60)  # the others would sleep for longer

    assert launcher.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith(message)
    assert "continue from the last finished epoch" in line
    assert have_ended(started_processes(tmp_path))


def test_launch_succeeds_if_all_processes_end_well(tmp_path):
    launcher = launched("reader.kill(); print('done\\n', end='')", tmp_path)
    output, errors = launcher.communicate(timeout=60)

    assert launcher.returncode == 0
    assert output.split() == ["done"] * 3
    assert not errors


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_process_outlives_its_launcher(tmp_path, number, code):
    launcher = launched("time.sleep(100)", tmp_path)
    processes = started_processes(tmp_path)
    assert len(processes) == 6

    launcher.send_signal(number)

    assert launcher.wait(timeout=20) == code
    if number == signal.SIGKILL:
        # The launcher cannot react. Its processes watch it, but the `sleep` of each does not.
        assert have_ended(processes[::2])
        for sleeper in processes[1::2]:
            sleeper.kill()
    assert have_ended(processes)
    _, errors = launcher.communicate()
    assert ("interrupted" in errors) == (number == signal.SIGINT)
    assert len(errors.splitlines()) <= 2


def train(*launcher: str) -> subprocess.Popen:
    """Start base training as dvc.yaml does, or by a launcher such as torchrun."""
    words = command(*TRAIN)
    if launcher:
        module, *arguments = TRAIN
        words = [sys.executable, "-m", *launcher, "-m", f"prunelab.stages.{module}", *arguments]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def process_of_rank(launcher: subprocess.Popen, rank: int) -> psutil.Process:
    """The process of a rank, once there is a checkpoint."""
    deadline = time.monotonic() + 300
    while not list(Path(".prunelab/checkpoints").rglob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)

    children = psutil.Process(launcher.pid).children()
    return next(child for child in children if child.environ().get("RANK") == str(rank))


def delete_models(workspace: Path) -> None:
    for path in (workspace / "models").rglob("*.*"):
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("killed_rank", [0, 1])
def test_killed_process_costs_only_time(workspace, killed_rank):
    edit_params(
        workspace / "params.yaml",
        seeds=[0],
        train__epochs=6,
        runtime__processes=2,
        runtime__threads=1,
    )
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
    uninterrupted = train()
    output, errors = uninterrupted.communicate()
    assert (uninterrupted.returncode, errors) == (0, "")
    assert output.count("validation accuracy") == 1  # only the first process reports
    expected = files(workspace / "models")
    delete_models(workspace)

    launcher = train()
    processes = [process_of_rank(launcher, rank) for rank in range(2)]
    processes[killed_rank].kill()
    _, errors = launcher.communicate(timeout=60)  # a collective would wait for half an hour

    assert launcher.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"rank {killed_rank} of 2 was killed by SIGKILL")
    assert have_ended(processes)
    assert not (workspace / "models/history/base.json").exists()

    resumed = train()
    output, _ = resumed.communicate()

    assert resumed.returncode == 0
    assert output.count("going on after epoch") == 1
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
    delete_models(workspace)

    launcher = train(*TORCHRUN)
    processes = [process_of_rank(launcher, rank) for rank in range(2)]
    launcher.kill()
    launcher.communicate(timeout=60)  # its pipes close when the last of its processes has ended
    assert have_ended(processes)

    resumed = train(*TORCHRUN)
    output, _ = resumed.communicate()

    assert resumed.returncode == 0
    assert output.count("going on after epoch") == 1
    assert files(workspace / "models") == expected


@pytest.mark.slow
def test_networks_of_two_processes_are_as_good_as_those_of_one(workspace):
    """Batch norm sees half batches, but the means of three seeds differ no more than seeds do."""
    edit_params(
        workspace / "params.yaml", train__epochs=12, train__learning_rate=0.05, runtime__threads=1
    )
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0

    accuracies = {}
    for processes in (1, 2):
        edit_params(workspace / "params.yaml", runtime__processes=processes)
        assert stage(*TRAIN).returncode == 0
        rows = json.loads((workspace / "models/history/base.json").read_text())
        last_epoch = [row["validation_accuracy"] for row in rows if row["epoch"] == 12]
        accuracies[processes] = np.array(last_epoch)

    assert len(accuracies[1]) == len(accuracies[2]) == 3
    assert accuracies[1].min() > 0.9
    # Welch's interval of the difference contains 0, or the difference is below 1 image in 100.
    test = stats.ttest_ind(accuracies[1], accuracies[2], equal_var=False)
    interval = test.confidence_interval(0.95)
    difference = abs(accuracies[1].mean() - accuracies[2].mean())
    assert interval.low <= 0 <= interval.high or difference < 0.01
