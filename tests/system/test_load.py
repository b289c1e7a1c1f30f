"""Memory does not grow with what there is much of: images that wait, images that are streamed, epochs."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import DIGITS_SHAPE, with_store
from torch import Tensor, nn

from prunelab.config.params import Normalise
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.datasets.imagefolder import ImageFiles
from prunelab.models.catalogue import build
from prunelab.training.checkpoints import Checkpoint

SHAPE = (3, 8, 8)


def peak(act: Callable[[], object]) -> int:
    """The most bytes that Python and NumPy had at a time, beyond what was there before."""
    gc.collect()
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def decoded(count: int) -> int:
    files = ImageFiles(
        np.array(["a.png"] * count, dtype=object), np.zeros(count, np.int64), SHAPE, None
    )
    seen = 0
    for chunk in files.chunks():
        seen += len(chunk)
    return seen


def test_images_that_wait_to_be_decoded_are_few(monkeypatch):
    image = np.zeros(SHAPE, np.uint8)
    monkeypatch.setattr(ImageFiles, "_decoded", lambda self, path: image)
    assert decoded(5_000) == 5_000
    assert peak(lambda: decoded(9_000)) < 1.5 * peak(lambda: decoded(4_500))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_epoch_of_streamed_images_holds_a_small_part_of_them(tmp_path: Path, execution, workers):
    count, batch_size = 40_000, 500
    np.save(tmp_path / "inputs.npy", np.zeros((count, *SHAPE), np.uint8))
    split = Split(np.load(tmp_path / "inputs.npy", mmap_mode="r"), np.zeros(count, np.int64))
    batches = BatchLoader(
        split, Normalise(mean=[0.5] * 3, std=[0.5] * 3), execution, workers=workers
    )

    def epoch() -> None:
        shuffled = batches.shuffled(batch_size, Augmentation(), seed=0, epoch=0)
        assert sum(len(labels) for _, labels in shuffled) == count

    epoch()  # what is set up once
    assert peak(epoch) < 0.1 * split.inputs.nbytes


@pytest.mark.slow
def test_an_epoch_leaves_nothing_behind_but_its_row(trainer, recipe, tmp_path):
    """What is alive after each of 30 epochs, in Python, NumPy and tensors, by a line through the last 20."""
    left = []

    class Watched(Checkpoint):
        def save(self, state):
            super().save(state)
            gc.collect()
            tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
            left.append(
                tracemalloc.get_traced_memory()[0] + sum(tensor.nbytes for tensor in tensors)
            )

    tracemalloc.start()
    try:
        recipe = recipe.model_copy(update={"epochs": 30})
        watched = with_store(trainer, Watched(tmp_path / "store"))
        watched.fit(build("resnet8", 10, DIGITS_SHAPE), recipe)
    finally:
        tracemalloc.stop()
    assert len(left) == 30
    assert np.polyfit(range(20), left[10:], 1)[0] < 4096
