"""Batches of a split that lives on the device as uint8: shuffled, augmented and normalised there."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prunelab.data.splits import Split
from prunelab.params import Normalise
from prunelab.runtime import Execution, generator


@dataclass(frozen=True)
class Augmentation:
    """Random crops after zero padding by `crop_padding` pixels (0: none), and random left-right flips."""

    crop_padding: int = 0
    flip: bool = False


class Batches:
    """One split on the device; iterate in order, or shuffled and augmented.

    Images are handed out as float [B, C, H, W], normalised, in the execution's memory format; labels as int64 [B].
    The batches of one pass differ in size by one image at most, so none is a sliver that upsets batch norm.
    """

    def __init__(self, split: Split, normalise: Normalise, execution: Execution):
        self.images = torch.from_numpy(split.inputs).to(execution.device)
        self.labels = torch.from_numpy(split.labels).to(execution.device)
        self._execution = execution
        # pixels / 255, less the mean, over the deviation: folded into one multiply and one add
        mean, std = (
            torch.tensor(values, device=execution.device).view(1, -1, 1, 1)
            for values in (normalise.mean, normalise.std)
        )
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, batch_size: int) -> int:
        """How many batches one pass has."""
        return math.ceil(len(self) / batch_size)

    def ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        parts = self.count(batch_size)
        for images, labels in zip(self.images.tensor_split(parts), self.labels.tensor_split(parts), strict=True):
            yield self._normalise(images), labels

    def shuffled(
        self, batch_size: int, augmentation: Augmentation, *, seed: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch; the same seed and epoch give the same batches, whatever came before."""
        # Random numbers come from the CPU on every device, so that a GPU sees the same images in the same order.
        random = generator("batches", seed, epoch)
        windows = self._windows(augmentation.crop_padding)
        order = torch.randperm(len(self), generator=random)
        for chosen in order.tensor_split(self.count(batch_size)):
            images = _crop(windows, chosen, random)
            if augmentation.flip:
                images = _flip(images, random)
            yield self._normalise(images), self.labels[chosen.to(self.labels.device)]

    def sample(self, examples: int, batch_size: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """So many examples (all, where there are fewer), drawn by the seed and not augmented, in batches."""
        order = torch.randperm(len(self), generator=generator("sample", seed))[:examples]
        for chosen in order.tensor_split(math.ceil(len(order) / batch_size)):
            chosen = chosen.to(self.labels.device)
            yield self._normalise(self.images[chosen]), self.labels[chosen]

    def _windows(self, padding: int) -> Tensor:
        """Every crop of every image as a view, [N, C, 2p + 1, 2p + 1, H, W]."""
        height, width = self.images.shape[-2:]
        return F.pad(self.images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)

    def _normalise(self, images: Tensor) -> Tensor:
        floats = images.to(torch.float32, memory_format=self._execution.memory_format)
        return floats.mul_(self._scale).add_(self._shift)


def _crop(windows: Tensor, chosen: Tensor, random: torch.Generator) -> Tensor:
    positions = windows.shape[2]
    down, right = torch.randint(positions, (2, len(chosen)), generator=random).to(windows.device)
    return windows[chosen.to(windows.device), :, down, right]


def _flip(images: Tensor, random: torch.Generator) -> Tensor:
    flipped = torch.rand(len(images), generator=random).to(images.device) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)
