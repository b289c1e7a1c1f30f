"""Import weights trained elsewhere, running no code from the file."""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.core.registry import pick
from prunelab.core.unpickle import load_pickled
from prunelab.encoders import pretrained
from prunelab.models import imagenet
from prunelab.models.bert import Bert
from prunelab.models.catalogue import MODELS
from prunelab.models.imagenet import IMAGENET

NO_WEIGHTS = "none"


def is_file(weights: str) -> bool:
    """Whether the parameter `weights` names a file (rather than no weights at all, or those of ImageNet)."""
    return weights not in (NO_WEIGHTS, IMAGENET)


def weights_file(weights: str, architecture: str) -> Path | None:
    """The file that the parameter `weights` stands for, None for no weights; those of ImageNet are downloaded once.

    Raises:
        InputError: if it names an encoder that cannot be found, or weights of ImageNet that cannot be had.
    """
    if weights == IMAGENET:
        return imagenet.fetch(architecture)
    if pick(MODELS, architecture, "model").reads == "texts":
        return pretrained.weights_file(weights)
    return Path(weights) if is_file(weights) else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from safetensors or a `torch.save`d state_dict, or from one under the key `state_dict`.

    A leading `module.`, as DataParallel leaves it, is dropped.

    Raises:
        InputError: if the file is missing, holds anything but tensors, or is damaged.
    """
    if not path.is_file():  # nor a pipe, which would never end
        raise InputError(
            f"weights: no file {path}; valid: none, or the path of a file with a state_dict"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # what torch thinks of an odd pickle is said better below
            content = _safetensors(path) or load_pickled(path)
    except UnpicklingError:
        raise InputError(
            f"weights: {path} holds more than tensors, or is damaged; nothing in it was run"
        ) from None
    except Exception as error:  # a damaged file makes torch's readers fail in every way there is
        raise InputError(
            f"weights: {path} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise InputError(
            f"weights: {path} is not a state_dict, nor holds one under the key 'state_dict'"
        )
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _safetensors(path: Path) -> dict[str, Tensor] | None:
    from safetensors.torch import load_file

    return load_file(path) if path.suffix == ".safetensors" else None


def load_weights(model: nn.Module, path: Path) -> None:
    """Put a file's weights into a network, every tensor of it and nothing else; into a text network, its encoder's.

    Raises:
        InputError: naming what is missing, unknown or of another shape (another number of classes, for instance).
    """
    if isinstance(model, Bert):
        model, given = model.encoder, _encoder_tensors(read_weights(path))
    else:
        given = read_weights(path)
    _put(model, given, path, fresh=())


def load_imagenet(model: nn.Module, architecture: str, path: Path) -> list[str]:
    """Put ImageNet weights into a network but where it is made for other images; returns what stays fresh.

    That may be layers of the classifier, for other classes, and the first convolution, for other channels or a smaller
    kernel.

    Raises:
        InputError: if anything else does not fit.
    """
    given, wanted = imagenet.modern(read_weights(path)), model.state_dict()
    if "encoder.pos_embedding" in given:
        given = imagenet.interpolated(given, model)
    classifier = MODELS[architecture].head.split(".")[0]
    stem = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    replaced = [
        f"{layer}."
        for layer in _layers(wanted)
        if layer.split(".")[0] == classifier or layer == stem
    ]
    fresh = [prefix for prefix in replaced if not _fits(prefix, given, wanted)]
    given = {
        name: value
        for name, value in given.items()
        if not name.startswith(tuple(fresh))
        and (name in wanted or name.split(".")[0] != classifier)
    }
    _put(model, given, path, fresh)
    return [prefix.removesuffix(".") for prefix in fresh]


def _put(model: nn.Module, given: dict[str, Tensor], path: Path, fresh: Iterable[str]) -> None:
    """Load tensors, all that a network has but those whose names start as one of `fresh`."""
    wanted = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(tuple(fresh))
    }
    problems = [
        f"lacks {name}"
        for name in wanted
        if name not in given and not name.endswith("num_batches_tracked")
    ]
    problems += [f"has {name}, which the network has not" for name in given if name not in wanted]
    misfits = ((name, _misfit(given[name], wanted[name])) for name in wanted if name in given)
    problems += [f"has {name} {misfit}" for name, misfit in misfits if misfit]
    if problems:
        more = f", and {len(problems) - 3} more such" if len(problems) > 3 else ""
        raise InputError(f"weights: {path} does not fit: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(given, strict=False)


def _layers(state: Iterable[str]) -> list[str]:
    """The layers that tensors belong to, each once and in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in state))


def _fits(prefix: str, given: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Whether all tensors that a network has under a prefix are given in their shapes."""
    return all(
        name in given and given[name].shape == value.shape
        for name, value in wanted.items()
        if name.startswith(prefix)
    )


def _encoder_tensors(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the encoder alone, under today's names: without the heads it was trained with, and its own counters."""
    names = {
        name: re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name.removeprefix("bert."))
        for name in given
    }
    names = {
        name: re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", new) for name, new in names.items()
    }
    parts = ("embeddings.", "encoder.")
    return {
        new: given[name]
        for name, new in names.items()
        if new.startswith(parts) and not new.endswith(".position_ids")
    }


def _misfit(given: Tensor, wanted: Tensor) -> str | None:
    """Why a tensor cannot take another's place, if it cannot."""
    if given.shape != wanted.shape:
        return f"as {tuple(given.shape)}, the network has {tuple(wanted.shape)}"
    if given.layout != torch.strided or given.is_quantized or given.is_meta:
        return "in a form that holds no plain numbers"
    if given.is_floating_point() != wanted.is_floating_point() or given.is_complex():
        return f"as {given.dtype}, the network has {wanted.dtype}"
    if not given.isfinite().all():
        return "with values that are not finite"
    return None
