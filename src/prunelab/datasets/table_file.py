"""Columns of a .tsv or .csv file, read strictly: every problem names its lines."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from pathlib import Path

from prunelab.core.errors import InputError

MAX_FIELD_LETTERS = 2**31 - 1  # a text may be a whole book
MAX_HEADER_LETTERS = 2**20
MAX_NAMED_LINES = 5
QUOTES_HINT = "if quotes enclose its fields, let its name end with .csv"


@dataclass(frozen=True)
class Table:
    """The texts of a file and their labels, in order. `is_quoted`: quotes may enclose fields."""

    texts: list[str]
    labels: list[str]
    is_quoted: bool


@dataclass(frozen=True)
class _Format:
    separator: str
    is_quoted: bool = True


# How fields may be separated, the most likely way first. A file has the first format in which its
# header names both columns.
_PLAIN_TSV = _Format("\t", is_quoted=False)
_FORMATS = {
    ".tsv": (_PLAIN_TSV, _Format("\t"), _Format(","), _Format(";")),
    ".csv": (_Format(","), _Format(";"), _Format("\t")),
}
# What Excel may write as the first line, to say how fields are separated.
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?(?=\r|\n)')


@dataclass(frozen=True)
class _Row:
    first_line: int
    line: int  # the last one
    fields: list[str]


@dataclass(frozen=True)
class _Rows:
    """All rows below the header, in one format."""

    format: _Format
    header: list[str]
    rows: list[_Row]

    def uneven(self) -> list[_Row]:
        return [row for row in self.rows if len(row.fields) != len(self.header)]

    def has_plain_quotes(self) -> bool:
        """Whether a field begins with a quote that is a character like any other."""
        if self.format.is_quoted:
            return False
        return any(field.startswith('"') for row in self.rows for field in row.fields)


def read_table(
    path: Path, *, text_column: str, label_column: str, is_quoted: bool = False
) -> Table:
    """Read two columns of a table in UTF-8.

    Fields are separated by tabs, commas or semicolons: by what gives a header with both columns,
    where the ending of the file's name decides what is tried first. Empty lines are skipped. Space
    around texts and labels is dropped.

    A quote may enclose a field. In a .tsv with tabs it is a character like any other instead,
    unless this leaves rows without the fields of the header, or `is_quoted` is true.

    Raises:
        InputError: if a column is missing, or with the numbers of the lines that are not UTF-8,
            have too few or too many fields, or have no text or label.
    """
    columns = read_columns(
        TableFile(path, "data.source"),
        [
            Column("data.text_column", text_column, "text"),
            Column("data.label_column", label_column, "label"),
        ],
        is_quoted=is_quoted,
    )
    if columns.problems:
        raise InputError(columns.problems)
    return Table(columns.values["text"], columns.values["label"], columns.is_quoted)


@dataclass(frozen=True)
class TableFile:
    """A table, and the parameter that names it, for messages."""

    path: Path
    key: str

    def __str__(self) -> str:
        return f"{self.key}: {self.path}"


@dataclass(frozen=True)
class Column:
    """A column to read.

    Args:
        key: the parameter that names it
        name: its name in the header
        content: what its fields are, in a word
        required: whether the table must have it, with a value in every row
    """

    key: str
    name: str
    content: str
    required: bool = True


@dataclass(frozen=True)
class Columns:
    """The fields of some columns in order, by their content, and the number of each row's line.

    `is_quoted`: quotes may enclose fields. Optional columns that the table does not have are
    absent, and so are the rows that `problems` name: those with too few or too many fields, or
    with an empty one.
    """

    values: dict[str, list[str]]
    lines: list[int]
    is_quoted: bool
    problems: list[str]


def read_columns(file: TableFile, columns: Sequence[Column], *, is_quoted: bool = False) -> Columns:
    """Read columns of a table in UTF-8, in the formats that `read_table` describes.

    Raises:
        InputError: if a required column is missing, if two are the same, or if the file is no
            table in UTF-8.
    """
    _check_distinct(columns)
    required = [column.name for column in columns if column.required]
    table = _read_rows(file, required, is_quoted=is_quoted)

    indices = {}
    for column in columns:
        if column.required or column.name in table.header:
            indices[column] = _column_index(file, table.header, column.key, column.name)

    values: dict[str, list[str]] = {column.content: [] for column in indices}
    empty: dict[Column, list[str]] = {column: [] for column in indices}
    lines, uneven = [], []
    for row in table.rows:
        if len(row.fields) != len(table.header):
            uneven.append(f"{row.line} ({len(row.fields)})")
            continue

        fields = {column: row.fields[index].strip() for column, index in indices.items()}
        for column, value in fields.items():
            if not value:
                empty[column].append(str(row.line))
        if all(fields.values()):
            lines.append(row.line)
            for column, value in fields.items():
                values[column.content].append(value)

    problem = f"do not have the {len(table.header)} fields of the header"
    problems = row_problem(file, uneven, problem)
    for column, empty_lines in empty.items():
        problem = f"have no {column.content} in column {column.name}"
        problems += row_problem(file, empty_lines, problem)
    if uneven and table.has_plain_quotes():
        problems.append(f"{file} has quotes; {QUOTES_HINT}")
    return Columns(values, lines, table.format.is_quoted, problems)


def read_header(path: Path) -> list[str]:
    """The names of a table's columns, in the format that gives the most of them.

    Raises:
        InputError: if it is no table.
    """
    file = TableFile(path, "table")
    return _read_rows(file, [""], is_quoted=False).header


def sorted_labels(labels: set[str]) -> list[str]:
    """The labels in the order of their numbers: by value if all are integers, or else by text."""
    try:
        # By text too, because 1 and 01 are two labels.
        return sorted(labels, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(labels)


def _check_distinct(columns: Sequence[Column]) -> None:
    for first, second in combinations(columns, 2):
        if first.name == second.name:
            raise InputError(
                f"{first.key} and {second.key} are both {first.name!r}. "
                "Set them to two different columns."
            )


def _read_rows(file: TableFile, columns: Sequence[str], *, is_quoted: bool) -> _Rows:
    """All rows, in the format that fits."""
    content = _decoded(file)
    formats = _FORMATS.get(file.path.suffix, _FORMATS[".csv"])
    if is_quoted:
        formats = tuple(format_ for format_ in formats if format_.is_quoted)

    separator_line = _SEPARATOR_LINE.match(content)
    if separator_line:
        formats = (_Format(separator_line[1]),)
        content = content[separator_line.end() :]  # an empty line is left, so that numbers stay

    format_ = _detect(content, formats, columns)
    table = _all_rows(file, content, format_, needed=" and ".join(columns))
    if format_ == _PLAIN_TSV and table.uneven():
        return _with_quotes(file, content, table)
    return table


def _numbered_rows(content: str, format_: _Format) -> Iterator[_Row]:
    """All rows that are not empty.

    Raises:
        InputError: for a row that is not of this format.
    """
    csv.field_size_limit(MAX_FIELD_LETTERS)
    lines = StringIO(content, newline="")
    if format_.is_quoted:
        reader = csv.reader(lines, delimiter=format_.separator, strict=True)
    else:
        reader = csv.reader(lines, delimiter=format_.separator, quoting=csv.QUOTE_NONE, strict=True)

    previous_line = 0
    try:
        for fields in reader:
            if fields:
                yield _Row(previous_line + 1, reader.line_num, fields)
            previous_line = reader.line_num
    except csv.Error as error:
        raise InputError(f"line {reader.line_num}: {error}") from None


def _detect(content: str, formats: Sequence[_Format], columns: Sequence[str]) -> _Format:
    """The first format whose header has the columns; otherwise the one with the longest header."""
    longest, most_fields = formats[0], 0
    for format_ in formats:
        header = _header(content, format_)
        if all(header.count(column) == 1 for column in columns):
            return format_
        if len(header) > most_fields:
            longest, most_fields = format_, len(header)
    return longest


def _header(content: str, format_: _Format) -> list[str]:
    """The fields of the first row; none if it is not of this format."""
    with suppress(InputError):
        for row in _numbered_rows(content[:MAX_HEADER_LETTERS], format_):
            return row.fields
    return []


def _all_rows(file: TableFile, content: str, format_: _Format, needed: str) -> _Rows:
    try:
        rows = list(_numbered_rows(content, format_))
    except InputError as error:
        raise InputError(f"{file}, {line}" for line in error.problems) from None

    if len(rows) < 2:
        problem = f"{file} has no rows below a header"
        if needed:
            problem += f". It needs the columns {needed}."
        raise InputError(problem)
    return _Rows(format_, rows[0].fields, rows[1:])


def _with_quotes(file: TableFile, content: str, plain: _Rows) -> _Rows:
    """The rows of a .tsv with quotes that enclose fields, if this explains its uneven rows.

    Otherwise they are `plain`.
    """
    try:
        quoted = _all_rows(file, content, _Format("\t"), needed="")
    except InputError:
        return plain
    if quoted.header != plain.header or len(quoted.uneven()) >= len(plain.uneven()):
        return plain

    # Two stray quotes may seem to enclose everything between them, whole rows too.
    whole_rows = {row.line for row in plain.rows if len(row.fields) == len(plain.header)}
    for row in quoted.rows:
        if not whole_rows.isdisjoint(range(row.first_line + 1, row.line)):
            return plain
    return quoted


def _column_index(file: TableFile, header: list[str], key: str, name: str) -> int:
    """Where the column `name` is, which the parameter `key` asks for."""
    if header.count(name) == 1:
        return header.index(name)

    problem = "more than one column" if name in header else "no column"
    hint = ""
    if len(header) == 1:
        hint = "; fields are separated by tabs, commas or semicolons"
    columns = ", ".join(map(repr, header))
    raise InputError(f"{key}: {file.path} has {problem} {name!r}; its columns: {columns}{hint}")


def row_problem(file: TableFile, lines: list[str], problem: str) -> list[str]:
    """At most one line, which says that rows have a problem and where they are."""
    if not lines:
        return []

    listed = ", ".join(lines[:MAX_NAMED_LINES])
    if len(lines) > MAX_NAMED_LINES:
        listed += ", ..."
    return [f"{file}: {len(lines)} rows {problem}: line {listed}"]


def _decoded(file: TableFile) -> str:
    """The text of a file in UTF-8, without a byte order mark."""
    content = file.path.read_bytes()

    nul = content.find(b"\0")
    if nul >= 0:
        raise InputError(
            f"{file}, line {_line_of(content, nul)}: byte 0x00 at {nul} is not text. "
            "Is the file in UTF-16?"
        )

    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise InputError(
            f"{file}, line {_line_of(content, error.start)}: "
            f"byte 0x{byte:02x} at {error.start} is not UTF-8"
        ) from None


def _line_of(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1
