"""Two columns of a .tsv or .csv file, read strictly: what is wrong is named by line."""

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from prunelab.core.errors import InputError


@dataclass(frozen=True)
class Table:
    """The texts of a file and their labels, in order."""

    texts: list[str]
    labels: list[str]


def read_table(path: Path, *, text_column: str, label_column: str) -> Table:
    """Read two columns of a table in UTF-8; empty lines are skipped, space around labels and texts is dropped.

    Raises:
        InputError: naming the lines that are not UTF-8, lack a field, or have no text or label; or the columns found.
    """
    if text_column == label_column:
        raise InputError(
            f"data.text_column and data.label_column are both {text_column!r}; they must be two columns"
        )
    csv.field_size_limit(2**31 - 1)  # a text may be a book
    rows = csv.reader(
        StringIO(_decoded(path), newline=""),
        delimiter="\t" if path.suffix == ".tsv" else ",",
        quoting=csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    lines: list[tuple[int, list[str]]] = []
    try:
        lines += [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise InputError(f"data.source: {path}, line {rows.line_num}: {error}") from None
    if len(lines) < 2:
        raise InputError(
            f"data.source: {path} has no rows below a header; needed: {label_column} and {text_column}"
        )
    (_, header), *body = lines
    text, label = (
        _column(path, header, key, name) for key, name in _keys(text_column, label_column)
    )
    problems = _bad_rows(
        path,
        f"another number of fields than the {len(header)} of the header",
        [f"{line} ({len(row)})" for line, row in body if len(row) != len(header)],
    )
    whole = [
        (line, row[text].strip(), row[label].strip())
        for line, row in body
        if len(row) == len(header)
    ]
    problems += _bad_rows(
        path, f"no text in column {text_column}", [str(line) for line, said, _ in whole if not said]
    )
    problems += _bad_rows(
        path,
        f"no label in column {label_column}",
        [str(line) for line, _, name in whole if not name],
    )
    if problems:
        raise InputError(problems)
    return Table([said for _, said, _ in whole], [name for *_, name in whole])


def _keys(text_column: str, label_column: str) -> list[tuple[str, str]]:
    return [("data.text_column", text_column), ("data.label_column", label_column)]


def _column(path: Path, header: list[str], key: str, name: str) -> int:
    if header.count(name) != 1:
        what = "no column" if name not in header else "more than one column"
        hint = (
            "; fields of a .tsv are separated by tabs"
            if path.suffix == ".tsv" and len(header) == 1
            else ""
        )
        raise InputError(
            f"{key}: {path} has {what} {name!r}; its columns: {', '.join(map(repr, header))}{hint}"
        )
    return header.index(name)


def _bad_rows(path: Path, what: str, lines: list[str]) -> list[str]:
    more = ", ..." if len(lines) > 5 else ""
    return (
        [f"data.source: {path}: {len(lines)} rows have {what}: line {', '.join(lines[:5])}{more}"]
        if lines
        else []
    )


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if (nul := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, nul) + 1
        raise InputError(
            f"data.source: {path}, line {line}: byte 0x00 at {nul} is no text; is the file in UTF-16?"
        )
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(
            f"data.source: {path}, line {line}: byte 0x{byte:02x} at {error.start} is not UTF-8"
        ) from None
