"""MaskPruner prunes a network by masks over its weights; the shapes of tensors stay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from prunelab.config.params import PruneSpec
from prunelab.core.errors import InputError
from prunelab.core.text import name_list
from prunelab.models.cost import macs_at, parameters, weight_positions
from prunelab.models.networks import prunable_names, prunable_weights
from prunelab.pruning.pruner import BUDGET_TOLERANCE, PruneResult, scheduled_ratio
from prunelab.pruning.structured.groups import find_layer_ratio
from prunelab.pruning.structured.penalties import SelectedUnits
from prunelab.pruning.unstructured.granularity import Granularity
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.pruning.unstructured.select import Scope, Selection, choose_masks, expected_drops
from prunelab.training import masking
from prunelab.training.masking import Masks

UNIT_TOLERANCE = 0.05  # how far whole units may miss a ratio, as a share of the weights
SOLVER_STEPS = 20  # bisections of the solver's ratio, to about a millionth


class MaskPruner:
    """Drops the least salient weights of a network, in units of a granularity.

    Four ratios occur. The target ratio is that of `spec`, at the end of a schedule. A step ratio is
    what one step prunes to. The solver ratio is the share of weights that the budget solver tries.
    Layer ratios are those of tensors that have one of their own.

    `protected_layers` stay dense, besides those that `spec.protect` names. `example_input` is one
    input of the network. With `nearest`, whole units may miss a budget by `UNIT_TOLERANCE`.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: PruneSpec,
        granularity: Granularity,
        scope: Scope,
        *,
        protected_layers: Sequence[str],
        example_input: Tensor,
        nearest: bool = False,
    ) -> None:
        self._model, self._spec, self._nearest = model, spec, nearest
        self._weights_per_tensor = {
            name: weight.numel() for name, weight in prunable_weights(model).items()
        }

        self._layer_ratios = find_layer_ratios(model, spec, protected_layers)
        self._check_parameters()
        self._selection = Selection(granularity, scope, spec, self._layer_ratios)
        self._masks: Masks = {}  # of all steps so far

        self._dense_cost = 0
        self._positions: dict[str, int] = {}
        if spec.budget == "params":
            self._dense_cost = parameters(model)
        elif spec.budget == "macs":
            self._dense_cost = macs_at(model, example_input)
            self._positions = weight_positions(model, example_input)

    def check_feasible(self, saliency: Saliency) -> None:
        # The shapes of tensors decide this, whatever the saliency.
        target_ratio = self._spec.ratio
        self._check_free_layers(target_ratio)
        shapes = {
            name: tuple(weight.shape) for name, weight in prunable_weights(self._model).items()
        }

        def removed_at(solver_ratio: float) -> float:
            drops = expected_drops(shapes, solver_ratio, self._selection)
            return self._share_removed(drops)

        solver_ratio = target_ratio
        if self._spec.budget != "native":
            solver_ratio = solve_ratio(removed_at, target_ratio)

        self._check_achieved(removed_at(solver_ratio))

    def prune_to(self, saliency: Saliency, step_ratio: float) -> PruneResult:
        is_last_step = step_ratio >= self._spec.ratio
        self._check_free_layers(step_ratio)

        try:
            masks = self._choose_masks(saliency, step_ratio)
        except InputError:
            if is_last_step:
                raise
            masks = self._masks  # earlier steps may be too small to drop a unit

        if masks and not any(mask.any() for mask in masks.values()):
            total = sum(mask.numel() for mask in masks.values())
            raise InputError(
                f"{self._spec.method} at ratio {step_ratio} leaves none of the {total} weights. "
                "Use a lower ratio."
            )

        achieved = self._share_removed(_count_dropped(masks))
        if is_last_step:
            self._check_achieved(achieved)

        masking.apply(self._model, masks)
        masking.verify(self._model, masks)
        self._masks = masks
        return PruneResult(masks, [], achieved)

    def zero_units(self, saliency: Saliency, step_ratio: float) -> None:
        masking.apply(self._model, self._choose_masks(saliency, step_ratio))

    def selected_units(self, saliency: Saliency, step_ratio: float) -> SelectedUnits:
        return []

    def load_weights(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        self._model.load_state_dict(state)
        masking.apply(self._model, self._masks)

    def _choose_masks(self, saliency: Saliency, step_ratio: float) -> Masks:
        """The masks at a ratio of what the budget names; what is dropped already stays dropped."""
        remaining: Saliency = {}
        for name, score in saliency.items():
            if name in self._masks:
                score = score.masked_fill(~self._masks[name], -torch.inf)
            remaining[name] = score

        step_layer_ratios = {
            name: scheduled_ratio(layer_ratio, step_ratio, self._spec.ratio)
            for name, layer_ratio in self._layer_ratios.items()
        }
        selection = replace(self._selection, layer_ratios=step_layer_ratios)

        def removed_at(solver_ratio: float) -> float:
            masks = choose_masks(remaining, solver_ratio, selection)
            return self._share_removed(_count_dropped(masks))

        # Which share of weights meets the budget? The solver tries.
        solver_ratio = step_ratio
        if self._spec.budget != "native" and step_ratio > 0:
            solver_ratio = solve_ratio(removed_at, step_ratio)

        return choose_masks(remaining, solver_ratio, selection)

    def _share_removed(self, drops: Mapping[str, float]) -> float:
        """The share removed of what the budget names, if tensors lose so many weights.

        For `native` this is a share of the weights of the tensors in `drops` that follow the ratio
        of the network. For `params` and `macs` it is a share of the cost of the dense network.
        """
        if self._spec.budget == "native":
            free = {name: count for name, count in drops.items() if name not in self._layer_ratios}
            weights = sum(self._weights_per_tensor[name] for name in free)
            return sum(free.values()) / max(1, weights)

        if self._spec.budget == "params":
            return sum(drops.values()) / self._dense_cost

        macs_removed: float = 0
        for name, count in drops.items():
            macs_removed += count * self._positions[name]
        return macs_removed / self._dense_cost

    def _check_parameters(self) -> None:
        """Raise InputError if a weight to prune is no parameter but computed at every call."""
        known = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        computed = []
        for name in self._weights_per_tensor:
            if name not in known and self._layer_ratios.get(name) != 0:
                computed.append(name.rpartition(".")[0])

        if computed:
            raise InputError(
                f"{self._spec.method} cannot zero the weights of {name_list(computed)}, which are "
                "computed from other parameters at every call (weight_norm, torch.nn.utils.prune). "
                "Make plain weights of them, or name these layers in prune.protect"
            )

    def _check_free_layers(self, ratio: float) -> None:
        """Raise InputError if every layer has a ratio of its own, so that none follows `ratio`."""
        if ratio and self._layer_ratios.keys() >= self._weights_per_tensor.keys():
            raise InputError(
                f"{self._spec.method} at ratio {ratio} cannot be applied: prune.protect and "
                "prune.layer_ratios leave no layer that it could prune"
            )

    def _check_achieved(self, achieved: float) -> None:
        """Raise InputError if the share removed misses the target ratio by more than rounding."""
        tolerance = UNIT_TOLERANCE if self._nearest else BUDGET_TOLERANCE
        if self._spec.budget == "native":
            tolerance = UNIT_TOLERANCE
            if self._selection.granularity.choose_in_groups:
                return  # the ratio was rounded to whole weights of a group, however far that is

        if abs(achieved - self._spec.ratio) > tolerance:
            raise InputError(
                f"{self._spec.method} at ratio {self._spec.ratio} of {self._spec.budget} cannot be "
                f"met: the nearest that can be removed is {achieved:.4f}"
            )


def find_layer_ratios(
    model: nn.Module, spec: PruneSpec, protected_layers: Sequence[str]
) -> dict[str, float]:
    """The ratios of the tensors that have one of their own, by tensor name; 0 protects a tensor."""
    layer_ratios: dict[str, float] = {}

    names = prunable_names(model)
    layers: dict[str, list[str]] = {}
    for alias, name in names.items():
        layers.setdefault(name, []).append(alias.rpartition(".")[0])

    for name in layers:
        layer_ratio = find_layer_ratio(layers[name], spec)
        if layer_ratio is not None:
            layer_ratios[name] = layer_ratio

    for layer in protected_layers:
        weight = f"{layer}.weight"
        layer_ratios[names.get(weight, weight)] = 0.0

    return layer_ratios


def solve_ratio(removed_at: Callable[[float], float], target: float) -> float:
    """The solver ratio, 0 to below 1, that removes the share nearest to `target`, by bisection.

    `removed_at(solver_ratio)` gives the share removed and must not fall. It may raise InputError
    for ratios that drop nothing or everything.

    Raises:
        InputError: by `removed_at`, later, if it accepts no ratio near the target.
    """

    def distance(solver_ratio: float) -> float:
        try:
            return removed_at(solver_ratio) - target
        except InputError:
            drops_nothing = solver_ratio < 0.5
            return -target if drops_nothing else 1 - target

    low, high = 0.0, 1.0
    for _ in range(SOLVER_STEPS):
        middle = (low + high) / 2
        if distance(middle) < 0:
            low = middle
        else:
            high = middle

    return min((low, high), key=lambda solver_ratio: abs(distance(solver_ratio)))


def _count_dropped(masks: Masks) -> dict[str, int]:
    """How many weights the masks drop of every tensor."""
    return {name: mask.numel() - int(mask.sum()) for name, mask in masks.items()}
