"""Stages as commands, in temporary folders: what they refuse, and that a kill costs nothing but time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import PROJECT
from ruamel.yaml import YAML

STAGES = sorted(
    path.stem for path in (PROJECT / "src/prunelab/stages").glob("*.py") if path.stem not in ("__init__", "entry")
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


def command(stage: str, *args: str) -> list[str]:
    return [sys.executable, "-m", f"prunelab.stages.{stage}", *args]


def stage(name: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment}
    return subprocess.run(command(name, *args), capture_output=True, text=True, env=environment, check=False)


TRAIN = ("train_base", "data/prepared", "models/base", "models/history/base.json")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_help(name):
    result = stage(name, "--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout


def test_a_killed_stage_goes_on_and_ends_with_the_same_bits(workspace):
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
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

    assert stage(*TRAIN).returncode == 0
    assert files(workspace / "models") == expected
    assert not list(checkpoints.iterdir())


def test_a_stage_refuses_bad_parameters_with_all_problems_and_the_way_back(workspace):
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(
        text.replace("ratio: 0.6", "ratio: 1.5").replace("model: resnet8", "model: x")
    )
    args = ("models/base/final", "models/focus/pruned", "--method", "l1_channel", "--ratio", "1.5")
    result = stage("prune", *args, DVC_STAGE="prune_focus")
    lines = result.stderr.splitlines()
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert any("ratio" in line and "1.5" in line for line in lines)
    assert any("unknown model 'x'" in line for line in lines)
    assert lines[-1].endswith("git checkout params.yaml && dvc checkout")
    assert not (workspace / "models").exists()


def test_a_stage_without_its_inputs_says_what_makes_them(workspace):
    result = stage("prune", "models/base/final", "out", "--method", "l1_channel", "--ratio", "0.5")
    assert result.returncode == 1
    assert result.stderr.splitlines() == ["models/base/final/0.safetensors is missing; `dvc repro` makes it"]


def test_a_stage_refuses_damaged_data_and_writes_nothing(workspace):
    assert stage("prepare", "data/raw", "data/prepared").returncode == 0
    train = workspace / "data/prepared/train.npz"
    train.write_bytes(train.read_bytes()[:-1])
    result = stage(*TRAIN)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "train.npz is damaged" in line
    assert not (workspace / "models").exists()


def test_a_stage_dies_with_the_dvc_that_started_it(workspace):
    """A shell stands between DVC and its stage, as in real runs; it is DVC that is killed."""
    body = "from prunelab.stages.entry import die_with_parent; die_with_parent(); import time; time.sleep(60)"
    shell = f'{sys.executable} -c "{body}"; true'  # `; true` keeps the shell from replacing itself by Python
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run(['sh', '-c', {shell!r}])"],
        env={**os.environ, "DVC_STAGE": "train_base"},
    )

    def stages() -> list[psutil.Process]:
        children = psutil.Process(parent.pid).children(recursive=True)
        return [child for child in children if "die_with_parent" in " ".join(child.cmdline()) and child.name() != "sh"]

    deadline = time.monotonic() + 20
    while not stages() and time.monotonic() < deadline:
        time.sleep(0.05)
    (orphan,) = stages()
    time.sleep(1)  # let it start watching
    parent.kill()
    parent.wait()
    orphan.wait(timeout=10)
    assert not orphan.is_running()
