"""Heads of attention of torch, torchvision and timm: found, taken out, rebuilt."""

from copy import deepcopy

import pytest
import torch
from helpers.networks import CARD
from helpers.params import prune_spec
from torch import Tensor, nn
from torchvision.models import VisionTransformer, swin_transformer

import prunelab
from prunelab.artifacts.networks import Network, load_network, save_network
from prunelab.models.attention import Layout, layout_of
from prunelab.models.networks import build
from prunelab.pruning.prune import find_groups, prune
from prunelab.pruning.structured import channels
from prunelab.pruning.structured.groups import FoundGroups

# A network of every kind of attention, with the shape of its inputs and its options.
NETWORKS = {
    "timm/vit_tiny_patch16_224": ((1, 32, 32), {"patch_size": 8}),
    "timm/swin_tiny_patch4_window7_224": ((1, 56, 56), {}),
    "torchvision/swin_t": ((1, 60, 60), {}),
    "torchvision/swin_v2_t": ((1, 60, 60), {}),
    "torchvision/maxvit_t": ((1, 224, 224), {}),  # no other size suits its windows
    "vit_tiny": ((1, 16, 16), {}),
}


NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if "maxvit" in name else name for name in NETWORKS
]


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    shape, options = NETWORKS[name]
    model = build(name, 5, shape, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # no bias is zero
        parameter.data += torch.randn(parameter.shape, generator=generator) / 50
    return model.eval(), shape


def found(model: nn.Module, name: str, shape: tuple[int, int, int]) -> FoundGroups:
    return find_groups(model, architecture=name, kind="channel", shape=shape, method="l1_channel")


def without_heads(model: nn.Module, name: str, heads: list[int]) -> nn.Module:
    """A copy whose projection multiplies heads by zeros: another way than groups go."""
    copy = deepcopy(model)
    attention = copy.get_submodule(name)
    layout = layout_of(attention)

    projection = attention.get_submodule(layout.projection)
    columns = projection.weight.data.unflatten(-1, (getattr(attention, layout.number), -1))
    columns[:, heads] = 0
    return copy


def attentions_of(model: nn.Module) -> dict[str, Layout]:
    """The attention modules that can lose heads, by name."""
    layouts = {path: layout_of(module) for path, module in model.named_modules()}
    return {path: layout for path, layout in layouts.items() if layout}


def heads_of(model: nn.Module) -> list[int]:
    return [
        getattr(model.get_submodule(path), layout.number)
        for path, layout in attentions_of(model).items()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_attention_loses_whole_heads_and_computes_the_same_as_without_them(name):
    model, shape = made(name)
    groups = found(model, name, shape).groups
    attentions = attentions_of(model)
    of_heads = [group for group in groups if group.kind == "head"]
    names = [".".join(filter(None, (path, layout.joint))) for path, layout in attentions.items()]
    assert [group.name for group in of_heads] == names[::-1]

    dense_heads = heads_of(model)
    assert [group.count for group in of_heads] == dense_heads[::-1]
    expected = without_heads(model, list(attentions)[-1], [1])
    channels.take_out(model, [of_heads[0]], [[1]])

    assert heads_of(model) == [*dense_heads[:-1], dense_heads[-1] - 1]
    images = torch.randn(2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected(images))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_some_heads_is_reloaded_to_the_same_bits(name, tmp_path):
    model, shape = made(name)
    spec = prune_spec("l1_channel", 0.5)

    dense_heads = heads_of(model)
    result = prune(model, name, spec, shape=shape, seed=0)
    assert heads_of(model) == [round(count / 2) for count in dense_heads]
    kept = {layer for layers in result.kept for layer in layers.layers}
    assert not any(layer.endswith("qkv") for layer in kept)

    options = NETWORKS[name][1]
    card = CARD.model_copy(
        update={"model": name, "input_shape": shape, "classes": 5, "options": options}
    )
    save_network(tmp_path / "network.safetensors", Network(model=model, card=card))
    reloaded = load_network(tmp_path / "network.safetensors").model
    images = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(reloaded(images), model.eval()(images))


def small_swin() -> nn.Module:
    return swin_transformer.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=5,
        block=swin_transformer.SwinTransformerBlockV2,
        downsample_layer=swin_transformer.PatchMergingV2,
    )


def small_vit() -> nn.Module:
    model = VisionTransformer(32, 8, 2, num_heads=4, hidden_dim=24, mlp_dim=48, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model


@pytest.mark.parametrize("build_own", [small_swin, small_vit])
def test_a_module_of_ones_own_loses_heads_and_is_saved_and_loaded(build_own, tmp_path):
    torch.manual_seed(0)
    model = build_own().eval()
    images = torch.randn(2, 3, 32, 32)
    dense_heads = heads_of(model)
    with torch.no_grad():
        before = model(images)
    pruned = prunelab.prune(model, images, "l1_channel", 0.5, budget="native")

    prunelab.save(pruned, tmp_path / "thin.safetensors")
    loaded = prunelab.load(tmp_path / "thin.safetensors", model)

    assert heads_of(loaded.model) == [round(count / 2) for count in dense_heads]
    assert heads_of(model) == dense_heads
    with torch.no_grad():
        assert torch.equal(model(images), before)
        assert torch.equal(loaded.model(images), pruned.model.eval()(images))

    in_place = prunelab.prune(model, images, "l1_channel", 0.5, budget="native", inplace=True)
    assert in_place.model is model
    with torch.no_grad():
        assert torch.equal(model(images), loaded.model(images))


class Texts(nn.Module):
    """torch's encoder over token ids, of which 0 is padding."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 24)
        layer = nn.TransformerEncoderLayer(24, heads, 48, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(24, 3)

    def forward(self, ids: Tensor) -> Tensor:
        padding = ids == 0
        states = self.encoder(self.embedding(ids), src_key_padding_mask=padding)
        states = states.masked_fill(padding[..., None], 0)
        return self.head(states.sum(1) / (~padding).sum(1, keepdim=True))


@pytest.fixture
def texts() -> Tensor:
    """Three texts of lengths 8, 5 and 3, padded."""
    ids = torch.randint(1, 20, (3, 8), generator=torch.Generator().manual_seed(0))
    ids[1, 5:] = 0
    ids[2, 3:] = 0
    return ids


# torch says so of what its encoder does with padding before any head has gone.
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("method", ["l1_channel", "l1_channel_global", "wanda_channel"])
def test_an_encoder_of_torch_loses_heads_and_reads_padded_texts(method, texts, tmp_path):
    torch.manual_seed(0)
    model = Texts().eval()
    data = [(texts, torch.tensor([0, 1, 2]))]

    pruned = prunelab.prune(model, texts[:1], method, 0.5, "native", data=data, samples=3)

    heads = heads_of(pruned.model)
    assert 2 <= sum(heads) < 8
    prunelab.save(pruned, tmp_path / "thin.safetensors")
    loaded = prunelab.load(tmp_path / "thin.safetensors", Texts()).model
    assert heads_of(loaded) == heads

    # Padding changes nothing, with gradients or without, although torch has code of its own for it.
    with torch.no_grad():
        outputs = loaded(texts)
        assert torch.equal(outputs, pruned.model.eval()(texts))
        torch.testing.assert_close(outputs[1:2], loaded(texts[1:2, :5]))
    torch.testing.assert_close(loaded(texts).detach(), outputs)


class MaskedHeads(nn.Module):
    """Attention of 4 heads that are given masks of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 24)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
        self.head = nn.Linear(24, 3)
        self.hidden = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        masks = causal.expand(4 * len(x), -1, -1)
        mixed, _ = self.attention(x, x, x, attn_mask=masks)
        return self.head(self.hidden(mixed).relu().mean(1))


def test_heads_stay_where_a_network_counts_on_their_number():
    torch.manual_seed(0)

    pruned = prunelab.prune(MaskedHeads(), torch.randn(1, 5, 6), "l1_channel", 0.5, "native")

    assert heads_of(pruned.model) == [4]
    assert pruned.model.hidden.out_features == 12
