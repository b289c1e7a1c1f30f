"""MEASURES: the numbers that studies publish, and how our metrics give the same number.

The name of a measure ends in its unit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """A published number.

    `ours` computes it from the metrics of one network. It is None for times, which cannot be
    compared between machines.
    """

    label: str
    ours: Callable[[Metrics], float] | None
    decimals: int = 2


def _key(label: str, key: str, factor: float = 1.0, decimals: int = 2) -> Measure:
    """Return the measure that is `factor` times one key of our metrics."""
    return Measure(label, lambda metrics: factor * metrics[key], decimals)


MEASURES: dict[str, Measure] = {
    "accuracy_percent": _key("accuracy, %", "accuracy", 100),
    "accuracy_pruned_percent": _key("accuracy before fine-tuning, %", "accuracy_pruned", 100),
    "precision": _key("precision", "precision_macro", decimals=4),
    "recall": _key("recall", "recall_macro", decimals=4),
    "specificity": _key("specificity", "specificity_macro", decimals=4),
    "f1": _key("F1", "f1_macro", decimals=4),
    "sparsity_percent": _key("sparsity, %", "sparsity", 100),
    "params_millions": _key("parameters, M", "params", 1e-6, decimals=3),
    "params_kept_percent": Measure(
        "parameters kept, %", lambda metrics: 100 / metrics["params_ratio"]
    ),
    "macs_millions": _key("MACs, M", "macs", 1e-6),
    "macs_fewer_times": _key("MACs, times fewer", "macs_ratio"),
    "flops_millions": _key("FLOPs (2 x MACs), M", "macs", 2e-6),
    "size_mb": _key("size, MB", "size_bytes", 1e-6),
    "latency_s_per_image": Measure("latency, s per image", None, decimals=4),
    "images_per_s": Measure("images per s", None),
}
