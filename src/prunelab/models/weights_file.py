"""Tensors from files that other programs wrote; what cannot be read is named, with what helps.

Formats, layouts of checkpoints and masks are here. Which network the tensors fit is no question of
this module, but of `weights`.
"""

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from prunelab.core.errors import InputError
from prunelab.core.files import PathLike, user_path
from prunelab.core.model_files import MASK_PREFIX, METADATA_KEY
from prunelab.core.text import name_list, truncate
from prunelab.models.weights_names import State
from prunelab.runtime.unpickle import DisallowedClassError, load_pickled

STATE_KEY = "state_dict"  # of several state_dicts, the one under this key is meant
# Under which keys trainers keep the average of the weights over training.
EMA_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "averaged_model")
NO_EMA = "set weights_options.ema: false"

ORIGINAL, MASK = "_orig", "_mask"  # what torch.nn.utils.prune appends to the name of a weight
WEIGHT_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
MASK_TYPES = {*WEIGHT_TYPES, torch.bool, torch.uint8}

MAX_SAFETENSORS_HEADER = 100 * 2**20  # bytes, the limit of safetensors itself
TORCH = (b"PK", b"\x80")  # how its files begin: a zip archive or, before torch 1.6, a pickle
# Files of formats that hold no tensors for us, by their first bytes.
FOREIGN = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file; `git lfs pull` fetches it",
    b"<": "is a web page, not weights; download the file itself",
    b"\x89HDF": "is an HDF5 file, as Keras writes; save its tensors as safetensors",
    b"\x1f\x8b": "is compressed by gzip; unpack it",
}


@dataclass(frozen=True)
class ImportedWeights:
    """What a file of weights holds.

    Attributes:
        tensors: the tensors by name.
        notes: what was done to them, one phrase each.
        card: the card of a network that prunelab wrote; empty for other files.
    """

    tensors: State
    notes: list[str] = field(default_factory=list)
    card: Mapping[str, Any] = field(default_factory=dict)


def read_weights(path: PathLike, *, ema: bool = False) -> ImportedWeights:
    """The tensors of a safetensors file, or of a state_dict saved by `torch.save`.

    The state_dict may be the value of any key of the saved mapping. With `ema` it is the one under
    a key of EMA_KEYS, which is left aside otherwise. Masks, of torch.nn.utils.prune
    or of prunelab, are applied. The content decides on the format, whatever the file is called.

    Raises:
        InputError: if the file is missing, holds anything but tensors, or is damaged.
    """
    path = user_path(path)
    if not path.is_file():  # a pipe is not a file either: reading it would never end
        raise InputError(
            f"weights: no file {path}; valid: none, or the path of a file with a state_dict"
        )

    try:
        content, card = _read(path)
    except DisallowedClassError as error:
        raise InputError(
            f"weights: {path} holds an object of the class {truncate(error.name)}, which would run "
            "code; nothing in it was run. Save the tensors alone where the file was made: "
            "torch.save(model.state_dict(), FILE)"
        ) from None
    except UnpicklingError:
        raise InputError(
            f"weights: {path} holds more than tensors, or is damaged; nothing in it was run"
        ) from None
    except InputError as error:
        raise InputError(f"weights: {path} {error}") from None
    except Exception as error:  # a damaged file makes torch's readers raise errors of every kind
        message = " ".join(str(error).split())
        raise InputError(
            f"weights: {path} cannot be read: {type(error).__name__}: {message}"
        ) from None

    notes: list[str] = []
    try:
        tensors = _apply_masks(_find_state(content, notes, ema=ema), notes)
    except InputError as error:
        raise InputError(f"weights: {path} {error}") from None
    return ImportedWeights(tensors, notes, card)


# --- Formats ---


def _read(path: Path) -> tuple[Any, Mapping[str, Any]]:
    """The content of a file, and the card of a network of ours."""
    if path.stat().st_size == 0:
        raise InputError("is empty")
    if _is_safetensors(path):
        return _read_safetensors(path)

    problem = _foreign_format(path)
    if problem:
        raise InputError(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of odd pickles, which read_weights reports
        return load_pickled(path), {}


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header, then the header, in JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length <= MAX_SAFETENSORS_HEADER


def _read_safetensors(path: Path) -> tuple[State, Mapping[str, Any]]:
    from safetensors import safe_open

    tensors = {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            tensors[name] = file.get_tensor(name)

    card: Any = None
    with suppress(ValueError, RecursionError):
        card = json.loads(metadata.get(METADATA_KEY, "{}"))
    if not isinstance(card, dict):
        card = {}
    return tensors, card


def _foreign_format(path: Path) -> str | None:
    """What a file of another format is, and what to do; None if torch.save may have written it."""
    with path.open("rb") as file:
        start = file.read(64)
    for magic, problem in FOREIGN.items():
        if start.lstrip().startswith(magic):
            return problem

    if not start.startswith(TORCH):
        return "is no file of torch.save or safetensors"
    if not is_zipfile(path):
        return None
    try:
        with ZipFile(path) as archive:
            members = archive.namelist()
    except (BadZipFile, OSError, ValueError, NotImplementedError):  # damaged: torch says how
        return None
    return _foreign_archive(path, members)


def _foreign_archive(path: Path, members: list[str]) -> str | None:
    """As `_foreign_format`, for a zip archive, by the names of its members."""
    names = {member.rpartition("/")[2] for member in members}
    if "constants.pkl" in names:
        return (
            "is TorchScript, which holds code. Save its tensors alone: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), FILE)"
        )
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return (
            "is a program of torch.export. Save its tensors alone: "
            f"torch.save(torch.export.load({str(path)!r}).state_dict, FILE)"
        )
    if "data.pkl" not in names:
        return f"is a zip archive that torch.save did not write: it holds {_names(members)}"
    return None


# --- Layouts of checkpoints ---


def _find_state(content: Any, notes: list[str], *, ema: bool) -> State:
    """The state_dict that a file holds: all of it, or what one of its keys stands for.

    Raises:
        InputError: if there is none, or several and none is called state_dict.
    """
    if _is_state(content):
        if ema:
            raise InputError(f"holds no averaged weights, but one state_dict; {NO_EMA}")
        return _by_text(content)
    if not isinstance(content, dict):
        raise InputError(f"holds no state_dict, but {_kind(content)}")

    states = {key: value for key, value in content.items() if _is_state(value)}
    averages = _averages(content)
    if ema:
        if not averages:
            raise InputError(
                f"holds no averaged weights; its keys are {_names([*content])}; {NO_EMA}"
            )
        states = averages
    elif set(states) - set(averages):
        states = {key: value for key, value in states.items() if key not in averages}
    if STATE_KEY in states:
        states = {STATE_KEY: states[STATE_KEY]}

    if len(states) > 1:
        first = next(iter(states))
        raise InputError(
            f"holds several state_dicts, under the keys {_names([*states])}. Save the one that is "
            f"meant alone: torch.save(torch.load(FILE, weights_only=True)[{first!r}], NEW_FILE)"
        )
    if states:
        key, state = next(iter(states.items()))
        note = f"the state_dict under the key {truncate(str(key))!r}"
        aside = [other for other in averages if other not in states]
        if aside:
            note += f", and not the averaged weights under {_names(aside)}"
        notes.append(note)
        return _by_text(state)
    raise InputError(_no_state(content, averages))


def _averages(content: Mapping[Any, Any]) -> dict[Any, Mapping[Any, Tensor]]:
    """The state_dicts of averaged weights; one may lie in a mapping with its decay beside it."""
    averages: dict[Any, Mapping[Any, Tensor]] = {}
    for key in EMA_KEYS:
        value = content.get(key)
        if not isinstance(value, dict):
            continue

        if _is_state(value):
            averages[key] = value
            continue
        inner = [part for part in value.values() if _is_state(part)]
        if len(inner) == 1:
            averages[key] = inner[0]

    return averages


def _no_state(content: Mapping[Any, Any], averages: Mapping[Any, Any]) -> str:
    """Why a mapping gives no state_dict."""
    if not content:
        return "holds no tensors"

    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    kinds = _with_kinds(content, others)
    if len(others) < len(content):
        return f"is not a state_dict: besides tensors it holds {kinds}"

    problem = f"is not a state_dict and has none under a key; its keys are {kinds}"
    if averages:
        problem += (
            f". Averaged weights are under {_names([*averages])}: set weights_options.ema: true"
        )
    return problem


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def _by_text(state: Mapping[Any, Tensor]) -> State:
    return {str(name): tensor for name, tensor in state.items()}


def _names(keys: list[Any]) -> str:
    return name_list([truncate(str(key)) for key in keys])


def _with_kinds(content: Mapping[Any, Any], keys: list[Any]) -> str:
    return name_list([f"{truncate(str(key))} ({_kind(content[key])})" for key in keys])


def _kind(value: object) -> str:
    return type(value).__name__


# --- Masks ---


def _apply_masks(tensors: State, notes: list[str]) -> State:
    """The tensors with zeros where masks are zero, under their own names and without the masks.

    Raises:
        InputError: if a mask does not fit its tensor, or is no mask.
    """
    applied = _masked(tensors, _torch_masks(tensors), "torch.nn.utils.prune", notes)
    return _masked(applied, _own_masks(applied), "prunelab", notes)


Pair = tuple[str, str, str]  # the names of a weight, of its values and of its mask


def _torch_masks(tensors: State) -> list[Pair]:
    pairs = []
    for name in tensors:
        weight = name.removesuffix(MASK)
        if weight != name and f"{weight}{ORIGINAL}" in tensors:
            pairs.append((weight, f"{weight}{ORIGINAL}", name))
    return pairs


def _own_masks(tensors: State) -> list[Pair]:
    pairs = []
    for name in tensors:
        weight = name.removeprefix(MASK_PREFIX)
        if weight != name and weight in tensors:
            pairs.append((weight, weight, name))
    return pairs


def _masked(tensors: State, pairs: list[Pair], source: str, notes: list[str]) -> State:
    if not pairs:
        return tensors

    weights = {}
    for weight, original, mask in pairs:
        if not _fits(tensors[mask], tensors[original]):
            raise InputError(
                f"has a mask of {source} that cannot be applied: {truncate(mask)} is not of zeros "
                f"and ones in the shape of {truncate(original)}"
            )
        weights[weight] = tensors[original] * tensors[mask].to(tensors[original].dtype)

    merged = {}
    new_names = {original: weight for weight, original, _ in pairs}
    masks = {mask for _, _, mask in pairs}
    for name, tensor in tensors.items():
        if name in masks:
            continue
        new_name = new_names.get(name, name)
        merged[new_name] = weights.get(new_name, tensor)

    notes.append(f"masks of {source} applied ({len(pairs)}), whose zeros training does not hold")
    return merged


def _fits(mask: Tensor, weight: Tensor) -> bool:
    """Whether a mask consists of zeros and ones, and has the shape of its weight."""
    for tensor, dtypes in ((mask, MASK_TYPES), (weight, WEIGHT_TYPES)):
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in dtypes:
            return False
    return mask.shape == weight.shape and bool(((mask == 0) | (mask == 1)).all())
