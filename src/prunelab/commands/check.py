"""Everything that can be found wrong with params.yaml and the files it names, before any work starts."""

from collections.abc import Callable, Iterator, Sequence
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
from prunelab.data.dataset import DataConfig, DataInfo
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.manifest import prepare_params
from prunelab.models import imagenet
from prunelab.models.catalogue import MODELS, build, build_on_meta
from prunelab.models.frozen import freeze
from prunelab.models.weights import load_weights, weights_file
from prunelab.project.paths import BASE, RAW
from prunelab.pruning import sensitivity
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import infeasible_specs
from prunelab.runtime.device import configure
from prunelab.runtime.distributed import require_gpus

Check = Callable[[Params, Path, Path], None]


def find_problems(
    path: Path = PARAMS_FILE,
    raw: Path = RAW,
    base: Path = BASE,
    *,
    checks: Sequence[Check] | None = None,
) -> list[str]:
    """One line per problem, all of them (or of some `checks`); an empty list means that a run can start."""
    try:
        content = read_params(path)
    except InputError as refused:
        return refused.problems
    problems = [f"{path}: {line}" for line in _unknown_names(content)]
    problems += _refusals(load_params, path)
    # What is in order by itself is looked into even if something else is not: one round is to mend it all.
    sound = valid_parts(content)
    known = sound.get("dataset") in DATASETS and sound.get("model") in MODELS
    for check, needs in CHECKS.items():
        if known and needs <= sound.keys() and (checks is None or check in checks):
            refusals = _refusals(check, Params.model_construct(**sound), raw, base)
            # Several checks ask the data set for its classes, and hear the same.
            problems += [line for line in refusals if line not in problems]
    return problems


def _refusals(check: Callable[..., object], *args: Any, **kwargs: Any) -> list[str]:
    try:
        check(*args, **kwargs)
    except InputError as refused:
        return refused.problems
    except OSError as error:
        return [describe_os_error(error)]
    return []


def _unknown_names(content: Any) -> Iterator[str]:
    """Names that no table has; looked up in the raw content, so that they are found beside any other problem."""
    content = content if isinstance(content, dict) else {}
    grid = content.get("grid")
    methods = grid.get("methods") if isinstance(grid, dict) else None
    named = [
        ("dataset", content.get("dataset"), DATASETS, "dataset"),
        ("model", content.get("model"), MODELS, "model"),
    ]
    named += [("method", content.get("method"), METHODS, "method")]
    named += [
        ("grid.methods", name, METHODS, "method")
        for name in (methods if isinstance(methods, list) else [])
    ]
    for key, name, table, kind in named:
        if isinstance(name, str):
            for line in _refusals(pick, table, name, kind):
                yield f"{key}: {line}"


def _runtime(params: Params, raw: Path, base: Path) -> None:
    require_gpus(params.runtime.processes, configure(params.runtime))


def _backends(params: Params, raw: Path, base: Path) -> None:
    execution = configure(params.runtime)
    for name in params.benchmark.backends:
        if name in NEEDS:
            NEEDS[name](execution)


def _source(params: Params, raw: Path) -> DataConfig:
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


def _prepared(params: Params, raw: Path) -> dict[str, Any] | None:
    """What dataset.json says, if it was made with these parameters: then the raw files are no longer needed."""
    path, data = raw.parent / "prepared" / "dataset.json", params.data
    facts = read_data_info(path.parent) if path.exists() else {}
    wanted = prepare_params(
        params.dataset, _source(params, raw), data.test_fraction, data.validation_fraction, data.split_seed
    )  # fmt: skip
    return facts if wanted.items() <= facts.items() else None


def data_info_of(params: Params, raw: Path = RAW) -> DataInfo:
    """How many classes the data set of the parameters has, and the shape of its inputs."""
    if known := _prepared(params, raw):
        return DataInfo(len(known["classes"]), tuple(known["shape"]))
    return DATASETS[params.dataset](_source(params, raw)).info()


def _data(params: Params, raw: Path, base: Path) -> None:
    dataset = DATASETS[params.dataset](_source(params, raw))
    missing = dataset.missing()
    if _prepared(params, raw):
        if data_changed(params, raw):
            raise InputError(
                f"data.source: {params.data.source} has changed since it was prepared; run `dvc repro -f prepare`"
            )
        return
    unreachable = missing and not dataset.reachable()
    if problems := dataset.damaged() + (missing if unreachable else []):
        raise InputError(problems)


def data_changed(params: Params, raw: Path = RAW) -> bool:
    """Whether what is prepared is not what lies in the source now: DVC tracks the name of the source alone."""
    dataset, known = DATASETS[params.dataset](_source(params, raw)), _prepared(params, raw)
    return bool(known and not dataset.missing() and known.get("digest") != dataset.digest())


def _normalise(params: Params, raw: Path, base: Path) -> None:
    if (normalise := params.data.normalise) is None:
        return
    shape = data_info_of(params, raw).shape
    channels = shape[0] if len(shape) == 3 else 0
    if {len(normalise.mean), len(normalise.std)} != {channels}:
        raise InputError(
            f"data.normalise: {len(normalise.mean)} means and {len(normalise.std)} deviations, "
            f"but {params.dataset} has {channels} channels"
        )


def _network(params: Params, raw: Path) -> nn.Module:
    facts, options = data_info_of(params, raw), MODELS[params.model].options(params.weights)
    return build(params.model, facts.classes, facts.shape, **options)


def _weights(params: Params, raw: Path, base: Path) -> None:
    if params.weights == imagenet.IMAGENET:
        imagenet.place(params.model)  # the stage downloads them
    elif path := weights_file(params.weights, params.model):
        load_weights(_network(params, raw), path)


def _freeze(params: Params, raw: Path, base: Path) -> None:
    facts, options = data_info_of(params, raw), MODELS[params.model].options(params.weights)
    freeze(build_on_meta(params.model, facts.classes, facts.shape, **options), params.train.freeze)


def weights_changed(params: Params, base: Path = BASE) -> bool:
    """Whether the networks in `base` began with other weights than those in the file now: DVC tracks its name alone."""
    trained = seed_file(base, params.seeds[0])
    if (
        params.weights == imagenet.IMAGENET or not trained.exists()
    ):  # torchvision's have their hash in their name
        return False
    if (path := weights_file(params.weights, params.model)) is None:
        return False
    try:
        known = load_network(trained).card.imported
    except InputError:
        return False  # DVC sees for itself that this is not what it stored
    return bool(known and known[0] == params.weights and known[1] != sha256(path))


def _unchanged_weights(params: Params, raw: Path, base: Path) -> None:
    if weights_changed(params, base):
        raise InputError(
            f"weights: {params.weights} has changed since {base} was trained; run `dvc repro -f train_base`"
        )


def contents(params: Params, raw: Path = RAW) -> dict[str, str | None]:
    """Hashes of what the user's own names stand for: the data source, the file of weights."""
    named = {}
    if params.data.source is not None:
        named["data.source"] = DATASETS[params.dataset](_source(params, raw)).digest()
    if params.weights != imagenet.IMAGENET and (path := weights_file(params.weights, params.model)):
        named["weights"] = sha256(path)
    return named


def check_feasible(params: Params, raw: Path, base: Path) -> None:
    shape = data_info_of(params, raw).shape
    model = _traced(params.model, data_info_of(params, raw), params.weights)
    cells = [(method, ratio) for method, ratio, _ in params.grid.cells()]
    wanted = dict.fromkeys([*cells, (params.method, params.ratio)])  # each once, in order
    specs = [params.spec(method, ratio) for method, ratio in wanted if method in METHODS]
    if problems := infeasible_specs(model, params.model, specs, shape=shape, train=params.train):
        raise InputError(problems)


def _sensitivity(params: Params, raw: Path, base: Path) -> None:
    facts, ratios = data_info_of(params, raw), params.sensitivity.ratios
    model = _traced(params.model, facts, params.weights)
    for what in sensitivity.METHODS:
        with suppress(InputError):  # for a network without such units
            if sensitivity.measurable(
                sensitivity.prunable_units(model, params.model, what, facts.shape), ratios
            ):
                return
    raise InputError(
        f"sensitivity.ratios: {ratios} take none or all of every layer; valid: one that leaves some"
    )


@lru_cache(maxsize=1)
def _traced(name: str, facts: DataInfo, weights: str) -> nn.Module:
    """The network to plan on; kept, since the settings of a study mostly share it."""
    return build(name, facts.classes, facts.shape, **MODELS[name].options(weights))


CHECKS: dict[Check, set[str]] = {
    _runtime: {"runtime"},
    _backends: {"runtime", "benchmark"},
    _data: {"dataset", "data", "weights"},
    _normalise: {"dataset", "data", "weights"},
    _weights: {"dataset", "data", "model", "weights"},
    _freeze: {"dataset", "data", "model", "weights", "train"},
    _unchanged_weights: {"model", "weights", "seeds"},
    _sensitivity: {"dataset", "data", "weights", "model", "sensitivity"},
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
