"""prunelab.save and prunelab.load: pruned networks as files that hold no code."""

from collections.abc import Sequence

import numpy as np

from prunelab.api.inputs import Network, copy_of, module_of
from prunelab.api.result import Card, LoadedNetwork, Preprocess, PrunedNetwork
from prunelab.artifacts import networks
from prunelab.artifacts.modules import ModuleCard, fill_module, read_module_card, save_module
from prunelab.artifacts.networks import ModelCard, save_network
from prunelab.artifacts.tensors import load_tensors
from prunelab.config.params import Interpolation, Normalise
from prunelab.config.problems import validate
from prunelab.core.errors import InputError
from prunelab.core.files import PathLike, user_path
from prunelab.data.loader import preprocessing


def save(
    network: PrunedNetwork | LoadedNetwork,
    path: PathLike,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Write a pruned network, with the weights that it has now, as safetensors without code.

    Equal networks give equal bytes. An older file stays as it was if anything is raised.

    Args:
        network: what `prune` or `load` returned; its model may have been trained since
        path: the file to write
        mean: of every channel of pixels scaled to 0..1, which the network's inputs were centred by
        std: the standard deviations, which they were divided by; `load` makes a transform of both
        classes: the names of the classes, in the order of the outputs

    Raises:
        InputError: if a weight is not finite, if a pruned weight is not zero any more, or if the
            file already says how pixels are normalised.
    """
    if not isinstance(network, PrunedNetwork | LoadedNetwork):
        raise InputError("save takes what prunelab.prune or prunelab.load returned")
    _check_masks(network)

    path, card = user_path(path), network.card
    if isinstance(card, ModelCard):
        if mean is not None or std is not None:
            raise InputError(f"a {card.model} brings its own mean and std")
        if classes is not None:
            card = _with_class_names(card, classes)
        stored = networks.Network(model=network.model, card=card, masks=dict(network.masks))
        save_network(path, stored)
        return

    update: dict[str, object] = {}
    if mean is not None or std is not None:
        update["normalise"] = _normalise(card, mean, std)
    if classes is not None:
        update["classes"] = tuple(map(str, classes))
    save_module(path, network.model, card.model_copy(update=update), dict(network.masks))


def load(path: PathLike, model: Network | None = None) -> LoadedNetwork:
    """Read a network that `save`, or a stage of prunelab, wrote.

    No code from the file runs.

    Args:
        path: the file
        model: the dense network, freshly built, of which the file holds a thinner one. It is
            copied. None for a network of prunelab, whose name in the file is enough

    Returns:
        The network in evaluation mode on the CPU, and what the file says about it.

    Raises:
        InputError: if the file is missing or damaged, or does not fit the network.
    """
    path = user_path(path)
    if not path.is_file():
        raise InputError(f"{path} is missing")
    tensors, metadata = load_tensors(path, recovery_hint="take another copy of it, or save again")

    if "module" not in metadata:
        network = networks.network_of(path, tensors, metadata)
        known = network.card
        classes = known.class_names or None
        return LoadedNetwork(network.model, known, network.masks, _preprocessing(known), classes)

    card = read_module_card(path, metadata)
    if model is None:
        raise InputError(
            f"{path} holds a {card.module}, whose code it does not hold. Pass the dense network, "
            "freshly built: prunelab.load(path, model)"
        )
    masks = networks.take_masks(tensors)
    networks.check_masks(path, masks, tensors)
    dense = copy_of(module_of(model)).cpu()
    thin = fill_module(path, dense, card, tensors)
    return LoadedNetwork(thin, card, masks, _preprocessing(card), card.classes)


def _preprocessing(card: Card) -> Preprocess | None:
    if card.normalise is None or len(card.input_shape) != 3:
        return None
    _, height, width = card.input_shape
    interpolation: Interpolation = "bilinear"
    if isinstance(card, ModelCard):
        interpolation = card.interpolation
    return preprocessing(card.normalise, (height, width), interpolation)


def _normalise(
    card: ModuleCard, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalise:
    """The means and deviations, checked against the shape of an input."""
    normalise = validate(Normalise, {"mean": _numbers(mean), "std": _numbers(std)})

    channels = card.input_shape[0]
    lengths = {len(normalise.mean), len(normalise.std)}
    if len(card.input_shape) != 3 or lengths != {channels}:
        raise InputError(
            f"mean and std must have one number for each of the {channels} channels of an image; "
            f"one input has shape {card.input_shape}"
        )
    return normalise


def _numbers(values: Sequence[float] | None) -> list[float]:
    """The values, which may be an array or a tensor, as a list; empty for None."""
    if values is None:
        return []
    numbers: list[float] = np.asarray(values).tolist()
    return numbers


def _with_class_names(card: ModelCard, classes: Sequence[str]) -> ModelCard:
    if len(classes) != card.classes:
        raise InputError(f"classes has {len(classes)} names; the network has {card.classes}")
    return card.model_copy(update={"class_names": tuple(map(str, classes))})


def _check_masks(network: PrunedNetwork | LoadedNetwork) -> None:
    weights = network.model.state_dict()
    for name, mask in network.masks.items():
        if weights[name].cpu()[~mask.cpu()].count_nonzero():
            raise InputError(
                f"pruned weights of {name} are not zero any more: call apply_masks() after every "
                "optimizer step, and before saving"
            )
