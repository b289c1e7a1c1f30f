"""GRANULARITIES: what masks drop at once, by name.

That is single weights, units of weights (kernels, blocks, ...), or a choice within small groups of
weights (N:M, patterns). Which units go is decided in `select`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from prunelab.config.params import Prune
from prunelab.pruning.unstructured.ranking import (
    Saliency,
    count_kept,
    keep_n_of_m,
    keep_patterns,
)
from prunelab.pruning.unstructured.tiling import Tiling, WeightShape
from prunelab.training.masking import Masks


def _no_tiling(shape: WeightShape, settings: Prune) -> Tiling | None:
    return None


def _no_groups(shape: WeightShape, settings: Prune) -> int | None:
    return None


@dataclass(frozen=True)
class Granularity:
    """What masks drop at once. There are two kinds.

    A granularity of units has a `tiling`, which divides a weight tensor of a given shape into
    units. Units are ranked by their mean saliency.

    A granularity of groups has a `group_size`, the number of weights of a group, and
    `choose_in_groups`. Every group keeps the same number of weights. `choose_in_groups(saliency,
    ratios, settings)` chooses them for all tensors at once, each with its own ratio.

    `tiling` and `group_size` return None for a tensor that the granularity does not apply to. Such
    a tensor stays dense.
    """

    noun: str  # names the units in messages, in the plural
    requirement: str  # what a network must have, for messages; may quote {settings}
    tiling: Callable[[WeightShape, Prune], Tiling | None] = _no_tiling
    group_size: Callable[[WeightShape, Prune], int | None] = _no_groups
    choose_in_groups: Callable[[Saliency, Mapping[str, float], Prune], Masks] | None = None

    def applies(self, shape: WeightShape, settings: Prune) -> bool:
        """Whether weight tensors of this shape have such units or groups."""
        return self.count_choices(shape, settings) > 0

    def count_choices(self, shape: WeightShape, settings: Prune) -> int:
        """How many units a tensor has, or how many weights one of its groups; 0 if it has none."""
        if self.choose_in_groups:
            return self.group_size(shape, settings) or 0

        tiling = self.tiling(shape, settings)
        if tiling is None:
            return 0
        return len(tiling)


def explain_infeasible(
    shapes: Iterable[WeightShape], granularity: Granularity, ratio: float, settings: Prune
) -> str | None:
    """One line on why tensors of these shapes cannot lose the ratio; None if they can.

    A ratio above 0 must drop something and keep something.
    """
    counts: list[int] = []
    for shape in shapes:
        if granularity.applies(shape, settings):
            counts.append(granularity.count_choices(shape, settings))

    if not counts:
        requirement = granularity.requirement.format(settings=settings)
        return (
            f"ratio {ratio} of {granularity.noun} cannot be met: this network has none. "
            f"Use a network with {requirement}."
        )
    if ratio == 0:
        return None

    if granularity.choose_in_groups:
        # The ratio holds within every group. No group may lose all its weights, and those of some
        # tensor must lose one. The smallest group is the first to lose all.
        choices = min(counts)
        if count_kept(choices, ratio) > 0:
            choices = max(counts)
        of_what = f"a group of {choices} weights"
    else:
        choices = sum(counts)
        of_what = f"the {choices} {granularity.noun}"

    kept = count_kept(choices, ratio)
    if 0 < kept < choices:
        return None

    if choices == 1:
        return (
            f"ratio {ratio} of {granularity.noun} cannot be met: there is only one. It must stay."
        )
    if kept:
        effect, nearest = "removes none", 1 / choices
    else:
        effect, nearest = "leaves none", 1 - 1 / choices
    return f"ratio {ratio} {effect} of {of_what}. The nearest feasible ratio is {nearest:.6g}."


def achievable_ratio(
    shapes: Iterable[WeightShape], granularity: Granularity, ratio: float, settings: Prune
) -> float:
    """The share of weights that tensors of these shapes lose at a ratio, 0 to below 1.

    It counts the weights of the tensors that the granularity applies to, and is 0 if there are
    none. Choices within groups round the ratio to whole weights of a group. Rankings of units meet
    any ratio to within one unit, so for them this is the ratio itself.
    """
    if not granularity.choose_in_groups:
        return ratio

    total = 0
    dropped = 0.0
    for shape in shapes:
        size = granularity.group_size(shape, settings)
        if size:
            total += prod(shape)
            dropped += prod(shape) * (1 - count_kept(size, ratio) / size)

    if total == 0:
        return 0.0
    return dropped / total


def _as_matrix(shape: WeightShape) -> tuple[int, int]:
    """Rows and columns of the matrix [out, in * height * width]."""
    return shape[0], prod(shape[1:])


def _has_kernels(shape: WeightShape) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] > 1


def _weights(shape: WeightShape, settings: Prune) -> Tiling:
    return Tiling(1, prod(shape), 1, 1)


def _kernel_rows(shape: WeightShape, settings: Prune) -> Tiling | None:
    if len(shape) != 4 or shape[3] == 1:
        return None
    width = shape[3]
    return Tiling(prod(shape[:3]), width, 1, width)


def _kernels(shape: WeightShape, settings: Prune) -> Tiling | None:
    if not _has_kernels(shape):
        return None
    area = prod(shape[2:])
    return Tiling(shape[0] * shape[1], area, 1, area)


def _blocks(shape: WeightShape, settings: Prune) -> Tiling:
    rows, columns = _as_matrix(shape)
    block_rows = min(rows, settings.block_rows)
    block_columns = min(columns, settings.block_columns)
    return Tiling(rows, columns, block_rows, block_columns)


def _filters(shape: WeightShape, settings: Prune) -> Tiling:
    rows, columns = _as_matrix(shape)
    return Tiling(rows, columns, 1, columns)


def _channel_group(shape: WeightShape, settings: Prune) -> int | None:
    return settings.group if shape[1] % settings.group == 0 else None


def _kernel_area(shape: WeightShape, settings: Prune) -> int | None:
    return prod(shape[2:]) if _has_kernels(shape) else None


WEIGHT = Granularity("weights", "weights", tiling=_weights)

# A row of a kernel, or a whole two-dimensional kernel (Mao et al. 2017, Exploring the Regularity of
# Sparse Structure in Convolutional Neural Networks). Linear layers and 1x1 convolutions have no
# kernels. Their rows are filters, and parts of their rows are blocks.
VECTOR = Granularity(
    "rows of kernels", "convolutions whose kernels are wider than 1", tiling=_kernel_rows
)
KERNEL = Granularity("kernels", "convolutions whose kernels are larger than 1x1", tiling=_kernels)

# Blocks of the matrix [out, in * height * width] (Narang et al. 2017, Block-Sparse Recurrent Neural
# Networks).
BLOCK = Granularity("blocks", "weights", tiling=_blocks)

# All weights of one output (Li et al. 2017, Pruning Filters for Efficient ConvNets).
FILTER = Granularity("filters", "weights", tiling=_filters)

# N of every M weights along the input channels stay, as in NVIDIA's ASP (Mishra et al. 2021,
# Accelerating Sparse Deep Neural Networks). Layers whose number of input channels is no multiple of
# M stay dense.
N_OF_M = Granularity(
    "groups of input channels",
    "a layer whose number of input channels is a multiple of prune.group = {settings.group}",
    group_size=_channel_group,
    choose_in_groups=keep_n_of_m,
)

# Every kernel keeps the same number of weights, at the places of one of a few patterns (Niu et al.
# 2020, PatDNN).
PATTERN = Granularity(
    "patterns of kernels",
    "convolutions whose kernels are larger than 1x1",
    group_size=_kernel_area,
    choose_in_groups=keep_patterns,
)

GRANULARITIES: dict[str, Granularity] = {
    "weight": WEIGHT,
    "vector": VECTOR,
    "kernel": KERNEL,
    "block": BLOCK,
    "filter": FILTER,
    "n_of_m": N_OF_M,
    "pattern": PATTERN,
}
