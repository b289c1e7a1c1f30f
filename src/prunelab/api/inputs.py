"""What scripts pass in: networks, example inputs and batches, checked before any work."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from prunelab.api.result import Card, LoadedNetwork, PrunedNetwork
from prunelab.artifacts.networks import ModelCard
from prunelab.core.errors import InputError
from prunelab.core.text import abbreviate, name_list
from prunelab.models.cost import output_positions
from prunelab.models.networks import prunable_weights
from prunelab.models.structure import Structure, registered_structure, traced_structure
from prunelab.pruning.criteria.calibration import evaluating
from prunelab.runtime.device import Execution

Network = nn.Module | PrunedNetwork | LoadedNetwork
Data = Iterable[Any]  # batches (inputs [B, ...], targets [B, ...]), as a DataLoader yields them


def module_of(network: object) -> nn.Module:
    """The module of whatever stands for a network.

    Raises:
        InputError: if it is none, or one that hides its layers.
    """
    if isinstance(network, PrunedNetwork | LoadedNetwork):
        return network.model

    if not isinstance(network, nn.Module):
        hint = ""
        if isinstance(network, dict):
            hint = ". Build the network and call its load_state_dict with these weights"
        raise InputError(f"model must be an nn.Module, not {_kind(network)}{hint}")

    if isinstance(network, torch.jit.ScriptModule):
        raise InputError("model is a TorchScript module; pass the nn.Module that it was made of")
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise InputError(f"model is a {type(network).__name__}; pass model.module, what is in it")
    if hasattr(network, "_orig_mod"):
        raise InputError("model is compiled; pass the network itself and compile the result")
    if next(network.parameters(), None) is None:
        raise InputError(f"model is a {type(network).__name__} without a parameter: nothing can go")
    for name, parameter in network.named_parameters():
        if is_lazy(parameter):
            raise InputError(
                f"{name} of the model has no size yet: run the model on an input first"
            )
        if parameter.is_floating_point() and not parameter.isfinite().all():
            raise InputError(f"{name} of the model has values that are not finite")
    return network


def card_of(network: Network) -> Card | None:
    """The card of a network from a file or of a pruned one; None for a bare module."""
    if isinstance(network, LoadedNetwork | PrunedNetwork):
        return network.card
    return None


def masks_of(network: Network) -> Mapping[str, Tensor]:
    """The masks of a network from a file or of a pruned one; none for a bare module."""
    if isinstance(network, LoadedNetwork | PrunedNetwork):
        return network.masks
    return {}


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def execution_of(model: nn.Module) -> Execution:
    """Runs networks where this one is, in their own precision."""
    return Execution(device_of(model), None, torch.contiguous_format)


def copy_of(model: nn.Module) -> nn.Module:
    """A copy of a network, in the same modes.

    Raises:
        InputError: if Python cannot copy it.
    """
    try:
        return deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"model cannot be copied: {first_line(error)}. Remove hooks and tensors with a history "
            "from the network, such as those of torch.nn.utils.prune and weight_norm "
            "(prune.remove, remove_weight_norm)"
        ) from None


def example_of(model: nn.Module, example_inputs: object) -> Tensor:
    """The first of the example inputs, [1, ...], on the CPU, with which the network was run.

    Raises:
        InputError: if they are no tensor, or if the network cannot take them, or returns something
            else than one tensor of real numbers.
    """
    if isinstance(example_inputs, tuple | list) and len(example_inputs) == 1:
        example_inputs = example_inputs[0]
    if not isinstance(example_inputs, Tensor):
        raise InputError(
            f"example_inputs must be one tensor [B, ...], not {_kind(example_inputs)}. A network "
            "with several inputs needs a module around it that takes one tensor"
        )
    if example_inputs.dim() < 2 or len(example_inputs) == 0:
        raise InputError(
            f"example_inputs have shape {tuple(example_inputs.shape)}; a batch [B, ...] of at "
            "least one input is needed"
        )

    example = example_inputs[:1].detach()
    outputs = run(model, example, "example_inputs")
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        raise InputError(
            f"the network returns {_kind(outputs)}, not one tensor of real numbers. Put a module "
            "around it that returns the tensor that counts"
        )
    return example.clone().cpu()


def run(model: nn.Module, inputs: Tensor, name: str) -> Any:
    """The outputs of a network in evaluation mode, without gradients. The network is as it was.

    Raises:
        InputError: if it cannot take the inputs; `name` is theirs in the message.
    """
    try:
        with evaluating(model), torch.no_grad():
            return model(inputs.clone().to(device_of(model)))  # it may change them in place
    except Exception as error:  # whatever the network's own code raises
        dtype = str(inputs.dtype).removeprefix("torch.")
        raise InputError(
            f"{name} of shape {tuple(inputs.shape)} and type {dtype} do not fit the network: "
            f"{first_line(error)}"
        ) from error


def structure_of(card: Card | None, model: nn.Module, example: Tensor) -> Structure:
    """The structure of a network: a registered one's is known, any other's is traced."""
    if isinstance(card, ModelCard):
        return registered_structure(card.model, model, card.input_shape)
    return traced_structure(model, example)


def batches_of(data: Data, examples: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `data`, up to so many examples.

    Raises:
        InputError: if there is none, or if one is no pair of tensors of the same length.
    """
    left = examples
    empty = True
    for batch in data:
        inputs, targets = _pair(batch)
        empty = False
        if left is not None:
            inputs, targets = inputs[:left], targets[:left]
            left -= len(inputs)
        yield inputs, targets
        if left == 0:
            return

    if empty:
        raise InputError("data yields no batch; pass a DataLoader or a list of (inputs, targets)")


def require_batches(data: object) -> Data:
    """Data that can be gone through.

    Raises:
        InputError: if it cannot.
    """
    if isinstance(data, Tensor | dict | str) or not isinstance(data, Iterable):
        raise InputError(
            f"data must be batches (inputs, targets), such as a DataLoader, not {_kind(data)}"
        )
    return data


def labelled_batches(*models: nn.Module, data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `data` for networks that tell classes apart, on the device of the first.

    Labels become int64, whatever integers they are.

    Raises:
        InputError: if a network cannot take them, or if it or they are not about classes.
    """
    device = device_of(models[0])
    classes = None
    for inputs, labels in batches_of(require_batches(data)):
        if classes is None:
            classes = min(_count_classes(model, inputs, labels) for model in models)
        if int(labels.max()) >= classes or int(labels.min()) < 0:
            raise InputError(
                f"data has labels {int(labels.min())} to {int(labels.max())}, but the network has "
                f"{classes} classes"
            )
        yield inputs.to(device), labels.to(device, torch.int64)


def _count_classes(model: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    logits = run(model, inputs[:1], "the inputs of data")

    fits = isinstance(logits, Tensor) and logits.dim() == 2 and labels.dim() == 1
    if not fits or labels.is_floating_point():
        raise InputError(
            "accuracy needs logits [B, classes] and integer labels [B]; for anything else pass "
            "score=, a function from the network to a number"
        )
    return int(logits.shape[1])


def check_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor], loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Check that a loss can be computed on two examples of a batch.

    Raises:
        InputError: if it cannot, or is no single number.
    """
    inputs, targets = (part[:2] for part in batch)
    outputs = run(model, inputs, "the inputs of data")
    if loss is F.cross_entropy and outputs.dim() < 2:
        raise InputError(
            "the network returns one number for each input, of which cross-entropy makes one "
            "example with as many classes; pass loss=, such as mse_loss"
        )
    try:
        value = loss(outputs, targets.to(device_of(model)))
    except Exception as error:  # whatever the caller's function raises
        raise InputError(f"loss fails on the first batch of data: {first_line(error)}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise InputError("loss must return the mean loss of a batch, a tensor of one number")


def check_batch_statistics(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Check that batch norms can average over the examples of every batch.

    Raises:
        InputError: if a batch has a single example, and a norm a single value of each channel.
    """
    smallest = min((inputs for inputs, _ in batches), key=len)
    if len(smallest) > 1:
        return

    copy = copy_of(model)
    try:
        with evaluating(copy, batch_statistics=True), torch.no_grad():
            copy(smallest.to(device_of(copy)))
    except ValueError:
        raise InputError(
            "a batch of data has one example, over which batch norms cannot average; "
            "pass larger batches (drop_last=True in a DataLoader)"
        ) from None


def check_training_mode(dense: nn.Module, thin: nn.Module, example: Tensor) -> None:
    """Check that a thinner network can be trained, layers included that evaluation does not use.

    Raises:
        InputError: if it cannot be run in training mode, while the dense network can.
    """
    used = output_positions(dense, example)
    layers = [name.rpartition(".")[0] for name in prunable_weights(dense)]
    unused = [name for name in layers if name not in used]
    if not unused or not _runs_in_training(dense, example) or _runs_in_training(thin, example):
        return

    raise InputError(
        f"in training mode the network also uses {name_list(unused)}, which would not fit the "
        "channels that are left. Build it without these layers (as by aux_logits=False), or name "
        "those before them in protect"
    )


def _runs_in_training(model: nn.Module, example: Tensor) -> bool:
    """Whether a network takes two inputs in training mode; it stays as it was."""
    copy = copy_of(model).train()
    inputs = torch.cat((example, example)).to(device_of(copy))
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            copy(inputs)
    except (RuntimeError, ValueError):
        return False
    return True


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


def _pair(batch: object) -> tuple[Tensor, Tensor]:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        inputs, targets = batch
        both = isinstance(inputs, Tensor) and isinstance(targets, Tensor)
        if both and inputs.dim() and targets.dim() and 0 < len(inputs) == len(targets):
            return inputs, targets
    raise InputError(
        f"a batch of data must be two tensors (inputs, targets) of the same length, not "
        f"{_kind(batch)}"
    )


def _kind(value: object) -> str:
    """What a value is, in a message."""
    if isinstance(value, tuple | list):
        kinds = ", ".join(type(part).__name__ for part in islice(value, 4))
        return f"a {type(value).__name__} of {len(value)} ({kinds})"
    if isinstance(value, str | int | float | bool | None):
        return abbreviate(value)
    return f"a {type(value).__name__}"
