"""`prune.layer_ratios` in params.yaml, written so that nothing else in the file changes."""

from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from prunelab.core.files import replacing


class _Nulls(RoundTripRepresenter):
    """Writes null as `null`, as the file has it, and not as an empty value."""

    def represent_none(self, data: None, anchor: object = None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Nulls.add_representer(type(None), _Nulls.represent_none)


def write_layer_ratios(path: Path, ratios: Mapping[str, float]) -> None:
    """Replace `prune.layer_ratios`, one line per layer; comments and layout stay."""
    yaml = YAML()
    yaml.Representer = _Nulls
    yaml.width = 2**16  # lines break where they did
    yaml.preserve_quotes = True

    content = yaml.load(path)
    content["prune"]["layer_ratios"] = CommentedMap(ratios)
    with replacing(path) as partial:
        yaml.dump(content, partial)
