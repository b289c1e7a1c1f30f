"""METHODS: the pruning methods by name, one line each: criterion x scope of weights, or criterion x channels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from prunelab.errors import Refused
from prunelab.models.catalogue import Shape, fixed_layers
from prunelab.params import PruneSpec
from prunelab.pruning import channels, criteria, masks
from prunelab.pruning.channels import Width
from prunelab.pruning.criteria import Criterion, Evidence
from prunelab.pruning.granularity import WEIGHT
from prunelab.pruning.masks import Masks, Saliency, Scope
from prunelab.registry import pick
from prunelab.runtime import generator


@dataclass(frozen=True)
class Method:
    """`choose` turns the criterion's saliency into masks; None removes channels for real."""

    criterion: Criterion
    choose: Callable[[Saliency, PruneSpec], Masks] | None


@dataclass(frozen=True)
class Pruned:
    """What pruning did: masks (for mask methods), widths (for channel methods) and the ratio really achieved."""

    masks: Masks
    widths: list[Width]
    ratio_achieved: float

    @property
    def empty_layers(self) -> list[str]:
        """Layers without a single weight left: possible under a global threshold, and worth knowing."""
        return [name for name, mask in self.masks.items() if not mask.any()]

    def describe(self) -> str:
        """One line for the log."""
        text = f"ratio {self.ratio_achieved:.4f} achieved"
        if self.widths:
            text += ": " + ", ".join(f"{width.layers[0]} {width.before} to {width.after}" for width in self.widths)
        if self.empty_layers:
            text += f"; nothing is left of {', '.join(self.empty_layers)}"
        return text


def prune(model: nn.Module, architecture: str, spec: PruneSpec, *, shape: Shape, seed: int) -> Pruned:
    """Prune a network in place, on the CPU in float32; the same seed gives the same result.

    Raises:
        Refused: if the method is unknown, or what can be achieved misses the ratio by more than rounding allows.
    """
    method = pick(METHODS, spec.method, "method")
    if refused := unreachable(model, architecture, [spec], shape=shape):
        raise Refused(refused)
    saliency = method.criterion(model, Evidence(generator("prune", seed), batches=tuple))
    if method.choose is None:
        widths = channels.remove(
            model,
            saliency,
            ratio=spec.ratio,
            round_to=spec.round_to,
            fixed=fixed_layers(architecture, model),
            example=torch.zeros(1, *shape),
        )
        if missed := _why_not(widths, spec):
            raise Refused(missed)
        return Pruned({}, widths, _removed(widths))
    kept = method.choose(saliency, spec)
    masks.apply(model, kept)
    masks.verify(model, kept)
    return Pruned(kept, [], _checked_ratio(kept, spec))


def unreachable(model: nn.Module, architecture: str, specs: Sequence[PruneSpec], *, shape: Shape) -> list[str]:
    """One line for every spec that cannot be met on this network, as can be told before any training."""
    specs = [spec for spec in specs if pick(METHODS, spec.method, "method").choose is None]
    if not specs:
        return []
    counts = channels.prunable(model, fixed_layers(architecture, model), torch.zeros(1, *shape))
    problems = (_why_not(channels.target_widths(counts, spec.ratio, spec.round_to), spec) for spec in specs)
    return [problem for problem in problems if problem]


def _removed(widths: list[Width]) -> float:
    return 1 - sum(width.after for width in widths) / sum(width.before for width in widths)


def _why_not(widths: list[Width], spec: PruneSpec) -> str | None:
    if not widths:
        return f"{spec.method}: this network has no layer whose channels can be removed"
    if spec.ratio == 0:
        return None
    narrowest = min(widths, key=lambda width: width.before)
    if spec.round_to > narrowest.before:
        return (
            f"prune.round_to = {spec.round_to} is more than the {narrowest.before} channels of {narrowest.layers[0]}, "
            "which could then lose none; valid: 1 to that number"
        )
    total = sum(width.before for width in widths)
    allowed = len(widths) * spec.round_to / 2 / total  # half a step of rounding in every layer
    if _removed(widths) > 0 and abs(_removed(widths) - spec.ratio) <= allowed + 1e-9:
        return None
    worst = max(widths, key=lambda width: abs(width.after / width.before - (1 - spec.ratio)))
    return (
        f"{spec.method} at ratio {spec.ratio} cannot be met: {_removed(widths):.4f} of the channels would go, and "
        f"rounding explains no more than {allowed:.4f}; {worst.layers[0]}, say, keeps {worst.after} of {worst.before} "
        f"channels, since a width is a multiple of prune.round_to = {spec.round_to} and at least that; "
        "try a smaller round_to or another ratio"
    )


def _checked_ratio(kept: Masks, spec: PruneSpec) -> float:
    total = sum(mask.numel() for mask in kept.values())
    achieved = 1 - sum(int(mask.sum()) for mask in kept.values()) / total
    if abs(achieved - spec.ratio) > len(kept) / 2 / total + 1e-9:  # half a weight in every layer
        raise Refused(f"{spec.method} at ratio {spec.ratio} cannot be met: {achieved:.6f} of {total} weights would go")
    if achieved == 1:
        raise Refused(f"{spec.method} at ratio {spec.ratio} leaves none of the {total} weights")
    return achieved


def _weights(scope: Scope) -> Callable[[Saliency, PruneSpec], Masks]:
    return lambda saliency, spec: masks.choose(saliency, WEIGHT, scope, spec.ratio, spec)


METHODS: dict[str, Method] = {
    "random_unstructured": Method(criteria.random, _weights(Scope.GLOBAL)),
    "l1_unstructured": Method(criteria.l1, _weights(Scope.GLOBAL)),
    "l1_unstructured_layerwise": Method(criteria.l1, _weights(Scope.LAYERWISE)),
    "random_channel": Method(criteria.random, choose=None),
    "l1_channel": Method(criteria.l1, choose=None),
    "l2_channel": Method(criteria.l2, choose=None),
}
