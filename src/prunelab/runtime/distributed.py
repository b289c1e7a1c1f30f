"""Several processes train one network together, each on its share of every batch.

There is one all-reduce of our own instead of DistributedDataParallel, for two reasons. The network
stays as it is, so callbacks that zero weights, masks, frozen layers and parameters without a
gradient need no special care. And the mean is weighted by examples, so batches that do not divide
evenly (or have fewer examples than processes) give the gradients of a single process. The price:
nothing is sent before the backward pass is complete.
"""

import io
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist  # costs nothing: torch imports it
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.core.lifecycle import EXIT_GRACE_S, RANK_VARIABLES, RENDEZVOUS, process_count
from prunelab.runtime.device import Execution


@dataclass(frozen=True)
class Distributed:
    """The processes that share a training: the rank of this one, from 0, and their number."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes, prints and keeps checkpoints."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's share of `count` examples in a row.

        Shares differ by at most one example, and the first is the largest.
        """
        return slice(self._start(self.rank, count), self._start(self.rank + 1, count))

    def _start(self, rank: int, count: int) -> int:
        return rank * (count // self.size) + min(rank, count % self.size)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, given to each of them; it may overwrite `tensor`."""
        if self.size > 1:
            _collective(dist.all_reduce, tensor)
        return tensor

    def align(self, model: nn.Module) -> None:
        """Copy the weights and buffers of the first process to all others."""
        if self.size == 1:
            return
        for tensor in model.state_dict().values():
            message = tensor.contiguous()  # only such tensors can be sent
            _collective(dist.broadcast, message, 0)
            tensor.copy_(message)

    def shared(self, state: Any) -> Any:
        """What the first process passed, given to each of them, on the CPU.

        It may contain tensors and plain values.
        """
        if self.size == 1:
            return state

        buffer = io.BytesIO()
        if self.first:
            torch.save(state, buffer)
        messages = [buffer.getvalue()]
        _collective(dist.broadcast_object_list, messages, 0)
        return torch.load(io.BytesIO(messages[0]), map_location="cpu", weights_only=True)

    def averaging(self, parameters: Iterable[nn.Parameter]) -> Callable[[int], None]:
        """A function that replaces this process's gradients by those of the whole batch.

        It takes the number of this process's examples. Gradients must be means over examples, plus
        terms that are the same in every process.
        """
        if self.size == 1:
            return lambda count: None
        return _GradientAverager(self, parameters)


SINGLE_PROCESS = Distributed()


class _GradientAverager:
    """The mean of all processes' gradients, weighted by their numbers of examples.

    The first step settles which parameters get gradients at all, so that later steps need not wait
    for a device. The others are left without.
    """

    def __init__(self, distributed: Distributed, parameters: Iterable[nn.Parameter]) -> None:
        self._distributed = distributed
        self._trainable = [parameter for parameter in parameters if parameter.requires_grad]
        self._used: list[nn.Parameter] | None = None

    def __call__(self, count: int) -> None:
        if self._used is None:
            self._used = self._parameters_with_gradients()
        gradients = [_gradient(parameter) for parameter in self._used]

        # One message: all gradients and a 1, multiplied by this process's number of examples.
        one = torch.ones(1, device=gradients[0].device)
        flat = [tensor.flatten() for tensor in (*gradients, one)]
        message = self._distributed.summed(torch.cat(flat).mul_(count))
        *sums, total = torch.split(message, [tensor.numel() for tensor in flat])

        for parameter, gradient, total_gradient in zip(self._used, gradients, sums, strict=True):
            mean = total_gradient.div_(total)
            parameter.grad = gradient.copy_(mean.view_as(gradient))

    def _parameters_with_gradients(self) -> list[nn.Parameter]:
        """The parameters that have a gradient in at least one process."""
        has_gradient = torch.tensor(
            [parameter.grad is not None for parameter in self._trainable],
            dtype=torch.int64,
            device=self._trainable[0].device,
        )
        users = self._distributed.summed(has_gradient).tolist()

        used = []
        for parameter, user_count in zip(self._trainable, users, strict=True):
            if user_count:
                used.append(parameter)
        return used


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad


def join(execution: Execution) -> Distributed:
    """Meet the other processes, if there are any, and take this one's GPU.

    Raises:
        InputError: if there is no GPU for this process.
    """
    if process_count() < 2:
        return SINGLE_PROCESS

    rank, size, local_rank = (int(os.environ[name]) for name in RANK_VARIABLES)
    backend, device = "gloo", None
    if execution.device.type == "cuda":
        require_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1)), execution)
        torch.cuda.set_device(local_rank)  # "cuda" means this one from now on
        backend, device = "nccl", torch.device("cuda", local_rank)

    dist.init_process_group(
        backend,
        init_method=os.environ.get(RENDEZVOUS, "env://"),
        rank=rank,
        world_size=size,
        device_id=device,
    )
    return Distributed(rank, size)


def leave() -> None:
    """Wait for the other processes, then part from them."""
    if dist.is_initialized():
        _collective(dist.barrier)
        dist.destroy_process_group()


def require_gpus(count: int, execution: Execution) -> None:
    """Check that `count` processes can have a GPU each, if they compute on GPUs.

    Raises:
        InputError: if this machine has fewer.
    """
    if execution.device.type != "cuda":
        return
    available = torch.cuda.device_count()
    if count > available:
        raise InputError(
            f"runtime.processes: {count} processes need a GPU each, but there are {available}; "
            f"valid: 1 to {available}"
        )


def _collective(operation: Callable[..., Any], *args: object) -> None:
    """Run an operation in which all processes take part."""
    try:
        operation(*args)
    except RuntimeError:
        # Another process is gone. The parent will name it and end this one, so let it speak first.
        time.sleep(EXIT_GRACE_S)
        raise
