"""Networks as safetensors files that hold no code, from which thinner networks are rebuilt."""

import bz2
import operator
import warnings
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.artifacts.sealed import canonical_json
from prunelab.artifacts.tensors import load_tensors, save_tensors
from prunelab.config.params import MAX_OPTION_LENGTH, Count, Interpolation, Normalise, PruneSpec
from prunelab.config.problems import describe_errors
from prunelab.config.restart import Restart
from prunelab.core import plugins
from prunelab.core.errors import InputError
from prunelab.core.files import PathLike, user_path
from prunelab.core.model_files import MASK_PREFIX
from prunelab.core.plugins import code_hash
from prunelab.models.catalogue import MODELS, input_kind
from prunelab.models.networks import (
    build_on_meta,
    compute_shapes,
    load_state,
    prunable_weights,
    restore_constants,
)
from prunelab.models.resize import resize

MAX_INPUT_VALUES = 2**28  # of one example: more than any image that Pillow opens
MAX_PROBLEMS = 5  # that one message names
GREY_BITS = 16  # of deep grey images, unless the training split uses fewer


def _check_input_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (1, 3) or prod(shape) > MAX_INPUT_VALUES:
        raise ValueError(
            f"{shape} is not the shape of an image or a text; "
            f"valid: up to {MAX_INPUT_VALUES} values in all"
        )
    return shape


def _uses_all_bits(bits: int) -> bool:
    return bits == GREY_BITS


def _is_bilinear(interpolation: str) -> bool:
    return interpolation == "bilinear"


class ModelCard(BaseModel):
    """The description in a model file: all that is needed to rebuild and use the network.

    `options` are what a network's builder needs besides classes and input shape, such as the sizes
    of an encoder or what `model_options` chose. `normalise` is for pixels scaled to 0..1, and None
    for texts. `imported` is what `weights` named, and the SHA-256 of the file of pretrained weights
    that training started from; that training may have seen our validation images. `ratio_achieved`
    and `train_macs` (the cost of reaching this network from the dense one) are 0 for a dense one.
    `plugins` are file and hash of each plugin that made the network or pruned it, by what it
    registers: model, method, criterion, schedule.

    What turns files into inputs, besides `input_shape` and `normalise`: `class_names` in the order
    of the outputs, `dataset` by its name in params.yaml, `exif` (photographs were turned upright as
    cameras mean it), `grey_bits` (of 16-bit grey images, those that are scaled to 8) and
    `interpolation`. A card does not mention what is empty or usual of these, or plugins if there
    are none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str
    classes: Annotated[Count, Field(le=2**31)]
    input_shape: Annotated[tuple[Count, ...], AfterValidator(_check_input_shape)]
    options: dict[
        str,
        Annotated[int, Field(ge=0, le=2**31)]
        | Annotated[float, Field(ge=0, le=2**31)]
        | Annotated[str, Field(max_length=MAX_OPTION_LENGTH)],
    ] = {}
    normalise: Normalise | None
    seed: int
    imported: tuple[str, str] | None
    pruning: PruneSpec | None = None
    restart: Restart = Restart.NONE
    ratio_achieved: float = 0.0
    train_macs: int = 0
    plugins: Annotated[dict[str, tuple[str, str]], Field(exclude_if=operator.not_)] = {}
    class_names: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()
    dataset: Annotated[str, Field(exclude_if=operator.not_)] = ""
    exif: Annotated[bool, Field(exclude_if=operator.not_)] = False
    grey_bits: Annotated[int, Field(ge=8, le=GREY_BITS, exclude_if=_uses_all_bits)] = GREY_BITS
    interpolation: Annotated[Interpolation, Field(exclude_if=_is_bilinear)] = "bilinear"

    @model_validator(mode="after")
    def _check_class_names(self) -> "ModelCard":
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class_names, but {self.classes} classes")
        return self

    def text(self) -> str:
        """The card as files hold it: JSON that is the same to the byte for the same card."""
        return canonical_json(self.model_dump(mode="json"))


class Network(BaseModel):
    """A network with its card and, for mask methods, its masks."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    model: nn.Module
    card: ModelCard
    masks: dict[str, Tensor] = {}


def save_network(path: PathLike, network: Network) -> None:
    """Write a network as safetensors with one metadata key; equal networks give equal bytes.

    Raises:
        InputError: if a weight is not finite.
    """
    tensors = state_tensors(network.model)
    for name, mask in network.masks.items():
        tensors[f"{MASK_PREFIX}{name}"] = mask.cpu().contiguous()
    save_tensors(path, tensors, network.card.model_dump(mode="json"))


def load_network(path: PathLike) -> Network:
    """Rebuild a network, thinner layers included, in evaluation mode on the CPU.

    No code from the file runs.

    Raises:
        InputError: if the file is missing, damaged, or does not fit the network it names.
    """
    hint = f"`dvc checkout {path}` or `dvc repro` restores it"
    tensors, metadata = load_tensors(path, recovery_hint=hint)
    return network_of(path, tensors, metadata)


def network_of(path: PathLike, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Network:
    """The network of a file whose tensors and metadata are read already, as `load_network` does.

    Raises:
        InputError: if they do not fit the network that they name.
    """
    if "module" in metadata:
        raise InputError(
            f"{path} holds a {metadata['module']}, which is no network of prunelab. In Python, "
            "prunelab.load(path, model) reads it"
        )
    card = _read_card(path, metadata)
    _check_plugin(path, card)
    masks = take_masks(tensors)

    try:
        model = _rebuild(card, tensors)
    except (InputError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} does not hold a {card.model}: {reason}") from None

    check_masks(path, masks, tensors)
    return Network(model=model, card=card, masks=masks)


def take_masks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the masks out of the tensors of a file, by the names of their weights."""
    masks = {}
    for name in list(tensors):
        if name.startswith(MASK_PREFIX):
            masks[name.removeprefix(MASK_PREFIX)] = tensors.pop(name).clone()
    return masks


def check_masks(path: PathLike, masks: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Refuse masks that do not fit the weights of their names.

    Raises:
        InputError: with the names.
    """
    misfits = [name for name, mask in masks.items() if not _fits(mask, tensors.get(name))]
    if misfits:
        names = ", ".join(misfits[:MAX_PROBLEMS])
        raise InputError(f"{path} has masks that fit no weights: {names}")


def load_model(path: PathLike) -> nn.Module:
    """A network without its card and masks; raises InputError as `load_network` does."""
    return load_network(path).model


def load_networks(folder: PathLike, seeds: Iterable[int]) -> dict[int, Network]:
    """The networks that a stage wrote, by seed; raises InputError as `load_network` does."""
    return {seed: load_network(seed_file(folder, seed)) for seed in seeds}


def _read_card(path: PathLike, metadata: dict[str, Any]) -> ModelCard:
    try:
        return ModelCard.model_validate_json(canonical_json(metadata))
    except ValidationError as error:
        problem = describe_errors(error, ModelCard)[0]
        raise InputError(f"{path} has a card that cannot be used: {problem}") from None


def _check_plugin(path: PathLike, card: ModelCard) -> None:
    """Refuse a network that is not made by the code that this project registers under its name."""
    origin = MODELS.origin(card.model)
    made_by, made_hash = card.plugins.get("model", ("", ""))
    if origin is None and not made_by:
        return

    made = made_by or "prunelab itself"
    if origin is None or not made_by:
        here = "no plugin here" if origin is None else origin.place
        raise InputError(
            f"{path} holds a {card.model} of {made}, but {here} registers that name; use the file "
            "in the project that wrote it"
        )
    if made_hash != code_hash(origin):
        raise InputError(
            f"{path} holds a {card.model} of another version of {made}; `dvc repro` makes it anew, "
            "or check out the commit that wrote it"
        )


def plugins_of(**names: str) -> dict[str, tuple[str, str]]:
    """File and hash of the plugins that register these names, given by kind, for a card."""
    registered = {}
    for kind, name in names.items():
        origin = plugins.current().of_kind(kind).get(name)
        if origin is not None:
            registered[kind] = (origin.file.as_posix(), code_hash(origin))
    return registered


def _fits(mask: Tensor, weight: Tensor | None) -> bool:
    return weight is not None and mask.dtype == torch.bool and mask.shape == weight.shape


def _rebuild(card: ModelCard, tensors: dict[str, Tensor]) -> nn.Module:
    """The network of a card with the tensors of its file."""
    # The network has no values at first. Initialising weights that are then overwritten takes most
    # of the time of loading a large network, and a card may declare more weights than fit into
    # memory.
    model = build_on_meta(card.model, card.classes, card.input_shape, **card.options).eval()
    resize(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    _check_types(model, tensors)

    # The tensors are mapped from the file. Copies do not change when the file does.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    load_state(model, copies, assign=True)
    restore_constants(model, card.model, card.classes, card.input_shape, **card.options)
    _check_widths(model, card)
    return model


def _check_types(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Refuse tensors whose type is not the network's."""
    problems = []
    for name, value in model.state_dict().items():
        if tensors[name].dtype != value.dtype:
            problems.append(f"{name} is {tensors[name].dtype}, not {value.dtype}")
    if problems:
        raise InputError(", ".join(problems[:MAX_PROBLEMS]))


def _check_widths(model: nn.Module, card: ModelCard) -> None:
    """Refuse widths that do not fit each other or the card, by a forward pass that costs nothing.

    Layers check the shape of a batch of no images as of any other and compute nothing, however
    large the card says that an image is. Only batch norms let it pass, so each is checked here. The
    encoder cannot reshape a batch of no texts, so it gets one text of one token: no width depends
    on the length of a text.
    """
    # A plugin may flatten its inputs in a way that a batch of none does not bear.
    batch = 0 if MODELS.origin(card.model) is None else 1
    probe = torch.zeros(batch, *card.input_shape)
    if input_kind(card.input_shape) == "texts":
        probe = torch.zeros(1, 1, dtype=torch.int64)

    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            hooks.append(layer.register_forward_pre_hook(partial(_check_norm, name)))
    try:
        with torch.inference_mode():
            logits = model(probe)
    except RuntimeError:  # some networks cannot reshape a batch of no images
        logits = compute_shapes(model, probe.new_zeros(1, *probe.shape[1:]))
    for hook in hooks:
        hook.remove()

    if logits.shape[1:] != (card.classes,):
        raise InputError(
            f"it has {logits.shape[1]} outputs, but its card has {card.classes} classes"
        )


def _check_norm(name: str, norm: nn.Module, inputs: tuple[Tensor]) -> None:
    channels = inputs[0].shape[1]
    for tensor_name, tensor in norm.state_dict().items():
        if tensor.dim() == 1 and len(tensor) != channels:
            raise InputError(f"{name}.{tensor_name} is for {len(tensor)} channels, not {channels}")


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A network's tensors on the CPU, in plain memory order."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def compressed_size(content: bytes) -> int:
    """How many bytes are left of a content that bzip2 compresses.

    Of bzip2 there is one implementation, whose output has not changed since 2000. zlib has several:
    Python comes with one or another, and their sizes differ.
    """
    return len(bz2.compress(content))


def sizes(model: nn.Module) -> dict[str, int]:
    """Bytes of the weights, without masks, as a safetensors file.

    `size_bytes` is the file as it is, `size_compressed_bytes` by bzip2. In `size_sparse_bytes`
    every prunable weight is in compressed rows (values, and 32-bit columns and row ends) if that is
    smaller.
    """
    tensors = state_tensors(model)
    content = safetensors.torch.save(tensors)
    sparse_content = safetensors.torch.save(_in_sparse_format(tensors, prunable_weights(model)))
    return {
        "size_bytes": len(content),
        "size_compressed_bytes": compressed_size(content),
        "size_sparse_bytes": min(len(sparse_content), len(content)),
    }


def _in_sparse_format(tensors: dict[str, Tensor], prunable: Collection[str]) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in prunable or _sparse_size(tensor) >= tensor.numel():
            stored[name] = tensor
            continue

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the format a beta
            rows = tensor.flatten(1).to_sparse_csr()
        stored[f"{name}.values"] = rows.values()
        stored[f"{name}.columns"] = rows.col_indices().int()
        stored[f"{name}.rows"] = rows.crow_indices().int()

    return stored


def _sparse_size(tensor: Tensor) -> int:
    """Units of 4 bytes: a value and a column for every weight that is not 0, and the row ends."""
    return 2 * int(tensor.count_nonzero()) + len(tensor) + 1


def seed_file(folder: PathLike, seed: int) -> Path:
    """Where a stage keeps one seed's network."""
    return user_path(folder) / f"{seed}.safetensors"


def seed_files(folder: PathLike, seeds: Iterable[int]) -> list[Path]:
    """Where a stage keeps the networks of several seeds."""
    return [seed_file(folder, seed) for seed in seeds]
