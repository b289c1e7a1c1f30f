"""Networks as safetensors files that hold no code, from which thinner networks are rebuilt."""

import warnings
import zlib
from collections.abc import Collection, Iterable
from math import prod
from pathlib import Path
from typing import Annotated

import safetensors.torch
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from prunelab.artifacts.tensors import canonical, load_tensors, save_tensors
from prunelab.config.params import Count, Normalise, PruneSpec
from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.models.catalogue import build_on_meta, example_input, prunable_weights
from prunelab.models.resize import resize

MASK_PREFIX = "mask/"
LARGEST_INPUT = 2**28  # values of one example: more than any image that Pillow opens


def _one_example(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (1, 3) or prod(shape) > LARGEST_INPUT:
        raise ValueError(
            f"{shape} is no shape of an image or a text; valid: up to {LARGEST_INPUT} values in all"
        )
    return shape


class ModelCard(BaseModel):
    """What a model file says of itself: all that is needed to rebuild and to use the network, and no environment.

    `options` are what a network's builder needs to know besides classes and input shape (the sizes of an encoder, say);
    `normalise` is of pixels scaled to 0..1, None for texts. `imported` is the path, as given, and the SHA-256 of the
    file of foreign weights that training started from, if any; those may have seen our validation images.
    `ratio_achieved` and `train_macs` (what reaching this network cost after the dense one) are 0 for a dense one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str
    classes: Annotated[Count, Field(le=2**31)]
    input_shape: Annotated[tuple[Count, ...], AfterValidator(_one_example)]
    options: dict[str, Annotated[int, Field(ge=0, le=2**31)]] = {}
    normalise: Normalise | None
    seed: int
    imported: tuple[str, str] | None
    pruning: PruneSpec | None = None
    restart: Restart = Restart.NONE
    ratio_achieved: float = 0.0
    train_macs: int = 0

    def text(self) -> str:
        """The card as files hold it: JSON that is the same to the byte for the same card."""
        return canonical(self.model_dump(mode="json"))


class Network(BaseModel):
    """A network with its card and, for mask methods, its masks."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    model: nn.Module
    card: ModelCard
    masks: dict[str, Tensor] = {}


def save_network(path: Path, network: Network) -> None:
    """Write a network as safetensors with one metadata key; equal networks give equal bytes.

    Raises:
        InputError: if a weight is not finite.
    """
    tensors = state_tensors(network.model)
    tensors |= {
        f"{MASK_PREFIX}{name}": mask.cpu().contiguous() for name, mask in network.masks.items()
    }
    save_tensors(path, tensors, network.card.model_dump(mode="json"))


def load_network(path: Path) -> Network:
    """Rebuild a network from its file, thinner layers included, in evaluation mode on the CPU; runs no code from it.

    Raises:
        InputError: if the file is missing, damaged, or does not fit the network it names.
    """
    tensors, told = load_tensors(path, way_back=f"`dvc checkout {path}` or `dvc repro` restores it")
    try:
        card = ModelCard.model_validate_json(canonical(told))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"{path} has a card that cannot be used: {first['loc']}: {first['msg']}"
        ) from None
    masks = {
        name.removeprefix(MASK_PREFIX): tensors.pop(name).clone()
        for name in list(tensors)
        if name.startswith(MASK_PREFIX)
    }
    try:
        model = _rebuilt(card, tensors)
    except (InputError, RuntimeError) as error:
        raise InputError(
            f"{path} does not hold a {card.model}: {' '.join(str(error).split())}"
        ) from None
    if misfits := [name for name, mask in masks.items() if not _fits(mask, tensors.get(name))]:
        raise InputError(f"{path} has masks that fit no weights: {', '.join(misfits[:5])}")
    return Network(model=model, card=card, masks=masks)


def load_model(path: Path) -> nn.Module:
    """A network alone; raises InputError as `load_network` does."""
    return load_network(path).model


def _fits(mask: Tensor, weight: Tensor | None) -> bool:
    return weight is not None and mask.dtype == torch.bool and mask.shape == weight.shape


def _rebuilt(card: ModelCard, tensors: dict[str, Tensor]) -> nn.Module:
    """The network of a card, given the tensors of its file."""
    # Without values at first: to initialise what is then overwritten takes most of the time of loading a large network,
    # and a card may speak of more weights than fit into memory.
    model = build_on_meta(card.model, card.classes, card.input_shape, **card.options).eval()
    resize(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    _assert_whole(model, card, tensors)
    # Copied, for what was read is the file itself, mapped into memory, which must not matter once this is done.
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return model


def _assert_whole(model: nn.Module, card: ModelCard, tensors: dict[str, Tensor]) -> None:
    """Refuse tensors of another type than a network without values has, and widths that fit no other layer's."""
    types = {name: (tensors[name].dtype, value.dtype) for name, value in model.state_dict().items()}
    if odd := [
        f"{name} is {got}, not {wanted}" for name, (got, wanted) in types.items() if got != wanted
    ]:
        raise InputError(", ".join(odd[:5]))
    with torch.inference_mode():
        scores = model(example_input(card.input_shape).to("meta"))
    if scores.shape != (1, card.classes):
        raise InputError(
            f"it tells {scores.shape[1]} classes apart, its card speaks of {card.classes}"
        )


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A network's tensors on the CPU, in plain memory order."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def sizes(model: nn.Module) -> dict[str, int]:
    """Bytes of the weights as a safetensors file, without masks: as it is, compressed, and in a sparse format.

    Compressed by zlib, level 6. Sparse: every prunable weight as compressed rows (values, and 32-bit columns and row
    ends) where that is smaller.
    """
    tensors = state_tensors(model)
    content = safetensors.torch.save(tensors)
    sparse = safetensors.torch.save(_sparse(tensors, prunable_weights(model)))
    return {
        "size_bytes": len(content),
        "size_compressed_bytes": len(zlib.compress(content, 6)),
        "size_sparse_bytes": min(len(sparse), len(content)),
    }


def _sparse(tensors: dict[str, Tensor], prunable: Collection[str]) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        nonzero = int(tensor.count_nonzero())
        if (
            name in prunable and 2 * nonzero + len(tensor) + 1 < tensor.numel()
        ):  # in units of 4 bytes
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls the format a beta
                rows = tensor.flatten(1).to_sparse_csr()
            stored |= {
                f"{name}.values": rows.values(),
                f"{name}.columns": rows.col_indices().int(),
                f"{name}.rows": rows.crow_indices().int(),
            }
        else:
            stored[name] = tensor
    return stored


def load_networks(folder: Path, seeds: Iterable[int]) -> dict[int, Network]:
    """The networks that a stage wrote, by seed; raises InputError as `load_network` does."""
    return {seed: load_network(seed_file(folder, seed)) for seed in seeds}


def seed_file(folder: Path, seed: int) -> Path:
    """Where a stage keeps one seed's network."""
    return folder / f"{seed}.safetensors"


def seed_files(folder: Path, seeds: Iterable[int]) -> list[Path]:
    """Where a stage keeps the networks of several seeds."""
    return [seed_file(folder, seed) for seed in seeds]
