"""Attention that can lose heads: where heads lie in its tensors, and torch's with fewer of them.

Libraries let the inputs say how wide queries, keys and values are. A module that has lost heads is
therefore given a class that asks its own tensors; its parameters keep their names. A module of full
width stays as its library made it. The classes for torchvision's attention are in
`torchvision_attention`, so that this module imports torch alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.core.registry import resolve

PARTS = 3  # queries, keys, values
DISTANCES = "relative_position_bias_table"  # [distances, heads] of attention in windows


@dataclass(frozen=True)
class Layout:
    """Where the heads of an attention module lie in the tensors of its layers.

    Args:
        joint: the layer whose rows are the queries of all heads, then the keys, then the values.
            Names are relative to the module; "" is the module itself
        projection: the linear layer behind, to which every head gives an equal part of the inputs
        number: the module's attribute that counts its heads
        rows: layers whose tensors have one row for each head
        columns: layers whose tensors have one column for each head
        thin: the class that computes with fewer heads, as `module:name`; "": the module's own can
    """

    joint: str
    projection: str
    number: str = "num_heads"
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    thin: str = ""


_THIN_TORCHVISION = "prunelab.models.torchvision_attention:"
# By the full names of classes. Classes derived from them may compute anything else.
LAYOUTS = {
    "torch.nn.modules.activation.MultiheadAttention": Layout(
        "", "out_proj", thin="prunelab.models.attention:ThinAttention"
    ),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": Layout(
        "qkv", "proj", columns=("",), thin=_THIN_TORCHVISION + "ThinWindowAttention"
    ),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": Layout(
        "qkv", "proj", rows=("", "cpb_mlp.2"), thin=_THIN_TORCHVISION + "ThinCosineAttention"
    ),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": Layout(
        "to_qkv", "merge", "n_heads", columns=("",), thin=_THIN_TORCHVISION + "ThinGridAttention"
    ),
}
THIN_MODULES = {layout.thin.partition(":")[0] for layout in LAYOUTS.values()}


def layout_of(module: nn.Module) -> Layout | None:
    """Where the heads of an attention module lie; None for other modules, and other attention."""
    kind = type(module)
    if kind.__module__ in THIN_MODULES and kind.__base__ is not None:
        kind = kind.__base__
    layout = LAYOUTS.get(f"{kind.__module__}.{kind.__qualname__}")

    if layout is None:
        return _layout_of_timm(module)
    if isinstance(module, nn.MultiheadAttention) and not _is_plain(module):
        return None
    return layout


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    """Whether queries, keys and values share one matrix, and nothing joins them."""
    joined = attention.bias_k is not None or attention.add_zero_attn
    return attention.in_proj_weight is not None and not joined


def _layout_of_timm(module: nn.Module) -> Layout | None:
    """The layout of timm's attention, whose many classes have the same names of attributes.

    Their own code reads how many heads there are: from numbers beside the size of a head, or from
    the table of distances in windows.
    """
    names = set(vars(module))
    layers = [getattr(module, name, None) for name in ("qkv", "proj")]
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return None

    if {"num_heads", "window_area"} <= names and DISTANCES in module._parameters:
        return Layout("qkv", "proj", columns=("",))
    if {"num_heads", "head_dim", "attn_dim"} <= names:
        return Layout("qkv", "proj")
    return None


def joint_name(module: nn.Module) -> str:
    """The attribute that holds the weight of queries, keys and values in their layer."""
    return "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"


def set_heads(attention: Any, layout: Layout) -> None:
    """Let a module count the heads that its tensors have, and compute with these alone.

    Raises:
        InputError: if its tensors have part of a head, or different numbers of heads.
    """
    joint = attention.get_submodule(layout.joint)
    rows = len(getattr(joint, joint_name(joint)))
    projection = attention.get_submodule(layout.projection).weight
    width = projection.shape[1]
    if rows != PARTS * width:
        raise InputError(
            f"queries, keys and values have {rows} rows, and three times {width} are expected"
        )

    counts = _counts(attention, layout)
    if not counts:
        counts = {width // attention.head_dim}
    count = min(counts)
    size = getattr(attention, "head_dim", width // count if count else 0)
    if len(counts) > 1 or count * size != width:
        raise InputError(f"{width} rows of values are not a whole number of heads of {size}")

    setattr(attention, layout.number, count)
    if hasattr(attention, "attn_dim"):
        attention.attn_dim = width
    if layout.thin and width < len(projection):
        attention.__class__ = resolve(layout.thin)
    if isinstance(attention, ThinAttention):
        # Layers of torch around it would else compute it by functions of their own.
        attention._qkv_same_embed_dim = False


def _counts(attention: nn.Module, layout: Layout) -> set[int]:
    """How many heads the tensors have that hold one row or one column for each."""
    counts = set()
    for names, dim in ((layout.rows, 0), (layout.columns, 1)):
        for name in names:
            for tensor in attention.get_submodule(name).parameters(recurse=False):
                counts.add(tensor.shape[dim])
    return counts


class ThinAttention(nn.MultiheadAttention):
    """torch's attention with fewer heads: queries, keys and values are narrower than the inputs."""

    def forward(  # noqa: PLR0913 (as torch has it)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as torch's layer does, with its arguments: [N, L, E] in, [N, L, E] out.

        Raises:
            ValueError: if `is_causal` is given without the mask that it describes.
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal describes attn_mask, which must be given with it")

        queries, keys, values = self._project(query, key, value)
        mask = self._mask(attn_mask, key_padding_mask, queries.dtype)
        dropout = self.dropout if self.training else 0.0

        weights: Tensor | None = None
        if need_weights:
            scores = queries * self.head_dim**-0.5 @ keys.transpose(-2, -1)
            if mask is not None:
                scores = scores + mask
            weights = F.dropout(scores.softmax(-1), dropout)
            mixed = weights @ values
            if average_attn_weights:
                weights = weights.mean(1)
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, mask, dropout)

        mixed = mixed.transpose(1, 2).flatten(2)
        outputs = F.linear(mixed, self.out_proj.weight, self.out_proj.bias)
        if query.dim() == 2:
            return outputs[0], None if weights is None else weights[0]
        if not self.batch_first:
            outputs = outputs.transpose(0, 1)
        return outputs, weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values, [N, heads, L, size of a head] each."""
        if query is key and key is value:
            joint = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            parts = list(joint.chunk(PARTS, dim=-1))
        else:
            weights = self.in_proj_weight.chunk(PARTS)
            biases: Any = [None] * PARTS
            if self.in_proj_bias is not None:
                biases = self.in_proj_bias.chunk(PARTS)
            inputs = (query, key, value)
            parts = [F.linear(*layer) for layer in zip(inputs, weights, biases, strict=True)]

        heads = []
        for part in parts:
            if part.dim() == 2:
                part = part[None]
            elif not self.batch_first:
                part = part.transpose(0, 1)
            heads.append(torch.unflatten(part, -1, (self.num_heads, -1)).transpose(1, 2))
        return heads

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: torch.dtype
    ) -> Tensor | None:
        """What is added to the scores, [N or 1, heads or 1, L or 1, S]."""
        masks = []
        if attn_mask is not None:
            added = _as_added(attn_mask, dtype)
            if added.dim() == 3:
                added = torch.unflatten(added, 0, (-1, self.num_heads))
            masks.append(added)
        if key_padding_mask is not None:
            padding = _as_added(key_padding_mask, dtype)
            masks.append(padding.reshape(-1, 1, 1, padding.shape[-1]))

        if not masks:
            return None
        return sum(masks[1:], masks[0])


def _as_added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of numbers: -inf where a mask of booleans hides a position."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)
