"""Fit a network's layers to tensor shapes, to rebuild a thinner network from its file.

Numbers that layers hold besides their tensors follow from the shapes, or are recorded beside them.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prunelab.core.errors import InputError
from prunelab.models.attention import layout_of, set_heads

MAX_NAMED = 5  # tensors that one message names
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)  # whose channels may go
# Whose inputs may go. Their weights are [in, out / groups, ...].
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

# Numbers that layers hold about their widths, by the name of the layer and of the attribute.
Widths = dict[str, dict[str, int | tuple[int, ...]]]


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
        if isinstance(module, CONVOLUTIONS) and is_depthwise(module):
            filters_per_channel = module.out_channels // module.groups
            module.groups = module.weight.shape[0] // filters_per_channel
        set_widths(module)


def is_depthwise(conv: _ConvNd) -> bool:
    """Whether each input channel of a convolution of full width has filters of its own."""
    return conv.groups > 1 and conv.groups == conv.in_channels


def _resize_tensor(module: nn.Module, key: str, shape: tuple[int, ...], name: str) -> None:
    tensor = getattr(module, key)
    if tuple(tensor.shape) == tuple(shape):
        return

    # Of a kernel only output and input channels, the first two dimensions, can have shrunk.
    same_kernel = not isinstance(module, _ConvNd) or tensor.shape[2:] == tuple(shape[2:])
    if not same_kernel or not _is_narrower(tuple(shape), tuple(tensor.shape)):
        raise InputError(
            f"{name} has shape {tuple(shape)}, which does not fit this network's "
            f"{tuple(tensor.shape)}"
        )

    resized = tensor.detach().new_empty(shape)
    if isinstance(tensor, nn.Parameter):
        resized = nn.Parameter(resized, requires_grad=tensor.requires_grad)
    setattr(module, key, resized)


def _is_narrower(new: tuple[int, ...], old: tuple[int, ...]) -> bool:
    """Whether no width is larger than before, and none is 0."""
    same_length = len(new) == len(old)
    return same_length and all(1 <= after <= before for after, before in zip(new, old, strict=True))


def changed_widths(dense: nn.Module, thin: nn.Module) -> Widths:
    """The numbers that the layers of `thin` hold about their widths and that `dense` has otherwise.

    `thin` has the layers of `dense`, by name.
    """
    widths: Widths = {}
    for name, layer in dense.named_modules():
        thin_numbers = _numbers(thin.get_submodule(name))
        changed = {}
        for key, number in _numbers(layer).items():
            if thin_numbers.get(key, number) != number:
                changed[key] = thin_numbers[key]
        if changed:
            widths[name] = changed
    return widths


def set_recorded_widths(model: nn.Module, widths: Widths) -> None:
    """Give layers the numbers that `changed_widths` recorded.

    Raises:
        InputError: if the network has no such layer or number, or if a number would grow.
    """
    layers = dict(model.named_modules())
    for name, recorded in widths.items():
        numbers = _numbers(layers[name]) if name in layers else {}
        for key, number in recorded.items():
            new, old = _as_tuple(number), _as_tuple(numbers.get(key, 0))
            if type(numbers.get(key)) is not type(number) or not _is_narrower(new, old):
                raise InputError(f"{name}.{key} cannot be {number} in this network")
            setattr(layers[name], key, number)


def adopt(model: nn.Module, thin: nn.Module) -> None:
    """Make a network what `thin`, a thinner copy of it, is. Its parameters stay the same objects.

    Their gradients go. Everything stays on its device.
    """
    for name, numbers in changed_widths(model, thin).items():
        for key, number in numbers.items():
            setattr(model.get_submodule(name), key, number)

    for name, parameter in model.named_parameters():
        parameter.data = thin.get_parameter(name).detach().to(parameter.device)
        parameter.grad = None
    for name, buffer in list(model.named_buffers()):
        layer, _, key = name.rpartition(".")
        setattr(model.get_submodule(layer), key, thin.get_buffer(name).to(buffer.device))
    for module in model.modules():
        set_widths(module)


def _numbers(layer: nn.Module) -> dict[str, int | tuple[int, ...]]:
    """The public attributes of a layer that are integers, or tuples of them."""
    numbers: dict[str, int | tuple[int, ...]] = {}
    for key, value in vars(layer).items():
        if key.startswith("_") or isinstance(value, bool):
            continue
        if isinstance(value, int):
            numbers[key] = value
        elif isinstance(value, tuple) and all(type(number) is int for number in value):
            numbers[key] = tuple(value)
    return numbers


def _as_tuple(number: int | tuple[int, ...]) -> tuple[int, ...]:
    return (number,) if isinstance(number, int) else number


def set_widths(module: nn.Module) -> None:
    """Update the numbers that a layer stores about its tensors, such as `out_channels`.

    Raises:
        InputError: if an attention layer has part of a head.
    """
    if isinstance(module, CONVOLUTIONS):
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, TRANSPOSED_CONVOLUTIONS):
        module.in_channels = module.weight.shape[0]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _BatchNorm):
        _count_features(module)
    elif layout := layout_of(module):
        set_heads(module, layout)
    elif isinstance(module, nn.TransformerEncoder):
        _keep_padding(module)
    # BERT's self-attention, recognised by an attribute: importing its class would take seconds.
    elif hasattr(module, "attention_head_size"):
        _count_heads(module)


def _count_features(norm: _BatchNorm) -> None:
    for tensor in (norm.weight, norm.running_mean):
        if tensor is not None:
            norm.num_features = tensor.shape[0]


def _keep_padding(encoder: nn.TransformerEncoder) -> None:
    """Let torch's encoder pass padded texts on as they are to attention that has lost heads."""
    attentions = [
        module for module in encoder.modules() if isinstance(module, nn.MultiheadAttention)
    ]
    if any(module.out_proj.weight.shape[1] < module.embed_dim for module in attentions):
        encoder.use_nested_tensor = False


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
