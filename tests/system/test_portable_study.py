"""Portable bits on processors of other kinds, which an emulator stands in for.

An emulated processor answers approximate instructions in its own way, as another vendor's does, so
whatever rests on one is noticed. Vectors of AVX-512 are not emulated: run this where there are
some, and the comparison is with them.
"""

import json
import platform
import shutil
import subprocess
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.all_stages import stage_commands
from helpers.emulation import require_emulator, run_module
from helpers.networks import (
    KINDS,
    dense_weights,
    make_retrainer,
    shape_of,
    small_network,
    trained,
)
from helpers.operators import Recorder, save, without_recording
from helpers.params import PROJECT, edit_params, prune_spec, train_params
from helpers.repository import stages_run, tiny_clone
from helpers.stages import files
from PIL import Image

from prunelab.config.params import Finetune, read_params
from prunelab.data.augment import Augmentation
from prunelab.evaluation.predict import predict
from prunelab.models import cost
from prunelab.models.networks import build
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import prune

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has portable bits"),
]

# Of two vendors, with caches of several sizes.
PROCESSORS = ["Haswell", "Skylake-Client", "EPYC-Milan"]
CONTROL = "aten.sqrt.default on many values"  # is not portable, and must be noticed


@pytest.fixture
def emulator() -> None:
    require_emulator()


def record_networks() -> None:
    """A training step of a network of every kind."""
    for name in KINDS:
        size = 32 if name.startswith(("mobilenet", "vgg")) else 8
        model = build(name, 10, (1, size, size), seed=0).train()
        F.cross_entropy(model(torch.randn(8, 1, size, size)), torch.arange(8)).backward()


def record_trainings(trainer, text_trainer) -> None:
    augmented = replace(trainer, augmentation=Augmentation(1, flip=True, crop_scale=0.5))
    for optimizer in ("sgd", "adam", "adamw"):
        recipe = train_params(epochs=1, batch_size=64, rewind_epoch=0, optimizer=optimizer)
        augmented.fit(trained("resnet8"), recipe)
        text_trainer.fit(trained("bert"), recipe)
    predict(trained("resnet8"), trainer.validation_loader, 64, trainer.execution)


def record_methods(trainer, text_trainer) -> None:
    """Pruning by as many methods as it takes for every part of one."""
    shipped = read_params(PROJECT / "params.yaml")["finetune"]
    finetune = Finetune(**shipped | {"epochs": 1, "batch_size": 64, "distill": 0.5})
    settings = {"epochs": 1, "iterations": 2, "samples": 64, "recalibrate": 64}

    used: set[str] = set()
    for name, method in METHODS.items():
        parts = {method.criterion, method.granularity, method.scope, method.schedule}
        if parts <= used:
            continue
        used |= parts
        network = small_network(name)
        model = trained(network)
        prune(
            model,
            network,
            prune_spec(name, 0.5, **settings),
            shape=shape_of(network),
            seed=0,
            retrainer=make_retrainer(text_trainer if network == "bert" else trainer, finetune),
            dense_weights=dense_weights(network, model),
        )


@pytest.fixture
def recording(trainer, text_trainer, tmp_path, monkeypatch) -> Path:
    """The calls of all operators that training, pruning and evaluation need."""
    # Counting traces a network, which cannot be recorded, and computes nothing.
    monkeypatch.setattr(cost, "macs", without_recording(cost.macs))
    recorder = Recorder()
    with recorder:
        record_networks()
        record_trainings(trainer, text_trainer)
        record_methods(trainer, text_trainer)

    recorder.calls[CONTROL] = ("aten.sqrt.default", (torch.rand(100_000),), {})
    save(recorder, tmp_path / "calls")
    return tmp_path / "calls"


@pytest.mark.usefixtures("emulator")
def test_every_operator_is_the_same_on_other_processors(recording):
    here = json.loads(run_module(None, "helpers.operators", recording))
    assert len(here) > 200

    for processor in PROCESSORS:
        there = json.loads(run_module(processor, "helpers.operators", recording))
        differing = [name for name in here if here[name] != there[name]]
        assert differing == [CONTROL], f"not portable, on {processor}: {differing}"


def tiny_study(folder: Path) -> None:
    """One seed of two methods at one ratio, an epoch or two; and in another folder some images."""
    for name in ("study", "images"):
        (folder / name).mkdir(parents=True)
        shutil.copy(PROJECT / "params.yaml", folder / name)

    edit_params(
        folder / "study/params.yaml",
        seeds=[0],
        grid__methods=["l1_unstructured", "l1_channel"],
        grid__ratios=[0.5],
        train__epochs=2,
        train__batch_size=256,
        finetune__epochs=1,
        finetune__batch_size=256,
        sensitivity__samples=50,
        sensitivity__ratios=[0.5],
    )
    edit_params(folder / "images/params.yaml", dataset="imagefolder", data__resize=24)
    edit_params(folder / "images/params.yaml", data__source="pictures")


def draw_images(folder: Path) -> None:
    """Photographs of noise, as JPEG and PNG, in sizes that have to be changed."""
    random = np.random.default_rng(0)
    for number in range(24):
        path = folder / f"class{number % 2}" / f"{number}.{('jpg', 'png')[number % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (17 + number, 40 - number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def results_of(folder: Path) -> dict[str, str]:
    digests = {}
    for name, content in files(folder).items():
        if "/environment/" not in name:
            digests[name] = sha256(content).hexdigest()
    return digests


@pytest.mark.usefixtures("emulator")
def test_whole_study_is_the_same_on_other_processors(tmp_path):
    params = tmp_path / "params"
    tiny_study(params)
    draw_images(params / "images/pictures")
    commands = {
        "study": stage_commands(read_params(params / "study/params.yaml")),
        "images": [["prepare", "data/raw", "data/prepared"]],
    }
    (tmp_path / "commands.json").write_text(json.dumps(commands))

    results = {}
    for processor in [None, *PROCESSORS]:
        folder = tmp_path / str(processor)
        shutil.copytree(params, folder)
        run_module(
            processor,
            "helpers.all_stages",
            tmp_path / "commands.json",
            folder / "study",
            folder / "images",
        )
        results[processor] = results_of(folder)

    here = results[None]
    assert {"study/plots/tradeoff.png", "study/models/base/final/0.safetensors"} < here.keys()
    for processor in PROCESSORS:
        there = results[processor]
        differing = [name for name in here.keys() | there if here.get(name) != there.get(name)]
        assert differing == [], f"not portable, on {processor}: {sorted(differing)}"


def test_fresh_clone_repeats_results_of_another_machine_to_a_clean_status(tmp_path):
    study = tiny_clone(tmp_path / "study")
    study.run("dvc", "repro")
    for path in (study.folder / "metrics/environment").glob("*.json"):
        environment = json.loads(path.read_text())
        assert environment["bits"] == "portable"
        elsewhere = {"device": "Another CPU", "python": "3.99"}
        path.write_text(json.dumps(environment | elsewhere))
    study.commit("Results of another machine")

    clone = tmp_path / "clone"
    study.run("git", "clone", "-q", str(study.folder), str(clone))
    shutil.copytree(
        study.folder / ".dvc",
        clone / ".dvc",
        ignore=lambda *_: ["cache", "tmp"],
        dirs_exist_ok=True,
    )
    process = subprocess.run(
        ["dvc", "repro"],
        cwd=clone,
        env=study.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "train_base" in stages_run(process.stdout)
    assert "evaluate_focus" in stages_run(process.stdout)

    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""
