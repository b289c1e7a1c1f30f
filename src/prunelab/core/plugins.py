"""The project's own code: which names the files in `plugins/` register, and how one is imported.

The folder lies in the working directory, which is the top of the project for commands and stages.
Names are read from the text of the files. A file is imported once one of its entries is used, from
its text as it is then. Files elsewhere are never imported here.
"""

import ast
import hashlib
import json
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from prunelab.core.errors import InputError
from prunelab.core.source_code import code_digests, forget_files

FOLDER = Path("plugins")
PACKAGE = "plugins"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # names are parts of paths, and "-" ends a method's
ADVICE = f"correct it, or move the file out of {FOLDER}/"


@dataclass(frozen=True)
class TableModule:
    """Where the table of a kind is, as a plugin imports it, and what stands beside it for use."""

    table: str
    module: str
    vocabulary: tuple[str, ...] = ()


TABLES = {
    "model": TableModule("MODELS", "prunelab.models.catalogue", ("Architecture",)),
    "method": TableModule("METHODS", "prunelab.pruning.methods", ("Method",)),
    "criterion": TableModule(
        "CRITERIA", "prunelab.pruning.criteria", ("CalibrationData", "Criterion")
    ),
    "schedule": TableModule("SCHEDULES", "prunelab.pruning.schedules", ("PruningRun", "Schedule")),
    "dataset": TableModule("DATASETS", "prunelab.datasets.datasets"),
    "augmentation": TableModule("AUGMENTATIONS", "prunelab.data.augmentations"),
    "metric": TableModule("METRICS", "prunelab.evaluation.metric_table", ("Metric",)),
    "lr_schedule": TableModule("LR_SCHEDULES", "prunelab.training.lr_schedules", ("LrSchedule",)),
}
_KINDS = {entry.table: kind for kind, entry in TABLES.items()}
# A plugin that imports these names alone does not depend on the module: a stage that uses an entry
# of a kind imports the table of that kind itself.
VOCABULARY = {
    entry.module: frozenset({entry.table, *entry.vocabulary}) for entry in TABLES.values()
}


@dataclass(frozen=True)
class Registration:
    """One `TABLE.register("name", ...)` in a plugin.

    `entry` is the text's expression for the entry, and `definition` the function or class that it
    decorates; one of them is None.
    """

    kind: str
    name: str
    file: Path
    line: int
    entry: ast.expr | None
    definition: ast.AST | None

    @property
    def place(self) -> str:
        """`plugins/file.py:12`."""
        return f"{self.file.as_posix()}:{self.line}"

    @property
    def module(self) -> str:
        """The name by which the file is imported."""
        return f"{PACKAGE}.{self.file.stem}"


@dataclass
class Plugins:
    """What the files of a folder register, and one line for everything that is wrong with them."""

    folder: Path
    files: Sequence[Path] = ()
    registrations: Mapping[tuple[str, str], Registration] = field(default_factory=dict)
    problems: Sequence[str] = ()
    failures: dict[str, InputError] = field(default_factory=dict)  # by module

    def of_kind(self, kind: str) -> dict[str, Registration]:
        """The registrations of a kind by name."""
        return {name: entry for (other, name), entry in self.registrations.items() if other == kind}

    def require_readable(self) -> None:
        """Raise InputError if there is a file whose names cannot be read."""
        if self.problems:
            raise InputError(self.problems)


_lock = threading.RLock()
_current: Plugins | None = None
_loading: list[str] = []


def current() -> Plugins:
    """The plugins of the working directory, as they were when this process first looked."""
    global _current
    folder = FOLDER.absolute()
    with _lock:
        if _current is None or _current.folder != folder:
            forget()
            _current = _read(folder)
        return _current


def forget() -> None:
    """Look at the folder again next time, and import its files again."""
    global _current
    _current = None
    forget_files()
    for name in list(sys.modules):
        if name.split(".")[0] == PACKAGE:
            del sys.modules[name]


def is_loading() -> bool:
    """Whether a plugin is being imported."""
    return bool(_loading)


def load(module: str) -> None:
    """Import a plugin by its module's name, once.

    Raises:
        InputError: if it raises anything. The line says where in the file, and what to do.
    """
    with _lock:
        plugins = current()
        if module in plugins.failures:
            raise plugins.failures[module]
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)

        _loading.append(module)
        try:
            import_module(module)
        except (Exception, SystemExit) as error:
            file = FOLDER / f"{module.removeprefix(f'{PACKAGE}.')}.py"
            lines = failure_lines(error) or [f"{file}: {_named(error)}; {ADVICE}"]
            plugins.failures[module] = InputError(lines)
            raise plugins.failures[module] from None
        finally:
            _loading.pop()


def failure_lines(error: BaseException) -> list[str]:
    """One line per problem of an error that plugins raised, each with file and line.

    Empty if no code of a plugin was running.
    """
    place = _place(error)
    if not place:
        return []
    if isinstance(error, InputError):
        return [f"{place}: {problem}" for problem in error.problems]
    return [f"{place}: {_named(error)}; {ADVICE}"]


def _named(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _place(error: BaseException) -> str:
    """Where in the plugins an error was raised, as `plugins/file.py:12`; empty if elsewhere."""
    if _current is None:  # none has run
        return ""

    folder = _current.folder
    if isinstance(error, SyntaxError) and Path(error.filename or "/").is_relative_to(folder):
        return _relative(error.filename or "", folder, error.lineno)

    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(folder):
            return _relative(frame.filename, folder, frame.lineno)
    return ""


def _relative(filename: str, folder: Path, line: int | None) -> str:
    return f"{(FOLDER / Path(filename).relative_to(folder)).as_posix()}:{line}"


def code_hash(registration: Registration) -> str:
    """A hash of a plugin's code and of what it imports in the folder.

    Comments do not count, nor do names of files.
    """
    folder = current().folder
    digests = code_digests([registration.module], {PACKAGE: folder.parent})
    return hashlib.sha256(json.dumps(list(digests.values())).encode()).hexdigest()


def _read(folder: Path) -> Plugins:
    registrations: dict[tuple[str, str], Registration] = {}
    problems = []
    files = sorted(file for file in folder.glob("*.py") if file.is_file())
    for file in files:
        path = FOLDER / file.name
        if not NAME.fullmatch(file.stem.lstrip("_")):
            problems.append(f"{path}: not a name that Python can import; use letters, digits, _")
            continue
        try:
            found = list(_registrations(path, file.read_bytes()))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            problems.append(f"{path}:{line}: {_named(error)}; {ADVICE}")
            continue

        for entry in found:
            key = entry.kind, entry.name
            if not NAME.fullmatch(entry.name):
                problems.append(_unusable_name(entry))
            elif key in registrations:
                problems.append(taken(entry, f"in {registrations[key].place}"))
            else:
                registrations[key] = entry
    return Plugins(folder, [FOLDER / file.name for file in files], registrations, problems)


def taken(entry: Registration, where: str) -> str:
    """The line for a name that is registered already, in this package or in another plugin."""
    return (
        f"{entry.place}: {entry.kind} {entry.name!r} is registered already, {where}; "
        "choose another name"
    )


def _unusable_name(entry: Registration) -> str:
    if not entry.name:
        return (
            f"{entry.place}: the first argument must be the name, as a string: it is read without "
            "running the file"
        )
    return (
        f"{entry.place}: {entry.name!r} cannot be the name of a {entry.kind}; "
        "use letters, digits and _, and begin with a letter"
    )


def _registrations(path: Path, text: bytes) -> Iterator[Registration]:
    """The registrations in the text of a plugin, in order; with an empty name if it has none."""
    tree = ast.parse(text)
    definitions: dict[ast.AST, ast.AST] = {}
    calls = []
    for node in ast.walk(tree):
        for decorator in getattr(node, "decorator_list", []):
            definitions[decorator] = node
        if isinstance(node, ast.Call) and _table_of(node.func) in _KINDS:
            calls.append(node)

    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        name = ""
        if call.args and isinstance(call.args[0], ast.Constant):
            name = str(call.args[0].value)
        entry = call.args[1] if len(call.args) > 1 else None
        kind = _KINDS[_table_of(call.func)]
        yield Registration(kind, name, path, call.lineno, entry, definitions.get(call))


def _table_of(function: ast.expr) -> str:
    """`MODELS` for the function `MODELS.register` or `catalogue.MODELS.register`."""
    if not isinstance(function, ast.Attribute) or function.attr != "register":
        return ""
    if isinstance(function.value, ast.Attribute):
        return function.value.attr
    if isinstance(function.value, ast.Name):
        return function.value.id
    return ""


class _Loader(SourceFileLoader):
    """Compiles the text of the file each time: a cached program may be older than an edit."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _Finder(MetaPathFinder):
    """Finds `plugins` and its modules in the folder alone, whatever else is called so."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, *inner = fullname.split(".")
        if package != PACKAGE:
            return None

        place = current().folder.joinpath(*inner)
        if not inner:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(place)]
            return spec
        for file, locations in (
            (place.with_suffix(".py"), None),
            (place / "__init__.py", [str(place)]),
        ):
            if file.is_file():
                return spec_from_file_location(
                    fullname,
                    file,
                    loader=_Loader(fullname, str(file)),
                    submodule_search_locations=locations,
                )
        return None


_finder = _Finder()
