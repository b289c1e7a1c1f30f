"""Networks as safetensors files that hold no code, from which thinner networks are rebuilt."""

import json
import warnings
import zlib
from collections.abc import Collection
from pathlib import Path

import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prunelab.artifacts.files import write
from prunelab.errors import Refused
from prunelab.models.catalogue import build, prunable_weights, skeleton
from prunelab.models.resize import resize
from prunelab.params import Count, Normalise, PruneSpec
from prunelab.pruning.restart import Restart

METADATA_KEY = "prunelab"
MASK_PREFIX = "mask/"


class Card(BaseModel):
    """What a model file says of itself: all that is needed to rebuild and to use the network, and no environment.

    `options` are what a network's builder needs to know besides classes and input shape (the sizes of an encoder, say);
    `normalise` is of pixels scaled to 0..1, None for texts. `imported` is the path, as given, and the SHA-256 of the
    file of foreign weights that training started from, if any; those may have seen our validation images.
    `ratio_achieved` and `train_macs` (what reaching this network cost after the dense one) are 0 for a dense one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    classes: Count
    input_shape: tuple[Count, ...]
    options: dict[str, int] = {}
    normalise: Normalise | None
    seed: int
    imported: tuple[str, str] | None
    pruning: PruneSpec | None = None
    restart: Restart = Restart.NONE
    ratio_achieved: float = 0.0
    train_macs: int = 0

    def text(self) -> str:
        """The card as files hold it: JSON that is the same to the byte for the same card."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


class Network(BaseModel):
    """A network with its card and, for mask methods, its masks."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    model: nn.Module
    card: Card
    masks: dict[str, Tensor] = {}


def save_network(path: Path, network: Network) -> None:
    """Write a network as safetensors with one metadata key; equal networks give equal bytes."""
    tensors = state_tensors(network.model)
    tensors |= {f"{MASK_PREFIX}{name}": mask.cpu().contiguous() for name, mask in network.masks.items()}
    write(path, safetensors.torch.save(tensors, metadata={METADATA_KEY: network.card.text()}))


def load_network(path: Path) -> Network:
    """Rebuild a network from its file, thinner layers included, in evaluation mode on the CPU; runs no code from it.

    Raises:
        Refused: if the file is missing, damaged, or does not fit the network it names.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = Card.model_validate_json((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise Refused(f"{path} is missing; `dvc repro` makes it") from None
    except KeyError:
        raise Refused(f"{path} is no model file of prunelab: it lacks the metadata key {METADATA_KEY!r}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Refused(f"{path} has a card that cannot be used: {first['loc']}: {first['msg']}") from None
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path} is damaged: {' '.join(str(error).split())}") from None
    masks = {
        name.removeprefix(MASK_PREFIX): tensors.pop(name) for name in list(tensors) if name.startswith(MASK_PREFIX)
    }
    try:
        model = _rebuilt(card, tensors)
    except (Refused, RuntimeError) as error:
        raise Refused(f"{path} does not hold a {card.model}: {' '.join(str(error).split())}") from None
    if misfits := [name for name, mask in masks.items() if name not in tensors or mask.shape != tensors[name].shape]:
        raise Refused(f"{path} has masks that fit no weights: {', '.join(misfits[:5])}")
    return Network(model=model.eval(), card=card, masks=masks)


def load_model(path: Path) -> nn.Module:
    """A network alone; raises Refused as `load_network` does."""
    return load_network(path).model


def _rebuilt(card: Card, tensors: dict[str, Tensor]) -> nn.Module:
    """The network of a card, given the tensors of its file."""
    model = skeleton(card.model, card.classes, card.input_shape, **card.options)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    # Without values at first: to initialise what is then overwritten takes most of the time of loading a large network.
    resize(model, shapes)
    # Copied, for what was read is the file itself, mapped into memory, which must not matter once this is done.
    given = {name: tensors[name].to(value.dtype, copy=True) for name, value in model.state_dict().items()}
    model.load_state_dict(given, assign=True)
    if any(buffer.is_meta for buffer in model.buffers()):  # some that no file keeps: only building gives their values
        model = build(card.model, card.classes, card.input_shape, **card.options)
        resize(model, shapes)
        model.load_state_dict(tensors)
    return model


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
        if name in prunable and 2 * nonzero + len(tensor) + 1 < tensor.numel():  # in units of 4 bytes
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


def seed_file(folder: Path, seed: int) -> Path:
    """Where a stage keeps one seed's network."""
    return folder / f"{seed}.safetensors"
