"""Fit a network's layers to tensor shapes, to rebuild a thinner network from its file."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from prunelab.core.errors import InputError

MAX_NAMED = 5  # tensors that one message names


def resize(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give every layer the widths that the shapes imply. The values are undefined afterwards.

    This works for networks whose forward pass uses no widths. Depthwise convolutions get as many
    groups as channels; other convolutions keep their groups.

    Args:
        model: a network of full width, on any device
        shapes: the shape of each tensor in its `state_dict`, by name

    Raises:
        InputError: if the names are not those of the network, or if a layer cannot take its shape
            (another kernel size, for instance).
    """
    unknown = sorted(set(shapes) ^ set(model.state_dict()))
    if unknown:
        names = ", ".join(unknown[:MAX_NAMED])
        raise InputError(
            f"the tensors do not fit this network: {names} in one but not in the other"
        )

    for module_name, module in model.named_modules():
        tensors = [
            *dict(module.named_parameters(recurse=False)),
            *dict(module.named_buffers(recurse=False)),
        ]
        for tensor_name in tensors:
            name = f"{module_name}.{tensor_name}" if module_name else tensor_name
            if name in shapes:  # some buffers, such as positions, are in no file
                _resize_tensor(module, tensor_name, shapes[name], name)

    # After all tensors, because some modules count what their children have.
    for module in model.modules():
        set_widths(module)


def _resize_tensor(module: nn.Module, key: str, shape: tuple[int, ...], name: str) -> None:
    tensor = getattr(module, key)
    if tuple(tensor.shape) == tuple(shape):
        return

    # Only output and input channels, the first two dimensions, can have shrunk.
    same_kernel = tensor.dim() == len(shape) and tensor.shape[2:] == tuple(shape[2:])
    fits = same_kernel and all(
        1 <= new <= old for new, old in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"{name} has shape {tuple(shape)}, which does not fit this network's "
            f"{tuple(tensor.shape)}"
        )

    resized = tensor.detach().new_empty(shape)
    if isinstance(tensor, nn.Parameter):
        resized = nn.Parameter(resized, requires_grad=tensor.requires_grad)
    setattr(module, key, resized)


def set_widths(module: nn.Module) -> None:
    """Update the numbers that a layer stores about its tensors, such as `out_channels`.

    Raises:
        InputError: if an attention layer has part of a head.
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
    # BERT's self-attention, recognised by an attribute: importing its class would take seconds.
    elif hasattr(module, "attention_head_size"):
        _count_heads(module)


def _count_heads(attention: Any) -> None:
    head_size = attention.attention_head_size
    widths = {layer.weight.shape[0] for layer in (attention.query, attention.key, attention.value)}
    width = max(widths)

    if len(widths) > 1 or width % head_size:
        raise InputError(
            f"queries, keys and values have {sorted(widths)} rows, "
            f"which is not a whole number of heads of {head_size}"
        )
    attention.all_head_size = width
    attention.num_attention_heads = width // head_size
