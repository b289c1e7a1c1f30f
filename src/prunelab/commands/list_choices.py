"""Tables of what there is to choose from: rows of words below a row of headings."""

import ast
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from prunelab.commands import list_notes
from prunelab.commands.check.inputs import data_info_of
from prunelab.config.params import load_params
from prunelab.config.restart import Restart
from prunelab.core import plugins
from prunelab.core.docstrings import docstring_of, table_references
from prunelab.core.plugins import Registration
from prunelab.datasets.datasets import DATASETS
from prunelab.models.catalogue import LIBRARY, MODELS, Architecture, network_options
from prunelab.models.weights_packages import PACKAGE_OF
from prunelab.pruning.methods import METHODS, Method

Rows = Sequence[tuple[str, ...]]
TEXT_WIDTH = 100  # of lines of names


def methods(only: Collection[str] | None = None) -> Rows:
    """What each pruning method is made of, family by family; `only` some, if they are given.

    A row of one cell is the name of a family with what it is for.
    """
    rows = _method_rows()
    heading, entries = rows[0], rows[1:]
    grouped: list[tuple[str, ...]] = [heading]

    for family, purpose in list_notes.FAMILIES.items():
        members = []
        for row in entries:
            is_chosen = only is None or row[0] in only
            schedule, _, restart = row[4].partition(", ")
            if is_chosen and list_notes.family_of(row[2], schedule, restart) == family:
                members.append(row)
        if members:
            grouped += [("",), (f"{family}: {purpose}",), *members]
    return grouped


def overview() -> str:
    """All there is to choose from, by kind and family, in a screen: names and half a line each."""
    sections = [
        _method_overview(),
        _names("models", models(), "--all: those of torchvision and timm"),
    ]

    for title, noted in (("criteria", criteria()), ("budgets", budgets())):
        lines = [f"  {name:<14} {note.rstrip('.')}" for name, note, *_ in noted[1:]]
        sections.append([title, *lines])
    for kind in ("datasets", "augmentations", "metrics", "lr_schedules"):
        sections.append(_names(kind, DESCRIBED[kind](), ""))

    sections.append(
        [
            "prunelab list KIND has what each is, prunelab explain NAME formula, source and needs.",
            "prunelab list methods --fits: those for the network in params.yaml.",
            "prunelab list layers: the layers of that network.",
        ]
    )
    return "\n\n".join("\n".join(lines) for lines in sections)


def _method_overview() -> list[str]:
    names_by_family: dict[str, list[str]] = {}
    family = ""
    for row in methods()[1:]:
        if len(row) > 1:
            names_by_family.setdefault(family, []).append(row[0])
        elif row[0]:
            family = row[0]

    lines = ["methods"]
    for title, names in names_by_family.items():
        lines += [f"  {title}", *_wrapped(", ".join(names), indent=4)]
    return lines


def _names(title: str, rows: Rows, hint: str) -> list[str]:
    heading = title
    if hint:
        heading = f"{title} ({hint})"
    return [heading, *_wrapped(", ".join(row[0] for row in rows[1:]), indent=2)]


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        TEXT_WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


def criteria() -> Rows:
    """What each criterion looks at, and when to use it."""
    rows = [("criterion", "what it is, and when to use it")]
    rows += list(list_notes.CRITERIA.items())
    return _with_plugins(rows, _documented("criterion"))


def budgets() -> Rows:
    """What a ratio may be a ratio of."""
    return [("budget", "what it is, and when to use it"), *list_notes.BUDGETS.items()]


def augmentations() -> Rows:
    """What each augmentation does."""
    return _functions("augmentation", "what it does to training images (data.augment)")


def metrics() -> Rows:
    """What each metric measures."""
    return _functions("metric", "what it measures besides (evaluate.metrics)")


def lr_schedules() -> Rows:
    """How each learning-rate schedule goes."""
    return _functions("lr_schedule", "how the rate changes (train.schedule, finetune.schedule)")


def _functions(kind: str, heading: str) -> Rows:
    """The functions of a table with the first sentences of their docstrings."""
    rows = [(kind, heading)]
    for name, reference in table_references(plugins.TABLES[kind].module, "_ENTRIES").items():
        rows.append((name, docstring_of(reference).partition("\n")[0]))
    return _with_plugins(rows, _documented(kind))


def _documented(kind: str) -> list[tuple[Registration, tuple[str, ...]]]:
    """The plugins of a kind with the first line of what they decorate."""
    documented: list[tuple[Registration, tuple[str, ...]]] = []
    for entry in plugins.current().of_kind(kind).values():
        documented.append((entry, (docstring_in(entry).partition("\n")[0],)))
    return documented


def docstring_in(registration: Registration) -> str:
    """The docstring of what a plugin decorates; empty if there is none."""
    definition = registration.definition
    if isinstance(definition, ast.ClassDef | ast.FunctionDef):
        return ast.get_docstring(definition) or ""
    return ""


def _method_rows() -> Rows:
    """A row for each method: its name and its parts; a restart is in the cell of the schedule."""
    rows = [("method", "criterion", "granularity", "scope", "schedule")]
    for name, method in METHODS.own.items():
        row = (
            name,
            method.criterion,
            method.granularity,
            method.scope,
            _joined(method.schedule, _restart(method)),
        )
        rows.append(row)

    of_plugins = []
    for entry in METHODS.plugins.values():
        parts = {"schedule": "one_shot", "restart": ""}
        parts |= _arguments(entry, [part.name for part in fields(Method)])
        parts["schedule"] = _joined(parts["schedule"], parts["restart"])
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


def _joined(schedule: str, restart: str) -> str:
    """The cell of a schedule, with the restart if there is one."""
    return f"{schedule}, {restart}" if restart else schedule


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

    return _with_plugins(rows, _documented("dataset"))


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


# The tables that `prunelab list KIND` prints.
DESCRIBED: Mapping[str, Callable[[], Rows]] = {
    "methods": methods,
    "models": models,
    "datasets": datasets,
    "criteria": criteria,
    "budgets": budgets,
    "augmentations": augmentations,
    "metrics": metrics,
    "lr_schedules": lr_schedules,
    "layers": layers,
}
