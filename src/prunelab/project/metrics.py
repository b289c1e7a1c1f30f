"""All metrics of a configuration, out of the files of any revision: headline and details."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError
from prunelab.core.files import parse_json
from prunelab.core.metrics_files import details_file, join_metrics

# Returns the text of a file of a revision; raises OSError or InputError if there is no such file.
ReadText = Callable[[Path], str]


def read_metrics(path: Path, read: ReadText) -> dict[str, Any]:
    """Return all metrics of a configuration; those of its metrics file if there are no details.

    Raises:
        InputError: if the metrics file is missing, or if a file is no JSON mapping.
        OSError: if the metrics file is missing in a working tree.
    """
    headline = parse_mapping(path, read(path), parse_json)

    details_path = details_file(path)
    details = read_if_present(details_path, read)
    if not details:
        return headline
    return join_metrics(headline, parse_mapping(details_path, details, parse_json))


def read_if_present(path: Path, read: ReadText) -> str:
    """Return the text of a file, empty if there is no such file."""
    try:
        return read(path)
    except (InputError, OSError):
        return ""


def parse_mapping(
    path: Path | str, text: str | bytes, parse: Callable[[Any], Any]
) -> dict[str, Any]:
    """Parse the content of a file, which must be a mapping.

    Raises:
        InputError: with the path, if `parse` refuses the content, or if it is no mapping.
    """
    try:
        content = parse(text)
    except InputError as error:
        raise InputError(f"{path} {error}") from None

    if not isinstance(content, dict):
        raise InputError(f"{path} is not a mapping")
    return content
