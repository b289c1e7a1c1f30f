"""METHODS: the pruning methods by name, one line each: criterion x scope of weights, or criterion x channels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from prunelab.errors import Refused
from prunelab.models.catalogue import fixed_layers
from prunelab.params import PruneSpec
from prunelab.pruning import channels, criteria, masks
from prunelab.pruning.channels import Width
from prunelab.pruning.criteria import Criterion
from prunelab.pruning.masks import Masks, Saliency
from prunelab.registry import pick
from prunelab.runtime import generator


@dataclass(frozen=True)
class Method:
    """`choose` turns the criterion's saliency into masks; None removes channels for real."""

    criterion: Criterion
    choose: Callable[[Saliency, float], Masks] | None

    @property
    def removes_channels(self) -> bool:
        return self.choose is None


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


def prune(model: nn.Module, architecture: str, spec: PruneSpec, *, shape: tuple[int, int, int], seed: int) -> Pruned:
    """Prune a network in place, on the CPU in float32; the same seed gives the same result.

    Raises:
        Refused: if the method is unknown, or what can be achieved misses the ratio by more than rounding allows.
    """
    method = pick(METHODS, spec.method, "method")
    saliency = method.criterion(model, generator("prune", seed))
    if method.choose is None:
        widths = channels.remove(
            model,
            saliency,
            ratio=spec.ratio,
            round_to=spec.round_to,
            fixed=fixed_layers(architecture, model),
            example=torch.zeros(1, *shape),
        )
        return _checked_channels(widths, spec)
    kept = method.choose(saliency, spec.ratio)
    masks.apply(model, kept)
    masks.verify(model, kept)
    return _checked_masks(kept, spec)


def _checked_channels(widths: list[Width], spec: PruneSpec) -> Pruned:
    if not widths:
        raise Refused(f"method {spec.method!r}: this network has no layer whose channels can be removed")
    total = sum(width.before for width in widths)
    achieved = 1 - sum(width.after for width in widths) / total
    allowed = len(widths) * spec.round_to / 2 / total
    if abs(achieved - spec.ratio) > allowed + 1e-9:
        worst = max(widths, key=lambda width: abs(width.after / width.before - (1 - spec.ratio)))
        raise Refused(
            f"ratio {spec.ratio} cannot be met: {achieved:.4f} of the channels would go, and rounding explains only "
            f"{allowed:.4f}; {worst.layers[0]} keeps {worst.after} of {worst.before} channels, since a width is a "
            f"multiple of prune.round_to = {spec.round_to} and at least that; try a smaller round_to or ratio"
        )
    return Pruned({}, widths, achieved)


def _checked_masks(kept: Masks, spec: PruneSpec) -> Pruned:
    total = sum(mask.numel() for mask in kept.values())
    achieved = 1 - sum(int(mask.sum()) for mask in kept.values()) / total
    allowed = len(kept) / 2 / total  # half a weight per layer
    if abs(achieved - spec.ratio) > allowed + 1e-9:
        raise Refused(f"ratio {spec.ratio} cannot be met: {achieved:.6f} of {total} weights would go")
    return Pruned(kept, [], achieved)


METHODS: dict[str, Method] = {
    "random_unstructured": Method(criteria.random, masks.choose_global),
    "l1_unstructured": Method(criteria.l1, masks.choose_global),
    "l1_unstructured_layerwise": Method(criteria.l1, masks.choose_layerwise),
    "random_channel": Method(criteria.random, choose=None),
    "l1_channel": Method(criteria.l1, choose=None),
    "l2_channel": Method(criteria.l2, choose=None),
}
