"""Fit a network's layers to given tensor shapes, so that a thinner network can be rebuilt from its file alone."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from prunelab.core.errors import InputError


def resize(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give every layer the widths that `shapes`, tensor name to shape, implies; the values are then undefined.

    Enough for networks whose forward pass holds no widths. Depthwise convolutions get as many groups as channels; the
    groups of others are kept.

    Raises:
        InputError: if the names are not the network's, or a layer cannot take its shape (another kernel size, say).
    """
    state = model.state_dict()
    if unknown := sorted(set(shapes) ^ set(state)):
        raise InputError(
            f"the tensors do not fit this network: {', '.join(unknown[:5])} in one but not in the other"
        )
    for name, module in model.named_modules():
        for key in (
            *dict(module.named_parameters(recurse=False)),
            *dict(module.named_buffers(recurse=False)),
        ):
            if (
                full := f"{name}.{key}" if name else key
            ) in shapes:  # others, such as positions, are in no file
                _resize_tensor(module, key, shapes[full], full)
    for (
        module
    ) in model.modules():  # once all tensors are there: some modules count what their children have
        set_widths(module)


def _resize_tensor(module: nn.Module, key: str, shape: tuple[int, ...], name: str) -> None:
    tensor = getattr(module, key)
    if tuple(tensor.shape) == tuple(shape):
        return
    # Only the first two dimensions, channels out and in, may have shrunk.
    same_rest = tensor.dim() == len(shape) and tensor.shape[2:] == tuple(shape[2:])
    if not same_rest or any(
        new > old or new < 1 for new, old in zip(shape, tensor.shape, strict=True)
    ):
        raise InputError(
            f"{name} has shape {tuple(shape)}, which does not fit this network's {tuple(tensor.shape)}"
        )
    smaller = tensor.detach().new_empty(shape)
    if isinstance(tensor, nn.Parameter):
        smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
    setattr(module, key, smaller)


def set_widths(module: nn.Module) -> None:
    """Let the numbers that a layer keeps beside its tensors say what the tensors have.

    Raises:
        InputError: if attention has a broken head.
    """
    if isinstance(module, nn.Conv2d):
        if module.groups == module.out_channels:  # depthwise
            module.groups = module.weight.shape[0]
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = module.weight.shape[0]
    elif hasattr(
        module, "attention_head_size"
    ):  # BERT's self-attention; to import its class would take seconds
        _count_heads(module)


def _count_heads(attention: Any) -> None:
    size = attention.attention_head_size
    rows = {layer.weight.shape[0] for layer in (attention.query, attention.key, attention.value)}
    if len(rows) > 1 or max(rows) % size:
        raise InputError(
            f"queries, keys and values of {sorted(rows)} rows are no whole number of heads of {size}"
        )
    attention.all_head_size = max(rows)
    attention.num_attention_heads = max(rows) // size
