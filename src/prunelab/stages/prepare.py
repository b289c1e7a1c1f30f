"""Read a data set and write its splits: stratified, as uint8 arrays, each once and for all."""

from pathlib import Path

import numpy as np

from prunelab.artifacts.prepared import save_prepared
from prunelab.data.datasets import DATASETS, Raw
from prunelab.data.splits import Split, channel_moments, split_off
from prunelab.errors import Refused
from prunelab.params import load_params
from prunelab.registry import pick
from prunelab.stages.entry import run


def main(raw: Path, out: Path) -> None:
    """Prepare the data set of params.yaml from the folder RAW into the folder OUT."""
    params = load_params()
    dataset = pick(DATASETS, params.dataset, "dataset")
    if damaged := dataset.damaged(raw):
        raise Refused(damaged)
    if dataset.missing(raw):
        dataset.download(raw)
    published = dataset.read(raw)
    splits = split(published, params.data.test_fraction, params.data.validation_fraction, params.data.split_seed)
    save_prepared(out, splits, describe(params.dataset, published.class_names, splits))
    print(", ".join(f"{name}: {len(part)} images" for name, part in splits.items()))


def split(published: Raw, test_fraction: float, validation_fraction: float, seed: int) -> dict[str, Split]:
    """Train, validation and test; an official test split stays the test split."""
    rest, test = published.train, published.test
    if test is None:
        rest, test = split_off(rest, test_fraction, seed)
    train, validation = split_off(rest, validation_fraction, seed)
    return {"train": train, "validation": validation, "test": test}


def describe(name: str, class_names: list[str], splits: dict[str, Split]) -> dict[str, object]:
    mean, std = channel_moments(splits["train"].inputs)
    return {
        "dataset": name,
        "classes": class_names,
        "shape": list(splits["train"].inputs.shape[1:]),
        "mean": mean,
        "std": std,
        "counts": {name: len(part) for name, part in splits.items()},
        "counts_per_class": {
            name: np.bincount(part.labels, minlength=len(class_names)).tolist() for name, part in splits.items()
        },
    }


if __name__ == "__main__":
    run(main)
