"""How many of their 16 bits the images of a training split use: a 12-bit camera fills only 12."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import Literal

import numpy as np

from prunelab.datasets.images import KEPT_BITS, maximum_of

Kind = Literal["grey", "colour"]

FULL_BITS = 16
CHUNK_FILES = 4096  # every file that waits to be read takes a kilobyte


class BitDepth:
    """The bits that 16-bit images of a training split use, by kind of image.

    They are measured when the first such image is decoded, so data sets without one lose no time.
    Threads may share an instance.

    Args:
        training_paths: all image files of the training split
    """

    def __init__(self, training_paths: Sequence[str] | np.ndarray) -> None:
        self._paths = training_paths
        self._bits: dict[Kind, int] = {}
        self._clipped = 0
        self._measuring, self._counting = threading.Lock(), threading.Lock()

    @classmethod
    def known(cls, grey_bits: int) -> "BitDepth":
        """The bits that a training split used, where its files are not at hand."""
        depth = cls([])
        depth._bits["grey"] = grey_bits
        return depth

    def used(self, kind: Kind) -> int:
        """The bits of the largest value in the 16-bit images of a kind, from 8 to 16."""
        with self._measuring:
            if kind not in self._bits:
                self._bits[kind] = self._measure(kind)
            return self._bits[kind]

    def _measure(self, kind: Kind) -> int:
        largest = 0
        with ThreadPoolExecutor(cpu_count()) as pool:
            for start in range(0, len(self._paths), CHUNK_FILES):
                paths = self._paths[start : start + CHUNK_FILES]
                maxima = pool.map(lambda path: maximum_of(path, kind), paths)
                largest = max(largest, *maxima)
                if largest.bit_length() >= FULL_BITS:
                    break

        if largest == 0:  # the training split has no such image
            return FULL_BITS
        return min(max(largest.bit_length(), KEPT_BITS), FULL_BITS)

    def count_clipped(self) -> None:
        """Count an image with values beyond the bits that are used."""
        with self._counting:
            self._clipped += 1

    def record(self) -> dict[str, int]:
        """What dataset.json says about it: nothing, if no image was of 16 bits or all are used."""
        entries = {}
        for kind, bits in sorted(self._bits.items()):
            if bits < FULL_BITS:
                entries[f"{kind}_bits"] = bits
        if self._clipped:
            entries["grey_clipped"] = self._clipped
        return entries

    def report(self) -> list[str]:
        """The same in words, a line each."""
        lines = []
        entries = self.record()
        if "grey_bits" in entries:
            lines.append(
                f"16-bit grey images: the training split uses {entries['grey_bits']} bits, "
                f"which were scaled to {KEPT_BITS}"
            )

        if "colour_bits" in entries:
            levels = 2 ** (entries["colour_bits"] - KEPT_BITS)
            lines.append(
                f"16-bit colour images: the training split uses {entries['colour_bits']} bits, but "
                f"only the upper {KEPT_BITS} of 16 can be read, which leaves {levels} levels; "
                f"convert them to {KEPT_BITS} bits a channel first"
            )

        if "grey_clipped" in entries:
            lines.append(
                f"16-bit grey images: {entries['grey_clipped']} images of other splits have larger "
                "values, which were clipped"
            )
        return lines
