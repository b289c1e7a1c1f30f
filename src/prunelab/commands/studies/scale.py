"""A study at another scale: all epochs times a factor, rounded up, which every result says."""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

FULL = 1.0
TRAINING_SECTIONS = ("train", "prune", "finetune")


def scaled(params: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Return parameters with all epochs times `scale`, at least 1 where there are any.

    Epochs in which only the head is trained are rounded down, so that other layers are trained too.
    """
    result = deepcopy(dict(params))
    for section in TRAINING_SECTIONS:
        result[section]["epochs"] = scaled_epochs(result[section]["epochs"], scale)
        if result[section].get("freeze_epochs"):
            result[section]["freeze_epochs"] = math.floor(result[section]["freeze_epochs"] * scale)

    train = result["train"]
    train["rewind_epoch"] = min(train["rewind_epoch"], train["epochs"] or train["rewind_epoch"])
    return result


def scaled_epochs(epochs: int, scale: float) -> int:
    """Return so many epochs times `scale`, rounded up; 0 stays 0."""
    if not epochs:
        return 0
    product = round(epochs * scale, 6)  # 40 x 0.1 is a little more than 4
    return max(1, math.ceil(product))


def key_of(label: str, scale: float) -> str:
    """Return the key of a setting's result: one file may hold the setting at several scales."""
    if scale == FULL:
        return label
    return f"{label}@{scale:g}"


def label_of(key: str) -> str:
    """Return the setting of a key."""
    return key.partition("@")[0]
