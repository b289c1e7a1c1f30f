"""Stages as commands, in temporary folders: what they refuse, and that a kill costs nothing but time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import psutil
import pytest
from helpers.params import PROJECT, edit_params
from helpers.stages import TRAIN, command, files, stage
from ruamel.yaml import YAML

from prunelab.stages.entry import run

SHARED = ("__init__", "entry", "task")
STAGES = sorted(
    path.stem for path in (PROJECT / "src/prunelab/stages").glob("*.py") if path.stem not in SHARED
)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty folder with small parameters: one seed, a little training."""
    content = YAML(typ="safe").load(PROJECT / "params.yaml")
    content["seeds"] = [0]
    content["train"]["epochs"] = 25
    content["finetune"]["epochs"] = 1
    YAML().dump(content, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    monkeypatch.delenv("DVC_STAGE", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        run(import_module(f"prunelab.stages.{name}").main)
    assert ended.value.code == 0
    assert "Usage:" in capsys.readouterr().out


def test_a_killed_stage_goes_on_and_ends_with_the_same_bits(workspace):
    edit_params(workspace / "params.yaml", train__epochs=8)
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
    shutil.rmtree(workspace / "data/prepared/test")  # which training has no business with
    assert stage(*TRAIN).returncode == 0
    expected = files(workspace / "models")
    for path in (workspace / "models").rglob("*.*"):
        path.unlink()

    killed = subprocess.Popen(command(*TRAIN), stdout=subprocess.DEVNULL)
    checkpoints = workspace / ".prunelab/checkpoints"
    deadline = time.monotonic() + 60
    while not list(checkpoints.rglob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL  # it was in the middle of its work
    assert not (workspace / "models/history/base.json").exists()

    resumed = stage(*TRAIN)
    assert resumed.returncode == 0
    assert "going on after epoch" in resumed.stdout
    assert files(workspace / "models") == expected
    assert not list(checkpoints.iterdir())


def test_a_stage_refuses_bad_parameters_with_all_problems_and_the_way_back(workspace):
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(
        text.replace("ratio: 0.6", "ratio: 1.5").replace("model: resnet8", "model: x")
    )
    args = (
        "models/base",
        "data/prepared",
        "models/focus/pruned",
        "--method",
        "l1_channel",
        "--ratio",
        "1.5",
    )
    result = stage("prune", *args, DVC_STAGE="prune_focus")
    lines = result.stderr.splitlines()
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert any("ratio" in line and "1.5" in line for line in lines)
    assert any("unknown model 'x'" in line for line in lines)
    assert lines[-1].endswith("git checkout params.yaml && dvc checkout")
    assert not (workspace / "models").exists()


def test_a_stage_without_its_inputs_says_what_makes_them(workspace):
    result = stage(
        "prune", "models/base", "data/prepared", "out", "--method", "l1_channel", "--ratio", "0.5"
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "models/base/final/0.safetensors is missing; `dvc repro` makes it"
    ]


def test_a_stage_refuses_damaged_data_and_writes_nothing(workspace):
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
    train = workspace / "data/prepared/train/inputs.npy"
    train.write_bytes(train.read_bytes()[:-1])
    result = stage(*TRAIN)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "train/inputs.npy is damaged" in line
    assert not (workspace / "models").exists()


def stage_under_a_shell() -> subprocess.Popen:
    """A stand-in for DVC that runs a stage as DVC does, through a shell that stays in between."""
    shell = (
        " ".join(command(*TRAIN)) + "; true"
    )  # `; true` keeps the shell from replacing itself by Python
    return subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run(['sh', '-c', {shell!r}])"],
        env={**os.environ, "DVC_STAGE": "train_base"},
        stdout=subprocess.DEVNULL,
    )


def running_stages(workspace: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "name"]):
        words = process.info["cmdline"] or []
        if "prunelab.stages.train_base" in words and process.cwd() == str(workspace):
            found.append(process)
    return found


@pytest.mark.parametrize("after_s", [0.0, 1.5, 6.0])
def test_a_stage_dies_with_the_dvc_that_started_it(workspace, after_s):
    """Killed while the stage is still starting, while it imports torch, and in the middle of its work."""
    params = workspace / "params.yaml"
    params.write_text(
        params.read_text().replace("epochs: 25", "epochs: 5000")
    )  # it must not end by itself
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
    parent = stage_under_a_shell()
    deadline = time.monotonic() + 20
    while not running_stages(workspace) and time.monotonic() < deadline:
        time.sleep(0.01)
    (orphan,) = running_stages(workspace)
    time.sleep(after_s)
    parent.kill()
    parent.wait()
    orphan.wait(timeout=10)
    assert not (workspace / "models/history/base.json").exists()


def test_ctrl_c_ends_a_stage_at_once_and_says_how_to_go_on(workspace):
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
    running = subprocess.Popen(
        command(*TRAIN), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((workspace / ".prunelab").rglob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=5)
    assert running.returncode == 130
    assert "goes on from the last finished epoch" in said
    assert "Traceback" not in said
