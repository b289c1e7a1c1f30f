"""Docstrings of this package's functions, read from the text of its files: nothing is imported."""

import ast
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

SOURCE = Path(__file__).parents[2]


def docstring_of(reference: str) -> str:
    """The docstring of `module:function`, or of a class; empty if it has none.

    Both must be of this package.
    """
    module, _, name = reference.partition(":")
    for node in _parse(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or ""
    return ""


def table_references(module: str, table: str) -> Mapping[str, str]:
    """Where the functions of a table are, as `module:function` by name.

    `table` is the name of a dictionary in the module whose values are functions, calls of
    functions, or calls of `partial`.
    """
    tree = _parse(module)
    imported = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}:{alias.name}"

    references = {}
    for key, value in _entries(tree, table):
        function = _function_in(value)
        if function:
            references[key] = imported.get(function, f"{module}:{function}")
    return references


def _entries(tree: ast.Module, table: str) -> list[tuple[str, ast.expr]]:
    for node in tree.body:
        target: ast.expr | None = None
        if isinstance(node, ast.AnnAssign):
            target = node.target
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
        if not isinstance(target, ast.Name) or target.id != table:
            continue
        assert isinstance(node, ast.AnnAssign | ast.Assign)
        assert isinstance(node.value, ast.Dict)
        pairs = zip(node.value.keys, node.value.values, strict=True)
        return [(str(ast.literal_eval(key)), value) for key, value in pairs if key is not None]
    raise KeyError(f"{table} is no dictionary of that module")


def _function_in(value: ast.expr) -> str:
    if isinstance(value, ast.Call):
        function = value.func
        is_partial = isinstance(function, ast.Name) and function.id == "partial"
        value = value.args[0] if is_partial else function
    return value.id if isinstance(value, ast.Name) else ""


@lru_cache
def _parse(module: str) -> ast.Module:
    path = SOURCE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_bytes())
