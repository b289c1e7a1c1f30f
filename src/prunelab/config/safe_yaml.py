"""YAML and JSON that others wrote: whatever is in it, it becomes plain values or is refused, and fills no memory."""

import warnings
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError

from prunelab.core.errors import InputError
from prunelab.core.text import truncate

KEYS, ENTRIES = 10_000, 1_000_000
MAX_ERROR_LENGTH = 600  # characters of what the YAML library says
# What the libraries raise for a tagged value that is none of its kind (!!bool x, 2001-13-45, !!int ''), or one with
# more digits than Python turns into a number.
NO_VALUE = (ValueError, LookupError, TypeError, OverflowError)


class _Bounded(SafeConstructor):
    """Merge keys copy what they name: a page of them, each of several others, would fill any memory."""

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > KEYS:
            raise ConstructorError(
                None, None, f"merge keys make a mapping of more than {KEYS:,} keys", node.start_mark
            )


def parse_yaml(source: Path | str | bytes, *, fast: bool = False) -> Any:
    """The content of a YAML file or text; `fast` is for long files that a program wrote.

    Raises:
        InputError: if it is no YAML, nested too deeply or within itself, or makes much of little by anchors.
        OSError: if there is no such file.
    """
    yaml = YAML(typ="safe", pure=not fast)
    yaml.Constructor = _Bounded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # YAML allows it
            content = yaml.load(source)
        if _count(content, {}) > ENTRIES:
            raise InputError(
                f"cannot be read as YAML: its anchors make more than {ENTRIES:,} entries of it"
            )
        return content
    except RecursionError:
        raise InputError("cannot be read as YAML: nested too deeply") from None
    except (YAMLError, *NO_VALUE) as error:
        raise InputError(
            f"cannot be read as YAML: {truncate(' '.join(str(error).split()), MAX_ERROR_LENGTH)}"
        ) from None


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are, those behind an anchor as often as they are named, which whoever walks it meets."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = (
            ENTRIES + 1
        )  # what it is while it is counted: nobody would come to the end of it
        known[id(value)] = 1 + sum(
            _count(one, known) for one in (value.values() if isinstance(value, dict) else value)
        )
    return known[id(value)]
