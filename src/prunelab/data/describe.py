"""What dataset.json says of prepared data: what it was made from, its classes, sizes and moments."""

from dataclasses import asdict
from typing import Any

import numpy as np

from prunelab.data.protocol import Shape, Source
from prunelab.data.splits import Split, channel_moments


def asked(
    dataset: str, source: Source, test_fraction: float, validation_fraction: float, split_seed: int
) -> dict[str, Any]:
    """The parameters that prepared data depends on; data made with others is made anew."""
    wanted = {key: value for key, value in asdict(source).items() if key != "raw"}
    fractions = {"test_fraction": test_fraction, "validation_fraction": validation_fraction, "split_seed": split_seed}
    return {"dataset": dataset, "asked": wanted | fractions}


def describe(class_names: list[str], shape: Shape, splits: dict[str, Split]) -> dict[str, Any]:
    """Classes, the shape of one example as networks see it, counts; of images also the training split's moments."""
    mean, std = channel_moments(splits["train"].inputs) if len(shape) == 3 else (None, None)
    return {
        "classes": class_names,
        "shape": list(shape),
        "mean": mean,
        "std": std,
        "counts": {name: len(part) for name, part in splits.items()},
        "counts_per_class": {
            name: np.bincount(part.labels, minlength=len(class_names)).tolist() for name, part in splits.items()
        },
    }
