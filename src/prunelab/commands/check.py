"""Find everything wrong with params.yaml and the files it names, before any work starts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from prunelab.artifacts.networks import load_network, seed_file
from prunelab.artifacts.prepared import read_data_info
from prunelab.benchmark.backends import NEEDS
from prunelab.config.params import PARAMS_FILE, Params, load_params, read_params, valid_parts
from prunelab.core.errors import InputError, describe_os_error
from prunelab.core.files import sha256
from prunelab.core.registry import pick
from prunelab.data.dataset import DataConfig, DataInfo, Dataset
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.manifest import prepare_params
from prunelab.models import imagenet
from prunelab.models.catalogue import MODELS
from prunelab.models.frozen import freeze
from prunelab.models.networks import build, build_on_meta
from prunelab.models.weights import load_weights, weights_file
from prunelab.project.paths import BASE, RAW
from prunelab.pruning import sensitivity
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import infeasible_specs
from prunelab.runtime.device import configure
from prunelab.runtime.distributed import require_gpus

# It raises InputError. The paths are those of the raw data and of the trained base networks.
Check = Callable[[Params, Path, Path], None]


def find_problems(
    path: Path = PARAMS_FILE,
    raw: Path = RAW,
    base: Path = BASE,
    *,
    checks: Sequence[Check] | None = None,
) -> list[str]:
    """One line per problem; an empty list means that a run can start.

    Args:
        path: the parameter file.
        raw: the folder of the raw data.
        base: the folder of the trained base networks.
        checks: which of `CHECKS` to make; None makes all of them.
    """
    try:
        content = read_params(path)
    except InputError as error:
        return error.problems

    problems = [f"{path}: {line}" for line in _unknown_names(content)]
    problems += _problems_of(load_params, path)

    # Valid sections are checked even if others are not: one round of edits must be enough.
    sections = valid_parts(content)
    if sections.get("dataset") not in DATASETS or sections.get("model") not in MODELS:
        return problems

    params = Params.model_construct(**sections)
    for check, needed_sections in CHECKS.items():
        is_chosen = checks is None or check in checks
        if not is_chosen or not needed_sections <= sections.keys():
            continue
        # Several checks ask the data set for its classes and get the same problems.
        for problem in _problems_of(check, params, raw, base):
            if problem not in problems:
                problems.append(problem)
    return problems


def _problems_of(check: Callable[..., object], *args: object) -> list[str]:
    try:
        check(*args)
    except InputError as error:
        return error.problems
    except OSError as error:
        return [describe_os_error(error)]
    return []


def _unknown_names(content: Any) -> Iterator[str]:
    """A line for every name that is in no table.

    It reads the raw content, so that it finds them besides any other problem.
    """
    if not isinstance(content, dict):
        return
    tables: list[tuple[str, Mapping[str, object]]] = [
        ("dataset", DATASETS),
        ("model", MODELS),
        ("method", METHODS),
    ]
    for key, table in tables:
        yield from _unknown_name(key, content.get(key), table, key)

    grid = content.get("grid")
    if not isinstance(grid, dict) or not isinstance(grid.get("methods"), list):
        return
    for name in grid["methods"]:
        yield from _unknown_name("grid.methods", name, METHODS, "method")


def _unknown_name(
    place: str, name: object, table: Mapping[str, object], kind: str
) -> Iterator[str]:
    if isinstance(name, str):
        for line in _problems_of(pick, table, name, kind):
            yield f"{place}: {line}"


# --- Runtime ---


def _check_runtime(params: Params, raw: Path, base: Path) -> None:
    require_gpus(params.runtime.processes, configure(params.runtime))


def _check_backends(params: Params, raw: Path, base: Path) -> None:
    execution = configure(params.runtime)
    for name in params.benchmark.backends:
        if name in NEEDS:
            NEEDS[name](execution)


# --- Data ---


def _check_data(params: Params, raw: Path, base: Path) -> None:
    if _prepared_info(params, raw):
        if data_changed(params, raw):
            raise InputError(
                f"data.source: {params.data.source} has changed since it was prepared; "
                "run `dvc repro -f prepare`"
            )
        return

    dataset = _dataset(params, raw)
    problems = dataset.damaged()
    missing = dataset.missing()
    if missing and not dataset.reachable():
        problems = problems + missing
    if problems:
        raise InputError(problems)


def _check_normalise(params: Params, raw: Path, base: Path) -> None:
    normalise = params.data.normalise
    if normalise is None:
        return

    shape = data_info_of(params, raw).shape
    channels = 0
    if len(shape) == 3:
        channels = shape[0]
    if {len(normalise.mean), len(normalise.std)} != {channels}:
        raise InputError(
            f"data.normalise: {len(normalise.mean)} means and {len(normalise.std)} deviations, "
            f"but {params.dataset} has {channels} channels"
        )


def data_info_of(params: Params, raw: Path = RAW) -> DataInfo:
    """How many classes the data set of the parameters has, and the shape of its inputs.

    Raises:
        InputError: if the data set is not prepared, and its raw files cannot be read.
    """
    prepared = _prepared_info(params, raw)
    if prepared:
        return DataInfo(len(prepared["classes"]), tuple(prepared["shape"]))
    return _dataset(params, raw).info()


def data_changed(params: Params, raw: Path = RAW) -> bool:
    """Whether data.source differs from what was prepared from it; DVC only tracks its name."""
    prepared = _prepared_info(params, raw)
    dataset = _dataset(params, raw)
    if not prepared or dataset.missing():
        return False
    return bool(prepared.get("digest") != dataset.digest())


def _prepared_info(params: Params, raw: Path) -> dict[str, Any] | None:
    """The content of dataset.json, if these parameters made it: it replaces the raw files."""
    folder = raw.parent / "prepared"
    info = {}
    if (folder / "dataset.json").exists():
        info = read_data_info(folder)

    data = params.data
    expected = prepare_params(
        params.dataset,
        _data_config(params, raw),
        data.test_fraction,
        data.validation_fraction,
        data.split_seed,
    )
    if expected.items() <= info.items():
        return info
    return None


def _dataset(params: Params, raw: Path) -> Dataset:
    return DATASETS[params.dataset](_data_config(params, raw))


def _data_config(params: Params, raw: Path) -> DataConfig:
    data = params.data
    return DataConfig(
        raw,
        path=data.source,
        resize=data.resize,
        text_column=data.text_column,
        label_column=data.label_column,
        tokens=data.tokens,
        weights=params.weights,
    )


# --- Weights ---


def _check_weights(params: Params, raw: Path, base: Path) -> None:
    if params.weights == imagenet.IMAGENET:
        imagenet.locate(params.model)  # the stage downloads them
        return

    path = weights_file(params.weights, params.model)
    if path:
        data_info = data_info_of(params, raw)
        options = MODELS[params.model].options(params.weights)
        network = build(params.model, data_info.classes, data_info.shape, **options)
        load_weights(network, path)


def _check_freeze(params: Params, raw: Path, base: Path) -> None:
    data_info = data_info_of(params, raw)
    options = MODELS[params.model].options(params.weights)
    network = build_on_meta(params.model, data_info.classes, data_info.shape, **options)
    freeze(network, params.train.freeze)


def _check_weights_unchanged(params: Params, raw: Path, base: Path) -> None:
    if weights_changed(params, base):
        raise InputError(
            f"weights: {params.weights} has changed since {base} was trained; "
            "run `dvc repro -f train_base`"
        )


def weights_changed(params: Params, base: Path = BASE) -> bool:
    """Whether the networks in `base` started from other weights than the file has now.

    DVC only tracks the name of the file.
    """
    trained = seed_file(base, params.seeds[0])
    if params.weights == imagenet.IMAGENET or not trained.exists():
        return False  # the names of torchvision's files contain their hashes
    path = weights_file(params.weights, params.model)
    if path is None:
        return False

    try:
        imported = load_network(trained).card.imported
    except InputError:
        return False  # DVC notices a damaged network itself
    if not imported:
        return False
    name, digest = imported
    return name == params.weights and digest != sha256(path)


def contents(params: Params, raw: Path = RAW) -> dict[str, str | None]:
    """Hashes of the user's own data source and file of weights, by their keys in params.yaml."""
    hashes = {}
    if params.data.source is not None:
        hashes["data.source"] = _dataset(params, raw).digest()

    if params.weights != imagenet.IMAGENET:
        path = weights_file(params.weights, params.model)
        if path:
            hashes["weights"] = sha256(path)
    return hashes


# --- Pruning ---


def check_feasible(params: Params, raw: Path, base: Path) -> None:
    """Check that every cell of the grid, and the focus, can be met on the network.

    Raises:
        InputError: with one line per reason why one cannot.
    """
    data_info = data_info_of(params, raw)
    network = _network_to_trace(params.model, data_info, params.weights)

    cells = [(method, ratio) for method, ratio, _ in params.grid.cells()]
    unique_cells = dict.fromkeys([*cells, (params.method, params.ratio)])  # in order
    specs = [params.spec(method, ratio) for method, ratio in unique_cells if method in METHODS]

    problems = infeasible_specs(
        network, params.model, specs, shape=data_info.shape, train=params.train
    )
    if problems:
        raise InputError(problems)


def _check_sensitivity(params: Params, raw: Path, base: Path) -> None:
    data_info = data_info_of(params, raw)
    network = _network_to_trace(params.model, data_info, params.weights)
    ratios = params.sensitivity.ratios

    for kind in sensitivity.METHODS:
        with suppress(InputError):  # the network has no such units
            units = sensitivity.prunable_units(network, params.model, kind, data_info.shape)
            if sensitivity.measurable(units, ratios):
                return
    raise InputError(
        f"sensitivity.ratios: {ratios} take none or all of every layer; valid: one that leaves some"
    )


@lru_cache(maxsize=1)
def _network_to_trace(name: str, data_info: DataInfo, weights: str) -> nn.Module:
    """A network of the right architecture; kept, because most settings of a study share it."""
    options = MODELS[name].options(weights)
    return build(name, data_info.classes, data_info.shape, **options)


# The checks, in the order of their lines, and the keys of params.yaml that each needs to be valid.
CHECKS: dict[Check, set[str]] = {
    _check_runtime: {"runtime"},
    _check_backends: {"runtime", "benchmark"},
    _check_data: {"dataset", "data", "weights"},
    _check_normalise: {"dataset", "data", "weights"},
    _check_weights: {"dataset", "data", "model", "weights"},
    _check_freeze: {"dataset", "data", "model", "weights", "train"},
    _check_weights_unchanged: {"model", "weights", "seeds"},
    _check_sensitivity: {"dataset", "data", "weights", "model", "sensitivity"},
    check_feasible: {
        "dataset",
        "data",
        "weights",
        "model",
        "grid",
        "method",
        "ratio",
        "budget",
        "prune",
        "train",
    },
}
