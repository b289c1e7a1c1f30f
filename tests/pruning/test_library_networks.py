"""torchvision's networks of up to 100 M parameters and timm's: pruned, saved and reloaded."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.networks import CARD
from helpers.params import PROJECT, prune_spec

from prunelab.artifacts.networks import Network, load_network, save_network
from prunelab.core.errors import InputError
from prunelab.models.catalogue import TORCHVISION
from prunelab.models.cost import macs, parameters
from prunelab.models.networks import build, find_head
from prunelab.pruning.prune import find_groups, prune

QUICK = ("mnasnet0_5", "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1")
LARGE = 100_000_000  # parameters

# Pixels a side, where 64 are too few for the network or for what is typical of it.
SIDES = {"inception": 96, "maxvit": 224, "swin": 224, "vit": 224}

NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION
]


def shape_of(name: str) -> tuple[int, int, int]:
    side = SIDES.get(name.split("_")[0], 64)
    return 1, side, side


@pytest.mark.parametrize("name", NAMES)
def test_every_network_loses_channels_and_is_reloaded_to_the_same_bits(name, tmp_path):
    from torchvision.models import get_model_weights

    if next(iter(get_model_weights(name))).meta["num_params"] > LARGE:
        pytest.skip(f"{name} has more than {LARGE:,} parameters")
    check_pruned(f"torchvision/{name}", shape_of(name), 1.5, tmp_path)


def check_pruned(
    model_name: str,
    shape: tuple[int, int, int],
    least: float,
    folder: Path,
    least_parameters: float | None = None,
) -> None:
    """A network has `least` times fewer MACs and parameters, and is reloaded to the same bits."""
    model = build(model_name, 10, shape)
    dense_macs, dense_parameters = macs(model, shape), parameters(model)

    result = prune(model, model_name, prune_spec("l1_channel", 0.5), shape=shape, seed=0)

    assert dense_macs / macs(model, shape) >= least
    assert dense_parameters / parameters(model) >= (least_parameters or least)
    assert model.get_submodule(find_head(model_name, model)).weight.shape[0] == 10
    kept = {layer for layers in result.kept for layer in layers.layers}
    for width in result.widths:
        assert width.after < width.before
        assert not kept.issuperset(width.layers)

    card = CARD.model_copy(update={"model": model_name, "input_shape": shape})
    path = folder / "network.safetensors"
    save_network(path, Network(model=model, card=card))
    reloaded = load_network(path).model

    images = torch.randn(2, *shape)
    with torch.no_grad():
        outputs = model.eval()(images)
        assert torch.equal(reloaded(images), outputs)
    assert outputs.abs().sum() > 0


def program() -> ModuleType:
    """The program that measures these networks, which names those of timm."""
    spec = importlib.util.spec_from_file_location("networks", PROJECT / "benchmarks/networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MEASURED = program()
QUICK_OF_TIMM = ("lcnet_035", "tinynet_e")
NAMES_OF_TIMM = [
    name if name in QUICK_OF_TIMM else pytest.param(name, marks=pytest.mark.slow)
    for name in MEASURED.TIMM
    if name not in MEASURED.UNCHANGED
]


@pytest.mark.parametrize("name", NAMES_OF_TIMM)
def test_well_known_networks_of_timm_lose_channels_too(name, tmp_path):
    pytest.importorskip("timm")
    name = f"timm/{name}"

    check_pruned(name, MEASURED.shape_of(name), 1.5, tmp_path, least_parameters=1.2)


def test_forty_networks_of_timm_are_measured_and_all_are_there():
    timm = pytest.importorskip("timm")

    names = set(MEASURED.TIMM) - set(MEASURED.UNCHANGED)
    assert len(names) >= 40
    assert names <= set(timm.list_models())


def test_a_network_that_can_lose_nothing_is_refused_with_layers_and_reasons():
    model = build("torchvision/shufflenet_v2_x0_5", 10, (1, 64, 64))

    # The first convolution is all that is left, with a norm behind it.
    for name, _ in list(model.named_children()):
        if name.startswith("stage"):
            setattr(model, name, torch.nn.Identity())
    model.conv5 = torch.nn.GroupNorm(2, 24)
    model.fc = torch.nn.Linear(24, 10)

    with pytest.raises(InputError, match=r"conv1\.0 \(a group norm averages over them\)"):
        find_groups(
            model,
            architecture="torchvision/shufflenet_v2_x0_5",
            kind="channel",
            shape=(1, 64, 64),
            method="l1_channel",
        )
