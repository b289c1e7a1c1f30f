"""A data set of this project's own: made up, so that nothing needs to be downloaded.

It has a file to itself, since the stage that prepares data sets needs no torch.
"""

import numpy as np

from prunelab.data.dataset import ClassCounts, DataConfig, DataInfo, SplitData
from prunelab.data.splits import Split
from prunelab.datasets.datasets import DATASETS

NAMES = ["horizontal", "vertical", "rising", "falling"]
CLASSES = len(NAMES)
SIDE = 8
IMAGES = 800


@DATASETS.register("stripes")
class Stripes:
    """800 noisy grey images of 8x8 pixels with stripes in one of four directions, made up here."""

    def __init__(self, config: DataConfig) -> None:
        self._side = config.resize or SIDE

    def missing(self) -> list[str]:
        return []

    def damaged(self) -> list[str]:
        return []

    def reachable(self) -> bool:
        return True

    def download(self) -> None:
        pass

    def info(self) -> DataInfo:
        return DataInfo(CLASSES, (1, self._side, self._side))

    def class_counts(self) -> ClassCounts:
        return ClassCounts(dict.fromkeys(NAMES, IMAGES // CLASSES))

    def digest(self) -> None:
        return None

    def read(self) -> SplitData:
        random = np.random.default_rng(0)
        labels = np.arange(IMAGES) % CLASSES
        rows, columns = np.mgrid[:SIDE, :SIDE]
        directions = np.stack([rows, columns, rows + columns, rows - columns])

        stripes = 96 * (directions[labels] % 3 == 0)
        noise = random.normal(64, 24, stripes.shape)
        images = np.clip(stripes + noise, 0, 255).astype(np.uint8)[:, None]

        train = Split(images, labels.astype(np.int64))
        return SplitData(train=train, test=None, class_names=NAMES)
