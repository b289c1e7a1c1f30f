"""YAML from anybody: it becomes plain values or is refused, and it cannot fill the memory."""

import warnings
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode

from prunelab.core.errors import InputError
from prunelab.core.text import truncate

MAX_MERGED_KEYS = 10_000
MAX_ENTRIES = 1_000_000
MAX_ERROR_LENGTH = 600  # characters of the YAML library's message
# What the library raises for a value that its tag does not allow (!!bool x, 2001-13-45, !!int ''),
# or for a number with more digits than Python converts.
BAD_VALUE_ERRORS = (ValueError, LookupError, TypeError, OverflowError)


class _BoundedConstructor(SafeConstructor):
    """Limits merge keys: they copy what they name, so a page of them could fill any memory."""

    def flatten_mapping(self, node: MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED_KEYS:
            raise ConstructorError(
                None,
                None,
                f"merge keys make a mapping of more than {MAX_MERGED_KEYS:,} keys",
                node.start_mark,
            )


def parse_yaml(source: Path | str | bytes, *, fast: bool = False) -> Any:
    """The content of a YAML file (a Path) or text.

    `fast` uses the C parser, for long files that a program wrote.

    Raises:
        InputError: if it is not YAML, is nested too deeply or within itself, or if its anchors
            stand for too many entries.
        OSError: if the file cannot be read.
    """
    yaml = YAML(typ="safe", pure=not fast)
    yaml.Constructor = _BoundedConstructor

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # YAML allows it
            content = yaml.load(source)
        entries = _count_entries(content, {})
    except RecursionError:
        raise InputError("cannot be read as YAML: nested too deeply") from None
    except (YAMLError, *BAD_VALUE_ERRORS) as error:
        message = truncate(" ".join(str(error).split()), MAX_ERROR_LENGTH)
        raise InputError(f"cannot be read as YAML: {message}") from None

    if entries > MAX_ENTRIES:
        raise InputError(
            f"cannot be read as YAML: its anchors make more than {MAX_ENTRIES:,} entries of it"
        )
    return content


def _count_entries(value: object, counts: dict[int, int]) -> int:
    """How many values a program that walks through `value` meets.

    A value behind an anchor counts each time it is named. `counts` holds the lists and mappings
    counted so far, by their id.
    """
    if isinstance(value, dict):
        children = list(value.values())
    elif isinstance(value, list):
        children = value
    else:
        return 1

    if id(value) not in counts:
        # If the value contains itself, the walk would never end.
        counts[id(value)] = MAX_ENTRIES + 1
        counts[id(value)] = 1 + sum(_count_entries(child, counts) for child in children)
    return counts[id(value)]
