"""GRANULARITIES: what goes at once, by name: single weights, units of weights, or a choice within small groups.

Units are tiles of a weight tensor seen as a matrix, so that neither pooling a saliency over them nor widening a choice
to a mask takes an index for every weight. N:M sparsity and patterns are no ranking of units: they choose by themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prunelab.params import Prune

Saliency = dict[str, Tensor]
Masks = dict[str, Tensor]
Shape = tuple[int, ...]  # of a weight tensor: [out, in] or [out, in / groups, height, width]


@dataclass(frozen=True)
class Tiling:
    """A tensor seen as a matrix of `rows` x `columns` weights, cut into tiles of `tall` x `wide`, less at the edges."""

    rows: int
    columns: int
    tall: int
    wide: int

    def __len__(self) -> int:
        """How many units there are."""
        return -(-self.rows // self.tall) * -(-self.columns // self.wide)

    def numbers(self, shape: Shape) -> Tensor:
        """The number of every weight's unit, int64 of the tensor's shape."""
        row, column = torch.arange(self.rows) // self.tall, torch.arange(self.columns) // self.wide
        return (row.unsqueeze(1) * (-(-self.columns // self.wide)) + column).view(shape)

    def means(self, saliency: Tensor) -> Tensor:
        """The mean saliency of every unit, [units]."""
        matrix = saliency.reshape(self.rows, self.columns)
        if self.tall == self.wide == 1:
            return matrix.flatten()
        if self.tall == 1 and self.columns % self.wide == 0:
            return matrix.view(-1, self.wide).mean(1)
        pooled = F.avg_pool2d(matrix.unsqueeze(0), (self.tall, self.wide), ceil_mode=True)  # edges: of what is there
        return pooled.flatten()

    def sizes(self) -> Tensor:
        """How many weights every unit has, int64 [units]."""
        return torch.outer(_lengths(self.rows, self.tall), _lengths(self.columns, self.wide)).flatten()

    def widen(self, kept: Tensor, shape: Shape) -> Tensor:
        """A mask of the tensor's shape from a choice of units, bool [units]."""
        tiles = kept.view(-(-self.rows // self.tall), -1)
        wide = tiles.repeat_interleave(self.wide, dim=1)[:, : self.columns]
        return wide.repeat_interleave(self.tall, dim=0)[: self.rows].reshape(shape)


def _lengths(total: int, length: int) -> Tensor:
    parts = -(-total // length)
    return torch.tensor([length] * (parts - 1) + [total - length * (parts - 1)])


@dataclass(frozen=True)
class Granularity:
    """What pruning removes at once; `noun` names it, in the plural.

    `tiling(shape, settings)` tells the units of a tensor; None where the granularity does not apply, so that the tensor
    stays dense. A granularity with `groups` is no ranking of units: in every group of so many weights (None, again:
    does not apply) the same number stays, and `select` chooses them for all tensors at once, each with its own ratio.
    """

    noun: str
    needs: str  # what a network must have for this to apply
    tiling: Callable[[Shape, Prune], Tiling | None] = lambda shape, settings: None
    groups: Callable[[Shape, Prune], int | None] = lambda shape, settings: None
    select: Callable[[Saliency, Mapping[str, float], Prune], Masks] | None = None

    def units(self, shape: Shape, settings: Prune) -> Tensor | None:
        """The number of every weight's unit, int64 of the tensor's shape; None where there are no units."""
        tiling = self.tiling(shape, settings)
        return tiling.numbers(shape) if tiling else None

    def applies(self, shape: Shape, settings: Prune) -> bool:
        return (self.groups if self.select else self.tiling)(shape, settings) is not None


def why_not(shapes: Mapping[str, Shape], granularity: Granularity, ratio: float, settings: Prune) -> str | None:
    """One line that tells why a network of such tensors cannot lose this ratio so; None if it can."""
    usable = [shape for shape in shapes.values() if granularity.applies(shape, settings)]
    if not usable:
        needs = granularity.needs.format(settings=settings)
        return f"ratio {ratio} of {granularity.noun}: this network has none; needed: {needs}"
    if ratio == 0:
        return None
    counts = sorted({_choices(granularity, shape, settings) for shape in usable})
    if granularity.select:  # within every group by itself: none may be emptied, and some must lose something
        steps = counts[0] if _kept_of(counts[0], ratio) == 0 else counts[-1]
        among = f"a group of {steps} weights"
    else:
        steps = sum(_choices(granularity, shape, settings) for shape in usable)
        among = f"the {steps} {granularity.noun}"
    kept = _kept_of(steps, ratio)
    if 0 < kept < steps:
        return None
    if steps == 1:
        return f"ratio {ratio} of {granularity.noun}: there is only one, which has to stay"
    does, nearest = ("removes none", 1 / steps) if kept else ("leaves none", 1 - 1 / steps)
    return f"ratio {ratio} {does} of {among}; the nearest ratio that can be met is {nearest:.6g}"


def _choices(granularity: Granularity, shape: Shape, settings: Prune) -> int:
    """How many units a tensor has, or how many weights a group of it."""
    tiling = granularity.tiling(shape, settings)
    return len(tiling) if tiling else granularity.groups(shape, settings) or 0


def achievable(shapes: Mapping[str, Shape], granularity: Granularity, ratio: float, settings: Prune) -> float:
    """The ratio nearest to this one that the granularity can give to the weights it applies to.

    For N:M and patterns that is what they will achieve; rankings of units achieve any ratio to within one unit.
    """
    if not granularity.select:
        return ratio
    grouped = [(prod(shape), size) for shape in shapes.values() if (size := granularity.groups(shape, settings))]
    total = sum(count for count, _ in grouped)
    return sum(count * (1 - _kept_of(size, ratio) / size) for count, size in grouped) / total if total else 0.0


def _kept_of(group: int, ratio: float) -> int:
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
    for row in surplus.nonzero().flatten().split(2**22):  # few rows at a time: this counts in full width
        tied = scores[row] == cut[row]
        kept[row] &= ~(tied & (tied.cumsum(1, dtype=torch.int32) <= surplus[row].unsqueeze(1)))
    return kept


def _matrix(shape: Shape) -> tuple[int, int]:
    return shape[0], prod(shape[1:])


def _has_kernels(shape: Shape) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] > 1


def _vectors(shape: Shape, settings: Prune) -> Tiling | None:
    return Tiling(prod(shape[:3]), shape[3], 1, shape[3]) if len(shape) == 4 and shape[3] > 1 else None


def _kernels(shape: Shape, settings: Prune) -> Tiling | None:
    area = prod(shape[2:])
    return Tiling(shape[0] * shape[1], area, 1, area) if _has_kernels(shape) else None


def _blocks(shape: Shape, settings: Prune) -> Tiling:
    return Tiling(*_matrix(shape), settings.block_rows, settings.block_columns)


def _filters(shape: Shape, settings: Prune) -> Tiling:
    return Tiling(*_matrix(shape), 1, _matrix(shape)[1])


def _n_of_m_group(shape: Shape, settings: Prune) -> int | None:
    return settings.group if shape[1] % settings.group == 0 else None


def _n_of_m(saliency: Saliency, ratios: Mapping[str, float], settings: Prune) -> Masks:
    masks: Masks = {}
    for name, score in saliency.items():
        channels_last = score.movedim(1, -1)
        groups = channels_last.reshape(-1, settings.group)
        kept = keep_largest(groups, settings.group - _kept_of(settings.group, ratios[name]))
        masks[name] = kept.view(channels_last.shape).movedim(-1, 1).contiguous()
    return masks


def _pattern_group(shape: Shape, settings: Prune) -> int | None:
    return prod(shape[2:]) if _has_kernels(shape) else None


def _patterns(saliency: Saliency, ratios: Mapping[str, float], settings: Prune) -> Masks:
    """One set of patterns for all kernels of one shape that keep the same number of weights."""
    alike: dict[tuple[int, int, int], list[str]] = {}
    for name, score in saliency.items():
        height, width = score.shape[2:]
        alike.setdefault((height, width, _kept_of(height * width, ratios[name])), []).append(name)
    masks: Masks = {}
    for (height, width, count), names in alike.items():
        area = height * width
        chosen = _chosen_patterns(
            torch.cat([saliency[name].reshape(-1, area) for name in names]), area - count, settings
        )
        parts = chosen.split([saliency[name].numel() // area for name in names])
        masks |= {name: part.reshape(saliency[name].shape) for name, part in zip(names, parts, strict=True)}
    return {name: masks[name] for name in saliency}


def _chosen_patterns(kernels: Tensor, drop: int, settings: Prune) -> Tensor:
    """For every kernel, a row of saliencies, the pattern of the set that keeps most of its saliency."""
    own = keep_largest(kernels, drop)
    packed = np.packbits(own.numpy(), axis=1)
    _, first, counts = np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_index=True, return_counts=True)
    commonest = np.argsort(-counts, kind="stable")[: settings.patterns]
    patterns = own[torch.from_numpy(first[commonest])]
    return patterns[(kernels @ patterns.to(kernels.dtype).T).argmax(1)]


WEIGHT = Granularity("weights", "any weights", lambda shape, settings: Tiling(1, prod(shape), 1, 1))
# Mao et al. (2017): a row of a kernel, and a whole two-dimensional kernel. Linear layers and 1x1 convolutions have no
# kernels; their rows are filters, and parts of their rows are blocks.
VECTOR = Granularity("rows of kernels", "convolutions with kernels wider than 1", _vectors)
KERNEL = Granularity("kernels", "convolutions with kernels larger than 1x1", _kernels)
# Of the matrix [out, in * height * width] (Narang et al. 2017).
BLOCK = Granularity("blocks", "any weights", _blocks)
FILTER = Granularity("filters", "any weights", _filters)
# Of every M weights that follow each other along the input channels, N stay (Mishra et al. 2021, as in NVIDIA's ASP).
# Layers whose number of input channels is no multiple of M stay dense.
N_OF_M = Granularity(
    "groups of input channels",
    "a layer whose number of input channels is a multiple of prune.group = {settings.group}",
    groups=_n_of_m_group,
    select=_n_of_m,
)
# The same number of weights stays in every kernel, at places that one of a few patterns allows: the most frequent
# among those that the kernels would choose for themselves (PatDNN: Niu et al. 2020).
PATTERN = Granularity(
    "patterns of kernels", "convolutions with kernels larger than 1x1", groups=_pattern_group, select=_patterns
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
