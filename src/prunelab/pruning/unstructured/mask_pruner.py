"""Cut a network by masks over its weights."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from prunelab.config.params import PruneSpec
from prunelab.core.errors import InputError
from prunelab.models.catalogue import prunable_weights
from prunelab.models.cost import macs, output_positions, parameters
from prunelab.pruning.pruner import BUDGET_TOLERANCE, PruneResult, scheduled_ratio
from prunelab.pruning.structured.groups import find_layer_ratio
from prunelab.pruning.structured.penalties import SelectedUnits
from prunelab.pruning.unstructured import select
from prunelab.pruning.unstructured.granularity import Granularity
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.training import masking
from prunelab.training.masking import Masks

COARSE = 0.05  # how far units, none of which can be cut in two, may miss a ratio


class MaskPruner:
    """Cuts by masks over weights, by one granularity in one scope."""

    def __init__(
        self,
        model: nn.Module,
        spec: PruneSpec,
        granularity: Granularity,
        scope: select.Scope,
        *,
        whole: Sequence[str],
        example: Tensor,
    ):
        self._model, self._spec, self._granularity, self._scope = model, spec, granularity, scope
        self.masks: Masks = {}
        self._own = own_ratios(model, spec, whole=whole)
        self._sizes = {name: weight.numel() for name, weight in prunable_weights(model).items()}
        self._total = parameters(model) if spec.budget == "params" else 0
        self._uses = None
        if spec.budget == "macs":
            self._total, self._uses = (
                macs(model, tuple(example.shape[1:])),
                output_positions(model, example),
            )

    def choose(self, saliency: Saliency, ratio: float) -> Masks:
        """The masks at a ratio of what the budget names; what is cut already stays cut."""
        saliency = {
            name: score.masked_fill(~self.masks[name], -torch.inf) if name in self.masks else score
            for name, score in saliency.items()
        }

        own = {
            name: scheduled_ratio(share, ratio, self._spec.ratio)
            for name, share in self._own.items()
        }

        def chosen(native: float) -> Masks:
            return select.choose(saliency, self._granularity, self._scope, native, self._spec, own)

        if self._spec.budget == "native" or ratio == 0:
            return chosen(ratio)
        native = bisect(lambda native: self.removed(chosen(native)), ratio)
        return chosen(native)

    def removed(self, kept: Masks) -> float:
        """The share removed of what the budget names."""
        return self._share({name: mask.numel() - int(mask.sum()) for name, mask in kept.items()})

    def _share(self, dropped: Mapping[str, float]) -> float:
        if self._spec.budget == "native":
            dropped = {name: count for name, count in dropped.items() if name not in self._own}
            return sum(dropped.values()) / max(1, sum(self._sizes[name] for name in dropped))
        if self._uses is not None:
            dropped = {
                name: count * self._uses[name.rpartition(".")[0]] for name, count in dropped.items()
            }
        return sum(dropped.values()) / self._total

    def check_feasible(self, saliency: Saliency) -> None:
        # The sizes of tensors decide this, whatever the saliency.
        ratio = self._spec.ratio
        self._refuse_none_free(ratio)
        shapes = {
            name: tuple(weight.shape) for name, weight in prunable_weights(self._model).items()
        }

        def share(native: float) -> float:
            return self._share(
                select.expected(
                    shapes, self._granularity, self._scope, native, self._spec, self._own
                )
            )

        self._refuse_miss(
            share(ratio if self._spec.budget == "native" else bisect(share, ratio)), ratio
        )

    def _refuse_miss(self, achieved: float, ratio: float) -> None:
        # N:M and patterns go to the nearest step that they have.
        native = 1.0 if self._granularity.select else COARSE
        if abs(achieved - ratio) > (native if self._spec.budget == "native" else BUDGET_TOLERANCE):
            raise InputError(
                f"{self._spec.method} at ratio {ratio} of {self._spec.budget} cannot be met: the nearest that can be "
                f"removed is {achieved:.4f}"
            )

    def _refuse_none_free(self, ratio: float) -> None:
        if ratio and self._own.keys() >= self._sizes.keys():
            raise InputError(
                f"{self._spec.method} at ratio {ratio} cannot apply: prune.protect and prune.layer_ratios leave no "
                "layer to it"
            )

    def prune_to(self, saliency: Saliency, step_ratio: float) -> PruneResult:
        self._refuse_none_free(step_ratio)
        try:
            kept = self.choose(saliency, step_ratio)
        except InputError:
            if step_ratio >= self._spec.ratio:
                raise
            kept = self.masks  # on the way there, a share may be less than one unit
        if kept and not any(mask.any() for mask in kept.values()):
            total = sum(mask.numel() for mask in kept.values())
            raise InputError(
                f"{self._spec.method} at ratio {step_ratio} leaves none of the {total} weights"
            )
        achieved = self.removed(kept)
        if step_ratio >= self._spec.ratio:
            self._refuse_miss(achieved, step_ratio)
        masking.apply(self._model, kept)
        masking.verify(self._model, kept)
        self.masks = kept
        return PruneResult(kept, [], achieved)

    def selected_units(self, saliency: Saliency, step_ratio: float) -> SelectedUnits:
        return []

    def zero_units(self, saliency: Saliency, step_ratio: float) -> None:
        masking.apply(self._model, self.choose(saliency, step_ratio))

    def load_weights(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        self._model.load_state_dict(state)
        masking.apply(self._model, self.masks)


def bisect(removed: Callable[[float], float], target: float) -> float:
    """The setting, 0 to below 1, at which the rising function `removed` comes nearest to `target`.

    Raises:
        InputError: by `removed`, where no setting that it accepts comes anywhere near.
    """

    def distance(setting: float) -> float:
        try:
            return removed(setting) - target
        except InputError:  # so little that nothing goes, or so much that nothing stays
            return -target if setting < 0.5 else 1 - target

    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) < 0 else (low, middle)
    return min((low, high), key=lambda setting: abs(distance(setting)))


def own_ratios(model: nn.Module, spec: PruneSpec, *, whole: Sequence[str]) -> dict[str, float]:
    """The ratios of tensors that have one of their own; layers named in `whole` stay whole."""
    found = {name: find_layer_ratio([name.rpartition(".")[0]], spec) for name in prunable_weights(model)}
    own = {name: ratio for name, ratio in found.items() if ratio is not None}
    return own | {f"{layer}.weight": 0.0 for layer in whole}
