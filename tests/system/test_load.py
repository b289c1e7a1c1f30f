"""Memory does not grow with the number of images or epochs."""

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
from prunelab.datasets.image_files import ImageFiles
from prunelab.models.networks import build
from prunelab.training.checkpoints import Checkpoint

SHAPE = (3, 8, 8)
MAX_GROWTH_BYTES = 4096  # per epoch: its row in the history


def peak_memory(act: Callable[[], object]) -> int:
    """The peak of the bytes that Python and NumPy allocate during a call."""
    gc.collect()
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def decode_images(count: int) -> int:
    """Decode so many image files in chunks. Returns how many images the chunks had."""
    paths = np.array(["a.png"] * count, dtype=object)
    files = ImageFiles(paths, np.zeros(count, np.int64), SHAPE, None)
    return sum(len(chunk) for chunk in files.chunks())


def test_decoding_twice_as_many_images_needs_no_more_memory(monkeypatch):
    image = np.zeros(SHAPE, np.uint8)
    monkeypatch.setattr(ImageFiles, "_decode", lambda self, path: image)
    assert decode_images(5_000) == 5_000  # sets up what stays

    half = peak_memory(lambda: decode_images(4_500))
    whole = peak_memory(lambda: decode_images(9_000))

    assert whole < 1.5 * half


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_epoch_of_streamed_images_holds_few_of_them(tmp_path: Path, execution, workers):
    count, batch_size = 40_000, 500
    np.save(tmp_path / "inputs.npy", np.zeros((count, *SHAPE), np.uint8))
    split = Split(np.load(tmp_path / "inputs.npy", mmap_mode="r"), np.zeros(count, np.int64))
    normalise = Normalise(mean=[0.5] * 3, std=[0.5] * 3)
    loader = BatchLoader(split, normalise, execution, workers=workers)

    def epoch() -> None:
        batches = loader.shuffled(batch_size, Augmentation(), seed=0, epoch=0)
        assert sum(len(labels) for _, labels in batches) == count

    epoch()  # sets up what stays
    peak = peak_memory(epoch)

    assert peak < 0.1 * split.inputs.nbytes


@pytest.mark.slow
def test_epoch_leaves_nothing_in_memory_but_its_row(trainer, recipe, tmp_path):
    """The growth is the slope of a line through the last 20 of 30 epochs.

    It counts what Python, NumPy and tensors hold after each epoch.
    """
    alive = []

    class WatchedCheckpoint(Checkpoint):
        def save(self, state):
            super().save(state)
            gc.collect()
            tensors = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
            in_tensors = sum(tensor.nbytes for tensor in tensors)
            alive.append(tracemalloc.get_traced_memory()[0] + in_tensors)

    watched = with_store(trainer, WatchedCheckpoint(tmp_path / "store"))
    tracemalloc.start()
    try:
        watched.fit(build("resnet8", 10, DIGITS_SHAPE), recipe.model_copy(update={"epochs": 30}))
    finally:
        tracemalloc.stop()

    assert len(alive) == 30
    growth, _ = np.polyfit(range(20), alive[10:], 1)
    assert growth < MAX_GROWTH_BYTES
