"""metrics/table.md: one line per configuration, what was asked beside what was achieved."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = (
    ("method", "left"),
    ("ratio", "right"),
    ("sparsity", "right"),
    ("parameters ≠ 0", "right"),
    ("parameters", "right"),
    ("MACs", "right"),
    ("fewer MACs", "right"),
    ("size, compressed", "right"),
    ("accuracy", "right"),
    ("drop from dense", "right"),
    ("same as", "left"),
    ("before fine-tuning", "right"),
)
NAMED = 5


def table(
    dense: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], title: str, imported: bool
) -> str:
    """The whole file. Accuracies are means over seeds ± half the 95 % interval, in per cent.

    A row's `same_as` names the methods of the same ratio that it cannot be told from.
    """
    lines = [f"# {title}", ""]
    lines.append("| " + " | ".join(name for name, _ in HEADER) + " |")
    lines.append("|" + "|".join(":--" if side == "left" else "--:" for _, side in HEADER) + "|")
    lines += [_line(row) for row in ({"method": "dense", "ratio": None, **dense}, *rows)]
    lines += ["", *_notes(dense, imported)]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    dense = row["ratio"] is None
    cells = [
        row["method"],
        "" if dense else f"{row['ratio']:g}",
        f"{100 * row['sparsity']:.1f} %",
        f"{row['params_nonzero']:,}",
        f"{row['params']:,}",
        f"{row['macs']:,}",
        f"{row['macs_ratio']:.2f}x",
        f"{row['size_compressed_bytes'] / 1000:,.0f} kB",
        with_interval(row["accuracy"], row["accuracy_ci95"]),
        "" if dense else drop(row),
        few(row.get("same_as", "")),
        "" if dense else with_interval(row["accuracy_pruned"], row["accuracy_pruned_ci95"]),
    ]
    return "| " + " | ".join(cells) + " |"


def few(names: str) -> str:
    """The first of many names, and how many more there are; the rows have all of them."""
    every = names.split(", ")
    return (
        names
        if len(every) <= NAMED
        else f"{', '.join(every[:NAMED])} and {len(every) - NAMED} more"
    )


def none_shown(row: Mapping[str, Any]) -> bool:
    """Whether the interval of a drop holds 0."""
    return abs(row["accuracy_drop"]) <= row["accuracy_drop_ci95"]


def drop(row: Mapping[str, Any]) -> str:
    """The drop from dense with its interval, marked where none was shown."""
    return with_interval(row["accuracy_drop"], row["accuracy_drop_ci95"]) + (
        " =" if none_shown(row) else ""
    )


def with_interval(share: float, half_width: float) -> str:
    """In per cent, ± half the interval."""
    return f"{100 * share:.2f} ± {100 * half_width:.2f}"


def _notes(dense: Mapping[str, Any], imported: bool) -> list[str]:
    seeds = dense["seeds"]
    several = f"covers {seeds} seeds and the finite test set"
    covers = several if seeds > 1 else "is a bootstrap over test images, there being one seed"
    notes = [
        f"Accuracy in per cent on the test split, after the last epoch; ± is half the 95 % interval, which {covers}. "
        'Drops are paired by seed and image; "=" marks one whose interval holds 0, which is no drop that was shown. '
        '"same as" names the methods of the same ratio from which the paired difference cannot be told from 0 '
        "(each pair by itself: of twenty pairs that are alike, one will seem to differ). `ratio` is the share removed "
        "of what `budget` names (native: of the weights, channels, heads or hidden units, whichever the method "
        "removes); sparsity is what that comes to in weights. A masked weight still costs its MACs, and its place in "
        "an uncompressed file.",
    ]
    if imported:
        notes += [
            "",
            "**The dense weights were imported: they may have been trained on our validation images.**",
        ]
    return notes
