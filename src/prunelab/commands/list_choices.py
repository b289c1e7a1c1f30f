"""Tables of what there is to choose from: rows of words below a row of headings."""

import ast
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from prunelab.commands.check.inputs import data_info_of
from prunelab.config.params import load_params
from prunelab.config.restart import Restart
from prunelab.core import plugins
from prunelab.core.plugins import Registration
from prunelab.datasets.datasets import DATASETS
from prunelab.models.catalogue import LIBRARY, MODELS, Architecture, network_options
from prunelab.models.weights_packages import PACKAGE_OF
from prunelab.pruning.methods import METHODS, Method

Rows = Sequence[tuple[str, ...]]


def methods() -> Rows:
    """What each pruning method is made of."""
    rows = [("method", "criterion", "granularity", "scope", "schedule", "restart")]
    for name, method in METHODS.own.items():
        row = (
            name,
            method.criterion,
            method.granularity,
            method.scope,
            method.schedule,
            _restart(method),
        )
        rows.append(row)

    of_plugins = []
    for entry in METHODS.plugins.values():
        parts = {"schedule": "one_shot", "restart": ""}
        parts |= _arguments(entry, [part.name for part in fields(Method)])
        of_plugins.append((entry, tuple(parts.get(heading, "") for heading in rows[0][1:])))
    return _with_plugins(rows, of_plugins)


def _with_plugins(
    rows: Sequence[tuple[str, ...]], of_plugins: Sequence[tuple[Registration, tuple[str, ...]]]
) -> Rows:
    """The rows, and those of plugins with their files in a column of its own, if there are any."""
    plugins.current().require_readable()
    if not of_plugins:
        return rows

    marked = [(*rows[0], "plugin"), *((*row, "") for row in rows[1:])]
    for entry, cells in of_plugins:
        marked.append((entry.name, *cells, entry.file.as_posix()))
    return marked


def _arguments(registration: Registration, parameters: Sequence[str]) -> dict[str, str]:
    """The arguments of the entry's class as they stand in the text of a plugin, by parameter.

    The plugin is not imported: it may take seconds, and it may be broken.
    """
    call = registration.entry
    if not isinstance(call, ast.Call):
        return {}
    arguments = dict(zip(parameters, call.args, strict=False))
    arguments |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    return {name: _literal(value) for name, value in arguments.items()}


def _literal(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    if isinstance(value, ast.Attribute):
        return value.attr.lower()  # Restart.WEIGHTS
    return ast.unparse(value)


def _restart(method: Method) -> str:
    if method.restart is Restart.NONE:
        return ""
    return method.restart.value


def models() -> Rows:
    """What each model reads, and which weights it can start from."""
    rows = [("model", "reads", "weights")]
    for name, architecture in MODELS.own.items():
        row = (name, architecture.reads, _weights(architecture.reads, architecture.imagenet))
        rows.append(row)

    of_plugins = []
    for entry in MODELS.plugins.values():
        arguments = _arguments(entry, [part.name for part in fields(Architecture)])
        reads = arguments.get("reads", "images")
        of_plugins.append((entry, (reads, _weights(reads, arguments.get("imagenet", "")))))
    return _with_plugins(rows, of_plugins)


def all_models() -> Rows:
    """The models, those of torchvision, and where those of timm are listed."""
    rows = list(models())
    for name, architecture in LIBRARY.items():
        rows.append((name, architecture.reads, _weights(architecture.reads, architecture.imagenet)))
    for model in PACKAGE_OF:
        rows.append((model, "images", "none, imagenet (of a package), or a file"))
    rows.append(("timm/NAME", "images", "none, or a file; NAME as timm.list_models() has it"))

    columns = len(rows[0])  # one more where there are plugins
    return [row + ("",) * (columns - len(row)) for row in rows]


def _weights(reads: str, imagenet: str) -> str:
    if reads == "texts":
        return "none, minilm, a folder, or a name on the hub"
    if imagenet:
        return "none, imagenet, or a file"
    return "none, or a file"


def datasets() -> Rows:
    """What each data set is."""
    rows = [("dataset", "what it is")]
    for name, make in DATASETS.own.items():
        rows.append((name, _description(make)))

    of_plugins = []
    for entry in DATASETS.plugins.values():
        documentation = ""
        if isinstance(entry.definition, ast.ClassDef | ast.FunctionDef):
            documentation = ast.get_docstring(entry.definition) or ""
        of_plugins.append((entry, (documentation.partition("\n")[0],)))
    return _with_plugins(rows, of_plugins)


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
    options = network_options(params.model, params.weights, params.model_options)
    network = build_on_meta(params.model, data_info.classes, data_info.shape, **options)

    rows = [(f"layer of {params.model}", "weights")]
    for name, weight in prunable_weights(network).items():
        layer = name.rpartition(".")[0]
        rows.append((layer, "x".join(map(str, weight.shape))))
    return rows
