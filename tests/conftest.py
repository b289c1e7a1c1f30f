"""What tests share: a tiny task on real digits, tiny settings, and the places where real data may lie."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from ruamel.yaml import YAML
from torch import nn

from prunelab.artifacts.networks import Card
from prunelab.config.params import Finetune, Normalise, PruneSpec, Runtime, Train, read_params
from prunelab.data.augment import Augmentation
from prunelab.data.dataset import Source
from prunelab.data.splits import Split, channel_moments
from prunelab.datasets.datasets import DATASETS
from prunelab.models.catalogue import MODELS, Shape, skeleton
from prunelab.runtime.device import Execution, configure
from prunelab.training.loop import NoStore, Task
from prunelab.training.trainer import SeedTrainer

PROJECT = Path(__file__).parent.parent
DIGITS_SHAPE = (1, 8, 8)
CARD = Card(
    model="resnet8",
    classes=10,
    input_shape=DIGITS_SHAPE,
    normalise=Normalise(mean=[0.3], std=[0.4]),
    seed=0,
    imported=None,
)
TOKENS = 12
IMAGE_MODELS = [name for name, architecture in MODELS.items() if architecture.reads == "images"]
# One network of every kind: what takes long goes over these, and over the others in the slow tests.
KINDS = ("resnet8", "resnet20", "resnet20_b", "resnet26_dse", "vgg11", "vgg11_bn", "mobilenet_v3_small", "vit_tiny")
SLOW_BUT_KINDS = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_MODELS]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, metavar="N", help="draw N inputs for each parser, other ones each time")
    parser.addoption("--kills", type=int, default=10, metavar="N", help="kill the pipeline N times (10)")


def pytest_configure(config: pytest.Config) -> None:
    # The default run draws the same inputs every time: what it finds is due to a change, not to luck.
    wanted = config.getoption("--fuzz")
    settings.register_profile(
        "prunelab", max_examples=wanted or 50, derandomize=not wanted, deadline=None, database=None
    )
    settings.load_profile("prunelab")
    # A shell without job control has what runs in its background ignore Ctrl-C, and all that is started there too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def edit_params(path: Path, **changes: object) -> None:
    """Set keys of a parameter file; two underscores reach into a section, as in train__epochs=3."""
    content = YAML(typ="safe").load(path)
    for place, value in changes.items():
        *sections, key = place.split("__")
        section = content
        for name in sections:
            section = section[name]
        section[key] = value
    YAML().dump(content, path)


class Repository:
    """A Git repository in a folder, with an identity of its own and nobody's settings."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
        return subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "-qm", message)
        return self.git("rev-parse", "HEAD")


def zeroed(name: str, classes: int, shape: Shape) -> nn.Module:
    """A network of nothing but zeros: drawing the weights of a large one takes seconds."""
    model = skeleton(name, classes, shape).to_empty(device="cpu").eval()
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def prune_spec(method: str, ratio: float, **changes: object) -> PruneSpec:
    """The shipped settings of pruning with some of them changed."""
    shipped = read_params(PROJECT / "params.yaml")["prune"]
    return PruneSpec(**{"method": method, "ratio": ratio, "budget": "native"} | shipped | changes)


def runtime_params(**changes: object) -> Runtime:
    """The CPU in float32, whatever is shipped, deterministic, in one process."""
    shipped = read_params(PROJECT / "params.yaml")["runtime"]
    return Runtime(**shipped | {"device": "cpu", "precision": "fp32"} | changes)


@pytest.fixture(autouse=True)
def execution() -> Execution:
    """The CPU in float32, deterministic, on two threads: what the shipped parameters say."""
    return configure(runtime_params())


@pytest.fixture(scope="session")
def digits() -> Split:
    train = DATASETS["digits"](Source(Path("unused"))).read().train
    assert isinstance(train, Split)
    return train


@pytest.fixture(scope="session")
def normalise(digits: Split) -> Normalise:
    mean, std = channel_moments(digits.inputs)
    return Normalise(mean=mean, std=std)


@pytest.fixture
def task(digits: Split, normalise: Normalise, execution: Execution) -> Task:
    """256 digits to train on and 64 others to validate."""
    ids = torch.arange(320).numpy()
    return Task.of(
        digits.at(ids[:256]),
        digits.at(ids[256:]),
        normalise=normalise,
        augmentation=Augmentation(crop_padding=1),
        execution=execution,
    )


@pytest.fixture
def recipe() -> Finetune:
    shipped = read_params(PROJECT / "params.yaml")["finetune"]
    return Finetune(**shipped | {"epochs": 2, "batch_size": 64})


@pytest.fixture
def text_task(execution: Execution) -> Task:
    """192 texts of random tokens, each with one that tells its class of ten; 64 of them to validate."""
    random = np.random.default_rng(0)
    inputs, labels = random.integers(11, 40, (192, TOKENS)), random.integers(0, 10, 192)
    inputs[np.arange(192), random.integers(0, TOKENS, 192)] = 1 + labels
    texts = Split(inputs, labels)
    ids = np.arange(192)
    return Task.of(
        texts.at(ids[:128]), texts.at(ids[128:]), normalise=None, augmentation=Augmentation(), execution=execution
    )


def train_params(**changes: object) -> Train:
    """The shipped base recipe with some settings changed."""
    return Train(**read_params(PROJECT / "params.yaml")["train"] | changes)


def seed_trainer(task: Task, recipe: Finetune) -> SeedTrainer:
    """Seed 0; a base recipe of two epochs, of which one is rewound to."""
    base = train_params(epochs=2, rewind_epoch=1, batch_size=64)
    return SeedTrainer(
        task=task, finetune=recipe, train=base, teacher=None, seed=0, store=lambda name: NoStore(), label="test"
    )


@pytest.fixture
def trainer(task: Task, recipe: Finetune) -> SeedTrainer:
    return seed_trainer(task, recipe)


def write_image_folder(
    folder: Path, counts: dict[str, int], sizes: Sequence[tuple[int, int]] = ((9, 7), (6, 8))
) -> None:
    """Folders of random PNG files, so many per class; their (width, height) in turn."""
    from PIL import Image

    random = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            width, height = sizes[index % len(sizes)]
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03}.png")


def real_data(variable: str, default: Path, what: str, wanted: str) -> Path:
    """A folder or file of real data, from an environment variable or its default place; else the test is skipped."""
    folder = Path(os.environ.get(variable, default))
    if not (folder / wanted).exists():
        pytest.skip(f"{what} is not there: no {wanted} in {folder} (set {variable} to where it is)")
    return folder


@pytest.fixture
def cifar_folder() -> Path:
    return real_data("PRUNELAB_DATA", PROJECT / "data/raw", "CIFAR-10", "cifar-10-batches-py/test_batch")
