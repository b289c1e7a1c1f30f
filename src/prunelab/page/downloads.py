"""The data behind the pictures, as CSV files that the page carries within itself."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes texts that begin so


@dataclass(frozen=True)
class Download:
    """A CSV file by its name."""

    name: str
    text: str


def download(name: str, rows: Sequence[Row]) -> Download:
    """Rows as CSV, with a column for every key of any row that holds a number or a text.

    A list becomes one cell. A text that a spreadsheet would take for a formula gets an apostrophe.
    """
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(key, "")) for key in columns])
    return Download(f"{name}.csv", file.getvalue())


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, str) and value.startswith(FORMULAS):
        return f"'{value}"
    return value
