"""Batches of a split, made on the device: shuffled, augmented and normalised images, or texts."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from prunelab.config.params import Interpolation, Normalise
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
from prunelab.data.augmentations import DRAWS, augment
from prunelab.data.splits import Split
from prunelab.data.storage import array_store, moved_together
from prunelab.runtime.device import Execution, generator

PAD = 0  # the token id that fills texts up to the length of their array

# Which examples of a batch, given its size, one of several processes gets.
BatchPart = Callable[[int], slice]


class RawBatch(NamedTuple):
    """The stored examples of a batch, and the random numbers that will augment them.

    `inputs` are images, uint8 [B, C, H, W], or token ids, int64 [B, L]; `labels` int64 [B].
    `shifts`, `flips` and `boxes` are as `prunelab.data.augment` draws them, or None. `others`,
    float32 [B, augmentations, DRAWS], are for those of AUGMENTATIONS, or None.
    """

    inputs: Tensor
    labels: Tensor
    shifts: Tensor | None = None
    flips: Tensor | None = None
    boxes: Tensor | None = None
    others: Tensor | None = None


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
            stored_size = (split.shape[1], split.shape[2])
            size = split.size or stored_size
            self._transform = _ImageTransform(
                normalise, stored_size, size, execution, split.interpolation
            )

        self._inputs = array_store(split.inputs, self._transform.input_device, workers)

    def __len__(self) -> int:
        return len(self.labels)

    def batches_per_epoch(self, batch_size: int) -> int:
        """How many batches all examples make."""
        return math.ceil(len(self) / batch_size)

    @property
    def fixed_shapes(self) -> bool:
        """Whether batches of one size have one shape. Batches of texts are as long as a text."""
        return isinstance(self._transform, _ImageTransform)

    def ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in order, in batches of inputs and labels, not augmented."""
        for batch in self.raw_ordered(batch_size):
            yield self.plain(batch), batch.labels

    def raw_ordered(self, batch_size: int) -> Iterator[RawBatch]:
        """The batches of `ordered` before `plain` makes inputs of them."""
        batches = self.batches_per_epoch(batch_size)
        labels = self.labels.tensor_split(batches)
        for batch_inputs, batch_labels in zip(self._inputs.ordered(batches), labels, strict=True):
            yield RawBatch(batch_inputs, batch_labels)

    def plain(self, batch: RawBatch) -> Tensor:
        """The inputs of a batch, not augmented."""
        return self._transform.plain(batch.inputs)

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
        for batch in self.raw_shuffled(batch_size, augmentation, seed=seed, epoch=epoch, part=part):
            yield self.augmented(batch, augmentation), batch.labels

    def raw_shuffled(
        self,
        batch_size: int,
        augmentation: Augmentation,
        *,
        seed: int,
        epoch: int,
        part: BatchPart | None = None,
    ) -> Iterator[RawBatch]:
        """The batches of `shuffled` before `augmented` makes inputs of them.

        This call itself draws all random numbers and moves them to the device: no batch waits.
        """
        random = generator("batches", seed, epoch)
        order = torch.randperm(len(self), generator=random)
        batches = order.tensor_split(self.batches_per_epoch(batch_size))

        slices = [slice(None)] * len(batches)
        if part is not None:
            slices = [part(len(batch)) for batch in batches]
        indices = [batch[kept] for batch, kept in zip(batches, slices, strict=True)]

        parts = [(len(batch), kept) for batch, kept in zip(batches, slices, strict=True)]
        draws = self._transform.draws(random, augmentation, parts)
        label_rows = moved_together(indices, self.labels.device)
        loaded = self._inputs.take(indices)
        return (
            RawBatch(inputs, self.labels[rows], *drawn)
            for inputs, rows, drawn in zip(loaded, label_rows, draws, strict=True)
        )

    def augmented(self, batch: RawBatch, augmentation: Augmentation) -> Tensor:
        """The inputs of a batch of `raw_shuffled`."""
        return self._transform.augmented(batch, augmentation)

    def sample(
        self, examples: int, batch_size: int, *, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """A random sample of `examples` examples, or all if there are fewer, not augmented."""
        order = torch.randperm(len(self), generator=generator("sample", seed))[:examples]
        batches = order.tensor_split(math.ceil(len(order) / batch_size))

        for rows, inputs in zip(batches, self._inputs.take(batches), strict=True):
            yield self._transform.plain(inputs), self.labels[rows.to(self.labels.device)]


# Shifts, flips, boxes and others of one batch, as in `RawBatch`.
_Draws = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]

# The size of a whole batch, and which of its examples this process gets.
_Part = tuple[int, slice]


class _ImageTransform:
    """Turns stored images, uint8 [B, C, H, W], into inputs of networks.

    `stored_size` is the height and width of stored images, `size` that of inputs, and
    `interpolation` how the former become the latter.
    """

    def __init__(
        self,
        normalise: Normalise,
        stored_size: tuple[int, int],
        size: tuple[int, int],
        execution: Execution,
        interpolation: Interpolation,
    ) -> None:
        self.input_device = execution.device
        self._interpolation = interpolation
        self._stored_size = stored_size
        self._size = size
        self._memory_format = execution.memory_format

        # (pixels / 255 - mean) / std as one multiplication and one addition.
        mean = torch.tensor(normalise.mean, device=execution.device).view(1, -1, 1, 1)
        std = torch.tensor(normalise.std, device=execution.device).view(1, -1, 1, 1)
        self._scale = 1 / (255 * std)
        self._shift = -mean / std

    def plain(self, images: Tensor) -> Tensor:
        return self._normalised(self._floats(images))

    def draws(
        self, random: torch.Generator, augmentation: Augmentation, parts: Sequence[_Part]
    ) -> Iterator[_Draws]:
        """The random numbers of every batch, on the device.

        Every process draws for whole batches, so the images do not depend on the number of
        processes.
        """
        shifts, flips, boxes, others = [], [], [], []
        for batch_size, kept in parts:
            shifts.append(random_shifts(batch_size, augmentation.crop_padding, random)[:, kept])
            if augmentation.flip:
                flips.append(random_flips(batch_size, random)[kept])
            if augmentation.crop_scale < 1:
                drawn = random_boxes(
                    batch_size, *self._stored_size, augmentation.crop_scale, random
                )
                boxes.append(drawn[kept])
            if augmentation.others:
                size = (batch_size, len(augmentation.others), DRAWS)
                others.append(torch.rand(size, generator=random)[kept])

        device = self.input_device
        nothing: list[None] = [None] * len(parts)
        return zip(
            moved_together(shifts, device, dim=1) if augmentation.crop_padding else nothing,
            moved_together(flips, device) or nothing,
            moved_together(boxes, device) or nothing,
            moved_together(others, device) or nothing,
            strict=True,
        )

    def augmented(self, batch: RawBatch, augmentation: Augmentation) -> Tensor:
        images = batch.inputs
        if batch.shifts is not None:
            images = shift(images, augmentation.crop_padding, batch.shifts)
        if batch.flips is not None:
            images = flip(images, batch.flips)

        floats = self._floats(images)
        if batch.boxes is not None:
            height, width = self._stored_size
            # Enlarging happens in this step. Shrinking is a second step, which is antialiased.
            size = (max(height, self._size[0]), max(width, self._size[1]))
            if self._interpolation != "bilinear":  # crops are bilinear, so enlarging comes first
                floats = self._resized(floats, size)
            floats = crop_resized(floats, batch.boxes, size)
        if batch.others is not None:
            floats = self._augmented_by_name(floats, augmentation.others, batch.others)
        return self._normalised(floats)

    def _augmented_by_name(self, floats: Tensor, names: Sequence[str], random: Tensor) -> Tensor:
        """Images of pixels 0 to 255 in the size of inputs, changed by AUGMENTATIONS."""
        images = self._resized(floats, self._size) / 255
        return augment(images, random, names) * 255

    def _floats(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, memory_format=self._memory_format)

    def _resized(self, floats: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(floats, size, self._interpolation)

    def _normalised(self, floats: Tensor) -> Tensor:
        resized = self._resized(floats, self._size).contiguous(memory_format=self._memory_format)
        return resized.mul_(self._scale).add_(self._shift)


def preprocessing(
    normalise: Normalise, size: tuple[int, int], interpolation: Interpolation = "bilinear"
) -> Callable[[Tensor], Tensor]:
    """What turns stored images into inputs as `BatchLoader` makes them, on the CPU.

    The function maps images uint8 [B, C, H, W] to float32 [B, C, *size], not augmented.
    """
    execution = Execution(torch.device("cpu"), None, torch.contiguous_format)
    return _ImageTransform(normalise, size, size, execution, interpolation).plain


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

    def draws(
        self, random: torch.Generator, augmentation: Augmentation, parts: Sequence[_Part]
    ) -> Iterator[_Draws]:
        return repeat((None, None, None, None), len(parts))

    def augmented(self, batch: RawBatch, augmentation: Augmentation) -> Tensor:
        return self.plain(batch.inputs)
