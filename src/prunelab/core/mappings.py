"""Nested mappings, as YAML and JSON files have them, with dotted keys."""

from collections.abc import Mapping
from typing import Any


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as dotted keys: `{"a": {"b": 1}}` becomes `{"a.b": 1}`.

    Lists and empty sections are values.
    """
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            values.update(flatten(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


def nested_mapping(content: Any, *keys: str) -> Mapping[str, Any]:
    """Return the mapping under these keys, outermost key first; empty if there is no mapping."""
    for key in keys:
        if not isinstance(content, Mapping):
            return {}
        content = content.get(key)
    if not isinstance(content, Mapping):
        return {}
    return content
