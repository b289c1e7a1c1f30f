"""What a module's results depend on in packages of ours: the files that it imports, as digests.

Nothing is imported here; the text of the files is read.
"""

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType


def code_digests(
    modules: Iterable[str],
    roots: Mapping[str, Path],
    untracked: Collection[str] = (),
    vocabulary: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> dict[str, str]:
    """Return a digest of every file that importing modules may run, by path below its root.

    Imports within functions count, and so do references of the form "package.module:name". Left out
    are a package's own `__init__`, the sub-packages `untracked`, and what only these import. A
    digest stays the same if only comments, docstrings or blank lines change. Files beside the
    modules of a package that are not Python count with all their bytes, but for texts in Markdown.

    Args:
        modules: dotted names.
        roots: by package, the folder that it is in. Other packages do not count.
        untracked: dotted names of sub-packages.
        vocabulary: by module, names that another package may import without depending on it.
    """
    digests = {}
    for package, file in _imported_files(modules, roots, untracked, vocabulary):
        root = roots[package]
        digests[file.relative_to(root).as_posix()] = _digest(_text(file))

        # A folder of plugins is a package without an `__init__`.
        if file.name == "__init__.py" or file.parent == root / package:
            for data_file in _data_files(file.parent):
                path = data_file.relative_to(root).as_posix()
                digests[path] = hashlib.sha256(data_file.read_bytes()).hexdigest()
    return dict(sorted(digests.items()))


def _imported_files(
    modules: Iterable[str],
    roots: Mapping[str, Path],
    untracked: Collection[str],
    vocabulary: Mapping[str, Collection[str]],
) -> set[tuple[str, Path]]:
    files = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        package, *inner = name.split(".")
        if package not in roots or not inner or ".".join([package, inner[0]]) in untracked:
            continue
        file = _file(roots[package], name)
        if file is None or (package, file) in files:
            continue

        files.add((package, file))
        queue.append(".".join([package, *inner[:-1]]))  # a module's package runs before it
        parents = [package, *inner]
        if file.name != "__init__.py":
            parents.pop()
        for imported in _imports(_text(file)):
            queue += imported.modules(parents, vocabulary)
    return files


@cache
def _file(root: Path, module: str) -> Path | None:
    """The file of a module, given by its dotted name, if there is one."""
    path = root.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@dataclass(frozen=True)
class _Import:
    """`import module`, or `from module import names` with `level` leading dots."""

    module: str
    names: tuple[str, ...] = ()
    level: int = 0

    def modules(self, parents: list[str], vocabulary: Mapping[str, Collection[str]]) -> list[str]:
        """The modules that may run, given the packages around the file. Some may not exist."""
        module = self.module
        if self.level:
            above = parents[: len(parents) - self.level + 1]
            module = ".".join([*above, *filter(None, [module])])

        is_foreign = module.split(".")[0] != parents[0]
        if is_foreign and self.names and set(self.names) <= set(vocabulary.get(module, ())):
            return []
        # In `from a import b`, b is a module or a name in one.
        return [module, *(f"{module}.{name}" for name in self.names)]


# The nodes that matter here: what imports, what may have a docstring, and strings.
_IMPORTS = (ast.Import, ast.ImportFrom)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_STRINGS = (ast.Constant, ast.JoinedStr)


@cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@cache
def _nodes(text: str) -> tuple[ast.AST, ...]:
    """The nodes of the syntax tree of a text that are of a kind named above."""
    nodes = ast.walk(ast.parse(text))
    return tuple(node for node in nodes if isinstance(node, _IMPORTS + _DOCUMENTED + _STRINGS))


@cache
def _imports(text: str) -> tuple[_Import, ...]:
    """What the text of a module imports or refers to."""
    imports = []
    for node in _nodes(text):
        if isinstance(node, ast.Import):
            imports += [_Import(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            imports.append(_Import(node.module or "", names, node.level))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            reference, colon, _ = node.value.partition(":")
            if colon and re.fullmatch(r"\w+(\.\w+)+", reference):
                imports.append(_Import(reference))
    return tuple(imports)


def folder_digest(folder: Path) -> str:
    """A hash of all Python files below a folder; of nothing if there is no such folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _digest(text: str) -> str:
    return hashlib.sha256(code_text(text).encode()).hexdigest()


def forget_files() -> None:
    """Read files again next time, even if they were read before."""
    _file.cache_clear()
    _text.cache_clear()


def code_text(text: str) -> str:
    """Return Python code without its comments, docstrings, blank lines and spaces at line ends.

    Strings keep theirs. Only positions in the text are used, so that every version of Python
    returns the same.
    """
    lines = text.split("\n")
    nodes = _nodes(text)
    for row, column in _comments(text, nodes):
        lines[row] = lines[row][:column]

    kept = _lines_of_strings(nodes)
    for docstring in _docstrings(nodes):
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


def _comments(text: str, nodes: Iterable[ast.AST]) -> list[tuple[int, int]]:
    """Where comments begin: row and column, counted from 0.

    A `#` outside all strings begins one. To look at the tokens, which takes far longer than all
    else here, is needed only if a line has its first `#` within a string, or within one that goes
    on behind a comment.
    """
    spans = []
    for node in nodes:
        if isinstance(node, _STRINGS):
            end = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
            spans.append(((node.lineno, node.col_offset), end))

    comments = []
    for row, line in enumerate(text.split("\n")):
        column = line.find("#")
        if column < 0:
            continue

        place = (row + 1, len(line[:column].encode()))
        if any(start <= place < end for start, end in spans):
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            starts = [token.start for token in tokens if token.type == tokenize.COMMENT]
            return [(line_number - 1, column) for line_number, column in starts]
        comments.append((row, column))
    return comments


def _lines_of_strings(nodes: Iterable[ast.AST]) -> set[int]:
    """The lines, counted from 0, of strings that take more than one."""
    rows: set[int] = set()
    for node in nodes:
        if not isinstance(node, _STRINGS):
            continue
        end = node.end_lineno or node.lineno
        if end > node.lineno:
            rows.update(range(node.lineno - 1, end))
    return rows


def _docstrings(nodes: Iterable[ast.AST]) -> Iterator[ast.Expr]:
    for node in nodes:
        if not isinstance(node, _DOCUMENTED):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            yield first


def _data_files(folder: Path) -> list[Path]:
    files = []
    for path in folder.iterdir():
        if path.is_file() and path.suffix not in (".py", ".pyc", ".partial", ".md"):
            files.append(path)
    return files
