"""A part of the training images: a prepared folder with fewer of them, as many of every class."""

from pathlib import Path
from typing import Any

import numpy as np

from prunelab.artifacts.prepared import load_split, read_data_info, save_prepared
from prunelab.core.errors import InputError
from prunelab.data.splits import Split
from prunelab.datasets.manifest import describe, find_duplicates, hash_inputs
from prunelab.runtime.device import generator

CUT_SPLITS = ("train", "validation")  # the test split stays whole


def keep_images(prepared: Path, images: int) -> None:
    """Cut the training split of a prepared folder to `images`, and validation by the same share.

    Raises:
        InputError: if there are fewer, or if a class would be left without an image.
    """
    info = read_data_info(prepared)
    classes, available = len(info["classes"]), info["counts"]["train"]
    if not classes <= images <= available:
        raise InputError(
            f"images: {images:,} of {available:,} training images; valid: {classes} (one "
            f"of each class) to {available:,}"
        )

    splits = {name: load_split(prepared, name) for name in info["counts"]}
    for name in CUT_SPLITS:
        split = splits[name]
        count = max(classes, round(len(split) * images / available))
        splits[name] = split.at(_stratified(split, count, classes, name))

    def describe_written(written: dict[str, Split]) -> dict[str, Any]:
        duplicates = find_duplicates(written, hash_inputs(written))
        description = describe(info["classes"], tuple(info["shape"]), written, duplicates)
        return info | description | {"images": images}

    save_prepared(prepared, splits, describe_written)


def _stratified(split: Split, count: int, classes: int, name: str) -> np.ndarray:
    """The positions of so many examples: class by class in turn, in an order drawn once."""
    order = np.argsort(_draw(len(split), name), kind="stable")
    rank = np.empty(len(split), np.int64)  # of an example within its class
    for label in range(classes):
        members = order[split.labels[order] == label]
        rank[members] = np.arange(len(members))

    first = np.lexsort((split.labels, rank))[:count]
    return np.sort(first)


def _draw(count: int, name: str) -> np.ndarray:
    import torch

    numbers: np.ndarray = torch.rand(count, generator=generator("images", name)).numpy()
    return numbers
