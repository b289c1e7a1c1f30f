"""Cut a network by masks over its weights."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from prunelab.errors import Refused
from prunelab.measuring.cost import macs, parameters, positions
from prunelab.models.catalogue import prunable_weights
from prunelab.params import PruneSpec
from prunelab.pruning import masks
from prunelab.pruning.cutting import MISS, Pruned
from prunelab.pruning.granularity import Granularity, Masks, Saliency
from prunelab.pruning.groups import own_ratio
from prunelab.pruning.penalties import Doomed


class MaskCutter:
    """Cuts by masks over weights, by one granularity in one scope."""

    def __init__(
        self,
        model: nn.Module,
        spec: PruneSpec,
        granularity: Granularity,
        scope: masks.Scope,
        *,
        whole: Sequence[str],
        example: Tensor,
    ):
        self._model, self._spec, self._granularity, self._scope = model, spec, granularity, scope
        self.masks: Masks = {}
        self._own = own_ratios(model, spec, whole=whole)
        self._total = parameters(model) if spec.budget == "params" else 0
        self._uses = None
        if spec.budget == "macs":
            self._total, self._uses = macs(model, tuple(example.shape[1:])), positions(model, example)

    def choose(self, saliency: Saliency, ratio: float) -> Masks:
        """The masks at a ratio of what the budget names; what is cut already stays cut."""
        saliency = {
            name: score.masked_fill(~self.masks[name], -torch.inf) if name in self.masks else score
            for name, score in saliency.items()
        }

        def chosen(native: float) -> Masks:
            return masks.choose(saliency, self._granularity, self._scope, native, self._spec, self._own)

        if self._spec.budget == "native" or ratio == 0:
            return chosen(ratio)
        native = bisect(lambda native: self.removed(chosen(native)), ratio)
        return chosen(native)

    def removed(self, kept: Masks) -> float:
        """The share removed of what the budget names."""
        dropped = {name: mask.numel() - int(mask.sum()) for name, mask in kept.items()}
        if self._spec.budget == "native":
            return masks.removed_share({name: mask for name, mask in kept.items() if name not in self._own})
        if self._uses is not None:
            dropped = {name: count * self._uses[name.rpartition(".")[0]] for name, count in dropped.items()}
        return sum(dropped.values()) / self._total

    def cut(self, saliency: Saliency, ratio: float) -> Pruned:
        try:
            kept = self.choose(saliency, ratio)
        except Refused:
            if ratio >= self._spec.ratio:
                raise
            kept = self.masks  # on the way there, a share may be less than one unit
        if kept and not any(mask.any() for mask in kept.values()):
            total = sum(mask.numel() for mask in kept.values())
            raise Refused(f"{self._spec.method} at ratio {ratio} leaves none of the {total} weights")
        achieved = self.removed(kept)
        if self._spec.budget != "native" and ratio >= self._spec.ratio and abs(achieved - ratio) > MISS:
            raise Refused(
                f"{self._spec.method} at ratio {ratio} of {self._spec.budget} cannot be met: "
                f"the nearest that can be removed is {achieved:.4f}"
            )
        masks.apply(self._model, kept)
        masks.verify(self._model, kept)
        self.masks = kept
        return Pruned(kept, [], achieved)

    def doomed(self, saliency: Saliency, ratio: float) -> Doomed:
        return []

    def silence(self, saliency: Saliency, ratio: float) -> None:
        masks.apply(self._model, self.choose(saliency, ratio))

    def take_over(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        self._model.load_state_dict(state)
        masks.apply(self._model, self.masks)


def bisect(removed: Callable[[float], float], target: float) -> float:
    """The setting, 0 to below 1, at which the rising function `removed` comes nearest to `target`.

    Raises:
        Refused: by `removed`, where no setting that it accepts comes anywhere near.
    """

    def distance(setting: float) -> float:
        try:
            return removed(setting) - target
        except Refused:  # so little that nothing goes, or so much that nothing stays
            return -target if setting < 0.5 else 1 - target

    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) < 0 else (low, middle)
    return min((low, high), key=lambda setting: abs(distance(setting)))


def own_ratios(model: nn.Module, spec: PruneSpec, *, whole: Sequence[str]) -> dict[str, float]:
    """The ratios of tensors that have one of their own; layers named in `whole` stay whole."""
    found = {name: own_ratio([name.rpartition(".")[0]], spec) for name in prunable_weights(model)}
    own = {name: ratio for name, ratio in found.items() if ratio is not None}
    return own | {f"{layer}.weight": 0.0 for layer in whole}
