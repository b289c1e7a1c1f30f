"""Everything that can be found wrong with params.yaml and the files it names, before any work starts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prunelab.artifacts.files import read_json, sha256
from prunelab.artifacts.networks import load_network, seed_file
from prunelab.data.datasets import DATASETS
from prunelab.errors import Refused
from prunelab.models.catalogue import MODELS, build
from prunelab.models.weights import IMAGENET, imagenet_place, is_file, load_weights
from prunelab.params import PARAMS_FILE, Params, load_params, read_params, valid_parts
from prunelab.pruning.methods import METHODS, unreachable
from prunelab.registry import pick
from prunelab.runtime import configure

RAW = Path("data/raw")
BASE = Path("models/base/final")


def find_problems(path: Path = PARAMS_FILE, raw: Path = RAW, base: Path = BASE) -> list[str]:
    """One line per problem, all of them; an empty list means that a run can start."""
    try:
        content = read_params(path)
    except Refused as refused:
        return refused.problems
    problems = [f"{path}: {line}" for line in _unknown_names(content)]
    problems += _refusals(load_params, path)
    # What is in order by itself is looked into even if something else is not: one round is to mend it all.
    sound = valid_parts(content)
    known = sound.get("dataset") in DATASETS and sound.get("model") in MODELS
    for check, needs in CHECKS.items():
        if known and needs <= sound.keys():
            problems += _refusals(check, Params.model_construct(**sound), raw, base)
    return problems


def _refusals(check: Callable[..., object], *args: Any, **kwargs: Any) -> list[str]:
    try:
        check(*args, **kwargs)
    except Refused as refused:
        return refused.problems
    return []


def _unknown_names(content: Any) -> Iterator[str]:
    """Names that no table has; looked up in the raw content, so that they are found beside any other problem."""
    content = content if isinstance(content, dict) else {}
    grid = content.get("grid")
    methods = grid.get("methods") if isinstance(grid, dict) else None
    named = [("dataset", content.get("dataset"), DATASETS, "dataset"), ("model", content.get("model"), MODELS, "model")]
    named += [("method", content.get("method"), METHODS, "method")]
    named += [("grid.methods", name, METHODS, "method") for name in (methods if isinstance(methods, list) else [])]
    for key, name, table, kind in named:
        if isinstance(name, str):
            for line in _refusals(pick, table, name, kind):
                yield f"{key}: {line}"


def _runtime(params: Params, raw: Path, base: Path) -> None:
    configure(params.runtime)


def _data(params: Params, raw: Path, base: Path) -> None:
    dataset = DATASETS[params.dataset]
    prepared = raw.parent / "prepared" / "dataset.json"
    if prepared.exists() and read_json(prepared).get("dataset") == params.dataset:
        return  # what is prepared already needs no raw files
    missing = dataset.missing(raw)
    unreachable = missing and not dataset.reachable()
    if problems := dataset.damaged(raw) + (missing if unreachable else []):
        raise Refused(problems)


def _normalise(params: Params, raw: Path, base: Path) -> None:
    normalise, channels = params.data.normalise, DATASETS[params.dataset].shape[0]
    if normalise and {len(normalise.mean), len(normalise.std)} != {channels}:
        raise Refused(
            f"data.normalise: {len(normalise.mean)} means and {len(normalise.std)} deviations, "
            f"but {params.dataset} has {channels} channels"
        )


def _weights(params: Params, raw: Path, base: Path) -> None:
    if params.weights == IMAGENET:
        imagenet_place(params.model)  # the stage downloads them
    if is_file(params.weights):
        dataset = DATASETS[params.dataset]
        load_weights(build(params.model, dataset.classes, dataset.shape), Path(params.weights))


def _unchanged_weights(params: Params, raw: Path, base: Path) -> None:
    """DVC tracks the name of the weights file, not its content: a file replaced under its name would go unnoticed."""
    trained = seed_file(base, params.seeds[0])
    if not is_file(params.weights) or not trained.exists():
        return
    try:
        known = load_network(trained).card.imported
    except Refused:
        return  # DVC sees for itself that this is not what it stored
    if known and known[0] == params.weights and known[1] != sha256(Path(params.weights)):
        raise Refused(f"weights: {params.weights} has changed since {base} was trained; run `dvc repro -f train_base`")


def _reachable(params: Params, raw: Path, base: Path) -> None:
    dataset = DATASETS[params.dataset]
    model = build(params.model, dataset.classes, dataset.shape)
    cells = [(method, ratio) for method, ratio, _ in params.grid.cells()]
    wanted = dict.fromkeys([*cells, (params.method, params.ratio)])  # each once, in order
    specs = [params.spec(method, ratio) for method, ratio in wanted if method in METHODS]
    if problems := unreachable(model, params.model, specs, shape=dataset.shape):
        raise Refused(problems)


CHECKS = {
    _runtime: {"runtime"},
    _data: {"dataset"},
    _normalise: {"dataset", "data"},
    _weights: {"dataset", "model", "weights"},
    _unchanged_weights: {"weights", "seeds"},
    _reachable: {"dataset", "model", "grid", "method", "ratio", "budget", "prune"},
}
