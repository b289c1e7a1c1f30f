"""Tables of what there is to choose from: rows of words below a row of headings."""

from collections.abc import Sequence
from typing import Any

from prunelab.commands.check.inputs import data_info_of
from prunelab.config.params import load_params
from prunelab.config.restart import Restart
from prunelab.datasets.datasets import DATASETS
from prunelab.models.catalogue import MODELS, Architecture
from prunelab.pruning.methods import METHODS, Method

Rows = Sequence[tuple[str, ...]]


def methods() -> Rows:
    """What each pruning method is made of."""
    rows = [("method", "criterion", "granularity", "scope", "schedule", "restart")]
    for name, method in METHODS.items():
        row = (
            name,
            method.criterion,
            method.granularity,
            method.scope,
            method.schedule,
            _restart(method),
        )
        rows.append(row)
    return rows


def _restart(method: Method) -> str:
    if method.restart is Restart.NONE:
        return ""
    return method.restart.value


def models() -> Rows:
    """What each model reads, and which weights it can start from."""
    rows = [("model", "reads", "weights")]
    for name, architecture in MODELS.items():
        rows.append((name, architecture.reads, _weights(architecture)))
    return rows


def _weights(architecture: Architecture) -> str:
    if architecture.reads == "texts":
        return "none, minilm, a folder, or a name on the hub"
    if architecture.imagenet:
        return "none, imagenet, or a file"
    return "none, or a file"


def datasets() -> Rows:
    """What each data set is."""
    rows = [("dataset", "what it is")]
    for name, make in DATASETS.items():
        rows.append((name, _description(make)))
    return rows


def _description(make: Any) -> str:
    """The first sentence of a class, and the arguments by which entries of one class differ."""
    documentation = getattr(make, "func", make).__doc__ or ""
    description: str = documentation.splitlines()[0]
    for key, value in getattr(make, "keywords", {}).items():
        description += f" Here: {key} = {value}."
    return description


def layers() -> Rows:
    """The prunable layers of the network in params.yaml, named as prune.protect names them."""
    from prunelab.models.networks import build_on_meta, prunable_weights  # they import torch

    params = load_params()
    data_info = data_info_of(params)
    options = MODELS[params.model].options(params.weights)
    network = build_on_meta(params.model, data_info.classes, data_info.shape, **options)

    rows = [(f"layer of {params.model}", "weights")]
    for name, weight in prunable_weights(network).items():
        layer = name.rpartition(".")[0]
        rows.append((layer, "x".join(map(str, weight.shape))))
    return rows
