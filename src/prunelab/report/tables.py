"""metrics/table.md: one line per configuration, with what was asked beside what was achieved."""

from collections.abc import Mapping, Sequence
from typing import Any

from prunelab.core.text import name_list
from prunelab.report.labels import DENSE
from prunelab.statistics.intervals import no_drop_shown, with_interval

Row = Mapping[str, Any]

# The columns, and the side to which each is aligned in Markdown.
LEFT, RIGHT = ":--", "--:"
COLUMNS = {
    "method": LEFT,
    "ratio": RIGHT,
    "sparsity": RIGHT,
    "parameters ≠ 0": RIGHT,
    "parameters": RIGHT,
    "MACs": RIGHT,
    "fewer MACs": RIGHT,
    "size, compressed": RIGHT,
    "accuracy": RIGHT,
    "drop from dense": RIGHT,
    "same as": LEFT,
    "before fine-tuning": RIGHT,
}


def table(dense: Row, rows: Sequence[Row], title: str, imported: bool) -> str:
    """The whole file. Accuracies are means over seeds ± half the 95 % interval, in per cent.

    Args:
        dense: The metrics of the dense networks.
        rows: The rows of the trade-off. `same_as` names the methods of the same ratio from which a
            row cannot be distinguished.
        title: The heading.
        imported: Whether the dense weights were imported, which a note then warns of.
    """
    lines = [
        f"# {title}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "|".join(COLUMNS.values()) + "|",
    ]
    for row in ({"method": DENSE, "ratio": None, **dense}, *rows):
        lines.append("| " + " | ".join(_cells(row)) + " |")

    lines += ["", *_notes(dense["seeds"], imported)]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    is_dense = row["ratio"] is None

    if is_dense:
        ratio = drop_from_dense = before = ""
    else:
        ratio = f"{row['ratio']:g}"
        drop_from_dense = drop(row)
        before = with_interval(row["accuracy_pruned"], row["accuracy_pruned_ci95"])

    return [
        row["method"],
        ratio,
        f"{100 * row['sparsity']:.1f} %",
        f"{row['params_nonzero']:,}",
        f"{row['params']:,}",
        f"{row['macs']:,}",
        fewer_macs(row),
        compressed_size(row),
        with_interval(row["accuracy"], row["accuracy_ci95"]),
        drop_from_dense,
        same_as(row.get("same_as", "")),
        before,
    ]


def same_as(names: str) -> str:
    """The names in a row's `same_as`, cut to fit a cell. The rows keep all of them."""
    return name_list(names.split(", "))


def fewer_macs(row: Row) -> str:
    """How many times fewer MACs than the dense network."""
    return f"{row['macs_ratio']:.2f}x"


def compressed_size(row: Row) -> str:
    """The size of the compressed weights in kB."""
    return f"{row['size_compressed_bytes'] / 1000:,.0f} kB"


def drop(row: Row) -> str:
    """The drop from dense with its interval; "=" marks an interval that includes 0."""
    text = with_interval(row["accuracy_drop"], row["accuracy_drop_ci95"])
    return f"{text} =" if no_drop_shown(row) else text


def _notes(seeds: int, imported: bool) -> list[str]:
    if seeds > 1:
        covers = f"covers {seeds} seeds and the finite test set"
    else:
        covers = "is a bootstrap over test images, there being one seed"

    note = (
        "Accuracy in per cent on the test split, after the last epoch; ± is half the 95 % "
        f"interval, which {covers}. Drops are paired by seed and image; "
        '"=" marks one whose interval holds 0, which is no drop that was shown. '
        '"same as" names the methods of the same ratio from which the paired difference cannot be '
        "told from 0 (each pair by itself: of twenty pairs that are alike, one will seem to "
        "differ). `ratio` is the share removed of what `budget` names (native: of the weights, "
        "channels, heads or hidden units, whichever the method removes); sparsity is what that "
        "comes to in weights. A masked weight still costs its MACs, and its place in an "
        "uncompressed file."
    )
    if not imported:
        return [note]

    warning = (
        "The dense weights were imported: they may have been trained on our validation images."
    )
    return [note, "", f"**{warning}**"]
