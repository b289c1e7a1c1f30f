"""The inputs of a split, on a device or in a file that worker processes read."""

import mmap
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prunelab.core.lifecycle import end_with_parent


class ArrayStore(Protocol):
    """An array of examples [N, ...] that hands out batches on the device."""

    def ordered(self, batches: int) -> Iterator[Tensor]:
        """All examples in order, in `batches` batches whose sizes differ by at most one."""

    def take(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The examples at the indices of each batch."""


def array_store(inputs: np.ndarray, device: torch.device, workers: int) -> ArrayStore:
    """Stream inputs that are a whole memory-mapped file; move all others to the device at once."""
    # A slice of a map is also an np.memmap, but its base is another array: it is held in memory.
    if isinstance(inputs, np.memmap) and isinstance(inputs.base, mmap.mmap):
        return OnDisk(inputs, device, workers)
    return InMemory(inputs, device)


def moved_together(
    tensors: Sequence[Tensor], device: torch.device, dim: int = 0
) -> Sequence[Tensor]:
    """Tensors on the CPU, moved to a device in one message; they may differ in size along `dim`."""
    if device.type == "cpu" or not tensors:
        return tensors
    sizes = [tensor.shape[dim] for tensor in tensors]
    return torch.split(torch.cat(list(tensors), dim).to(device), sizes, dim)


class InMemory:
    """Examples that fit into the memory of the device."""

    def __init__(self, inputs: np.ndarray, device: torch.device) -> None:
        self._inputs = torch.from_numpy(np.require(inputs, requirements="W")).to(device)

    def ordered(self, batches: int) -> Iterator[Tensor]:
        return iter(self._inputs.tensor_split(batches))

    def take(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        rows = moved_together(batches, self._inputs.device)
        return (self._inputs[indices] for indices in rows)


class OnDisk:
    """Examples of one .npy file.

    Workers only read examples; all random numbers are drawn in the main process. `workers=0` reads
    in the main process too.
    """

    def __init__(self, inputs: np.memmap, device: torch.device, workers: int) -> None:
        self._file = _MappedFile(inputs)
        self._count = len(inputs)
        self._device = device
        self._workers = workers

    def ordered(self, batches: int) -> Iterator[Tensor]:
        return self.take(torch.arange(self._count).tensor_split(batches))

    def take(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        loader = DataLoader(
            self._file,
            sampler=[indices.numpy() for indices in batches],  # one item is a whole batch
            batch_size=None,
            num_workers=self._workers,
            worker_init_fn=_end_with_main_process,
            pin_memory=self._device.type == "cuda",
            # Its own generator: by default it would advance the global one, which dropout uses.
            generator=torch.Generator(),
        )

        if self._device.type == "cuda":
            return _copied_ahead(loader, self._device)
        return iter(loader)


def _copied_ahead(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Batches on a GPU, each copied while the GPU still computes with the one before.

    `batches` are in pinned memory. They are copied on a stream of their own; the stream that takes
    a batch waits for its copy alone.
    """
    copy_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Tensor, torch.cuda.Event] | None = None

    for batch in batches:
        with torch.cuda.stream(copy_stream):
            moved = batch.to(device, non_blocking=True)
            copied = copy_stream.record_event()

        if waiting is not None:
            yield _after_copy(*waiting)
        waiting = (moved, copied)

    if waiting is not None:
        yield _after_copy(*waiting)


def _after_copy(batch: Tensor, copied: torch.cuda.Event) -> Tensor:
    consumer = torch.cuda.current_stream(batch.device)
    consumer.wait_event(copied)
    # The memory belongs to the copy stream, which must not reuse it before the consumer is done.
    batch.record_stream(consumer)
    return batch


class _MappedFile(Dataset[Tensor]):
    """A memory map as torch's DataLoader wants it.

    Forked workers inherit the map, so they can read even after the file is deleted. Pickled, it
    travels as a path, and the map is opened again.
    """

    def __init__(self, inputs: np.memmap) -> None:
        self._path = str(inputs.filename)
        self._inputs: np.ndarray | None = inputs

    def __getstate__(self) -> dict[str, object]:
        return {"_path": self._path, "_inputs": None}

    def __getitem__(self, indices: np.ndarray) -> Tensor:
        if self._inputs is None:
            self._inputs = np.load(self._path, mmap_mode="r")
        return torch.from_numpy(self._inputs[indices])


def _end_with_main_process(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal. Only the main process handles it; workers end with
    # it, at once where the system offers that, and otherwise when torch notices.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(os.getppid())
