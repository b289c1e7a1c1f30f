"""Rows of a split's inputs: resident on a device, or streamed from a file by worker processes."""

import mmap
import signal
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class ArrayStore(Protocol):
    def ordered(self, batches: int) -> Iterator[Tensor]:
        """All rows in order, in so many batches whose sizes differ by one at most."""

    def chosen(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The rows of the indices of each batch."""


def rows(inputs: np.ndarray, device: torch.device, workers: int) -> ArrayStore:
    """Inputs mapped from a file stay there and are streamed; others move to the device at once."""
    # A slice of a map is an array like any other: what is asked for in part is meant to be in memory.
    if isinstance(inputs, np.memmap) and isinstance(inputs.base, mmap.mmap):
        return OnDisk(inputs, device, workers)
    return InMemory(inputs, device)


class InMemory:
    def __init__(self, inputs: np.ndarray, device: torch.device):
        self._inputs = torch.from_numpy(np.require(inputs, requirements="W")).to(device)

    def ordered(self, batches: int) -> Iterator[Tensor]:
        return iter(self._inputs.tensor_split(batches))

    def chosen(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        return (self._inputs[indices.to(self._inputs.device)] for indices in batches)


class OnDisk:
    """The rows of one .npy file; only reading is left to the workers (0: this process), so that no random number is."""

    def __init__(self, inputs: np.memmap, device: torch.device, workers: int):
        self._file, self._count, self._device, self._workers = (
            _File(inputs),
            len(inputs),
            device,
            workers,
        )

    def ordered(self, batches: int) -> Iterator[Tensor]:
        return self.chosen(torch.arange(self._count).tensor_split(batches))

    def chosen(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        loader = DataLoader(
            self._file,
            sampler=[indices.numpy() for indices in batches],  # all indices of a batch at once
            batch_size=None,
            num_workers=self._workers,
            worker_init_fn=_leave_interrupts_alone if self._workers else None,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # its own: the global stream, which dropout draws from, is left as it is
        )
        return (batch.to(self._device, non_blocking=True) for batch in loader)


class _File(Dataset):
    """Forked workers read the map they are born with, even if the file goes away; to others it travels as a name."""

    def __init__(self, inputs: np.memmap):
        self._path = str(inputs.filename)
        self._inputs: np.ndarray | None = inputs

    def __getstate__(self) -> dict[str, object]:
        return {"_path": self._path, "_inputs": None}

    def __getitem__(self, indices: np.ndarray) -> Tensor:
        if self._inputs is None:
            self._inputs = np.load(self._path, mmap_mode="r")
        return torch.from_numpy(self._inputs[indices])


def _leave_interrupts_alone(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal: the stage alone answers, and its workers end with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
