"""Fixtures that tests share: trainers on tiny data, tiny settings, and the place of real data."""

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import helpers  # noqa: F401 (before NumPy is loaded)
import numpy as np
import pytest
import torch
from helpers.data import real_data
from helpers.params import PROJECT, runtime_params, shipped_params
from hypothesis import settings

from prunelab.config.params import Finetune, Normalise
from prunelab.core import plugins
from prunelab.data.augment import Augmentation
from prunelab.data.dataset import DataConfig
from prunelab.data.splits import Split, channel_moments
from prunelab.datasets.datasets import DATASETS
from prunelab.runtime.device import Execution, configure
from prunelab.training.retraining import Retrainer
from prunelab.training.trainer import Trainer
from prunelab.warm.control import loaded_process

NO_PLUGINS = Path(".no-plugins")
MANY_TESTS = 30  # pay for a process that has the packages loaded


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz", type=int, metavar="N", help="draw N inputs for each parser, other ones each time"
    )
    parser.addoption(
        "--kills", type=int, default=10, metavar="N", help="kill the pipeline N times (10)"
    )
    parser.addoption(
        "--plugins",
        action="store_true",
        dest="over_plugins",  # `plugins` is a destination of pytest's own
        help="run the tests of every entry of a table over those of plugins/ alone",
    )


def pytest_configure(config: pytest.Config) -> None:
    # The default run draws the same inputs every time: a failure is due to a change, not to luck.
    examples = config.getoption("--fuzz")
    settings.register_profile(
        "prunelab",
        max_examples=examples or 50,
        derandomize=not examples,
        deadline=None,
        database=None,
    )
    settings.load_profile("prunelab")

    # Tests are about what the package has, whatever lies in plugins/. Nothing that is imported
    # above this point may look at the names in a table.
    if not config.getoption("over_plugins"):
        plugins.FOLDER = NO_PLUGINS

    # Torch keeps the bits with which it computes first, so this comes before any module of tests.
    configure(runtime_params())

    # In the background of a shell without job control, all processes ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("over_plugins"):
        return

    names = {name for _, name in plugins.current().registrations}
    chosen, others = [], []
    for item in items:
        parameters = getattr(item, "callspec", None)
        values = [] if parameters is None else parameters.params.values()
        is_about_plugins = any(isinstance(value, str) and value in names for value in values)
        (chosen if is_about_plugins else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's folder as the working directory, with an empty folder of plugins."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "FOLDER", Path("plugins"))
    (tmp_path / "plugins").mkdir()
    plugins.forget()
    yield tmp_path
    plugins.forget()


@pytest.fixture(scope="session", autouse=True)
def loaded_packages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Stages that tests start as processes run in forks, as they do under `prunelab repro`."""
    if len(request.session.items) < MANY_TESTS:
        yield
        return

    with (
        loaded_process(tmp_path_factory.mktemp("loaded")) as variables,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def execution() -> Execution:
    """The CPU in float32, deterministic, on one thread, as in the shipped parameters."""
    return configure(runtime_params())


@pytest.fixture(scope="session")
def digits() -> Split:
    train = DATASETS["digits"](DataConfig(Path("unused"))).read().train
    assert isinstance(train, Split)
    return train


@pytest.fixture(scope="session")
def normalise(digits: Split) -> Normalise:
    mean, std = channel_moments(digits.inputs)
    return Normalise(mean=mean, std=std)


@pytest.fixture
def trainer(digits: Split, normalise: Normalise, execution: Execution) -> Trainer:
    """256 digits to train on and 64 others to validate."""
    from helpers.networks import make_trainer

    ids = torch.arange(320).numpy()
    return make_trainer(
        digits.at(ids[:256]),
        digits.at(ids[256:]),
        normalise=normalise,
        augmentation=Augmentation(crop_padding=1),
        execution=execution,
    )


@pytest.fixture
def recipe() -> Finetune:
    shipped = shipped_params()["finetune"]
    return Finetune(**shipped | {"epochs": 2, "batch_size": 64})


@pytest.fixture
def text_trainer(execution: Execution) -> Trainer:
    """192 texts of random tokens, 64 of them to validate.

    Each has one token that gives away its class, of ten.
    """
    from helpers.networks import TOKENS, make_trainer

    random = np.random.default_rng(0)
    inputs, labels = random.integers(11, 40, (192, TOKENS)), random.integers(0, 10, 192)
    inputs[np.arange(192), random.integers(0, TOKENS, 192)] = 1 + labels

    texts = Split(inputs, labels)
    ids = np.arange(192)
    return make_trainer(texts.at(ids[:128]), texts.at(ids[128:]), execution=execution)


@pytest.fixture
def retrainer(trainer: Trainer, recipe: Finetune) -> Retrainer:
    from helpers.networks import make_retrainer

    return make_retrainer(trainer, recipe)


@pytest.fixture
def cifar_folder() -> Path:
    return real_data(
        "PRUNELAB_DATA", PROJECT / "data/raw", "CIFAR-10", "cifar-10-batches-py/test_batch"
    )


@pytest.fixture
def without_check(monkeypatch) -> None:
    """`prunelab repro` without `prunelab check`, which looks at networks and data."""

    def no_check(*_: object) -> AbstractContextManager:
        return nullcontext((lambda: None, None))

    monkeypatch.setattr("prunelab.commands.repro.checking.started_check", no_check)
