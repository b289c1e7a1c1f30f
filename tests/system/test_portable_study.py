"""Portable bits on processors of other kinds, which an emulator stands in for.

An emulated processor answers approximate instructions in its own way, as another vendor's does, so
whatever rests on one is noticed. Vectors of AVX-512 are not emulated: run this where there are
some, and the comparison is with them.
"""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchprofile
from helpers.emulation import another_c_library, other_locale, require_emulator, run_module
from helpers.networks import (
    KINDS,
    dense_weights,
    make_retrainer,
    shape_of,
    small_network,
    trained,
)
from helpers.operators import Recorder, save, without_recording
from helpers.params import PROJECT, prune_spec, train_params
from helpers.repository import Clone, stages_run, tiny_clone
from helpers.small_studies import PARTS, covering, write_small_studies
from helpers.stages import files

from prunelab.config.params import Finetune, read_params
from prunelab.data.augment import Augmentation
from prunelab.evaluation.predict import predict
from prunelab.models.networks import build
from prunelab.project.environments import read_environments
from prunelab.project.trees import Tree
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import prune

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has portable bits"),
]

# Of two vendors, with caches of several sizes; and the studies that each makes. All of them would
# take an hour. Every operator is compared on all three processors.
PROCESSORS = {
    "Haswell": ("digits", "texts"),
    "Skylake-Client": ("pictures",),
    "EPYC-Milan": ("digits",),
}
STUDIES = ("digits", "pictures", "texts")
COMMANDS = "commands.json"
ANOTHER_CPU = "Another CPU"
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
    """Pruning by as many methods as it takes for every form of every part of one."""
    shipped = read_params(PROJECT / "params.yaml")["finetune"]
    finetune = Finetune(**shipped | {"epochs": 1, "batch_size": 64, "distill": 0.5})
    settings = {"epochs": 1, "iterations": 2, "samples": 64, "recalibrate": 64}

    for name in covering(METHODS, *PARTS):
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
    monkeypatch.setattr(torchprofile, "profile_macs", without_recording(torchprofile.profile_macs))
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
        assert differing(here, there) == [CONTROL], f"not portable, on {processor}"


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """The folders of the small studies, and the commands that make them."""
    folder = tmp_path_factory.mktemp("studies")
    commands = write_small_studies(folder)
    (folder / COMMANDS).write_text(json.dumps(commands))
    return folder


@pytest.fixture(scope="module")
def results_here(studies, tmp_path_factory) -> dict[str, str]:
    """Digests of all that the studies write, by path."""
    results = make(studies, tmp_path_factory.mktemp("here"))
    for name in (
        "digits/plots/tradeoff.png",
        "pictures/models/grid/bn_scale_channel_sparse-0.5/pruned/0.safetensors",
        "texts/models/focus/finetuned/0.safetensors",
    ):
        assert name in results
    return results


def make(
    studies: Path,
    folder: Path,
    *options: str,
    names: Iterable[str] = STUDIES,
    cpu: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Make studies in a folder, in one process; the digests of what they write.

    What a machine writes of itself is left out.
    """
    shutil.copytree(studies, folder, dirs_exist_ok=True)
    commands = folder / COMMANDS
    folders = [folder / name for name in names]
    run_module(cpu, "helpers.all_stages", commands, *folders, *options, variables=variables)

    digests = {}
    for path, content in files(folder).items():
        if path.split("/")[0] in names and "/environment/" not in path:
            digests[path] = sha256(content).hexdigest()
    return digests


def differing(here: dict[str, str], there: dict[str, str]) -> list[str]:
    return sorted(name for name in here.keys() | there if here.get(name) != there.get(name))


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("cpu", PROCESSORS)
def test_studies_are_the_same_on_another_processor(studies, results_here, tmp_path, cpu):
    names = PROCESSORS[cpu]
    here = {path: digest for path, digest in results_here.items() if path.split("/")[0] in names}
    assert len(here) > 30
    assert differing(here, make(studies, tmp_path, names=names, cpu=cpu)) == []


def test_every_study_is_made_on_another_processor(studies):
    commands = json.loads((studies / COMMANDS).read_text())
    assert set().union(*PROCESSORS.values()) == set(STUDIES) == commands.keys()


def test_studies_are_the_same_with_another_c_library(studies, results_here, tmp_path):
    variables = {"LD_PRELOAD": str(another_c_library(tmp_path))}
    command = [sys.executable, "-c", "import math; print(repr(math.cos(1)))"]
    process = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, check=True
    )
    assert float(process.stdout) == math.nextafter(math.cos(1), 0)  # it is in use

    there = make(studies, tmp_path / "studies", variables=variables)
    assert differing(results_here, there) == []


def test_studies_are_the_same_in_another_locale_and_order_of_files(studies, results_here, tmp_path):
    variables = other_locale(tmp_path) | {
        "PYTHONHASHSEED": "7",
        "TZ": "Pacific/Kiritimati",
    }
    there = make(studies, tmp_path / "studies", "--reversed", variables=variables)
    assert differing(results_here, there) == []


@pytest.fixture(scope="module")
def study_of_another_machine(tmp_path_factory) -> Clone:
    """A small study whose committed results say that another processor made them."""
    study = tiny_clone(tmp_path_factory.mktemp("elsewhere") / "study")
    study.run("dvc", "repro")
    for path in (study.folder / "metrics/environment").glob("*.json"):
        environment = json.loads(path.read_text())
        assert environment["bits"] == "portable"
        elsewhere = {"device": ANOTHER_CPU, "python": "3.99"}
        path.write_text(json.dumps(environment | elsewhere))

    study.commit("Results of another machine")
    return study


@pytest.mark.parametrize("command", [("dvc", "repro"), ("prunelab", "repro")])
def test_fresh_clone_repeats_results_of_another_machine_to_a_clean_status(
    study_of_another_machine, tmp_path, command
):
    study, clone = study_of_another_machine, tmp_path / "clone"
    study.run("git", "clone", "-q", str(study.folder), str(clone))
    shutil.copytree(
        study.folder / ".dvc",
        clone / ".dvc",
        ignore=lambda *_: ["cache", "tmp"],
        dirs_exist_ok=True,
    )
    process = subprocess.run(
        command,
        cwd=clone,
        env=study.environment | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    ran = stages_run(process.stdout)
    assert {"train_base", "evaluate_focus"} <= set(ran)
    assert "benchmark" not in ran  # its networks are the same, so their speed is not measured anew

    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""

    # What the repetition ran on is known all the same.
    tree = Tree(clone, "workspace", None)
    devices = {environment["device"] for environment in read_environments(tree).values()}
    assert len(devices) == 1
    assert ANOTHER_CPU not in devices
