"""What a study found, in a few sentences that are computed from its numbers.

No sentence is stronger than the 95 % intervals. "No drop was shown" is said of an interval that
holds 0, with the drop that it does not rule out. "Better" is said only where two intervals do not
overlap and the paired difference was shown as well.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prunelab.page.checklist import removes_alike
from prunelab.report.labels import DENSE
from prunelab.report.rows import column
from prunelab.report.style import is_control
from prunelab.report.tables import compressed_size, fewer_macs
from prunelab.statistics.intervals import with_interval
from prunelab.statistics.speed_ratios import shown_faster

Row = Mapping[str, Any]
Verdict = Literal["better", "worse", "not decided"]

MAX_COMPARED = 4  # methods that are compared with their controls one by one


@dataclass(frozen=True)
class Finding:
    """One answer under its `label`. In the `text`, names stand between backticks."""

    label: str
    text: str


def findings(
    dense: Row, points: Sequence[Row], latency: Sequence[Row], device: str
) -> list[Finding]:
    """The findings of a study.

    Args:
        dense: The metrics of the dense networks.
        points: The metrics of the grid's cells, each with its method, ratio, key and `same_as`.
        latency: The measured latencies of all of them, in the order of measurement.
        device: What the latency was measured on.
    """
    pruned = [point for point in points if point["sparsity"] > 0]

    return [
        Finding("Least without a shown drop", _cheapest(dense, pruned)),
        Finding("Where accuracy falls", _where_it_falls(pruned)),
        Finding("Against random removal", _against_controls(pruned)),
        Finding("On a clock", _on_a_clock(pruned, latency, device)),
    ]


def quoted(name: str) -> str:
    """A name between backticks."""
    return f"`{_without_backticks(name)}`"


def _without_backticks(text: str) -> str:
    """A text of somebody else, which must not begin or end a name."""
    return text.replace("`", "'")


def drop_shown(point: Row) -> bool:
    """Whether the interval of the drop from the dense network lies above 0."""
    return bool(point["accuracy_drop"] > point["accuracy_drop_ci95"])


def verdict(point: Row, control: Row) -> Verdict:
    """How the accuracy of a point compares with that of a control at the same ratio."""
    if control["method"] in point["same_as"].split(", "):
        return "not decided"
    if _low(point) > _high(control):
        return "better"
    if _high(point) < _low(control):
        return "worse"
    return "not decided"


def _low(point: Row) -> float:
    return float(point["accuracy"] - point["accuracy_ci95"])


def _high(point: Row) -> float:
    return float(point["accuracy"] + point["accuracy_ci95"])


def _cheapest(dense: Row, pruned: Sequence[Row]) -> str:
    """The network with the fewest MACs, and the smallest file, of those without a shown drop."""
    if not pruned:
        return "No network of this study was pruned."

    kept = [point for point in pruned if not drop_shown(point)]
    if not kept:
        least = min(pruned, key=lambda point: point["accuracy_drop"])
        return (
            "A drop in accuracy was shown for every pruned network. "
            f"The smallest is that of {quoted(least['key'])}: {_drop(least)}."
        )

    smallest = min(kept, key=lambda point: (point["size_compressed_bytes"], point["accuracy_drop"]))
    size = f"{compressed_size(smallest)} compressed in place of {compressed_size(dense)}"

    thinner = [point for point in kept if point["macs_ratio"] > 1]
    if not thinner:
        return (
            f"{quoted(smallest['key'])} takes {size}, and no drop in accuracy was shown: "
            f"{_not_ruled_out(smallest)}. It needs as many MACs as the dense network."
        )

    fewest = min(thinner, key=_by_macs)
    text = (
        f"{quoted(fewest['key'])} needs {fewer_macs(fewest)} fewer MACs, and no drop in accuracy "
        f"was shown: {_not_ruled_out(fewest)}."
    )
    equals = [point["key"] for point in thinner if point["macs"] == fewest["macs"]]
    equals.remove(fewest["key"])
    if equals:
        text += f" No drop was shown either for {_names(equals)}, with as many MACs."

    if smallest["key"] == fewest["key"]:
        return f"{text} It takes {size}."
    return f"{text} The smallest file without a shown drop is {quoted(smallest['key'])}: {size}."


def _by_macs(point: Row) -> tuple[int, bool, float]:
    """The order of the thinner networks; of equal MACs, a random control comes last."""
    return point["macs"], is_control(point["method"]), point["accuracy_drop"]


def _not_ruled_out(point: Row) -> str:
    highest = 100 * (point["accuracy_drop"] + point["accuracy_drop_ci95"])
    if highest < 0:
        return f"{_drop(point)}, so a gain was shown"
    return f"{_drop(point)}, so up to {highest:.2f} is not ruled out"


def _drop(point: Row) -> str:
    return f"{with_interval(point['accuracy_drop'], point['accuracy_drop_ci95'])} points"


def _where_it_falls(pruned: Sequence[Row]) -> str:
    """Per method, the least ratio at which a drop was shown."""
    if not pruned:
        return "No network of this study was pruned."

    fallen: dict[float, list[str]] = defaultdict(list)
    never = []
    for method, own in _by_method(pruned).items():
        ratios = [point["ratio"] for point in own if drop_shown(point)]
        if ratios:
            fallen[min(ratios)].append(method)
        else:
            never.append(method)

    parts = []
    for ratio, methods in sorted(fallen.items()):
        parts.append(f"at ratio {ratio:g} for {_names(methods)}")

    sentences = []
    if parts:
        sentences.append(f"A drop is first shown {'; '.join(parts)}.")
    if never:
        highest = max(column(pruned, "ratio"))
        sentences.append(f"None was shown up to ratio {highest:g} for {_names(never)}.")
    return " ".join(sentences)


def _against_controls(pruned: Sequence[Row]) -> str:
    """Whether methods are better than random removal of the same kind at the same ratio."""
    by_method = _by_method(pruned)
    methods = [method for method in by_method if not is_control(method)]
    controls = [method for method in by_method if is_control(method)]
    if not controls:
        return "This study has no random control, so it cannot show that a criterion matters."

    compared, without = {}, []
    for method in methods:
        rivals = [control for control in controls if removes_alike(control, method)]
        verdicts = _verdicts(by_method[method], [by_method[rival] for rival in rivals])
        if verdicts:
            compared[method] = verdicts
        else:
            without.append(method)

    sentences = []
    if len(compared) <= MAX_COMPARED:
        sentences += [_sentence(method, verdicts) for method, verdicts in compared.items()]
    else:
        sentences += _summary(compared)
    if without:
        sentences.append(f"There is no control at the same ratios for {_names(without)}.")
    return " ".join(sentences) or "This study has random controls only."


def _verdicts(own: Sequence[Row], rivals: Sequence[Sequence[Row]]) -> dict[float, Verdict]:
    """By ratio, how a method compares with all controls that were measured at that ratio."""
    verdicts: dict[float, Verdict] = {}
    for point in own:
        found = set()
        for rival in rivals:
            for control in rival:
                if control["ratio"] == point["ratio"]:
                    found.add(verdict(point, control))

        if "worse" in found:
            verdicts[point["ratio"]] = "worse"
        elif found == {"better"}:
            verdicts[point["ratio"]] = "better"
        elif found:
            verdicts[point["ratio"]] = "not decided"
    return verdicts


def _sentence(method: str, verdicts: Mapping[float, Verdict]) -> str:
    parts = []
    for word in ("better", "worse"):
        ratios = [f"{ratio:g}" for ratio, found in sorted(verdicts.items()) if found == word]
        if ratios:
            parts.append(f"{word} than random at ratio {_listed(ratios)}")

    if not parts:
        return f"{quoted(method)} was shown to differ from random at no ratio."
    if "not decided" in verdicts.values():
        parts.append("not decided elsewhere")
    return f"{quoted(method)} is {'; '.join(parts)}."


def _summary(compared: Mapping[str, Mapping[float, Verdict]]) -> list[str]:
    better, worse, undecided = [], [], []
    for method, verdicts in compared.items():
        if "better" in verdicts.values():
            better.append(method)
        if "worse" in verdicts.values():
            worse.append(method)
        if set(verdicts.values()) == {"not decided"}:
            undecided.append(method)

    sentences = [f"{len(compared)} methods have a control."]
    if better:
        sentences.append(f"Better than random at some ratio: {len(better)} ({_names(better)}).")
    if worse:
        sentences.append(f"Worse at some ratio: {len(worse)} ({_names(worse)}).")
    if undecided:
        names = f"{len(undecided)} ({_names(undecided)})"
        sentences.append(f"No difference shown at any ratio: {names}.")
    return sentences


def _on_a_clock(pruned: Sequence[Row], latency: Sequence[Row], device: str) -> str:
    """What was measured with the first backend, at the smallest batch size and at the largest."""
    rows = [row for row in latency if row["backend"] == latency[0]["backend"]]
    sizes = sorted(set(column(rows, "batch_size")))
    by_size: dict[int, dict[str, Row]] = {size: {} for size in sizes}
    for row in rows:
        by_size[row["batch_size"]][row["name"]] = row

    kept = [point for point in pruned if not drop_shown(point)]
    sentences, not_faster = [], []
    for size in dict.fromkeys((sizes[0], sizes[-1])):
        sentence = _fastest(kept, by_size[size], size)
        if sentence:
            sentences.append(sentence)
        else:
            not_faster.append(str(size))
    if not_faster:
        sentences.append(
            f"At batch size {_listed(not_faster)}, no network without a shown drop was shown to "
            "be faster than the dense one."
        )

    masked = [point for point in pruned if point["macs_ratio"] <= 1]
    if masked:
        faster = sum(_shown_faster(by_size[sizes[0]][point["key"]]) for point in masked)
        count = f"{faster or 'none'} was"
        if faster > 1:
            count = f"{faster} were"
        sentences.append(
            f"Of the {len(masked)} networks with zeros and no fewer MACs, {count} shown to be "
            f"faster at batch size {sizes[0]}."
        )
    sentences.append(f"Measured on {_without_backticks(device)}; another machine differs.")
    return " ".join(sentences)


def _fastest(kept: Sequence[Row], rows: Mapping[str, Row], size: int) -> str:
    """The fastest of these networks; empty if none was shown to be faster than the dense one.

    A random control is named only if no other network was shown to be faster.
    """
    faster = [point for point in kept if _shown_faster(rows[point["key"]])]
    if not faster:
        return ""

    chosen = [point for point in faster if not is_control(point["method"])] or faster
    best = max((rows[point["key"]] for point in chosen), key=lambda row: row["faster"])
    milliseconds = (
        f"{best['latency_ms_p50']:.3g} ms in place of {rows[DENSE]['latency_ms_p50']:.3g} ms"
    )
    speedup = f"{best['faster']:.2f}x ({best['faster_low']:.2f} to {best['faster_high']:.2f})"
    return f"At batch size {size}, {quoted(best['name'])} takes {milliseconds}: {speedup} as fast."


def _shown_faster(row: Row) -> bool:
    """Whether a network is faster than the dense one, and its calls support a ratio."""
    in_words = row.get("told", "")
    return shown_faster(row.get("faster_low", 0)) and not in_words.startswith("no ")


def _by_method(points: Sequence[Row]) -> dict[str, list[Row]]:
    by_method: dict[str, list[Row]] = defaultdict(list)
    for point in points:
        by_method[point["method"]].append(point)
    return dict(by_method)


def _names(names: Sequence[str], most: int = 4) -> str:
    words = [quoted(name) for name in names]
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return _listed(words)


def _listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"
