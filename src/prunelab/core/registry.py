"""Tables of choices: entries of this package and of plugins, and looking a name up."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, NoReturn, TypeVar, overload

from prunelab.core import plugins
from prunelab.core.errors import InputError
from prunelab.core.plugins import Plugins, Registration
from prunelab.core.text import did_you_mean, nearest_names

# Kinds with many names, each with the command that lists them.
LISTED = {
    "method": "prunelab list methods",
    "criterion": "prunelab list criteria",
    "model": "prunelab list models",
    "dataset": "prunelab list datasets",
    "augmentation": "prunelab list augmentations",
    "metric": "prunelab list metrics",
    "lr_schedule": "prunelab list lr_schedules",
    "study": "prunelab study list",
    "stage": "dvc stage list --name-only",
}
MAX_VALID = 5  # names that one message has

Entry = TypeVar("Entry")
Function = TypeVar("Function")


class Table(Mapping[str, Entry]):
    """Entries of one kind by name: those of this package, and those that plugins register.

    Which names there are is known without importing a plugin; looking an entry up imports it.

    Args:
        kind: what an entry is, a key of `plugins.TABLES`.
        entries: those of this package.
        instance_of: what an entry must be an instance of.
        called_with: the names of what an entry is called with, if it is a function or a class.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, Entry],
        *,
        instance_of: type = object,
        called_with: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self._instance_of = instance_of
        self._called_with = called_with
        self._of_plugins: dict[str, Entry] = {}
        self._plugins: Plugins | None = None  # those that the entries above come from

        self._own = dict(entries)
        for name in entries:
            self._check(name, entries[name])

    @overload
    def register(self, name: str) -> Callable[[Function], Function]: ...

    @overload
    def register(self, name: str, entry: Entry) -> Entry: ...

    def register(self, name: str, entry: Any = None) -> Any:
        """Give an entry a name. Without an entry: a decorator for the function or class that it is.

        Raises:
            InputError: if the name is taken, or if the entry is none of this kind.
        """
        if entry is None:
            return lambda function: self.register(name, function)

        self._check(name, entry)
        entries = self._own
        if plugins.is_loading():
            entries = self._entries_of_plugins()
            if name not in self.plugins:
                raise InputError(
                    f"{self.kind} {name!r} is not in the text of the file. Write "
                    f'{plugins.TABLES[self.kind].table}.register("{name}", ...) there'
                )
        if name in entries or name in self._own:
            raise InputError(f"{self.kind} {name!r} is registered already; choose another name")
        entries[name] = entry
        return entry

    def _check(self, name: str, entry: Any) -> None:
        """Raise InputError if an entry is none of this kind."""
        fits = isinstance(entry, self._instance_of)
        if not fits:
            valid = self._instance_of.__name__
            raise InputError(f"{self.kind} {name!r} is a {type(entry).__name__}, not a {valid}")
        if not self._called_with:
            return

        arguments = ", ".join(self._called_with)
        try:
            inspect.signature(entry).bind(*self._called_with)
        except TypeError as error:
            raise InputError(
                f"{self.kind} {name!r} cannot be called with ({arguments}): {error}; "
                f"let it take ({arguments})"
            ) from None

    def __getitem__(self, name: str) -> Entry:
        registration = self.origin(name)
        if registration is None:
            return self._own[name]
        if name in self._own:
            raise InputError(plugins.taken(registration, "in prunelab"))

        entries = self._entries_of_plugins()
        plugins.load(registration.module)  # which fails again if it failed after `register`
        if name not in entries:
            raise InputError(
                f"{registration.place}: {self.kind} {name!r} is not registered when the file is "
                "imported; register it at the top level of the file"
            )
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self.plugins

    def __iter__(self) -> Iterator[str]:
        plugins.current().require_readable()
        yield from self._own
        yield from (name for name in self.plugins if name not in self._own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def own(self) -> Mapping[str, Entry]:
        """The entries of this package."""
        return self._own

    @property
    def plugins(self) -> Mapping[str, Registration]:
        """Where plugins register which names."""
        return plugins.current().of_kind(self.kind)

    def origin(self, name: str) -> Registration | None:
        """Where a plugin registers a name; None for a name of this package or an unknown one."""
        return self.plugins.get(name)

    def refuse(self, name: str, problem: str) -> NoReturn:
        """Raise InputError about an entry, with the plugin's file and line if it is of one."""
        registration = self.origin(name)
        place = ""
        if registration is not None:
            place = f"{registration.place}: "
        raise InputError(f"{place}{self.kind} {name} {problem}")

    def _entries_of_plugins(self) -> dict[str, Entry]:
        current = plugins.current()
        if self._plugins is not current:
            self._plugins = current
            self._of_plugins = {}
        return self._of_plugins


def pick(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """Return `table[name]`.

    Raises:
        InputError: if there is no such entry; the message has all names, or of many the nearest
            and the command that lists all.
    """
    require(table, name, kind)
    return table[name]


def require(table: Mapping[str, object], name: str, kind: str) -> None:
    """Raise InputError if a table has no entry of that name; no plugin is imported."""
    if name in table:
        return
    if kind in LISTED and len(table) > MAX_VALID:
        raise InputError(
            f"unknown {kind} {name!r} (did you mean {nearest_names(name, table)}?); "
            f"`{LISTED[kind]}` lists all"
        )
    guess = did_you_mean(name, table)
    raise InputError(f"unknown {kind} {name!r}{guess}; valid: {', '.join(table)}")


def resolve(reference: str) -> Any:
    """What `module:name` refers to; the module is imported now.

    Tables have such references to functions whose modules are slow to import.
    """
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
