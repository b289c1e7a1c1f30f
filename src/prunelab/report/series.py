"""What a picture draws: which rows, in which order, under which name and in which colour.

The pictures by matplotlib (`figures/`) and the charts by Plotly (`page/`) both draw from here, so
they cannot differ in what they show. How a line or a colour bar looks is up to them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunelab.artifacts.records import ALL
from prunelab.report.labels import DENSE
from prunelab.report.rows import column, matrix_of
from prunelab.report.style import DENSE_COLOUR, colour, is_control

Row = Mapping[str, Any]


@dataclass(frozen=True)
class MethodCurve:
    """The points of one method in the trade-off, in the order of their ratios."""

    method: str
    colour: str
    is_control: bool
    points: Sequence[Row]

    def values(self, key: str) -> list[Any]:
        """One metric of all points."""
        return column(self.points, key)


def method_curves(points: Sequence[Row]) -> list[MethodCurve]:
    """One curve per method, in the order in which the methods appear in the rows of the grid."""
    by_method = defaultdict(list)
    for point in points:
        by_method[point["method"]].append(point)

    curves = []
    for method, unordered in by_method.items():
        ordered = sorted(unordered, key=lambda point: point["ratio"])
        curves.append(MethodCurve(method, colour(method), is_control(method), ordered))
    return curves


@dataclass(frozen=True)
class TrainingCurve:
    """The training of one configuration: a row per epoch.

    `name` is the method, or `DENSE`. Curves of one `group` share a panel.
    """

    name: str
    group: str
    rows: Sequence[Row]

    @property
    def colour(self) -> str:
        """The colour of the method."""
        return DENSE_COLOUR if self.name == DENSE else colour(self.name)


def training_rows(curves: Sequence[TrainingCurve]) -> list[dict[str, Any]]:
    """All rows of all curves in one list, each with the name, group and colour of its curve."""
    rows = []
    for curve in curves:
        about = {"name": curve.name, "group": curve.group, "colour": curve.colour}
        for row in curve.rows:
            rows.append({**about, **row})
    return rows


def training_curves(rows: Sequence[Row]) -> list[TrainingCurve]:
    """The curves of which `training_rows` made these rows."""
    by_curve = defaultdict(list)
    for row in rows:
        by_curve[row["name"], row["group"]].append(row)
    return [TrainingCurve(name, group, own) for (name, group), own in by_curve.items()]


def by_group(curves: Sequence[TrainingCurve]) -> dict[str, list[TrainingCurve]]:
    """The curves of every panel, panels and curves in the order of appearance."""
    groups = defaultdict(list)
    for curve in curves:
        groups[curve.group].append(curve)
    return dict(groups)


@dataclass(frozen=True)
class Confusion:
    """How often each actual class (row) was predicted as each class (column).

    `counts` is int64 [classes, classes]; `classes` are their names.
    """

    counts: np.ndarray
    classes: Sequence[str]

    @property
    def shares(self) -> np.ndarray:
        """The counts as shares of the actual class, 0 to 1; 0 for a class without images."""
        images = self.counts.sum(axis=1, keepdims=True)
        return np.asarray(self.counts / np.maximum(images, 1))


def confusion_of(rows: Sequence[Mapping[str, int]], classes: Sequence[str]) -> Confusion:
    """The matrix from its rows of actual class, predicted class and count."""
    return Confusion(matrix_of(rows, len(classes)), classes)


@dataclass(frozen=True)
class LayerCurve:
    """What is left of the accuracy after one layer was pruned alone, or all of them together.

    The rows are in the order of their ratios.
    """

    layer: str
    rows: Sequence[Row]

    @property
    def is_all(self) -> bool:
        """Whether this is the curve of all layers together."""
        return self.layer == ALL


@dataclass(frozen=True)
class SensitivityPanel:
    """The curves of one granularity, from the first layer to the last, then all layers together.

    `dense_accuracy` is the accuracy of the networks before pruning, 0 to 1.
    """

    granularity: str
    dense_accuracy: float
    curves: Sequence[LayerCurve]

    @property
    def layers(self) -> list[str]:
        """The names of the curves."""
        return [curve.layer for curve in self.curves]

    @property
    def ratios(self) -> list[float]:
        """The ratios of all curves, from the least on."""
        ratios: set[float] = set()
        for curve in self.curves:
            ratios.update(column(curve.rows, "ratio"))
        return sorted(ratios)

    def heat_map(self, ratios: Sequence[float]) -> np.ndarray:
        """The accuracies at these ratios, float64 [layers, ratios].

        A layer of few units was not measured at every ratio: NaN marks such a cell.
        """
        accuracies = np.full((len(self.curves), len(ratios)), np.nan)
        for index, curve in enumerate(self.curves):
            for row in curve.rows:
                accuracies[index, ratios.index(row["ratio"])] = row["accuracy"]
        return accuracies


def sensitivity_panels(record: Row) -> list[SensitivityPanel]:
    """One panel per granularity of metrics/sensitivity.json, in the order of appearance."""
    by_layer: dict[str, dict[str, list[Row]]] = {}
    for row in record["rows"]:
        layers = by_layer.setdefault(row["granularity"], {})
        layers.setdefault(row["layer"], []).append(row)

    panels = []
    for granularity, layers in by_layer.items():
        curves = []
        for layer, unordered in layers.items():
            curves.append(LayerCurve(layer, sorted(unordered, key=lambda row: row["ratio"])))
        panels.append(SensitivityPanel(granularity, record["accuracy"], curves))
    return panels
