"""What a module's results depend on in this package: the files that it imports, as digests.

Nothing is imported here; the text of the files is read.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def code_digests(module: str, source: Path, untracked: frozenset[str]) -> dict[str, str]:
    """Return a digest of every file that importing a module may run, by path below `source`.

    Imports within functions count, and so do references of the form "package.module:name".
    `source` is the folder that holds the package of `module`. Left out are the package's own
    `__init__`, its sub-packages `untracked`, and what only these import. A digest stays the same
    if only comments, docstrings or blank lines change. Files beside the modules that are not
    Python count with all their bytes.
    """
    digests = {}
    for file in _imported_files(module, source, untracked):
        path = file.relative_to(source).as_posix()
        digests[path] = _digest(file)

        if file.name == "__init__.py":
            for data_file in _data_files(file.parent):
                path = data_file.relative_to(source).as_posix()
                digests[path] = hashlib.sha256(data_file.read_bytes()).hexdigest()
    return dict(sorted(digests.items()))


def _imported_files(module: str, source: Path, untracked: frozenset[str]) -> set[Path]:
    files = set()
    queue = [module]
    while queue:
        package, *inner = queue.pop().split(".")
        if not inner or inner[0] in untracked:
            continue
        file = _file(source.joinpath(package, *inner))
        if file is None or file in files:
            continue

        files.add(file)
        queue.append(".".join([package, *inner[:-1]]))  # a module's package runs before it
        queue += _modules_named(file, package)
    return files


def _file(path: Path) -> Path | None:
    """The file of a module, given as a path without suffix, if there is one."""
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def _modules_named(file: Path, package: str) -> frozenset[str]:
    """The modules of a package that a file imports or refers to. Some may not exist."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
            # In `from a import b`, b is a module or a name in one.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            reference, colon, _ = node.value.partition(":")
            if colon:
                names.add(reference)
    return frozenset(name for name in names if name.split(".")[0] == package)


@cache
def _digest(file: Path) -> str:
    return hashlib.sha256(code_text(file.read_text(encoding="utf-8")).encode()).hexdigest()


def code_text(text: str) -> str:
    """Return Python code without its comments, docstrings, blank lines and spaces at line ends.

    Strings keep theirs. Only positions in the text are used, so that every version of Python
    returns the same.
    """
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]

    tree = ast.parse(text)
    kept = _lines_of_strings(tree)
    for docstring in _docstrings(tree):
        rows = range(docstring.lineno - 1, docstring.end_lineno or docstring.lineno)
        # A docstring on the line of its `def` stays: the line holds code as well.
        if lines[rows[0]].lstrip().startswith(('"', "'", 'r"', "r'")):
            kept.difference_update(rows)
            for row in rows:
                lines[row] = ""

    code = []
    for row, line in enumerate(lines):
        if row in kept:
            code.append(line)
        elif line.strip():
            code.append(line.rstrip())
    return "\n".join(code)


def _lines_of_strings(tree: ast.Module) -> set[int]:
    """The lines, counted from 0, of strings that take more than one."""
    rows: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        end = node.end_lineno or node.lineno
        if end > node.lineno:
            rows.update(range(node.lineno - 1, end))
    return rows


def _docstrings(tree: ast.Module) -> Iterator[ast.Expr]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            yield first


def _data_files(folder: Path) -> list[Path]:
    files = []
    for path in folder.iterdir():
        if path.is_file() and path.suffix not in (".py", ".pyc", ".partial"):
            files.append(path)
    return files
