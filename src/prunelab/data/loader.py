"""Batches of a split on the device, images or texts, resident or streamed: shuffled, augmented and normalised there."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.data.augment import (
    Augmentation,
    crop_resized,
    flip,
    random_boxes,
    random_flips,
    random_shifts,
    resize,
    shift,
)
from prunelab.data.splits import Split
from prunelab.data.storage import rows
from prunelab.runtime.device import Execution, generator

Part = Callable[[int], slice]  # which of so many examples of a batch are wanted
PAD = 0  # the token id that fills texts up to the length of their array


class BatchLoader:
    """One split; iterate in order, or shuffled and augmented.

    Images are handed out as float [B, C, H, W], normalised, in the execution's memory format; texts as int64 [B, L],
    cut to the longest of the batch, neither normalised (`normalise` is None) nor augmented; labels as int64 [B].
    The batches of one pass differ in size by one example at most, so none is a sliver that upsets batch norm.
    Streamed inputs (a memory map, read by `workers` processes) give the same batches to the bit as resident ones.
    """

    def __init__(
        self, split: Split, normalise: Normalise | None, execution: Execution, *, workers: int = 0
    ):
        self.labels = torch.from_numpy(split.labels).to(execution.device)
        self._form: _Images | _Texts
        if len(split.shape) == 1:
            self._form = _Texts(execution)
        elif normalise is None:
            raise InputError(
                f"images of shape {split.shape} need a mean and a deviation to be normalised by"
            )
        else:
            self._form = _Images(
                normalise, split.size or (split.shape[1], split.shape[2]), execution
            )
        self._rows = rows(split.inputs, self._form.home, workers)

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, batch_size: int) -> int:
        """How many batches one pass has."""
        return math.ceil(len(self) / batch_size)

    def ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        parts = self.count(batch_size)
        for inputs, labels in zip(
            self._rows.ordered(parts), self.labels.tensor_split(parts), strict=True
        ):
            yield self._form.plain(inputs), labels

    def shuffled(
        self,
        batch_size: int,
        augmentation: Augmentation,
        *,
        seed: int,
        epoch: int,
        part: Part | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch, or a `part` of every batch; the same seed and epoch give the same batches, whatever came before.

        Of a part only its own examples are read and augmented, by the random numbers that they have in the whole batch.
        """
        random = generator("batches", seed, epoch)
        batches = torch.randperm(len(self), generator=random).tensor_split(self.count(batch_size))
        parts = [slice(None) if part is None else part(len(batch)) for batch in batches]
        own = [batch[wanted] for batch, wanted in zip(batches, parts, strict=True)]
        for batch, wanted, chosen, inputs in zip(
            batches, parts, own, self._rows.chosen(own), strict=True
        ):
            augmented = self._form.augmented(inputs, augmentation, random, len(batch), wanted)
            yield augmented, self.labels[chosen.to(self.labels.device)]

    def sample(
        self, examples: int, batch_size: int, *, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """So many examples (all, where there are fewer), drawn by the seed and not augmented, in batches."""
        order = torch.randperm(len(self), generator=generator("sample", seed))[:examples]
        parts = order.tensor_split(math.ceil(len(order) / batch_size))
        for chosen, inputs in zip(parts, self._rows.chosen(parts), strict=True):
            yield self._form.plain(inputs), self.labels[chosen.to(self.labels.device)]


class _Images:
    def __init__(self, normalise: Normalise, size: tuple[int, int], execution: Execution):
        self.home = execution.device
        self._size, self._memory_format = size, execution.memory_format
        # pixels / 255, less the mean, over the deviation: folded into one multiply and one add
        mean, std = (
            torch.tensor(values, device=execution.device).view(1, -1, 1, 1)
            for values in (normalise.mean, normalise.std)
        )
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def plain(self, images: Tensor) -> Tensor:
        return self._normalised(self._floats(images))

    def augmented(
        self,
        images: Tensor,
        augmentation: Augmentation,
        random: torch.Generator,
        count: int,
        part: slice,
    ) -> Tensor:
        """The images, which are a `part` of a batch of `count`."""
        padding = augmentation.crop_padding
        images = shift(images, padding, random_shifts(count, padding, random)[:, part])
        if augmentation.flip:
            images = flip(images, random_flips(count, random)[part])
        floats = self._floats(images)
        if augmentation.crop_scale < 1:
            height, width = floats.shape[-2:]
            boxes = random_boxes(count, height, width, augmentation.crop_scale, random)[part]
            # Straight to the size wanted if that is larger; else down to it in a second step, which is antialiased.
            floats = crop_resized(
                floats, boxes, (max(height, self._size[0]), max(width, self._size[1]))
            )
        return self._normalised(floats)

    def _floats(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, memory_format=self._memory_format)

    def _normalised(self, floats: Tensor) -> Tensor:
        sized = resize(floats, self._size).contiguous(memory_format=self._memory_format)
        return sized.mul_(self._scale).add_(self._shift)


class _Texts:
    def __init__(self, execution: Execution):
        # Ids wait on the CPU: finding the longest text there makes no GPU wait, and a batch is some kilobytes.
        self.home = torch.device("cpu")
        self._device = execution.device

    def plain(self, ids: Tensor) -> Tensor:
        used = (ids != PAD).any(dim=0).nonzero()
        longest = int(used[-1]) + 1 if len(used) else 1
        return ids[:, :longest].to(self._device)

    def augmented(
        self,
        ids: Tensor,
        augmentation: Augmentation,
        random: torch.Generator,
        count: int,
        part: slice,
    ) -> Tensor:
        return self.plain(ids)
