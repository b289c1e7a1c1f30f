"""Weights that were trained elsewhere, loaded into a network; what does not fit is named."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.config.params import WeightsOptions
from prunelab.core.errors import InputError
from prunelab.core.files import PathLike
from prunelab.core.text import name_list, truncate
from prunelab.models import imagenet
from prunelab.models.bert import Bert
from prunelab.models.catalogue import find_architecture
from prunelab.models.networks import build_on_meta, find_head, load_state
from prunelab.models.weights_file import read_weights
from prunelab.models.weights_names import (
    BATCHES,
    Shapes,
    State,
    first_difference,
    helpful_renaming,
    in_order,
    is_counter,
    nearest,
    renamed,
)
from prunelab.models.weights_source import AS_IT_IS

MAX_PROBLEMS = 3  # of tensors that do not fit, which one message names
MAX_NAME = 200  # characters of a tensor's name, which a file may make of any length
MAX_SIZE = 2**31  # of the classes or channels that a file may ask a network for

IMAGENET_INPUT = (1000, (3, 224, 224))  # classes and images of the networks that are published

# Sides of images, in pixels, for which networks differ in their first layers. See torchvision_nets.
SIDES = (224, 32)
LARGE_HEAD = 2  # times the usual deviation of weights


def load_weights(
    model: nn.Module,
    architecture: str,
    path: PathLike,
    *,
    options: WeightsOptions = AS_IT_IS,
    fresh_head: bool = False,
) -> list[str]:
    """Load a file's weights into a network; of a text network, into its encoder.

    The file must have every tensor of the network (or encoder) and no other, except counters. A
    prefix that its names have and the network's have not is dropped; `options` say what else may
    differ. With `fresh_head` a head for another number of classes keeps its fresh weights.

    Returns:
        What was done to the tensors of the file, one phrase each.

    Raises:
        InputError: if a tensor is missing, unknown or of another shape, with what would help.
    """
    imported = read_weights(path, ema=options.ema)
    notes = imported.notes
    tensors = _with_parts_renamed(imported.tensors, options.rename, notes)
    if isinstance(model, Bert):
        _load_state(model.encoder, _encoder_state(tensors, model.encoder), path)
        return notes

    prefix, state = _without_prefix(tensors, model.state_dict())
    if prefix:
        notes.append(f"{truncate(prefix)!r} dropped from its names")

    state = _without_counters(state, model, notes)

    head = find_head(architecture, model)
    if options.order:
        state = _by_order(state, model, head, path, notes)

    imported_shapes = _shapes(state)
    classes = _other_classes(state, model, head)
    fresh: tuple[str, ...] = ()
    if options.head == "fresh":
        fresh = (f"{head}.",)
        state = _without_head(state, model, head, notes)
    elif classes is not None and fresh_head:
        fresh = (f"{head}.",)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(fresh)}
        notes.append(f"a fresh {head}, because the file's is for {classes:,} classes")

    def hints() -> list[str]:
        found = _card_hints(imported.card, architecture)
        if classes is not None and not fresh:
            found.append(
                f"It is for {classes:,} classes, and the data have {_classes(model, head):,}: "
                "with train.epochs of 1 or more the network gets a fresh head"
            )
        image_hints = _image_hints(imported_shapes, model, architecture)
        return found + image_hints + _name_hints(_shapes(state), model, head)

    _load_state(model, state, path, fresh_prefixes=fresh, hints=hints)
    return notes


def _with_parts_renamed(state: State, parts: Mapping[str, str], notes: list[str]) -> State:
    if not parts:
        return state

    state, count = renamed(state, parts)
    notes.append(f"{count} names changed by {{{truncate(_pairs(parts))}}}")
    return state


def _pairs(parts: Mapping[str, str]) -> str:
    return ", ".join(f"{old}: {new}" for old, new in parts.items())


def _without_counters(state: State, model: nn.Module, notes: list[str]) -> State:
    """The tensors without counters that the network does not have."""
    expected = model.state_dict()
    kept, ignored = {}, []
    for name, tensor in state.items():
        if is_counter(name) and name not in expected:
            ignored.append(name)
        else:
            kept[name] = tensor

    if ignored:
        kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in ignored))
        notes.append(f"{len(ignored)} counters ignored ({kinds})")
    return kept


def _by_order(state: State, model: nn.Module, head: str, path: PathLike, notes: list[str]) -> State:
    """The tensors under the network's names, given by their order.

    Raises:
        InputError: if the shapes do not agree in order; with the first that differs.
    """
    shapes, expected = _shapes(state), _shapes(model.state_dict())
    if set(shapes) == set(expected):
        return state

    names = in_order(shapes, expected, head)
    if names is None:
        raise InputError(
            f"weights: {path} cannot be taken by order: {first_difference(shapes, expected, head)}"
        )
    notes.append(f"{len(names)} tensors taken by their order, whatever their names")
    return {target: state[name] for name, target in names.items()}


def _without_head(state: State, model: nn.Module, head: str, notes: list[str]) -> State:
    """The tensors without those of a head, whatever its layers are called.

    A head of other layers stands behind all that the network has too.
    """
    body = {name for name in model.state_dict() if not name.startswith(f"{head}.")}
    known = [place for place, name in enumerate(state) if name in body]
    last = max(known, default=len(state))

    kept, ignored = {}, []
    for place, (name, tensor) in enumerate(state.items()):
        if name.startswith(f"{head}.") or (place > last and name not in body):
            ignored.append(name)
        else:
            kept[name] = tensor

    note = f"a fresh {head}"
    if ignored:
        note += f", without {name_list([truncate(name) for name in ignored])} of the file"
    notes.append(note)
    return kept


def load_imagenet(
    model: nn.Module,
    architecture: str,
    path: PathLike,
    *,
    by_order: bool = False,
    fresh_head: bool = False,
) -> list[str]:
    """Load ImageNet weights into a network, except layers made for other images or classes.

    These layers may be those of the classifier, for another number of classes (or with
    `fresh_head` for any), and the first convolution, for another number of channels or a smaller
    kernel. With `by_order` the file is of another implementation, with names of its own: its
    tensors are those of the network for ImageNet in their order.

    Returns:
        The names of the layers that keep their fresh weights.

    Raises:
        InputError: if any other layer does not fit.
    """
    state = imagenet.with_current_names(read_weights(path).tensors)
    if by_order:
        published = build_on_meta(architecture, *IMAGENET_INPUT)
        state = _by_order(state, published, find_head(architecture, published), path, [])

    expected = model.state_dict()
    if "encoder.pos_embedding" in state:
        state = imagenet.interpolate_positions(state, model)

    classifier = find_head(architecture, model).split(".")[0]
    surplus_parts = (classifier, *find_architecture(architecture).surplus)
    stem = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    fresh = []
    for layer in _layers(expected):
        in_head = layer.split(".")[0] == classifier
        fits = _fits(f"{layer}.", state, expected)
        if (in_head and fresh_head) or ((in_head or layer == stem) and not fits):
            fresh.append(layer)

    prefixes = tuple(f"{layer}." for layer in fresh)
    loaded = {}
    for name, tensor in state.items():
        # The file's classifier may have layers that the network's does not have.
        surplus = name not in expected and name.split(".")[0] in surplus_parts
        if not name.startswith(prefixes) and not surplus:
            loaded[name] = tensor

    _load_state(model, loaded, path, fresh_prefixes=prefixes)
    return fresh


def _load_state(
    model: nn.Module,
    state: State,
    path: PathLike,
    *,
    fresh_prefixes: tuple[str, ...] = (),
    hints: Callable[[], list[str]] = list,
) -> None:
    """Load tensors, which must be those of the network except those with a fresh prefix.

    `hints` says what would help if they are not.
    """
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(fresh_prefixes)
    }

    surplus = {name: size for name, size in _shapes(state).items() if name not in expected}
    problems: list[str] = []
    for name, tensor in expected.items():
        if name not in state and not name.endswith(BATCHES):
            near = ""
            if len(problems) < MAX_PROBLEMS:
                near = nearest(name, tuple(tensor.shape), surplus)
            problems.append(f"lacks {name}{near}")
    for name in state:
        if name not in expected:
            problems.append(f"has {truncate(name, MAX_NAME)}, which the network does not have")
    for name, tensor in expected.items():
        misfit = _misfit(state[name], tensor) if name in state else None
        if misfit:
            problems.append(f"has {name} {misfit}")

    if problems:
        listed = "; ".join(problems[:MAX_PROBLEMS])
        if len(problems) > MAX_PROBLEMS:
            listed += f", and {len(problems) - MAX_PROBLEMS} more such"
        lines = ". ".join([listed, *hints()])
        raise InputError(f"weights: {path} does not fit: {lines}")
    load_state(model, state, strict=False)
    _calm_heads(model, fresh_prefixes)


def _calm_heads(model: nn.Module, fresh_prefixes: tuple[str, ...]) -> None:
    """Scale large fresh weights of a head down to those of torch's own linear layers.

    timm and torchvision draw EfficientNet's by the number of classes: for ten they are eleven times
    as large. The first losses are then so high that their gradients destroy what the pretrained
    layers know.
    """
    for name, module in model.named_modules():
        is_fresh = bool(fresh_prefixes) and f"{name}.".startswith(fresh_prefixes)
        if not is_fresh or not isinstance(module, nn.Linear):
            continue

        usual = (3 * module.in_features) ** -0.5  # the deviation of nn.Linear's weights
        deviation = module.weight.detach().std().item()
        if deviation > LARGE_HEAD * usual:
            with torch.no_grad():
                module.weight *= usual / deviation


def _layers(names: Iterable[str]) -> list[str]:
    """The layers that tensors belong to, each once and in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _fits(prefix: str, state: State, expected: State) -> bool:
    """Whether `state` has every tensor that `expected` has under a prefix, in the same shape."""
    return all(
        name in state and state[name].shape == tensor.shape
        for name, tensor in expected.items()
        if name.startswith(prefix) and not name.endswith(BATCHES)
    )


def _encoder_state(state: State, encoder: nn.Module) -> State:
    """The tensors of the encoder alone, under current names.

    The heads that it was trained with and its position counter are left out.
    """
    renamed = {}
    for name, tensor in state.items():
        current = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        current = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", current)
        renamed[current] = tensor

    encoder_state = {}
    _, unprefixed = _without_prefix(renamed, encoder.state_dict())
    for name, tensor in unprefixed.items():
        in_encoder = name.startswith(("embeddings.", "encoder."))
        if in_encoder and not name.endswith(".position_ids"):
            encoder_state[name] = tensor
    return encoder_state


def _without_prefix(state: State, expected: Iterable[str]) -> tuple[str, State]:
    """The prefix with which most of the expected names occur, and the tensors without it.

    `module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of Lightning and `bert.` are
    such prefixes. None is dropped if two tensors would then have the same name.
    """
    names = set(expected)
    depth = max(name.count(".") + 1 for name in names)

    counts: Counter[str] = Counter({"": 0})
    for name in state:
        parts = name.rsplit(".", depth)  # a hostile name may have any number of them
        for start in range(len(parts)):
            ending = ".".join(parts[start:])
            if ending in names:
                counts[name.removesuffix(ending)] += 1

    prefix = max(counts, key=lambda prefix: (counts[prefix], -len(prefix)))
    renamed = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if len(renamed) < len(state):
        return "", state
    return prefix, renamed


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


# --- What would help ---


def _name_hints(shapes: Shapes, model: nn.Module, head: str) -> list[str]:
    """The option that would help a file whose names are not the network's, if one would."""
    expected = _shapes(model.state_dict())
    parts = helpful_renaming(shapes, expected)
    if parts:
        return [f"weights_options.rename: {{{_pairs(parts)}}} would make its names the network's"]

    body = {name: size for name, size in expected.items() if not name.startswith(f"{head}.")}
    fits = all(shapes.get(name) == size for name, size in body.items())
    if fits and expected != shapes:
        return [f"All but the head fits: weights_options.head: fresh gives a new {head}"]

    if set(shapes) - set(expected) and in_order(shapes, expected, head):
        return [
            "Its tensors have the network's shapes in the network's order, under other names: "
            "weights_options.order: true takes them so"
        ]
    return []


def _card_hints(card: Mapping[str, Any], architecture: str) -> list[str]:
    """What a file of ours holds, if it is not the dense network that was asked for."""
    pruning = card.get("pruning")
    name = truncate(str(card.get("model", architecture)))
    if isinstance(pruning, dict):
        method, ratio = (truncate(str(pruning.get(key))) for key in ("method", "ratio"))
        return [f"It is a {name} from which {method} has removed {ratio}; valid: the dense network"]
    if name != architecture:
        return [f"It is a {name}"]
    return []


def _classes(model: nn.Module, head: str) -> int:
    return int(model.state_dict()[f"{head}.weight"].shape[0])


def _other_classes(state: State, model: nn.Module, head: str) -> int | None:
    """For how many classes the file's head is; None if it differs in nothing or in more."""
    classes = set()
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{head}."):
            continue
        if name not in state or state[name].shape[1:] != tensor.shape[1:] or not state[name].dim():
            return None
        classes.add(len(state[name]))

    if len(classes) != 1 or classes == {_classes(model, head)}:
        return None
    return classes.pop()


def _image_hints(shapes: Shapes, model: nn.Module, architecture: str) -> list[str]:
    """For what images the file's network is, if the same network for these would fit.

    `shapes` are those of the file, head included.
    """
    expected = _shapes(model.state_dict())
    head = f"{find_head(architecture, model)}.weight"
    stem = next(
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    )
    if len(shapes.get(stem, ())) != 4 or head not in shapes:
        return []

    own, foreign = (expected[head][0], expected[stem][1]), (shapes[head][0], shapes[stem][1])
    fitting = [side for side in SIDES if _shapes_of(architecture, *foreign, side) == shapes]

    hints = []
    if fitting and foreign[1] != own[1]:
        hints.append(f"It is for images of {foreign[1]} channels, and these have {own[1]}")
    for side in fitting:
        if _shapes_of(architecture, *own, side) != expected:
            hints.append(
                f"Its layers are those for images of {side} pixels: set data.resize: {side}"
            )
    return hints


def _shapes_of(architecture: str, classes: int, channels: int, side: int) -> Shapes | None:
    """The shapes of a network for these classes and images; None if it cannot be made."""
    if not (1 <= classes <= MAX_SIZE and 1 <= channels <= MAX_SIZE):
        return None
    try:
        return _shapes(build_on_meta(architecture, classes, (channels, side, side)).state_dict())
    except (InputError, RuntimeError):
        return None


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    shapes = {}
    for name, tensor in state.items():
        if not name.endswith(BATCHES):  # older files have none
            shapes[name] = tuple(tensor.shape)
    return shapes
