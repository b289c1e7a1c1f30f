"""Several processes that train one network together, each on its share of every batch; alone, nothing is done.

Why one all-reduce of our own, and not DistributedDataParallel: the network stays as it is, so that guides which zero
weights between steps, masks, frozen layers and parameters that a loss does not reach need no special care; and the
mean is weighted by examples, so that batches which do not divide evenly (or have fewer examples than there are
processes) give the gradients that one process has. The price is that nothing is sent before all of backward is done.
"""

import io
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist  # no import of its own: torch brings it
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.core.lifecycle import EXIT_GRACE_S, PLACE, RENDEZVOUS, process_count
from prunelab.runtime.device import Execution


@dataclass(frozen=True)
class Distributed:
    """The processes that share a training: this one's number, from 0, and how many they are."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, prints and keeps checkpoints."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's share of `count` examples in a row; shares differ by one at most, and the first is largest."""
        return slice(
            *(
                rank * (count // self.size) + min(rank, count % self.size)
                for rank in (self.rank, self.rank + 1)
            )
        )

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, in every one of them; the argument may be overwritten."""
        if self.size > 1:
            _together(dist.all_reduce, tensor)
        return tensor

    def align(self, model: nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.size == 1:
            return
        for tensor in model.state_dict().values():
            sent = tensor.contiguous()  # what is sent must be, whatever the memory format
            _together(dist.broadcast, sent, 0)
            tensor.copy_(sent)

    def shared(self, state: Any) -> Any:
        """What the first process has loaded, on the CPU; made of tensors and plain values."""
        if self.size == 1:
            return state
        buffer = io.BytesIO()
        if self.first:
            torch.save(state, buffer)
        box = [buffer.getvalue()]
        _together(dist.broadcast_object_list, box, 0)
        return torch.load(io.BytesIO(box[0]), map_location="cpu", weights_only=True)

    def averaging(self, parameters: Iterable[nn.Parameter]) -> Callable[[int], None]:
        """A function that turns the gradients of this process's examples, so many, into those of the whole batch.

        Gradients are of means over examples, plus whatever is the same in every process. Which parameters get any is
        settled at the first step, so that later ones need not wait for a device: the rest are left without.
        """
        if self.size == 1:
            return lambda count: None
        trained, used = [parameter for parameter in parameters if parameter.requires_grad], None

        def average(count: int) -> None:
            nonlocal used
            if used is None:
                have = torch.tensor(
                    [p.grad is not None for p in trained],
                    dtype=torch.int64,
                    device=trained[0].device,
                )
                used = [
                    p for p, users in zip(trained, self.summed(have).tolist(), strict=True) if users
                ]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
            ones = torch.ones(1, device=gradients[0].device)
            *sums, total = self.summed(
                torch.cat([g.flatten() for g in [*gradients, ones]]).mul_(count)
            ).split([g.numel() for g in [*gradients, ones]])
            for parameter, gradient, part in zip(used, gradients, sums, strict=True):
                parameter.grad = gradient.copy_(part.div_(total).view_as(gradient))

        return average


SINGLE_PROCESS = Distributed()


def join(execution: Execution) -> Distributed:
    """Meet the other processes, if there are any, and take this one's GPU.

    Raises:
        InputError: if there is no GPU for it.
    """
    if process_count() < 2:
        return SINGLE_PROCESS
    rank, size, local = (int(os.environ[name]) for name in PLACE)
    gpu = execution.device.type == "cuda"
    if gpu:
        require_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", local + 1)), execution)
        torch.cuda.set_device(local)  # "cuda" means this one from now on
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=os.environ.get(RENDEZVOUS, "env://"),
        rank=rank,
        world_size=size,
        device_id=torch.device("cuda", local) if gpu else None,
    )
    return Distributed(rank, size)


def leave() -> None:
    """Part from the others, once all have come so far."""
    if dist.is_initialized():
        _together(dist.barrier)
        dist.destroy_process_group()


def require_gpus(count: int, execution: Execution) -> None:
    """Refuse more processes than this machine has GPUs, where they are to compute on them."""
    if execution.device.type == "cuda" and count > (there := torch.cuda.device_count()):
        raise InputError(
            f"runtime.processes: {count} processes need a GPU each, but there are {there}; valid: 1 to {there}"
        )


def _together(operation: Callable[..., Any], *args: Any) -> None:
    try:
        operation(*args)
    except RuntimeError:
        # Some other process is gone. Whoever started us is about to see which, and to end us: that one is to be named.
        time.sleep(EXIT_GRACE_S)
        raise
