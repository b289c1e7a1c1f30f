"""What came out of repeating a commit: which outputs are the same, and whether those that are not were to be."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunelab.commands.verify.diff import differences
from prunelab.commands.verify.rerun import Outputs
from prunelab.project.environments import noted_environments
from prunelab.project.revisions import flatten
from prunelab.project.trees import Tree

SHOWN = 12  # lines about one output


@dataclass(frozen=True)
class Compared:
    """Paths of outputs that two runs both have, by whether they are the same, and those that only one has."""

    same: list[str]
    differing: list[str]
    missing: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not self.differing and not self.missing

    def told(self) -> str:
        total = len(self.same) + len(self.differing) + len(self.missing)
        lacking = f", {len(self.missing)} are in one alone" if self.missing else ""
        return f"{len(self.same)} of {total} outputs are the same to the bit{lacking}"


def compared(one: Outputs, other: Outputs) -> Compared:
    """Hold the hashes of two runs against each other."""
    both = sorted(one.keys() & other.keys())
    return Compared(
        same=[path for path in both if one[path] == other[path]],
        differing=[path for path in both if one[path] != other[path]],
        missing=sorted(one.keys() ^ other.keys()),
    )


def explained(found: Compared, one: Path, other: Path) -> Iterator[str]:
    """What differs between the outputs in two folders, down to the tensor."""
    for path in [*found.differing, *found.missing]:
        if path in found.differing and not (one / path).exists():
            lines = [
                "the committed one is not in DVC's cache, so what differs in it cannot be told"
            ]
        else:
            lines = list(differences(one / path, other / path))
        yield path
        yield from (f"  {line}" for line in lines[:SHOWN])
        if len(lines) > SHOWN:
            yield f"  ... and {len(lines) - SHOWN} more"


def elsewhere(tree: Tree, here: Mapping[str, Any]) -> dict[str, str] | None:
    """What the committed results were made on and is not so here, by key; None where none of them says on what."""
    known = [environment for environment in noted_environments(tree).values() if environment]
    if not known:
        return None
    now = flatten(here)
    found: dict[str, str] = {}
    for key in sorted({*now, *(key for environment in known for key in environment)}):
        values = sorted({str(environment.get(key, "nothing")) for environment in known})
        if values != [str(now.get(key, "nothing"))]:
            found[key] = f"{' or '.join(values)}, here {now.get(key, 'nothing')}"
    return found
