"""Faults of the machine: a full disk, folders that cannot be written, data that go away; a line
each, nothing lost.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data import write_image_folder
from helpers.params import PROJECT, edit_params
from helpers.stages import TRAIN, command, files
from matplotlib.figure import Figure

from prunelab.artifacts.networks import ModelCard, Network, save_network
from prunelab.artifacts.predictions import save_predictions
from prunelab.artifacts.prepared import save_prepared
from prunelab.core.errors import describe_os_error
from prunelab.core.files import write, write_json
from prunelab.data.splits import Split
from prunelab.data.storage import array_store
from prunelab.figures.save import save_as
from prunelab.models.networks import build
from prunelab.stages.entry import run
from prunelab.training.checkpoints import Checkpoint

SOME = np.arange(60_000, dtype=np.int64)


def network(path: Path) -> None:
    card = ModelCard(
        model="resnet8", classes=10, input_shape=(1, 8, 8), normalise=None, seed=0, imported=None
    )
    save_network(path, Network(model=build("resnet8", 10, (1, 8, 8), 0), card=card))


def prepared(path: Path) -> None:
    split = Split(np.zeros((4000, 8, 8, 1), np.uint8), np.zeros(4000, np.int64))
    save_prepared(path.parent.parent, {"train": split}, lambda splits: {})


def picture(path: Path) -> None:
    figure = Figure()
    figure.subplots().plot(range(5000), np.random.default_rng(0).normal(size=5000))
    save_as(figure, path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "numbers.json": lambda path: write_json(path, SOME.tolist()),
    "page.html": lambda path: write(path, b"x" * 400_000),
    "0.safetensors": network,
    "base.safetensors": lambda path: save_predictions(path, labels=SOME),
    "0.pt": lambda path: Checkpoint(path).save({"model": torch.zeros(100_000)}),
    "train/inputs.npy": prepared,
    "tradeoff.svg": picture,
    "tradeoff.png": picture,
}


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, which is to this process what a full disk is."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("size", [0, 7_000])
@pytest.mark.parametrize("name", WRITERS)
def test_failed_write_names_its_file_and_keeps_the_old_content(name, size, tmp_path):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"earlier")
    with files_end_at(size), pytest.raises(OSError, match="File too large") as failed:
        WRITERS[name](path)

    assert describe_os_error(failed.value).startswith(f"{path}: File too large. ")
    assert files(tmp_path) == {f"out/{name}": b"earlier"}

    WRITERS[name](path)

    assert path.stat().st_size > 7_000


def test_error_of_a_worker_shows_its_last_line():
    text = (
        "Caught FileNotFoundError in DataLoader worker process 0.\n"
        "Original Traceback:\n  x\nFileNotFoundError: y\n"
    )

    line = describe_os_error(FileNotFoundError(text))

    assert line.startswith("FileNotFoundError: y. Existing files are unchanged.")


GPU = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. "
    "GPU 0 has a total capacity of 79 GiB of which …"
)


def raised(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (
            lambda: torch.empty(2**60, dtype=torch.uint8),
            "tried to allocate 1152921504606846976 bytes",
        ),
        (lambda: np.zeros(2**60, np.uint8), "Unable to allocate 1.00 EiB"),
        (
            lambda: raised(torch.OutOfMemoryError(GPU)),
            "memory ran out (CUDA out of memory). A smaller batch size",
        ),
        (lambda: raised(MemoryError()), "memory ran out. A smaller"),
    ],
)
def test_out_of_memory_is_one_line_with_advice(act, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stage"])

    with pytest.raises(SystemExit):
        run(lambda: act() and None)

    (line,) = capsys.readouterr().err.splitlines()

    assert line.startswith("memory ran out")
    assert said in line


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(RuntimeError, match="shape"):
        run(lambda: raised(RuntimeError("shapes do not fit")))


def test_workers_go_on_reading_a_deleted_file(tmp_path):
    np.save(tmp_path / "inputs.npy", SOME.reshape(-1, 6))
    streamed = array_store(
        np.load(tmp_path / "inputs.npy", mmap_mode="r"), torch.device("cpu"), workers=1
    )
    (tmp_path / "inputs.npy").unlink()
    assert torch.cat(list(streamed.ordered(5))).equal(torch.from_numpy(SOME.reshape(-1, 6)))


# Whole stages, on real file systems.


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder in which the stages up to a table's worth of files have run."""
    folder = tmp_path_factory.mktemp("done")
    shutil.copy(PROJECT / "params.yaml", folder)
    edit_params(
        folder / "params.yaml",
        seeds=[0],
        grid__methods=["l1_channel"],
        grid__ratios=[0.5],
        train__epochs=2,
        finetune__epochs=1,
        sensitivity__ratios=[0.5],
        benchmark={"batch_sizes": [1], "backends": ["eager"], "rounds": 2, "seconds": 0.01},
    )
    for name, (arguments, _) in PIPELINE.items():
        ended = in_folder(folder, name, *arguments)
        assert ended.returncode == 0, ended.stderr
    return folder


CELL, GRID = "l1_channel-0.5", "models/grid/l1_channel-0.5"
# Every stage as dvc.yaml runs it, and the folder that it writes to.
PIPELINE: dict[str, tuple[tuple[str, ...], str]] = {
    "prepare": (("data/raw", "data/prepared"), "data"),
    "train_base": (TRAIN[1:], "models/base"),
    "prune": (
        (
            "models/base",
            "data/prepared",
            f"{GRID}/pruned",
            "--method",
            "l1_channel",
            "--ratio",
            "0.5",
        ),
        f"{GRID}/pruned",
    ),
    "finetune": (
        (
            f"{GRID}/pruned",
            "models/base/final",
            "data/prepared",
            f"{GRID}/finetuned",
            f"models/history/{CELL}.json",
        ),
        f"{GRID}/finetuned",
    ),
    "evaluate": (
        (
            "data/prepared",
            "models/base/final",
            "metrics/base.json",
            "models/predictions/base.safetensors",
            "--confusion",
            "plots/dense_confusion.json",
            "--details",
            "metrics/details/base.json",
            "--environment",
            "metrics/environment/base.json",
        ),
        "metrics",
    ),
    "sensitivity": (("data/prepared", "models/base/final", "metrics/sensitivity.json"), "metrics"),
    "plot_sensitivity": (("metrics/sensitivity.json", "plots/sensitivity"), "plots"),
    "benchmark": (("models/base/final", "models/grid", "metrics/speed"), "metrics/speed"),
}


def in_folder(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    return subprocess.run(
        command(name, *arguments),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own over a folder, or the test is skipped where none may be
    mounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "cause"),
    [("size=4k,nr_inodes=1", "No space left"), ("ro", "Read-only file system")],
)
@pytest.mark.parametrize("name", PIPELINE)
def test_stage_on_a_full_disk_fails_in_one_line_and_the_rerun_succeeds(
    done, tmp_path, name, options, cause
):
    if shutil.which("mount") is None:
        pytest.skip("no command mount")
    folder = shutil.copytree(done, tmp_path / "copy")
    arguments, place = PIPELINE[name]
    earlier = files(folder)
    with mounted(folder / place, options):
        failed = in_folder(folder, name, *arguments)
        assert not list((folder / place).rglob("*.partial"))

    assert failed.returncode == 1, failed.stderr

    (line,) = [line for line in failed.stderr.splitlines() if "this machine was busy" not in line]

    assert place in line
    assert cause in line or "GB are free" in line  # which prepare sees beforehand
    assert {path: content for path, content in files(folder).items() if path in earlier} == earlier

    again = in_folder(folder, name, *arguments)

    assert again.returncode == 0, again.stderr

    if name != "benchmark":
        after = files(folder)
        assert all(
            after[path] == content for path, content in earlier.items() if "environment" not in path
        )


@pytest.mark.slow
def test_full_disk_at_a_checkpoint_loses_no_finished_epoch(done, tmp_path):
    folder = shutil.copytree(done, tmp_path / "copy")
    expected = files(folder / "models")
    edit_params(folder / "params.yaml", train__epochs=3)
    with mounted(folder / ".prunelab", "size=4k"):
        failed = in_folder(folder, "train_base", *TRAIN[1:])

    assert failed.returncode == 1

    (line,) = failed.stderr.splitlines()

    assert ".prunelab/checkpoints" in line
    assert "No space left" in line
    assert files(folder / "models") == expected


def image_workspace(folder: Path) -> Path:
    """Settings that stream a folder of images through workers."""
    shutil.copy(PROJECT / "params.yaml", folder)
    edit_params(
        folder / "params.yaml",
        dataset="imagefolder",
        data__source=str(folder / "images"),
        data__resize=64,
        data__memory_mb=1,
        seeds=[0],
        train__epochs=4,
    )
    write_image_folder(folder / "images", {"ant": 100, "bee": 100})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [("prunelab.stages.prepare", "three_way_split"), ("prunelab.datasets.imagefolder", "decode")],
)
def test_images_that_vanish_during_prepare_are_named(tmp_path, module, name):
    """Taken away after they were listed, or while they are decoded; the source comes back, and so
    does the result.
    """
    folder = image_workspace(tmp_path)

    assert in_folder(folder, "prepare", "data/raw", "data/prepared").returncode == 0

    expected = files(folder / "data")
    vanishing = f"""
import shutil, sys
import prunelab.stages.prepare as prepare, {module} as module
from prunelab.stages.entry import run
whole = module.{name}
def gone(*arguments):
    shutil.rmtree("images", ignore_errors=True)
    return whole(*arguments)
module.{name} = gone
sys.argv = ["prepare", "data/raw", "data/prepared"]
run(prepare.main)
"""
    shutil.copytree(folder / "images", folder / "kept")
    failed = subprocess.run(
        [sys.executable, "-c", vanishing], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
    )  # fmt: skip

    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert f"{folder}/images" in failed.stderr
    assert files(folder / "data") == expected

    (folder / "kept").rename(folder / "images")

    assert in_folder(folder, "prepare", "data/raw", "data/prepared").returncode == 0
    assert files(folder / "data") == expected


@pytest.mark.slow
def test_training_goes_on_after_prepared_data_is_deleted(tmp_path):
    folder = image_workspace(tmp_path)

    assert in_folder(folder, "prepare", "data/raw", "data/prepared").returncode == 0
    assert in_folder(folder, *TRAIN).returncode == 0

    expected = files(folder / "models")
    shutil.rmtree(folder / "models")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    with subprocess.Popen(
        command(*TRAIN), cwd=folder, env=environment, stdout=subprocess.DEVNULL
    ) as running:
        while not list((folder / ".prunelab").rglob("*.pt")) and running.poll() is None:
            time.sleep(0.01)
        shutil.move(folder / "data/prepared", folder / "gone")

    assert running.returncode == 0
    assert files(folder / "models") == expected

    refused = in_folder(folder, *TRAIN)

    assert refused.returncode == 1
    assert "data/prepared/dataset.json is missing" in refused.stderr
    assert files(folder / "models") == expected
