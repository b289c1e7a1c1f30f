"""Names of a file's tensors and of a network's: renamed, put in order, and compared.

Nothing here reads files or changes a network.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice

from torch import Tensor

from prunelab.core.errors import InputError
from prunelab.core.text import did_you_mean, truncate

State = dict[str, Tensor]  # tensors by name, as in a state_dict
Shapes = dict[str, tuple[int, ...]]

# Ends of names of what counts steps or costs, beside weights: batch norm's counter, positions of
# older encoders, and the counters of the profiler thop.
BATCHES = "num_batches_tracked"
COUNTERS = (BATCHES, "position_ids", "total_ops", "total_params")

MAX_COMPARED = 500  # names that one name is compared with
MAX_COMPARED_LENGTH = 200  # characters
MAX_RENAMED = 4  # parts of names that one hint renames


def is_counter(name: str) -> bool:
    """Whether a tensor counts something, by its name."""
    return name.rpartition(".")[2] in COUNTERS


def renamed(state: Mapping[str, Tensor], parts: Mapping[str, str]) -> tuple[State, int]:
    """The tensors under names in which parts, between dots, are replaced; and how many changed.

    All parts are replaced at once, the longest first, so that two may swap their names. A part that
    is replaced by nothing goes.

    Raises:
        InputError: if no name has such a part, or if two tensors would have one name.
    """
    longest = sorted((tuple(old.split(".")) for old in parts), key=len, reverse=True)
    used: set[str] = set()

    result: State = {}
    changed = 0
    for name, tensor in state.items():
        new_name = _renamed(name, parts, longest, used)
        if new_name in result or not new_name:
            raise InputError(
                f"weights_options.rename: two tensors would be called {truncate(new_name)!r}, "
                f"one of them {truncate(name)!r}"
            )
        changed += new_name != name
        result[new_name] = tensor

    for part in parts:
        if part not in used:
            known: set[str] = set()
            for name in islice(state, MAX_COMPARED):
                known.update(name.split("."))
            raise InputError(
                f"weights_options.rename: no name in the file has the part {truncate(part)!r}"
                f"{did_you_mean(part, known)}"
            )
    return result, changed


def _renamed(
    name: str, parts: Mapping[str, str], longest: Sequence[tuple[str, ...]], used: set[str]
) -> str:
    """A name with its parts replaced; what was replaced is added to `used`."""
    old, new = tuple(name.split(".")), []
    place = 0
    while place < len(old):
        found = next((key for key in longest if old[place : place + len(key)] == key), None)
        if found is None:
            new.append(old[place])
            place += 1
            continue

        part = ".".join(found)
        used.add(part)
        new += [inner for inner in parts[part].split(".") if inner]
        place += len(found)
    return ".".join(new)


def in_order(shapes: Shapes, expected: Shapes, head: str) -> dict[str, str] | None:
    """The network's name of every tensor of a file, if all have the same shapes in the same order.

    Counters are passed over. The head may be for another number of classes, or lack if it is last.
    None if the shapes do not agree.
    """
    names = [name for name in shapes if not is_counter(name)]
    wanted = [name for name in expected if not is_counter(name)]
    of_head = [name for name in wanted if name.startswith(f"{head}.")]
    without_head = wanted[: len(wanted) - len(of_head)]
    if len(names) != len(wanted):
        if len(names) != len(without_head) or wanted[len(without_head) :] != of_head:
            return None
        wanted = without_head

    for name, target in zip(names, wanted, strict=True):
        first = 0
        if target in of_head:
            first = 1  # the classes
        if len(shapes[name]) != len(expected[target]):
            return None
        if shapes[name][first:] != expected[target][first:]:
            return None
    return dict(zip(names, wanted, strict=True))


def first_difference(shapes: Shapes, expected: Shapes, head: str) -> str:
    """Where a file's tensors, in order, first differ from the network's, for a message."""
    names = [name for name in shapes if not is_counter(name)]
    wanted = [name for name in expected if not is_counter(name)]
    for name, target in zip(names, wanted, strict=False):
        if shapes[name] != expected[target] and not target.startswith(f"{head}."):
            return (
                f"{truncate(name)} {shapes[name]} stands where the network has "
                f"{target} {expected[target]}"
            )
    return f"it has {len(names):,} tensors, and the network has {len(wanted):,}"


def nearest(name: str, shape: tuple[int, ...], surplus: Shapes) -> str:
    """Which of a file's surplus tensors is most like one that lacks, as the end of a sentence."""
    candidates = [other for other, size in surplus.items() if size == shape]
    of_shape = bool(candidates)
    candidates = (candidates or list(surplus))[:MAX_COMPARED]
    short = {truncate(other, MAX_COMPARED_LENGTH): other for other in candidates}
    close = get_close_matches(name, list(short), n=1, cutoff=0.0 if of_shape else 0.6)
    if not close:
        return ""
    return f" {shape}, nearest to which is {close[0]} {surplus[short[close[0]]]}"


def helpful_renaming(shapes: Shapes, expected: Shapes) -> dict[str, str]:
    """Parts of a file's names whose renaming would make all its names the network's; or nothing.

    Only names that differ in one part, and tensors of equal shapes, are compared.
    """
    surplus = {name: size for name, size in shapes.items() if name not in expected}
    lacking = {name: size for name, size in expected.items() if name not in shapes}
    by_gap: dict[tuple[object, ...], list[str]] = {}
    for name, size in surplus.items():
        for gap, part in _gaps(name):
            by_gap.setdefault((gap, size), []).append(part)

    pairs: Counter[tuple[str, str]] = Counter()
    for name, size in lacking.items():
        for gap, part in _gaps(name):
            pairs.update((old, part) for old in by_gap.get((gap, size), ()) if not old.isdigit())

    parts: dict[str, str] = {}
    for (old, new), _ in pairs.most_common():
        if old not in parts and new not in parts.values() and len(parts) < MAX_RENAMED:
            parts[old] = new
    if not parts:
        return {}

    longest = [(old,) for old in parts]
    names = [_renamed(name, parts, longest, used=set()) for name in shapes]
    if set(_without_counters(names)) != set(_without_counters(expected)):
        return {}
    return parts


def _gaps(name: str) -> Iterable[tuple[tuple[str, ...], str]]:
    """A name with each of its parts left out in turn, and the part."""
    parts = truncate(name, MAX_COMPARED_LENGTH).split(".")
    for place, part in enumerate(parts):
        yield (*parts[:place], "", *parts[place + 1 :]), part


def _without_counters(names: Collection[str]) -> list[str]:
    return [name for name in names if not is_counter(name)]
