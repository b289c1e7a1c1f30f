"""How the metrics of one configuration are divided between two files.

metrics/<name>.json has the headline, few enough for the tables of `dvc metrics` and `dvc exp
show`. All others are in metrics/details/<name>.json under the key `metrics`, beside rows by seed
and layer.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from prunelab.core.mappings import nested_mapping

HEADLINE = (
    "accuracy",
    "accuracy_ci95",
    "accuracy_drop",
    "accuracy_drop_ci95",
    "sparsity",
    "params",
    "macs",
    "macs_ratio",
    "size_compressed_bytes",
    "ratio_achieved",
)
OTHERS = "metrics"  # the key in the details

FOLDER = Path("metrics")
DETAILS = "details"  # a folder within

# What the metrics in the workspace were last measured on, by configuration. Git ignores it, since a
# repetition on another machine leaves the record beside the metrics as it is.
LAST_ENVIRONMENTS = Path(".prunelab/environment")


def split_metrics(
    metrics: Mapping[str, Any], named: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics of the headline and all others.

    Those that the study asked for by name, `named`, are in the headline too, with their intervals.
    """
    asked_for = {*HEADLINE, *named, *(f"{name}_ci95" for name in named)}
    headline, others = {}, {}
    for key, value in metrics.items():
        if key in asked_for:
            headline[key] = value
        else:
            others[key] = value
    return headline, others


def join_metrics(headline: Mapping[str, Any], details: object) -> dict[str, Any]:
    """Return all metrics, from the content of both files.

    Before metrics were divided, the file of the headline held all of them. It then comes first.
    """
    return {**nested_mapping(details, OTHERS), **headline}


def details_file(metrics_file: Path) -> Path:
    """Return the file of the details that belongs to metrics/<name>.json."""
    return FOLDER / DETAILS / metrics_file.relative_to(FOLDER)
