"""Attention with fewer heads: the classes of other libraries' attention, checked against theirs."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from prunelab.core.errors import InputError
from prunelab.models.attention import ThinAttention, layout_of, set_heads
from prunelab.models.networks import build
from prunelab.models.torchvision_attention import (
    ThinCosineAttention,
    ThinGridAttention,
    ThinWindowAttention,
)


def noisy(module: nn.Module) -> nn.Module:
    """The module with random values in place of all zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    return module.eval()


def as_class(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A copy of a module of full width that computes by another class."""
    copy = deepcopy(module)
    copy.__class__ = kind
    return copy


@pytest.mark.parametrize("sides", [(8, 8), (7, 10), (4, 9), (3, 3)])
@pytest.mark.parametrize("shift", [[0, 0], [2, 2], [0, 1]])
@pytest.mark.parametrize(
    ("dense", "thin"),
    [
        (ShiftedWindowAttention, ThinWindowAttention),
        (ShiftedWindowAttentionV2, ThinCosineAttention),
    ],
)
def test_attention_in_windows_computes_what_torchvision_computes(dense, thin, shift, sides):
    attention = noisy(dense(12, [4, 4], shift, num_heads=3))
    images = torch.randn(2, *sides, 12)

    with torch.no_grad():
        expected = attention(images)
        actual = as_class(attention, thin)(images)

    torch.testing.assert_close(actual, expected)


def test_attention_in_grids_computes_what_torchvision_computes():
    attention = noisy(RelativePositionalMultiHeadAttention(12, 4, 16))
    positions = torch.randn(2, 5, 16, 12)

    with torch.no_grad():
        expected = attention(positions)
        actual = as_class(attention, ThinGridAttention)(positions)

    torch.testing.assert_close(actual, expected)


CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)
PADDING = torch.arange(5).expand(2, 5) >= torch.tensor([[3], [5]])
ARGUMENTS = {
    "plain": {},
    "without weights": {"need_weights": False},
    "weights of every head": {"average_attn_weights": False},
    "causal": {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
    "mask of numbers": {"attn_mask": torch.linspace(-1, 1, 25).view(5, 5)},
    "mask of every head": {"attn_mask": CAUSAL.expand(6, 5, 5)},
    "padding": {"key_padding_mask": PADDING},
    "padding and mask": {"key_padding_mask": PADDING, "attn_mask": CAUSAL, "need_weights": False},
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=list(ARGUMENTS))
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_computes_what_torch_computes(arguments, batch_first, bias):
    attention = noisy(nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first))
    shape = (2, 5, 12) if batch_first else (5, 2, 12)
    query, other = torch.randn(shape), torch.randn(shape)

    thin = as_class(attention, ThinAttention)
    for inputs in ((query, query, query), (query, other, other)):
        with torch.no_grad():
            outputs, weights = attention(*inputs, **arguments)
            thin_outputs, thin_weights = thin(*inputs, **arguments)

        torch.testing.assert_close(thin_outputs, outputs)
        assert (weights is None) == (thin_weights is None)
        if weights is not None:
            torch.testing.assert_close(thin_weights, weights)


def test_attention_of_one_text_computes_what_torch_computes():
    attention = noisy(nn.MultiheadAttention(12, 3))
    text = torch.randn(5, 12)

    with torch.no_grad():
        outputs, weights = attention(text, text, text, attn_mask=CAUSAL)
        thin_outputs, thin_weights = as_class(attention, ThinAttention)(
            text, text, text, attn_mask=CAUSAL
        )

    torch.testing.assert_close(thin_outputs, outputs)
    torch.testing.assert_close(thin_weights, weights)


def test_a_causal_hint_without_a_mask_is_refused_as_torch_refuses_it():
    attention = as_class(noisy(nn.MultiheadAttention(12, 3)), ThinAttention)
    text = torch.randn(5, 12)

    with pytest.raises(ValueError, match="attn_mask"):
        attention(text, text, text, is_causal=True)


class ScaledAttention(nn.MultiheadAttention):
    """Somebody's attention, which computes something of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x, x, x)[0]


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(3, 3),
        ScaledAttention(12, 3),
        nn.MultiheadAttention(12, 3, kdim=5, vdim=5),
        nn.MultiheadAttention(12, 3, add_bias_kv=True),
        nn.MultiheadAttention(12, 3, add_zero_attn=True),
    ],
    ids=["linear", "derived", "separate", "bias of keys", "zeros"],
)
def test_other_modules_have_no_heads_to_lose(module):
    assert layout_of(module) is None


def test_a_module_of_full_width_keeps_its_class():
    attention = nn.MultiheadAttention(12, 3)

    set_heads(attention, layout_of(attention))

    assert type(attention) is nn.MultiheadAttention
    assert attention.num_heads == 3


@pytest.mark.parametrize(("rows", "message"), [(24, "three times 12"), (30, "three times 12")])
def test_attention_whose_parts_do_not_fit_each_other_is_refused(rows, message):
    attention = nn.MultiheadAttention(12, 3)
    attention.in_proj_weight = nn.Parameter(torch.zeros(rows, 12))

    with pytest.raises(InputError, match=message):
        set_heads(attention, layout_of(attention))


def test_part_of_a_head_is_refused():
    attention = nn.MultiheadAttention(12, 3)
    attention.in_proj_weight = nn.Parameter(torch.zeros(3 * 6, 12))
    attention.out_proj.weight = nn.Parameter(torch.zeros(12, 6))

    with pytest.raises(InputError, match="not a whole number of heads of 4"):
        set_heads(attention, layout_of(attention))


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_a_network_of_full_width_takes_torchvisions_weights_and_gives_its_bits(name):
    theirs = models.get_model(name, weights=None, num_classes=5).eval()
    ours = build(f"torchvision/{name}", 5, (3, 32, 32)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)

    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
