"""Values in params.yaml, changed so that nothing else in the file changes."""

import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

WRITTEN_NULL = re.compile(r"(?m)^[^#]*: +null\b")


class _Nulls(RoundTripRepresenter):
    """Writes null as `null`, as the shipped file has it, and not as DVC does: as nothing."""

    def represent_none(self, data: None, anchor: object = None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Nulls.add_representer(type(None), _Nulls.represent_none)


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """Return the text of params.yaml with other values; comments and layout stay.

    Of a section, the keys in `values` are set and the others stay.
    """
    yaml = YAML()
    if WRITTEN_NULL.search(text):
        yaml.Representer = _Nulls
    yaml.width = 2**16  # lines break where they did
    yaml.preserve_quotes = True
    content = yaml.load(text)

    for key, value in values.items():
        is_section = isinstance(value, Mapping) and isinstance(content.get(key), dict)
        if is_section:
            _update(content[key], value)
        else:
            _update(content, {key: value})

    stream = StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def _update(section: Any, values: Mapping[str, Any]) -> None:
    """Set the values that differ: setting an equal one could change how it is written."""
    for key, value in values.items():
        if section.get(key) != value:
            section[key] = value
