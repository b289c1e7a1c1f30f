"""Fit a network's layers to given tensor shapes, so that a thinner network can be rebuilt from its file alone."""

from collections.abc import Mapping

from torch import nn

from prunelab.errors import Refused


def resize(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give every layer the widths that `shapes`, tensor name to shape, implies; the values are then undefined.

    Enough for networks whose forward pass holds no widths. Depthwise convolutions get as many groups as channels; the
    groups of others are kept.

    Raises:
        Refused: if the names are not the network's, or a layer cannot take its shape (another kernel size, say).
    """
    state = model.state_dict()
    if unknown := sorted(set(shapes) ^ set(state)):
        raise Refused(f"the tensors do not fit this network: {', '.join(unknown[:5])} in one but not in the other")
    for name, module in model.named_modules():
        for key in (*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False))):
            _resize_tensor(module, key, shapes[f"{name}.{key}" if name else key], f"{name}.{key}")
        _set_widths(module)


def _resize_tensor(module: nn.Module, key: str, shape: tuple[int, ...], name: str) -> None:
    tensor = getattr(module, key)
    if tuple(tensor.shape) == tuple(shape):
        return
    # Only the first two dimensions, channels out and in, may have shrunk.
    same_rest = tensor.dim() == len(shape) and tensor.shape[2:] == tuple(shape[2:])
    if not same_rest or any(new > old or new < 1 for new, old in zip(shape, tensor.shape, strict=True)):
        raise Refused(f"{name} has shape {tuple(shape)}, which does not fit this network's {tuple(tensor.shape)}")
    smaller = tensor.detach().new_empty(shape)
    if isinstance(tensor, nn.Parameter):
        smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
    setattr(module, key, smaller)


def _set_widths(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        if module.groups == module.out_channels:  # depthwise
            module.groups = module.weight.shape[0]
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = module.weight.shape[0]
