"""Bundles for a machine with a GPU: what is brought along, how it runs there, what comes back."""

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import bundle_files
import pytest
from helpers.params import PROJECT

LOCK = (PROJECT / "requirements.lock").read_text()
SCRIPTS = PROJECT / "tools/bundle"

# Stands for Python: notes how it was called, and does what pip would do.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *"pip install"*) mkdir -p packages ;; esac
"""


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_packages_are_those_of_the_lock_and_nothing_that_torch_brings(version):
    lines = bundle_files.packages(version, LOCK)

    names = [line.partition("==")[0] for line in lines]
    assert {"pydantic", "pydantic-core", "ruamel-yaml", "typer", "torch-pruning"} <= set(names)
    assert not {"torch", "torchvision", "numpy", "pillow", "dvc", "matplotlib"} & set(names)
    assert not any(name.startswith("nvidia") for name in names)
    for line in lines:
        assert line in LOCK


def test_packages_follow_the_version_of_python():
    lock = "\n".join(
        f"{name}==1.0" for name in bundle_files.closure(bundle_files.NEEDED) - {"scipy"}
    )
    lock += (
        "\nscipy==1.0 ; python_full_version < '3.12'\nscipy==2.0 ; python_full_version >= '3.12'"
    )

    assert "scipy==1.0" in bundle_files.packages("3.11", lock)
    assert "scipy==2.0" in bundle_files.packages("3.13", lock)
    with pytest.raises(SystemExit, match="has no version of typer for Python 3.12"):
        bundle_files.packages("3.12", lock.replace("typer==", "taper=="))


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle with two studies and an interpreter that only notes calls."""
    for name in ("run.sh", "collect"):
        shutil.copy(SCRIPTS / name, tmp_path)
    for name in ("studies/one.yaml", "studies/two.yaml", "wheels/a.whl", "data/raw/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    lines = []
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{digest}  ./{path.relative_to(tmp_path)}\n")
    (tmp_path / "SHA256SUMS").write_text("".join(lines))

    fake = tmp_path / "fake-python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    return tmp_path


def run(bundle: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHON": str(bundle / "fake-python"),
        "CALLS": str(bundle / "calls.txt"),
    }
    return subprocess.run(
        command, cwd=bundle, env=environment, capture_output=True, text=True, check=False
    )


def test_every_study_runs_with_the_minutes_that_are_left(bundle):
    done = run(bundle, "./run.sh", "9", "--scale", "0.5")

    assert done.returncode == 0, done.stderr
    install, one, two = (bundle / "calls.txt").read_text().splitlines()
    assert "--no-index --no-deps --target packages wheels/a.whl" in install
    for line, name in ((one, "one"), (two, "two")):
        assert line.startswith(f"-m prunelab study run {name} --here --minutes ")
        assert line.endswith(f"--work work/{name} --scale 0.5")
        minutes = float(line.split("--minutes ")[1].split()[0])
        assert 0 < minutes <= 9

    run(bundle, "./run.sh", "9")
    assert (bundle / "calls.txt").read_text().count("pip install") == 1


def test_nothing_starts_without_time(bundle):
    done = run(bundle, "./run.sh", "0.1")

    assert "one: no time is left; the same command goes on" in done.stdout
    assert "prunelab" not in (bundle / "calls.txt").read_text()


def test_a_damaged_bundle_is_refused_before_anything_is_installed(bundle):
    (bundle / "data/raw/x").write_text("other")

    done = run(bundle, "./run.sh", "9")

    assert done.returncode == 1
    assert "the bundle is damaged: carry it over again" in done.stderr
    assert not (bundle / "calls.txt").exists()


def test_results_logs_and_histories_come_back_and_networks_stay(bundle):
    kept = {
        "studies/results/one.json",
        "work/one/work.json",
        "work/one/logs/a.log",
        "work/one/train_base-1/stage.json",
        "work/one/train_base-1/models/history/base.json",
        "work/one/finetune_focus-1/models/focus/history.json",
        "work/one/evaluate_focus-1/metrics/focus.json",
        "work/one/studies/results/one.json",
    }
    left = {
        "work/one/train_base-1/models/base/final/0.safetensors",
        "work/one/train_base-1/.prunelab/checkpoints/a/0.pt",
        "work/one/prepare-1/data/prepared/train/inputs.npy",
        "work/one/evaluate_focus-1/models/focus/predictions.safetensors",
    }
    for name in kept | left:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(name)

    done = run(bundle, "./collect")

    assert done.returncode == 0, done.stderr
    with tarfile.open(bundle / "collected.tar.gz") as archive:
        assert set(archive.getnames()) == kept


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "usage: tools/gpu-bundle.sh"),
        (["--fast", "x"], "unknown option --fast; valid: --out, --python"),
        (["--out", "HOME", "x"], "the folder holds something else. Give an empty or a new folder."),
    ],
)
def test_bad_arguments_of_the_bundler_are_one_line(tmp_path, arguments, problem):
    (tmp_path / "thesis.txt").write_text("words")
    arguments = [argument.replace("HOME", str(tmp_path)) for argument in arguments]

    done = subprocess.run(
        [PROJECT / "tools/gpu-bundle.sh", *arguments],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert problem in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
