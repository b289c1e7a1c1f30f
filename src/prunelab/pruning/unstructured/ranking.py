"""Rank scores and keep the largest, and choose weights within groups: N:M sparsity and patterns."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from prunelab.config.params import Prune
from prunelab.core.errors import InputError
from prunelab.training.masking import Masks

Saliency = dict[str, Tensor]  # scores of every weight, by the name of the weight tensor

# Ties are counted for so many rows at a time, because counts take 32 bits for every entry.
TIED_ROWS_AT_ONCE = 2**22


def count_kept(count: int, ratio: float) -> int:
    """How many of `count` weights or units stay at a ratio, rounded to the nearest integer."""
    return round((1 - ratio) * count)


def check_scores(scores: Saliency, what: str) -> None:
    """Raise InputError for scores that cannot be ranked. `what` is scored: weights, or units."""
    problems: list[str] = []

    for name, score in scores.items():
        if score.isnan().any():
            problems.append(f"the saliency of {name} is not a number. Has the network diverged?")

    if not any(score.any() for score in scores.values()):
        problems.append(
            f"all saliencies are zero: this criterion cannot rank the {what} of this network. "
            "Use another criterion."
        )

    if problems:
        raise InputError(problems)


def keep_largest(scores: Tensor, drop: int) -> Tensor:
    """Drop the `drop` smallest entries of every row.

    Entries are dropped by rank, not by a threshold: exactly `drop` go, also if scores are equal. Of
    equal scores the first go, so that ties are resolved alike on every machine.

    Args:
        scores: a tensor [rows, n] on the CPU.
        drop: how many entries of a row go, 0 to n.

    Returns:
        A boolean tensor [rows, n], False for the dropped entries.
    """
    if drop == 0:
        return torch.ones(scores.shape, dtype=torch.bool)

    partitioned = np.partition(scores.numpy(), drop - 1, axis=1)
    largest_dropped = torch.from_numpy(partitioned[:, drop - 1 : drop])

    # This keeps too many entries of a row in which further entries equal the largest dropped one.
    kept = scores >= largest_dropped
    surplus = kept.sum(1) - (scores.shape[1] - drop)

    rows_with_surplus = surplus.nonzero().flatten()
    for rows in torch.split(rows_with_surplus, TIED_ROWS_AT_ONCE):
        tied = scores[rows] == largest_dropped[rows]
        is_surplus = tied.cumsum(1, dtype=torch.int32) <= surplus[rows].unsqueeze(1)
        kept[rows] &= ~(tied & is_surplus)

    return kept


def keep_n_of_m(saliency: Saliency, ratios: Mapping[str, float], settings: Prune) -> Masks:
    """Keep the largest N of every M weights that follow each other along the input channels (N:M).

    M is `settings.group`, and N is the nearest integer to (1 - ratio) x M. The number of input
    channels of every tensor must be a multiple of M. `ratios` gives the ratio of every tensor.

    Mishra et al. 2021, Accelerating Sparse Deep Neural Networks.
    """
    group_size = settings.group

    masks: Masks = {}
    for name, score in saliency.items():
        channels_last = score.movedim(1, -1)
        groups = channels_last.reshape(-1, group_size)

        kept = keep_largest(groups, group_size - count_kept(group_size, ratios[name]))
        masks[name] = kept.view(channels_last.shape).movedim(-1, 1).contiguous()

    return masks


def keep_patterns(saliency: Saliency, ratios: Mapping[str, float], settings: Prune) -> Masks:
    """Keep the same number of weights in every kernel, at places that one of a few patterns allows.

    Kernels of the same shape that keep the same number of weights share a set of
    `settings.patterns` patterns, across layers. `ratios` gives the ratio of every tensor.

    Niu et al. 2020, PatDNN: Achieving Real-Time DNN Execution on Mobile Devices with Pattern-based
    Weight Pruning.
    """
    names_by_kernel: dict[tuple[int, int, int], list[str]] = {}
    for name, score in saliency.items():
        height, width = score.shape[2:]
        kernel = (height, width, count_kept(height * width, ratios[name]))
        names_by_kernel.setdefault(kernel, []).append(name)

    masks: Masks = {}
    for (height, width, kept_per_kernel), names in names_by_kernel.items():
        area = height * width
        kernels = [saliency[name].reshape(-1, area) for name in names]
        kept = _apply_best_patterns(torch.cat(kernels), area - kept_per_kernel, settings.patterns)

        kernel_counts = [len(rows) for rows in kernels]
        for name, rows in zip(names, torch.split(kept, kernel_counts), strict=True):
            masks[name] = rows.reshape(saliency[name].shape)

    return {name: masks[name] for name in saliency}


def _apply_best_patterns(kernels: Tensor, drop: int, max_patterns: int) -> Tensor:
    """For every kernel, the allowed pattern that keeps most of its saliency.

    The allowed patterns are those that most kernels would choose for themselves.

    Args:
        kernels: a saliency [kernels, area].
        drop: how many weights of a kernel go.
        max_patterns: how many patterns are allowed.

    Returns:
        A boolean tensor [kernels, area], False for the dropped weights.
    """
    own_choices = keep_largest(kernels, drop)

    # Equal patterns are counted as equal bytes.
    packed = np.packbits(own_choices.numpy(), axis=1)
    packed_rows = packed.view(f"V{packed.shape[1]}").ravel()
    _, first_rows, counts = np.unique(packed_rows, return_index=True, return_counts=True)

    most_frequent = np.argsort(-counts, kind="stable")[:max_patterns]
    allowed = own_choices[torch.from_numpy(first_rows[most_frequent])]

    # Weights that earlier steps dropped have a score of minus infinity, which times zero is NaN.
    finite = kernels.clamp_min(torch.finfo(kernels.dtype).min)
    saliency_kept = finite @ allowed.to(kernels.dtype).T
    return allowed[saliency_kept.argmax(1)]
