"""torchvision's attention with fewer heads; see `attention`, which gives modules these classes.

Each class computes what the one above it computes, but takes the width of queries, keys and values
from its tensors instead of its inputs.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from prunelab.models.attention import PARTS

HIDDEN = -100.0  # added to the scores between positions that a shift brought together
MAX_SCALE = 100.0  # of a cosine (Liu et al. 2022, section 3.2)
AREAS = 3  # that a shift cuts a side of an image into


class ThinWindowAttention(ShiftedWindowAttention):  # type: ignore[misc]
    """Attention in shifted windows (Swin, Liu et al. 2021) with fewer heads."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows: [N, H, W, C] to the same shape."""
        bias: Tensor | None = self.qkv.bias
        return _attend_in_windows(self, x, bias)

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Scaled products, [..., tokens, tokens], of [..., tokens, size of a head] each."""
        scale = float(queries.shape[-1]) ** -0.5
        products: Tensor = (queries * scale) @ keys.transpose(-2, -1)
        return products


class ThinCosineAttention(ShiftedWindowAttentionV2):  # type: ignore[misc]
    """Attention in shifted windows by cosines (Swin v2, Liu et al. 2022) with fewer heads."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows: [N, H, W, C] to the same shape."""
        bias = self.qkv.bias
        if bias is not None:  # keys have none
            queries, keys, values = bias.chunk(PARTS)
            bias = torch.cat([queries, torch.zeros_like(keys), values])
        return _attend_in_windows(self, x, bias)

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Scaled cosines, [..., tokens, tokens], of [..., tokens, size of a head] each."""
        cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-2, -1)
        scale: Tensor = self.logit_scale.clamp(max=math.log(MAX_SCALE)).exp()
        return cosines * scale


def _attend_in_windows(
    attention: ThinWindowAttention | ThinCosineAttention, inputs: Tensor, bias: Tensor | None
) -> Tensor:
    """Cut images [N, H, W, C] into shifted windows, attend within each, and join them again."""
    _, height, width, _ = inputs.shape
    window = attention.window_size
    padded = F.pad(inputs, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    sides = padded.shape[1:3]

    # A window that is as large as the image has nothing to shift.
    shifts = [0, 0]
    for axis in range(2):
        if window[axis] < sides[axis]:
            shifts[axis] = attention.shift_size[axis]
    shifted = torch.roll(padded, (-shifts[0], -shifts[1]), (1, 2))

    tokens = _windows(shifted, window)
    joint = F.linear(tokens, attention.qkv.weight, bias)
    joint = torch.unflatten(joint, -1, (PARTS, attention.num_heads, -1))
    queries, keys, values = joint.permute(2, 0, 3, 1, 4).unbind(0)

    scores = attention.scores(queries, keys) + attention.get_relative_position_bias()
    if any(shifts):
        hidden = _hidden(sides, window, shifts, scores)
        by_image = torch.unflatten(scores, 0, (-1, len(hidden)))
        scores = (by_image + hidden[:, None]).flatten(0, 1)

    weights = F.dropout(scores.softmax(-1), attention.attention_dropout, attention.training)
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    outputs = F.linear(mixed, attention.proj.weight, attention.proj.bias)
    outputs = F.dropout(outputs, attention.dropout, attention.training)

    rows, columns = sides[0] // window[0], sides[1] // window[1]
    tiles = torch.unflatten(outputs, 1, (window[0], window[1]))
    grid = torch.unflatten(tiles, 0, (-1, rows, columns))
    image = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    image = torch.roll(image, (shifts[0], shifts[1]), (1, 2))
    return image[:, :height, :width].contiguous()


def _windows(images: Tensor, window: Sequence[int]) -> Tensor:
    """The windows of images [N, H, W, C], one image after the other: [N * windows, tokens, C]."""
    rows = torch.unflatten(images, 1, (-1, window[0]))
    tiles = torch.unflatten(rows, 3, (-1, window[1])).transpose(2, 3)
    return tiles.flatten(3, 4).flatten(0, 2)


def _hidden(
    sides: Sequence[int], window: Sequence[int], shifts: Sequence[int], scores: Tensor
) -> Tensor:
    """What is added to the scores of each window, [windows, tokens, tokens].

    After a shift the last windows hold parts of the image that are no neighbours.
    """
    parts = []
    for side, size, shift in zip(sides, window, shifts, strict=True):
        place = torch.arange(side, device=scores.device)
        part = torch.zeros_like(place)
        if shift:
            part = (place >= side - size).long() + (place >= side - shift).long()
        parts.append(part)

    areas = parts[0][:, None] * AREAS + parts[1]
    tokens = _windows(areas[None, :, :, None], window).squeeze(-1)
    apart = tokens[:, :, None] != tokens[:, None, :]
    return torch.zeros(apart.shape, dtype=scores.dtype, device=scores.device).masked_fill(
        apart, HIDDEN
    )


class ThinGridAttention(RelativePositionalMultiHeadAttention):  # type: ignore[misc]
    """Attention in blocks and grids (MaxViT, Tu et al. 2022) with fewer heads."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend within groups of positions: [N, groups, positions, C] to the same shape."""
        joint = torch.unflatten(self.to_qkv(x), -1, (PARTS, self.n_heads, self.head_dim))
        queries, keys, values = joint.permute(3, 0, 1, 4, 2, 5).unbind(0)

        scores = queries @ (keys * self.scale_factor).transpose(-2, -1)
        weights = (scores + self.get_relative_positional_bias()).softmax(-1)
        mixed = (weights @ values).transpose(2, 3).flatten(3)
        outputs: Tensor = self.merge(mixed)
        return outputs
