"""The choice within small groups of weights, of which each keeps the same number: N:M sparsity and patterns."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from prunelab.config.params import Prune
from prunelab.training.masking import Masks

Saliency = dict[str, Tensor]


def kept_of(group: int, ratio: float) -> int:
    """How many of a group of weights stay."""
    return round((1 - ratio) * group)


def keep_largest(scores: Tensor, drop: int) -> Tensor:
    """True for all but the `drop` smallest entries of every row, [rows, n].

    By rank, not by threshold: equal scores must not change how many go. Of equals the first go, so that ties are
    settled alike everywhere.
    """
    if drop == 0:
        return torch.ones(scores.shape, dtype=torch.bool)
    cut = torch.from_numpy(np.partition(scores.numpy(), drop - 1, axis=1)[:, drop - 1 : drop])
    kept = scores >= cut
    surplus = kept.sum(1) - (scores.shape[1] - drop)
    for row in (
        surplus.nonzero().flatten().split(2**22)
    ):  # few rows at a time: this counts in full width
        tied = scores[row] == cut[row]
        kept[row] &= ~(tied & (tied.cumsum(1, dtype=torch.int32) <= surplus[row].unsqueeze(1)))
    return kept


def n_of_m(saliency: Saliency, ratios: Mapping[str, float], settings: Prune) -> Masks:
    masks: Masks = {}
    for name, score in saliency.items():
        channels_last = score.movedim(1, -1)
        groups = channels_last.reshape(-1, settings.group)
        kept = keep_largest(groups, settings.group - kept_of(settings.group, ratios[name]))
        masks[name] = kept.view(channels_last.shape).movedim(-1, 1).contiguous()
    return masks


def patterns(saliency: Saliency, ratios: Mapping[str, float], settings: Prune) -> Masks:
    """One set of patterns for all kernels of one shape that keep the same number of weights."""
    alike: dict[tuple[int, int, int], list[str]] = {}
    for name, score in saliency.items():
        height, width = score.shape[2:]
        alike.setdefault((height, width, kept_of(height * width, ratios[name])), []).append(name)
    masks: Masks = {}
    for (height, width, count), names in alike.items():
        area = height * width
        chosen = _chosen_patterns(
            torch.cat([saliency[name].reshape(-1, area) for name in names]), area - count, settings
        )
        parts = chosen.split([saliency[name].numel() // area for name in names])
        masks |= {
            name: part.reshape(saliency[name].shape)
            for name, part in zip(names, parts, strict=True)
        }
    return {name: masks[name] for name in saliency}


def _chosen_patterns(kernels: Tensor, drop: int, settings: Prune) -> Tensor:
    """For every kernel, a row of saliencies, the pattern of the set that keeps most of its saliency."""
    own = keep_largest(kernels, drop)
    packed = np.packbits(own.numpy(), axis=1)
    _, first, counts = np.unique(
        packed.view(f"V{packed.shape[1]}").ravel(), return_index=True, return_counts=True
    )
    commonest = np.argsort(-counts, kind="stable")[: settings.patterns]
    allowed = own[torch.from_numpy(first[commonest])]
    return allowed[(kernels @ allowed.to(kernels.dtype).T).argmax(1)]
