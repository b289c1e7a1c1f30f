"""A search as a picture: the front of all tries, and what mattered."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from prunelab.figures.axes import log_axis
from prunelab.report.style import DENSE_COLOUR, colour, marker

Row = Mapping[str, Any]
FRONT_COLOUR, LIMIT_COLOUR = "#009E73", "#B2182B"
BAR_COLOUR = "#0072B2"


def search_picture(found: Row) -> Figure:
    """The tries by drop and cost, hollow if stopped early, beside the importance of each choice.

    `found` is the content of a file in searches/.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    tries_axis, importance_axis = figure.subplots(1, 2, width_ratios=(2, 1))

    _draw_tries(tries_axis, found)
    _draw_importances(importance_axis, found["importances"])
    figure.suptitle(found["title"])
    return figure


def _draw_tries(axis: Axes, found: Row) -> None:
    tries = found["tries"]
    for method in dict.fromkeys(tried["method"] for tried in tries):
        label = method
        for tried in tries:
            if tried["method"] != method:
                continue
            axis.plot(
                tried["share"],
                100 * tried["drop"],
                marker(method),
                color=colour(method),
                markerfacecolor=colour(method) if tried["complete"] else "white",
                label=label,
            )
            label = "_"  # one entry of the legend for all tries of a method

    front = sorted(
        (tried for tried in tries if tried["front"]), key=lambda tried: float(tried["share"])
    )
    shares = [tried["share"] for tried in front]
    drops = [100 * tried["drop"] for tried in front]
    axis.plot(shares, drops, color=FRONT_COLOUR, linewidth=1.2, label="front")
    _draw_finals(axis, found["finals"])
    axis.axhline(
        found["max_drop"], color=LIMIT_COLOUR, linestyle="--", linewidth=1, label="allowed"
    )

    all_shares = sorted({float(row["share"]) for row in [*tries, *found["finals"]]})
    if all_shares:
        log_axis(axis, all_shares, lambda share: f"{share:.3g}")
    axis.set_xlabel(f"share of the dense network's {found['noun']} left")
    axis.set_ylabel("points of accuracy lost (crosses: test, others: validation)")
    axis.grid(alpha=0.25)
    axis.legend(fontsize="small", frameon=False)


def _draw_finals(axis: Axes, finals: Sequence[Row]) -> None:
    for final in finals:
        final_colour = DENSE_COLOUR
        if final["role"] != "candidate":
            final_colour = colour("random_unstructured")
        axis.errorbar(
            final["share"],
            100 * final["drop"],
            100 * final["drop_ci95"],
            fmt="x",
            color=final_colour,
            capsize=2,
            elinewidth=0.8,
        )


def _draw_importances(axis: Axes, importances: Mapping[str, float]) -> None:
    names = sorted(importances, key=importances.__getitem__)
    shares = [importances[name] for name in names]
    axis.barh([name.replace("_", " ") for name in names], shares, color=BAR_COLOUR)
    axis.set_xlabel("what explains the differences between tries")
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if not names:
        axis.text(0.5, 0.5, "too few complete tries", ha="center", transform=axis.transAxes)
