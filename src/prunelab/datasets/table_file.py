"""Two columns of a .tsv or .csv file, read strictly: every problem names its lines."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
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
            lack a field, or have no text or label.
    """
    if text_column == label_column:
        raise InputError(
            f"data.text_column and data.label_column are both {text_column!r}. "
            "Set them to two different columns."
        )

    table = _read_rows(path, [label_column, text_column], is_quoted=is_quoted)
    text_index = _column_index(path, table.header, "data.text_column", text_column)
    label_index = _column_index(path, table.header, "data.label_column", label_column)

    texts, labels = [], []
    uneven, without_text, without_label = [], [], []
    for row in table.rows:
        if len(row.fields) != len(table.header):
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
        *_row_problem(path, uneven, f"do not have the {len(table.header)} fields of the header"),
        *_row_problem(path, without_text, f"have no text in column {text_column}"),
        *_row_problem(path, without_label, f"have no label in column {label_column}"),
    ]
    if uneven and table.has_plain_quotes():
        problems.append(f"data.source: {path} has quotes; {QUOTES_HINT}")
    if problems:
        raise InputError(problems)
    return Table(texts, labels, table.format.is_quoted)


def _read_rows(path: Path, columns: Sequence[str], *, is_quoted: bool) -> _Rows:
    """All rows, in the format that fits."""
    content = _decoded(path)
    formats = _FORMATS.get(path.suffix, _FORMATS[".csv"])
    if is_quoted:
        formats = tuple(format_ for format_ in formats if format_.is_quoted)

    separator_line = _SEPARATOR_LINE.match(content)
    if separator_line:
        formats = (_Format(separator_line[1]),)
        content = content[separator_line.end() :]  # an empty line is left, so that numbers stay

    format_ = _detect(content, formats, columns)
    table = _all_rows(path, content, format_, needed=" and ".join(columns))
    if format_ == _PLAIN_TSV and table.uneven():
        return _with_quotes(path, content, table)
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


def _all_rows(path: Path, content: str, format_: _Format, needed: str) -> _Rows:
    try:
        rows = list(_numbered_rows(content, format_))
    except InputError as error:
        raise InputError(f"data.source: {path}, {line}" for line in error.problems) from None

    if len(rows) < 2:
        raise InputError(
            f"data.source: {path} has no rows below a header. It needs the columns {needed}."
        )
    return _Rows(format_, rows[0].fields, rows[1:])


def _with_quotes(path: Path, content: str, plain: _Rows) -> _Rows:
    """The rows of a .tsv with quotes that enclose fields, if this explains its uneven rows.

    Otherwise they are `plain`.
    """
    try:
        quoted = _all_rows(path, content, _Format("\t"), needed="")
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


def _column_index(path: Path, header: list[str], key: str, name: str) -> int:
    """Where the column `name` is, which the parameter `key` asks for."""
    if header.count(name) == 1:
        return header.index(name)

    problem = "more than one column" if name in header else "no column"
    hint = ""
    if len(header) == 1:
        hint = "; fields are separated by tabs, commas or semicolons"
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
