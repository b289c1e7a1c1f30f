"""Stages whose seeds run side by side write what they write one after another."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest
from helpers.params import PROJECT, edit_params
from helpers.stages import TRAIN, command, files, stage

from prunelab.core.errors import InputError
from prunelab.runtime import seeds
from prunelab.stages import evaluate, finetune, prepare, prune, sensitivity, train_base
from prunelab.warm.address import ADDRESS_VARIABLE, OFF

SEEDS = [0, 1]
METHOD = "l1_channel_iterative"  # it trains between its cuts


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty folder with small parameters: two seeds, a little training, prepared data."""
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    edit_params(
        tmp_path / "params.yaml",
        seeds=SEEDS,
        train__epochs=1,
        train__rewind_epoch=0,
        train__batch_size=256,
        finetune__epochs=1,
        finetune__batch_size=256,
        finetune__distill=0.5,
        prune__iterations=2,
        prune__epochs=1,
        sensitivity__ratios=[0.5],
        sensitivity__samples=32,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    prepare.main(Path("data/raw"), Path("data/prepared"))
    return tmp_path


def use_cores(monkeypatch, count: int) -> None:
    monkeypatch.setattr(seeds, "available_cores", lambda: list(range(count)))


def run_all_stages(out: Path) -> str:
    """Run every stage that treats its seeds as independent; return what they print."""
    prepared, base, pruned, tuned = Path("data/prepared"), out / "base", out / "1/p", out / "1/t"
    dense = out / "dense.safetensors"
    printed = StringIO()
    with redirect_stdout(printed):
        train_base.main(prepared, base, out / "base.json")
        evaluate.main(prepared, base / "final", out / "dense.json", dense)
        prune.main(base, prepared, pruned, METHOD, 0.5)
        finetune.main(pruned, base / "final", prepared, tuned, out / "tuned.json")
        evaluate.main(
            *(prepared, tuned, out / "metrics.json", out / "cell.safetensors"),
            pruned=pruned,
            dense=dense,
            confusion=out / "confusion.json",
            details=out / "details.json",
        )
        sensitivity.main(prepared, base / "final", out / "sensitivity.json")
    return printed.getvalue()


def test_stages_write_and_print_the_same_with_any_number_of_cores(workspace, monkeypatch):
    printed, written = [], []
    for cores in (1, 2):
        use_cores(monkeypatch, cores)
        printed.append(run_all_stages(Path("out")))
        written.append(files(Path("out")))
        subprocess.run(["rm", "-r", "out"], check=True)

    assert written[0] == written[1]
    assert printed[0] == printed[1]
    assert [line for line in printed[1].splitlines() if line.startswith("seed 1: validation")]
    assert active_children() == []


def test_a_stage_killed_side_by_side_resumes_one_after_another(workspace, monkeypatch):
    """And the other way round: one key serves both, so no epoch is trained twice."""
    edit_params(workspace / "params.yaml", train__epochs=4)
    use_cores(monkeypatch, 1)
    train_base.main(Path("data/prepared"), Path("a"), Path("a/history.json"))
    expected = files(Path("a"))

    for first_cores, second_cores in ((2, 1), (1, 2)):
        subprocess.run(["rm", "-r", "a"], check=True)
        use_cores(monkeypatch, first_cores)
        with monkeypatch.context() as patched, pytest.raises(InputError, match="stopped"):
            patched.setattr(train_base, "seed_file", refuse)  # all have trained, none has written
            train_base.main(Path("data/prepared"), Path("a"), Path("a/history.json"))

        use_cores(monkeypatch, second_cores)
        printed = StringIO()
        with redirect_stdout(printed):
            train_base.main(Path("data/prepared"), Path("a"), Path("a/history.json"))

        assert "train_base, seed 0: going on after epoch" in printed.getvalue()
        assert files(Path("a")) == expected
        assert not list(Path(".prunelab/checkpoints").iterdir())


def refuse(folder: Path, seed: int) -> Path:
    raise InputError("stopped")


def test_a_refusal_in_a_child_is_one_line_and_leaves_nothing_behind(workspace, monkeypatch):
    edit_params(workspace / "params.yaml", train__learning_rate=1e30)
    use_cores(monkeypatch, 2)

    with pytest.raises(InputError, match="Use a lower learning_rate") as refused:
        train_base.main(Path("data/prepared"), Path("a"), Path("a/history.json"))

    assert len(refused.value.problems) == 1
    assert not Path("a").exists()
    assert active_children() == []


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("target", ["stage", "child"])
def test_a_stage_killed_side_by_side_ends_with_the_same_bits(workspace, monkeypatch, target):
    """The stage is killed or, as for lack of memory, one of its children; then it goes on."""
    edit_params(workspace / "params.yaml", train__epochs=25)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    monkeypatch.setenv(ADDRESS_VARIABLE, OFF)  # the process that is killed is the stage itself
    assert stage(*TRAIN).returncode == 0
    expected = files(workspace / "models")
    subprocess.run(["rm", "-r", "models"], check=True)

    checkpoints = workspace / ".prunelab/checkpoints"
    with subprocess.Popen(command(*TRAIN), stderr=subprocess.PIPE, text=True) as killed:
        wait_until(lambda: len(list(checkpoints.rglob("[0-9].pt"))) == 2, seconds=100)
        family = psutil.Process(killed.pid).children(recursive=True)
        assert len(family) == 2
        victim = {"stage": killed.pid, "child": family[1].pid}[target]
        os.kill(victim, signal.SIGKILL)
        lines = killed.stderr.read().splitlines()

    _, alive = psutil.wait_procs(family, timeout=2)
    assert alive == []
    assert not (workspace / "models/history/base.json").exists()
    if target == "child":
        (line,) = lines
        assert "seed 1 was killed by SIGKILL" in line
        assert "memory" in line
        assert killed.returncode == 1

    resumed = stage(*TRAIN)

    assert resumed.returncode == 0
    assert "going on after epoch" in resumed.stdout
    assert files(workspace / "models") == expected
    assert not list(checkpoints.iterdir())
