"""Batches of a split, made on the device: shuffled, augmented and normalised images, or texts."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
from prunelab.data.storage import array_store
from prunelab.runtime.device import Execution, generator

PAD = 0  # the token id that fills texts up to the length of their array

# Which examples of a batch, given its size, one of several processes gets.
BatchPart = Callable[[int], slice]


class BatchLoader:
    """Batches of one split, in order or shuffled and augmented.

    Image batches are float [B, C, H, W], normalised, in the memory format of the execution. Text
    batches are int64 [B, L], cut to the longest text of the batch, and neither normalised nor
    augmented. Labels are int64 [B].

    The batches of one pass differ in size by at most one example, so no batch is too small for
    batch norm. Memory-mapped inputs are streamed, and give the same batches to the bit as inputs in
    memory.

    Args:
        split: the examples
        normalise: mean and standard deviation of the images' channels; None for texts
        execution: the device and the memory format of images
        workers: processes that read memory-mapped inputs; 0 reads in this process

    Raises:
        InputError: if `split` holds images and `normalise` is None.
    """

    def __init__(
        self, split: Split, normalise: Normalise | None, execution: Execution, *, workers: int = 0
    ) -> None:
        self.labels = torch.from_numpy(split.labels).to(execution.device)
        self._transform: _ImageTransform | _TextTransform
        if len(split.shape) == 1:
            self._transform = _TextTransform(execution)
        elif normalise is None:
            raise InputError(
                f"images of shape {split.shape} need the mean and the standard deviation "
                "of their channels"
            )
        else:
            size = split.size or (split.shape[1], split.shape[2])
            self._transform = _ImageTransform(normalise, size, execution)

        self._inputs = array_store(split.inputs, self._transform.input_device, workers)

    def __len__(self) -> int:
        return len(self.labels)

    def batches_per_epoch(self, batch_size: int) -> int:
        """How many batches all examples make."""
        return math.ceil(len(self) / batch_size)

    def ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in order, in batches of inputs and labels, not augmented."""
        batches = self.batches_per_epoch(batch_size)
        labels = self.labels.tensor_split(batches)
        for batch_inputs, batch_labels in zip(self._inputs.ordered(batches), labels, strict=True):
            yield self._transform.plain(batch_inputs), batch_labels

    def shuffled(
        self,
        batch_size: int,
        augmentation: Augmentation,
        *,
        seed: int,
        epoch: int,
        part: BatchPart | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of augmented batches, which depend on `seed` and `epoch` alone.

        With `part`, only its share of each batch is read and augmented, by the random numbers that
        these examples have in the whole batch.
        """
        random = generator("batches", seed, epoch)
        order = torch.randperm(len(self), generator=random)
        batches = order.tensor_split(self.batches_per_epoch(batch_size))

        slices = [slice(None)] * len(batches)
        if part is not None:
            slices = [part(len(batch)) for batch in batches]
        indices = [batch[kept] for batch, kept in zip(batches, slices, strict=True)]

        loaded = self._inputs.take(indices)
        for batch, kept, rows, inputs in zip(batches, slices, indices, loaded, strict=True):
            draws = _Draws(random, batch_size=len(batch), kept=kept)
            augmented = self._transform.augmented(inputs, augmentation, draws)
            yield augmented, self.labels[rows.to(self.labels.device)]

    def sample(
        self, examples: int, batch_size: int, *, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """A random sample of `examples` examples, or all if there are fewer, not augmented."""
        order = torch.randperm(len(self), generator=generator("sample", seed))[:examples]
        batches = order.tensor_split(math.ceil(len(order) / batch_size))

        for rows, inputs in zip(batches, self._inputs.take(batches), strict=True):
            yield self._transform.plain(inputs), self.labels[rows.to(self.labels.device)]


@dataclass(frozen=True)
class _Draws:
    """Random numbers for a whole batch, of which the examples in `kept` use theirs.

    Every process draws for the whole batch, so the images do not depend on the number of processes.
    """

    random: torch.Generator
    batch_size: int
    kept: slice

    def shifts(self, padding: int) -> Tensor:
        return random_shifts(self.batch_size, padding, self.random)[:, self.kept]

    def flips(self) -> Tensor:
        return random_flips(self.batch_size, self.random)[self.kept]

    def boxes(self, height: int, width: int, scale: float) -> Tensor:
        return random_boxes(self.batch_size, height, width, scale, self.random)[self.kept]


class _ImageTransform:
    """Turns stored images, uint8 [B, C, H, W], into inputs of networks."""

    def __init__(self, normalise: Normalise, size: tuple[int, int], execution: Execution) -> None:
        self.input_device = execution.device
        self._size = size
        self._memory_format = execution.memory_format

        # (pixels / 255 - mean) / std as one multiplication and one addition.
        mean = torch.tensor(normalise.mean, device=execution.device).view(1, -1, 1, 1)
        std = torch.tensor(normalise.std, device=execution.device).view(1, -1, 1, 1)
        self._scale = 1 / (255 * std)
        self._shift = -mean / std

    def plain(self, images: Tensor) -> Tensor:
        return self._normalised(self._floats(images))

    def augmented(self, images: Tensor, augmentation: Augmentation, draws: _Draws) -> Tensor:
        padding = augmentation.crop_padding
        images = shift(images, padding, draws.shifts(padding))
        if augmentation.flip:
            images = flip(images, draws.flips())

        floats = self._floats(images)
        if augmentation.crop_scale < 1:
            height, width = floats.shape[-2:]
            boxes = draws.boxes(height, width, augmentation.crop_scale)
            # Enlarging happens in this step. Shrinking is a second step, which is antialiased.
            size = (max(height, self._size[0]), max(width, self._size[1]))
            floats = crop_resized(floats, boxes, size)
        return self._normalised(floats)

    def _floats(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, memory_format=self._memory_format)

    def _normalised(self, floats: Tensor) -> Tensor:
        resized = resize(floats, self._size).contiguous(memory_format=self._memory_format)
        return resized.mul_(self._scale).add_(self._shift)


class _TextTransform:
    """Turns stored token ids, int64 [B, L], into inputs of networks."""

    def __init__(self, execution: Execution) -> None:
        # Ids are stored on the CPU: finding the longest text there does not make a GPU wait, and a
        # batch takes only some kilobytes.
        self.input_device = torch.device("cpu")
        self._device = execution.device

    def plain(self, ids: Tensor) -> Tensor:
        used_columns = (ids != PAD).any(dim=0).nonzero()
        longest = 1
        if len(used_columns):
            longest = int(used_columns[-1]) + 1
        return ids[:, :longest].to(self._device)

    def augmented(self, ids: Tensor, augmentation: Augmentation, draws: _Draws) -> Tensor:
        return self.plain(ids)
