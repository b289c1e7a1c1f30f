"""Import weights that were trained elsewhere, without running code from their file."""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.models import imagenet
from prunelab.models.bert import Bert
from prunelab.models.catalogue import MODELS
from prunelab.runtime.unpickle import load_pickled

MAX_PROBLEMS = 3  # of tensors that do not fit, which one message names

State = dict[str, Tensor]  # tensors by name, as in a state_dict


def read_weights(path: Path) -> State:
    """The tensors of a safetensors file, or of a state_dict saved by `torch.save`.

    The state_dict may be under the key `state_dict` of the saved object. A leading `module.`, which
    DataParallel adds to names, is removed.

    Raises:
        InputError: if the file is missing, holds anything but tensors, or is damaged.
    """
    if not path.is_file():  # a pipe is not a file either: reading it would never end
        raise InputError(
            f"weights: no file {path}; valid: none, or the path of a file with a state_dict"
        )

    try:
        content = _content(path)
    except UnpicklingError:
        raise InputError(
            f"weights: {path} holds more than tensors, or is damaged; nothing in it was run"
        ) from None
    except Exception as error:  # a damaged file makes torch's readers raise errors of every kind
        message = " ".join(str(error).split())
        raise InputError(
            f"weights: {path} cannot be read: {type(error).__name__}: {message}"
        ) from None

    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not _is_state(content):
        raise InputError(
            f"weights: {path} is not a state_dict, and has none under the key 'state_dict'"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _content(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of odd pickles, which read_weights reports
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
            if state:
                return state
        return load_pickled(path)


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file's weights into a network; of a text network, into its encoder.

    The file must have every tensor of the network (or encoder) and no other.

    Raises:
        InputError: if a tensor is missing, unknown or of another shape, for instance because the
            number of classes differs.
    """
    state = read_weights(path)
    if isinstance(model, Bert):
        _load_state(model.encoder, _encoder_state(state), path)
    else:
        _load_state(model, state, path)


def load_imagenet(model: nn.Module, architecture: str, path: Path) -> list[str]:
    """Load ImageNet weights into a network, except layers made for other images or classes.

    These layers may be those of the classifier, for another number of classes, and the first
    convolution, for another number of channels or a smaller kernel.

    Returns:
        The names of the layers that keep their fresh weights.

    Raises:
        InputError: if any other layer does not fit.
    """
    state = imagenet.with_current_names(read_weights(path))
    expected = model.state_dict()
    if "encoder.pos_embedding" in state:
        state = imagenet.interpolate_positions(state, model)

    classifier = MODELS[architecture].head.split(".")[0]
    stem = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    fresh = []
    for layer in _layers(expected):
        replaceable = layer == stem or layer.split(".")[0] == classifier
        if replaceable and not _fits(f"{layer}.", state, expected):
            fresh.append(layer)

    prefixes = tuple(f"{layer}." for layer in fresh)
    loaded = {}
    for name, tensor in state.items():
        # The file's classifier may have layers that the network's does not have.
        surplus = name not in expected and name.split(".")[0] == classifier
        if not name.startswith(prefixes) and not surplus:
            loaded[name] = tensor

    _load_state(model, loaded, path, fresh_prefixes=prefixes)
    return fresh


def _load_state(
    model: nn.Module, state: State, path: Path, fresh_prefixes: tuple[str, ...] = ()
) -> None:
    """Load tensors, which must be those of the network except those with a fresh prefix."""
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(fresh_prefixes)
    }

    problems = []
    for name in expected:
        if name not in state and not name.endswith("num_batches_tracked"):
            problems.append(f"lacks {name}")
    for name in state:
        if name not in expected:
            problems.append(f"has {name}, which the network does not have")
    for name, tensor in expected.items():
        misfit = _misfit(state[name], tensor) if name in state else None
        if misfit:
            problems.append(f"has {name} {misfit}")

    if problems:
        listed = "; ".join(problems[:MAX_PROBLEMS])
        if len(problems) > MAX_PROBLEMS:
            listed += f", and {len(problems) - MAX_PROBLEMS} more such"
        raise InputError(f"weights: {path} does not fit: {listed}")
    model.load_state_dict(state, strict=False)


def _layers(names: Iterable[str]) -> list[str]:
    """The layers that tensors belong to, each once and in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _fits(prefix: str, state: State, expected: State) -> bool:
    """Whether `state` has every tensor that `expected` has under a prefix, in the same shape."""
    return all(
        name in state and state[name].shape == tensor.shape
        for name, tensor in expected.items()
        if name.startswith(prefix)
    )


def _encoder_state(state: State) -> State:
    """The tensors of the encoder alone, under current names.

    The heads that it was trained with and its position counter are left out.
    """
    encoder_state = {}
    for name, tensor in state.items():
        current = name.removeprefix("bert.")
        current = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", current)
        current = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", current)

        in_encoder = current.startswith(("embeddings.", "encoder."))
        if in_encoder and not current.endswith(".position_ids"):
            encoder_state[current] = tensor
    return encoder_state


def _misfit(tensor: Tensor, expected: Tensor) -> str | None:
    """Why a tensor cannot replace the expected one; None if it can."""
    if tensor.shape != expected.shape:
        return f"as {tuple(tensor.shape)}, the network has {tuple(expected.shape)}"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return "in a form that holds no plain numbers"
    if tensor.is_floating_point() != expected.is_floating_point() or tensor.is_complex():
        return f"as {tensor.dtype}, the network has {expected.dtype}"
    if not tensor.isfinite().all():
        return "with values that are not finite"
    return None
