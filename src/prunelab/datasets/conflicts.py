"""Equal images with different labels: which, how many, and whether they are too many."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from prunelab.core.errors import InputError
from prunelab.core.text import MAX_NAMES, name_list
from prunelab.data.dataset import Examples
from prunelab.data.splits import Split
from prunelab.datasets.manifest import Hashes

MAX_SHARE = 0.01  # of all examples, beyond which somebody must decide
MAX_COMPARED_FILES = 50_000  # before anything is decoded; reading more would take minutes
MAX_PAIRS_NAMED = 5


@dataclass(frozen=True)
class Example:
    """An example that is equal to others: its name, which is a path if it is a file, and class."""

    name: str
    label: str


@dataclass(frozen=True)
class Conflicts:
    """Groups of equal examples with at least two labels, of `total` examples in all."""

    groups: Sequence[Sequence[Example]]
    total: int

    @property
    def examples(self) -> int:
        """The number of examples in all groups."""
        return sum(map(len, self.groups))

    @property
    def are_many(self) -> bool:
        """Whether they are more than `MAX_SHARE` of all examples."""
        return self.examples > MAX_SHARE * self.total

    def names(self) -> set[str]:
        """The names of all examples in the groups."""
        return {example.name for group in self.groups for example in group}

    def pairs(self) -> dict[tuple[str, str], list[Sequence[Example]]]:
        """The groups that have both labels of a pair, by pair; the most frequent pair first."""
        by_pair: dict[tuple[str, str], list[Sequence[Example]]] = defaultdict(list)
        for group in self.groups:
            labels = sorted({example.label for example in group})
            for pair in combinations(labels, 2):
                by_pair[pair].append(group)
        return dict(sorted(by_pair.items(), key=lambda item: (-len(item[1]), item[0])))

    def record(self) -> dict[str, Any]:
        """What dataset.json says about them."""
        counts, names = {}, {}
        for labels, groups in self.pairs().items():
            pair = ", ".join(labels)
            counts[pair] = len(groups)
            names[pair] = [_equation(group, labels) for group in groups[:MAX_NAMES]]
        return {"conflicts": {"examples": self.examples, "pairs": counts, "names": names}}

    def report(self) -> list[str]:
        """A line for each of the most frequent pairs of labels, with examples."""
        lines = []
        pairs = self.pairs()
        for labels, groups in list(pairs.items())[:MAX_PAIRS_NAMED]:
            names = [_equation(group, labels) for group in groups]
            lines.append(
                f"{len(groups)} equal inputs are labelled both {labels[0]} and {labels[1]}: "
                f"{name_list(names)}"
            )

        if len(pairs) > MAX_PAIRS_NAMED:
            lines.append(
                f"{len(pairs) - MAX_PAIRS_NAMED:,} more pairs of labels share equal inputs"
            )
        return lines

    def require_few(self) -> None:
        """Refuse too many of them.

        Raises:
            InputError: with the lines of `report`, and what can be done.
        """
        if self.are_many:
            share = self.examples / self.total
            advice = (
                f"data.conflicts: {self.examples} of {self.total} examples ({share:.1%}) are equal "
                f"to one with another label; more than {MAX_SHARE:.0%} are refused. Correct the "
                "labels, or set data.conflicts: drop to leave them out, or keep"
            )
            raise InputError([*self.report(), advice])


def _equation(group: Sequence[Example], labels: tuple[str, str]) -> str:
    """The names of two equal examples, one of each label."""
    # The first of every label.
    names = {example.label: example.name for example in reversed(group)}
    return " = ".join(names[label] for label in labels)


def find_conflicts(
    splits: Mapping[str, Split],
    hashes: Hashes,
    published: Mapping[str, Examples],
    class_names: Sequence[str],
) -> Conflicts:
    """The equal inputs of all splits that have different labels.

    Args:
        splits: the prepared splits by name
        hashes: as `manifest.hash_inputs` returns them
        published: the same splits with the names of their examples
        class_names: the classes, in the order of their numbers
    """
    names = list(splits)
    all_hashes = np.concatenate([hashes[name] for name in names])
    labels = np.concatenate([splits[name].labels for name in names])
    starts = np.cumsum([0, *(len(splits[name]) for name in names)])

    groups = []
    for rows in _groups_of_equals(all_hashes, labels):
        located = []
        for row in rows:
            part = int(np.searchsorted(starts, row, side="right")) - 1
            located.append((names[part], int(row - starts[part])))

        first_name, first_row = located[0]
        first_input = splits[first_name].inputs[first_row]
        group = []
        for name, row in located:
            if np.array_equal(splits[name].inputs[row], first_input):  # hashes may collide
                label = class_names[splits[name].labels[row]]
                group.append(Example(published[name].name(row), label))
        if len({example.label for example in group}) > 1:
            groups.append(group)
    return Conflicts(groups, len(labels))


def _groups_of_equals(hashes: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """The rows of every hash that occurs with more than one label, in the order of the rows."""
    # Nearly all are unique, so only the others are sorted into groups.
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[inverse] > 1)
    if not len(repeated):
        return []
    order = repeated[np.argsort(hashes[repeated], kind="stable")]
    starts = np.flatnonzero(np.diff(hashes[order])) + 1

    groups = []
    for rows in np.split(order, starts):
        if len(np.unique(labels[rows])) > 1:
            groups.append(rows)
    return sorted(groups, key=lambda rows: int(rows[0]))


def conflicting_files(labelled_files: Iterable[tuple[str, str]]) -> Conflicts | None:
    """Files of the same bytes with different labels, found without decoding any.

    Equal images in different bytes are found only once they are prepared.

    Args:
        labelled_files: paths and classes

    Returns:
        None if there are too many files to read them in seconds.
    """
    files = sorted(labelled_files)
    if len(files) > MAX_COMPARED_FILES:
        return None

    states = []
    for path, label in files:
        try:
            status = Path(path).stat()
        except OSError:
            continue  # `prepare` reports what cannot be read
        states.append(_FileState(Example(path, label), status.st_size, status.st_mtime_ns))
    return Conflicts(_groups_of_equal_files(tuple(states)), len(files))


@dataclass(frozen=True)
class _FileState:
    """A file as it is now: another content has another size or another time."""

    example: Example
    size: int
    changed_ns: int


@lru_cache(maxsize=1)  # for the notes that follow a check, since reading files takes long
def _groups_of_equal_files(files: Sequence[_FileState]) -> list[list[Example]]:
    """The files of the same bytes with different labels, by the name of the first."""
    by_size: dict[int, list[Example]] = defaultdict(list)
    for file in files:
        by_size[file.size].append(file.example)

    groups = []
    for same_size in by_size.values():
        labels = Counter(example.label for example in same_size)
        if len(labels) < 2:
            continue
        for group in _same_bytes(same_size):
            if len({example.label for example in group}) > 1:
                groups.append(group)
    return sorted(groups, key=lambda group: group[0].name)


def _same_bytes(examples: Sequence[Example]) -> list[list[Example]]:
    by_digest: dict[bytes, list[Example]] = defaultdict(list)
    for example in examples:
        path = Path(example.name)
        if path.is_file():  # reading a pipe would never end
            digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
            by_digest[digest].append(example)
    return list(by_digest.values())
