"""Two columns of a .tsv or .csv file, read strictly: every problem names its lines."""

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from prunelab.core.errors import InputError

MAX_FIELD_LETTERS = 2**31 - 1  # a text may be a whole book
MAX_NAMED_LINES = 5


@dataclass(frozen=True)
class Table:
    """The texts of a file and their labels, in order."""

    texts: list[str]
    labels: list[str]


@dataclass(frozen=True)
class _Row:
    line: int  # the number of its last line in the file
    fields: list[str]


def read_table(path: Path, *, text_column: str, label_column: str) -> Table:
    """Read two columns of a table in UTF-8.

    Empty lines are skipped. Space around texts and labels is dropped. A .tsv has no quotes: a quote
    is a character like any other. In a .csv a quote may enclose a field.

    Raises:
        InputError: if a column is missing, or with the numbers of the lines that are not UTF-8,
            lack a field, or have no text or label.
    """
    if text_column == label_column:
        raise InputError(
            f"data.text_column and data.label_column are both {text_column!r}. "
            "Set them to two different columns."
        )

    header, rows = _header_and_rows(path, needed=f"{label_column} and {text_column}")
    text_index = _column_index(path, header, "data.text_column", text_column)
    label_index = _column_index(path, header, "data.label_column", label_column)

    texts, labels = [], []
    uneven, without_text, without_label = [], [], []
    for row in rows:
        if len(row.fields) != len(header):
            uneven.append(f"{row.line} ({len(row.fields)})")
            continue

        text, label = row.fields[text_index].strip(), row.fields[label_index].strip()
        texts.append(text)
        labels.append(label)
        if not text:
            without_text.append(str(row.line))
        if not label:
            without_label.append(str(row.line))

    problems = [
        *_row_problem(path, uneven, f"do not have the {len(header)} fields of the header"),
        *_row_problem(path, without_text, f"have no text in column {text_column}"),
        *_row_problem(path, without_label, f"have no label in column {label_column}"),
    ]
    if problems:
        raise InputError(problems)
    return Table(texts, labels)


def _header_and_rows(path: Path, needed: str) -> tuple[list[str], list[_Row]]:
    csv.field_size_limit(MAX_FIELD_LETTERS)
    text = StringIO(_decoded(path), newline="")
    if path.suffix == ".tsv":
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(text, delimiter=",", quoting=csv.QUOTE_MINIMAL, strict=True)

    rows: list[_Row] = []
    try:
        for fields in reader:
            if fields:
                rows.append(_Row(reader.line_num, fields))
    except csv.Error as error:
        raise InputError(f"data.source: {path}, line {reader.line_num}: {error}") from None

    if len(rows) < 2:
        raise InputError(
            f"data.source: {path} has no rows below a header. It needs the columns {needed}."
        )
    return rows[0].fields, rows[1:]


def _column_index(path: Path, header: list[str], key: str, name: str) -> int:
    """Where the column `name` is, which the parameter `key` asks for."""
    if header.count(name) == 1:
        return header.index(name)

    problem = "more than one column" if name in header else "no column"
    hint = ""
    if path.suffix == ".tsv" and len(header) == 1:
        hint = "; fields of a .tsv are separated by tabs"
    columns = ", ".join(map(repr, header))
    raise InputError(f"{key}: {path} has {problem} {name!r}; its columns: {columns}{hint}")


def _row_problem(path: Path, lines: list[str], problem: str) -> list[str]:
    """At most one line, which says that rows have a problem and where they are."""
    if not lines:
        return []

    listed = ", ".join(lines[:MAX_NAMED_LINES])
    if len(lines) > MAX_NAMED_LINES:
        listed += ", ..."
    return [f"data.source: {path}: {len(lines)} rows {problem}: line {listed}"]


def _decoded(path: Path) -> str:
    """The text of a file in UTF-8, without a byte order mark."""
    content = path.read_bytes()

    nul = content.find(b"\0")
    if nul >= 0:
        raise InputError(
            f"data.source: {path}, line {_line_of(content, nul)}: byte 0x00 at {nul} is not text. "
            "Is the file in UTF-16?"
        )

    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise InputError(
            f"data.source: {path}, line {_line_of(content, error.start)}: "
            f"byte 0x{byte:02x} at {error.start} is not UTF-8"
        ) from None


def _line_of(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1
