"""GRANULARITIES: what goes at once, by name: single weights, units of weights, or a choice within small groups."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from prunelab.config.params import Prune
from prunelab.pruning.unstructured.ranking import Saliency, kept_of, n_of_m, patterns
from prunelab.pruning.unstructured.tiling import Shape, Tiling
from prunelab.training.masking import Masks


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


def why_not(
    shapes: Mapping[str, Shape], granularity: Granularity, ratio: float, settings: Prune
) -> str | None:
    """One line that tells why a network of such tensors cannot lose this ratio so; None if it can."""
    usable = [shape for shape in shapes.values() if granularity.applies(shape, settings)]
    if not usable:
        needs = granularity.needs.format(settings=settings)
        return f"ratio {ratio} of {granularity.noun}: this network has none; needed: {needs}"
    if ratio == 0:
        return None
    counts = sorted({choices(granularity, shape, settings) for shape in usable})
    if (
        granularity.select
    ):  # within every group by itself: none may be emptied, and some must lose something
        steps = counts[0] if kept_of(counts[0], ratio) == 0 else counts[-1]
        among = f"a group of {steps} weights"
    else:
        steps = sum(choices(granularity, shape, settings) for shape in usable)
        among = f"the {steps} {granularity.noun}"
    kept = kept_of(steps, ratio)
    if 0 < kept < steps:
        return None
    if steps == 1:
        return f"ratio {ratio} of {granularity.noun}: there is only one, which has to stay"
    does, nearest = ("removes none", 1 / steps) if kept else ("leaves none", 1 - 1 / steps)
    return f"ratio {ratio} {does} of {among}; the nearest ratio that can be met is {nearest:.6g}"


def choices(granularity: Granularity, shape: Shape, settings: Prune) -> int:
    """How many units a tensor has, or how many weights a group of it."""
    tiling = granularity.tiling(shape, settings)
    return len(tiling) if tiling else granularity.groups(shape, settings) or 0


def achievable(
    shapes: Mapping[str, Shape], granularity: Granularity, ratio: float, settings: Prune
) -> float:
    """The ratio nearest to this one that the granularity can give to the weights it applies to.

    For N:M and patterns that is what they will achieve; rankings of units achieve any ratio to within one unit.
    """
    if not granularity.select:
        return ratio
    grouped = [
        (prod(shape), size)
        for shape in shapes.values()
        if (size := granularity.groups(shape, settings))
    ]
    total = sum(count for count, _ in grouped)
    return (
        sum(count * (1 - kept_of(size, ratio) / size) for count, size in grouped) / total
        if total
        else 0.0
    )


def _matrix(shape: Shape) -> tuple[int, int]:
    return shape[0], prod(shape[1:])


def _has_kernels(shape: Shape) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] > 1


def _vectors(shape: Shape, settings: Prune) -> Tiling | None:
    return (
        Tiling(prod(shape[:3]), shape[3], 1, shape[3]) if len(shape) == 4 and shape[3] > 1 else None
    )


def _kernels(shape: Shape, settings: Prune) -> Tiling | None:
    area = prod(shape[2:])
    return Tiling(shape[0] * shape[1], area, 1, area) if _has_kernels(shape) else None


def _blocks(shape: Shape, settings: Prune) -> Tiling:
    rows, columns = _matrix(shape)
    return Tiling(
        rows, columns, min(rows, settings.block_rows), min(columns, settings.block_columns)
    )


def _filters(shape: Shape, settings: Prune) -> Tiling:
    return Tiling(*_matrix(shape), 1, _matrix(shape)[1])


def _n_of_m_group(shape: Shape, settings: Prune) -> int | None:
    return settings.group if shape[1] % settings.group == 0 else None


def _pattern_group(shape: Shape, settings: Prune) -> int | None:
    return prod(shape[2:]) if _has_kernels(shape) else None


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
    select=n_of_m,
)
# The same number of weights stays in every kernel, at places that one of a few patterns allows: the most frequent
# among those that the kernels would choose for themselves (PatDNN: Niu et al. 2020).
PATTERN = Granularity(
    "patterns of kernels",
    "convolutions with kernels larger than 1x1",
    groups=_pattern_group,
    select=patterns,
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
