"""What came out of repeating a commit: which outputs are the same, and how the others differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunelab.commands.verify.diff import differences
from prunelab.commands.verify.rerun import Outputs
from prunelab.core.mappings import flatten
from prunelab.project.environments import read_environments
from prunelab.project.trees import Tree
from prunelab.runtime.device import decisive

MAX_LINES = 12  # about one output


@dataclass(frozen=True)
class OutputComparison:
    """The paths of two runs' outputs: the same, differing, or missing in one of the runs."""

    same: list[str]
    differing: list[str]
    missing: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether both runs have the same outputs, to the bit."""
        return not self.differing and not self.missing

    def describe(self) -> str:
        """One line with the counts."""
        total = len(self.same) + len(self.differing) + len(self.missing)
        line = f"{len(self.same)} of {total} outputs are the same to the bit"
        if self.missing:
            line += f", {len(self.missing)} are missing in one of the two"
        return line


def compare_outputs(first: Outputs, second: Outputs) -> OutputComparison:
    """Compare the hashes of two runs."""
    in_both = sorted(first.keys() & second.keys())
    return OutputComparison(
        same=[path for path in in_both if first[path] == second[path]],
        differing=[path for path in in_both if first[path] != second[path]],
        missing=sorted(first.keys() ^ second.keys()),
    )


def explain(comparison: OutputComparison, first: Path, second: Path) -> Iterator[str]:
    """Lines on what differs between the outputs in two folders, down to the tensor."""
    for path in [*comparison.differing, *comparison.missing]:
        yield path

        lines = list(differences(first / path, second / path))
        if path in comparison.differing and not (first / path).exists():
            lines = ["the committed file is not in DVC's cache, so it cannot be compared"]

        for line in lines[:MAX_LINES]:
            yield f"  {line}"
        if len(lines) > MAX_LINES:
            yield f"  ... and {len(lines) - MAX_LINES} more"


def other_environment(tree: Tree, here: Mapping[str, Any]) -> dict[str, str] | None:
    """How the environment of the committed results differs from the one here, by dotted key.

    What bits do not depend on is left out. Empty if nothing is left; None if no committed result
    records its environment.
    """
    recorded = [environment for environment in read_environments(tree).values() if environment]
    if not recorded:
        return None

    current = flatten(here)
    if all(decisive(environment) == decisive(current) for environment in recorded):
        return {}

    keys = set(current).union(*recorded)
    differing: dict[str, str] = {}
    for key in sorted(keys):
        value_here = str(current.get(key, "nothing"))
        values = sorted({str(environment.get(key, "nothing")) for environment in recorded})
        if values != [value_here]:
            differing[key] = f"{' or '.join(values)}, here {value_here}"
    return differing
