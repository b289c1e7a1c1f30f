"""The page's sections about searches: the front of all tries, and what mattered.

They are drawn from the files in searches/, whatever else is on the page.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prunelab.page.charts import Chart, Trace
from prunelab.report.labels import DENSE
from prunelab.report.style import DENSE_COLOUR, colour

Row = Mapping[str, Any]
# Id, title, text, charts by name, and the tries as rows.
SearchSection = tuple[str, str, str, list[tuple[str, Chart]], Sequence[Row]]

HEIGHT = 340
# Colours of what is no method: the front, and the drop that is allowed.
FRONT_COLOUR = "#009E73"
LIMIT_COLOUR = "#B2182B"


def search_sections(searches: Sequence[Row]) -> list[SearchSection]:
    """A section for every search."""
    sections = []
    for number, found in enumerate(searches, start=1):
        text = (
            "Every point is a try, measured on the validation split; hollow ones were stopped "
            "early. Crosses were trained again, with fresh seeds, and measured once on the "
            f"test split. {' '.join(found['answer'])}"
        )

        charts = [("tries", front_chart(found))]
        if found["importances"]:
            charts.append(("what mattered", importance_chart(found["importances"])))

        sections.append(
            (f"search{number}", f"Search: {found['title']}", text, charts, found["tries"])
        )
    return sections


def front_chart(found: Row) -> Chart:
    """The drop of every try against the share of the cost left, which falls to the right."""
    traces: list[Trace] = []
    for method in dict.fromkeys(tried["method"] for tried in found["tries"]):
        tries = [tried for tried in found["tries"] if tried["method"] == method]
        symbols = ["circle" if tried["complete"] else "circle-open" for tried in tries]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": method,
                "x": [tried["share"] for tried in tries],
                "y": [100 * tried["drop"] for tried in tries],
                "text": [tried["what"] for tried in tries],
                "hovertemplate": "%{text}<br>%{y:.2f} points at %{x:.3f}<extra></extra>",
                "marker": {"color": colour(method), "symbol": symbols},
            }
        )

    front = sorted(
        (tried for tried in found["tries"] if tried["front"]), key=lambda tried: tried["share"]
    )
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front",
            "x": [tried["share"] for tried in front],
            "y": [100 * tried["drop"] for tried in front],
            "line": {"color": FRONT_COLOUR, "width": 1.2},
            "hoverinfo": "skip",
        }
    )
    traces += _final_traces(found["finals"])
    traces.append(_limit_trace(found))

    cost = found["noun"]
    return {
        "data": traces,
        "layout": {
            "xaxis": {
                "title": {"text": f"share of the {DENSE} network's {cost} left"},
                "type": "log",
                "autorange": "reversed",
                "automargin": True,
            },
            "yaxis": {"title": {"text": "points of accuracy lost"}, "automargin": True},
            "showlegend": False,
            "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
            "height": HEIGHT,
        },
    }


def _final_traces(finals: Sequence[Row]) -> list[Trace]:
    """The networks that were trained again, with the intervals of their drops."""
    traces: list[Trace] = []
    names = {"candidate": "trained again", "random": "random control", "scratch": "from scratch"}

    for role, name in names.items():
        rows = [final for final in finals if final["role"] == role]
        if not rows:
            continue

        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"{name}, test",
                "x": [final["share"] for final in rows],
                "y": [100 * final["drop"] for final in rows],
                "error_y": {
                    "type": "data",
                    "array": [100 * final["drop_ci95"] for final in rows],
                    "thickness": 1,
                },
                "text": [final["method"] for final in rows],
                "hovertemplate": "%{text}: %{y:.2f} points on test<extra></extra>",
                "marker": {"color": _role_colour(role), "symbol": "x", "size": 9},
            }
        )
    return traces


def _role_colour(role: str) -> str:
    if role == "candidate":
        return DENSE_COLOUR
    if role == "random":
        return colour("random_channel")
    return colour("random_unstructured")


def _limit_trace(found: Row) -> Trace:
    """The drop that is allowed, as a level line across all costs."""
    shares = [tried["share"] for tried in found["tries"]] or [0.5]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "allowed",
        "x": [max(shares), min(shares)],
        "y": [found["max_drop"], found["max_drop"]],
        "line": {"color": LIMIT_COLOUR, "dash": "dash", "width": 1},
        "hoverinfo": "skip",
    }


def importance_chart(importances: Mapping[str, float]) -> Chart:
    """What share of the differences between tries each choice explains."""
    names = sorted(importances, key=importances.__getitem__)
    shares = [importances[name] for name in names]
    labels = [name.replace("_", " ") for name in names]

    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "x": shares,
                "y": labels,
                "marker": {"color": colour("l1_unstructured")},
                "name": "importance",
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "importance"}, "automargin": True},
            "yaxis": {"type": "category", "automargin": True},
            "showlegend": False,
            "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
            "height": HEIGHT,
        },
    }
