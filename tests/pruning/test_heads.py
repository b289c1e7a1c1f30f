"""Heads of timm's attention: found, taken out, rebuilt. Other attention stays whole."""

from copy import deepcopy

import pytest
import torch
from helpers.networks import CARD
from helpers.params import prune_spec
from torch import Tensor, nn

import prunelab
from prunelab.artifacts.networks import Network, load_network, save_network
from prunelab.models.networks import build
from prunelab.models.resize import has_heads
from prunelab.pruning.prune import find_groups, prune
from prunelab.pruning.structured import channels
from prunelab.pruning.structured.groups import FoundGroups

pytest.importorskip("timm")

# A network of single numbers per head, and one with a table of distances in windows.
NETWORKS = {
    "timm/vit_tiny_patch16_224": ((1, 32, 32), {"patch_size": 8}),
    "timm/swin_tiny_patch4_window7_224": ((1, 56, 56), {}),
}


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    shape, options = NETWORKS[name]
    model = build(name, 5, shape, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # no bias is zero
        parameter.data += torch.randn(parameter.shape, generator=generator) / 50
    return model.eval(), shape


def found(model: nn.Module, name: str, shape: tuple[int, int, int]) -> FoundGroups:
    return find_groups(model, architecture=name, kind="channel", shape=shape, method="l1_channel")


def without_heads(model: nn.Module, name: str, heads: list[int]) -> nn.Module:
    """A copy whose projection sees zeros in place of heads: another way than groups go."""
    copy = deepcopy(model)
    attention = copy.get_submodule(name)

    def silence(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        values = inputs[0].unflatten(-1, (attention.num_heads, -1)).clone()
        values[..., heads, :] = 0
        return (values.flatten(-2),)

    attention.proj.register_forward_pre_hook(silence)
    return copy


@pytest.mark.parametrize("name", NETWORKS)
def test_every_attention_loses_whole_heads_and_computes_the_same_as_without_them(name):
    model, shape = made(name)
    groups = found(model, name, shape).groups
    attentions = [path for path, module in model.named_modules() if has_heads(module)]
    of_heads = [group for group in groups if group.kind == "head"]
    assert [group.name for group in of_heads] == [f"{path}.qkv" for path in reversed(attentions)]

    last = attentions[-1]
    assert of_heads[0].count == model.get_submodule(last).num_heads
    expected = without_heads(model, last, [1])
    channels.take_out(model, [of_heads[0]], [[1]])

    assert model.get_submodule(last).num_heads == of_heads[0].count - 1
    images = torch.randn(2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected(images))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_without_some_heads_is_reloaded_to_the_same_bits(name, tmp_path):
    model, shape = made(name)
    spec = prune_spec("l1_channel", 0.5)

    result = prune(model, name, spec, shape=shape, seed=0)
    assert any(width.layers[0].endswith(".qkv") for width in result.widths)
    kept = {layer for layers in result.kept for layer in layers.layers}
    assert not any(layer.endswith(".qkv") for layer in kept)

    options = NETWORKS[name][1]
    card = CARD.model_copy(
        update={"model": name, "input_shape": shape, "classes": 5, "options": options}
    )
    save_network(tmp_path / "network.safetensors", Network(model=model, card=card))
    reloaded = load_network(tmp_path / "network.safetensors").model
    images = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(reloaded(images), model.eval()(images))


def test_a_module_of_ones_own_loses_heads_and_is_saved_and_loaded(tmp_path):
    model, shape = made("timm/vit_tiny_patch16_224")
    images = torch.randn(2, *shape)
    pruned = prunelab.prune(model, images, "l1_channel", 0.5, budget="native")

    prunelab.save(pruned, tmp_path / "thin.safetensors")
    loaded = prunelab.load(tmp_path / "thin.safetensors", model)

    assert [block.attn.num_heads for block in loaded.model.blocks] == [2] * 12
    assert [block.attn.num_heads for block in model.blocks] == [3] * 12
    with torch.no_grad():
        assert torch.equal(loaded.model(images), pruned.model.eval()(images))


def test_attention_of_torchvision_keeps_its_heads():
    model = build("torchvision/swin_t", 5, (1, 32, 32))

    assert not any(has_heads(module) for module in model.modules())
