"""What there is to choose from, as rows of words under a row of headings, made from the tables themselves."""

from collections.abc import Sequence
from typing import Any

from prunelab.commands.check import data_info_of
from prunelab.config.params import load_params
from prunelab.config.restart import Restart
from prunelab.datasets.datasets import DATASETS
from prunelab.models.catalogue import MODELS, Architecture, build_on_meta, prunable_weights
from prunelab.pruning.methods import METHODS
from prunelab.pruning.unstructured.granularity import GRANULARITIES, Granularity
from prunelab.pruning.unstructured.select import Scope

Rows = Sequence[tuple[str, ...]]


def methods() -> Rows:
    return [("method", "criterion", "granularity", "scope", "schedule", "restart")] + [
        (
            name,
            method.criterion.__name__,
            _granularity(method.granularity),
            method.scope.name.lower() if isinstance(method.scope, Scope) else method.scope.__name__,
            method.schedule.__name__,
            "" if method.restart is Restart.NONE else method.restart.value,
        )
        for name, method in METHODS.items()
    ]


def _granularity(granularity: Granularity | str) -> str:
    if isinstance(granularity, str):
        return granularity
    return next(name for name, other in GRANULARITIES.items() if other is granularity)


def models() -> Rows:
    rows = [
        (name, architecture.reads, _weights(architecture)) for name, architecture in MODELS.items()
    ]
    return [("model", "reads", "weights"), *rows]


def _weights(architecture: Architecture) -> str:
    if architecture.reads == "texts":
        return "none, minilm, a folder, or a name on the hub"
    return "none, imagenet, or a file" if architecture.imagenet else "none, or a file"


def datasets() -> Rows:
    return [
        ("dataset", "what it is"),
        *((name, _described(make)) for name, make in DATASETS.items()),
    ]


def _described(make: Any) -> str:
    """The first sentence, and what else is settled where several entries share a class."""
    settled = "".join(
        f" Here: {key} = {value}." for key, value in getattr(make, "keywords", {}).items()
    )
    return (getattr(make, "func", make).__doc__ or "").splitlines()[0] + settled


def layers() -> Rows:
    """The layers of the network in params.yaml that can be pruned, as prune.protect and the like name them."""
    params = load_params()
    facts, options = data_info_of(params), MODELS[params.model].options(params.weights)
    network = build_on_meta(params.model, facts.classes, facts.shape, **options)
    weights = prunable_weights(network)
    rows = [
        (name.rpartition(".")[0], "x".join(map(str, weight.shape)))
        for name, weight in weights.items()
    ]
    return [(f"layer of {params.model}", "weights"), *rows]
