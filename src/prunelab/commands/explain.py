"""What `prunelab explain` prints about a name: docstring, formula, source and needs. No torch."""

import textwrap
from collections.abc import Callable, Iterator, Mapping

from prunelab.commands import list_notes as notes
from prunelab.commands.list_choices import docstring_in
from prunelab.config.restart import Restart
from prunelab.core import plugins
from prunelab.core.docstrings import docstring_of, table_references
from prunelab.core.errors import InputError
from prunelab.core.plugins import Registration
from prunelab.core.text import nearest_names
from prunelab.models.catalogue import LIBRARY, MODELS, find_architecture
from prunelab.pruning.methods import METHODS, Method

# Where the tables of functions are, by kind: module and name of the dictionary.
FUNCTIONS: Mapping[str, tuple[str, str]] = {
    "criterion": ("prunelab.pruning.criteria", "_ENTRIES"),
    "schedule": ("prunelab.pruning.schedules", "_ENTRIES"),
    "scope": ("prunelab.pruning.structured.groups", "SCOPES"),
    "augmentation": ("prunelab.data.augmentations", "_ENTRIES"),
    "metric": ("prunelab.evaluation.metric_table", "_ENTRIES"),
    "lr_schedule": ("prunelab.training.lr_schedules", "_ENTRIES"),
    "dataset": ("prunelab.datasets.datasets", "_ENTRIES"),
}
# What has a half line only.
NOTED: Mapping[str, Mapping[str, str]] = {
    "budget": notes.BUDGETS,
    "granularity": notes.GRANULARITIES,
    "scope": notes.SCOPES,
}


def explain_name(name: str) -> str:
    """All that is known about a name, of whatever kinds it is.

    Raises:
        InputError: if nothing has that name.
    """
    parts = []
    for kind, lines in _explanations(name):
        parts.append("\n".join([f"{name} ({kind})", "", *lines]))
    if parts:
        return "\n\n".join(parts)

    near = nearest_names(name, known_names())
    raise InputError(
        f"nothing is called {name!r} (did you mean {near}?); `prunelab list` has all names"
    )


def known_names() -> list[str]:
    """Every name that can be explained, once."""
    names = [*METHODS, *MODELS, *LIBRARY]
    for kind in FUNCTIONS:
        names += [*_references(kind), *plugins.current().of_kind(kind)]
    for noted in NOTED.values():
        names += noted
    return list(dict.fromkeys(names))


def _explanations(name: str) -> Iterator[tuple[str, list[str]]]:
    """The kinds that have the name, each with its lines."""
    if name in METHODS:
        yield "method", _method_lines(name)
    if name in MODELS or name in LIBRARY:
        yield "model", _model_lines(name)

    for kind in FUNCTIONS:
        registration = _registration(kind, name)
        if registration is not None:
            yield kind, [_docstring_or_none(registration), "", f"It is in {registration.place}."]
        elif name in _references(kind):
            yield kind, [docstring_of(_references(kind)[name]), *_used_by(kind, name)]
    for kind, noted in NOTED.items():
        if name in noted and name not in _references(kind):
            yield kind, [_sentence(noted[name]), *_used_by(kind, name)]


def _references(kind: str) -> Mapping[str, str]:
    if kind not in FUNCTIONS:
        return {}
    return table_references(*FUNCTIONS[kind])


def _registration(kind: str, name: str) -> Registration | None:
    return plugins.current().of_kind(kind).get(name)


def _docstring_or_none(registration: Registration) -> str:
    return docstring_in(registration) or "It has no docstring."


def _method_lines(name: str) -> list[str]:
    """The parts of a method, what it needs, and the docstrings of its criterion and schedule."""
    method = METHODS[name]
    restart = ""
    if method.restart is not Restart.NONE:
        restart = method.restart.value
    rows = [
        ("criterion", method.criterion, notes.CRITERIA.get(method.criterion, "of a plugin")),
        ("granularity", method.granularity, notes.GRANULARITIES.get(method.granularity, "")),
        ("scope", method.scope, notes.SCOPES.get(method.scope, "")),
        ("schedule", method.schedule, notes.SCHEDULES.get(method.schedule, "of a plugin")),
        ("restart", method.restart.value, notes.RESTARTS.get(restart, "fine-tuning as it is")),
    ]
    family = notes.family_of(method.granularity, method.schedule, restart)
    lines = [f"{_sentence(family)} {_sentence(notes.FAMILIES[family])}", ""]
    width = max(len(f"{part} {value}") for part, value, _ in rows)
    for part, value, note in rows:
        lines.append(f"  {f'{part} {value}':<{width}}  {note}".rstrip())
    lines += ["", "It needs", *(f"  {line}" for line in notes.needs_of(method))]

    for kind, part in (("criterion", method.criterion), ("schedule", method.schedule)):
        text = _text_of(kind, part)
        if text and part != "one_shot":
            lines += [
                "",
                f"{kind} {part}",
                "",
                textwrap.indent(text, "  "),
            ]
    return lines


def _text_of(kind: str, name: str) -> str:
    registration = _registration(kind, name)
    if registration is not None:
        return _docstring_or_none(registration)
    reference = _references(kind).get(name)
    if reference is None:
        return ""
    return docstring_of(reference)


def _model_lines(name: str) -> list[str]:
    architecture = find_architecture(name)
    lines = []
    if architecture.build.startswith("prunelab."):
        lines.append(docstring_of(architecture.build))
    arguments = [f"{key} = {value}" for key, value in architecture.arguments.items()]
    if arguments:
        lines.append(f"Here: {', '.join(arguments)}.")
    lines.append(f"It reads {architecture.reads}.")
    return lines


def _used_by(kind: str, name: str) -> list[str]:
    """The methods that have a part of that name."""
    parts: Mapping[str, Callable[[Method], str]] = {
        "criterion": lambda method: method.criterion,
        "granularity": lambda method: method.granularity,
        "scope": lambda method: method.scope,
        "schedule": lambda method: method.schedule,
    }
    if kind not in parts:
        return []

    methods = [key for key, method in METHODS.own.items() if parts[kind](method) == name]
    if not methods:
        return ["", "No method of the package uses it."]
    return ["", f"Methods: {', '.join(methods)}."]


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."
