"""What every pruner can do, and what it returns. Selecting weights or units is left to pruners."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log1p
from typing import Protocol

from torch import Tensor, nn

from prunelab.pruning.structured.groups import KeptLayers, LayerWidth
from prunelab.pruning.structured.penalties import SelectedUnits
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.training.masking import Masks

BUDGET_TOLERANCE = 0.01  # how far from its budget pruning may end, as a share of the dense cost


def scheduled_ratio(layer_ratio: float, step_ratio: float, target_ratio: float) -> float:
    """A layer's own ratio at the step of a schedule that prunes the network to `step_ratio`.

    The layer loses equal shares of what is left whenever the network does:

        1 - (1 - layer_ratio) ^ (log(1 - step_ratio) / log(1 - target_ratio))

    It is 0 at a `step_ratio` of 0, and `layer_ratio` at the last step.
    """
    if step_ratio >= target_ratio:
        return layer_ratio

    progress = log1p(-step_ratio) / log1p(-target_ratio)
    share_left: float = (1 - layer_ratio) ** progress
    return 1 - share_left


@dataclass(frozen=True)
class PruneResult:
    """What pruning did to a network.

    `masks` are those of mask methods, by tensor name; True keeps a weight. `widths` are those of
    methods that remove units. `ratio_achieved` is the share removed of what the budget names,
    among the layers without a ratio of their own. `rounds` has a row for every step of an
    iterative schedule. `kept` are layers that must keep
    all of their channels, or some. `train_macs` is the cost of training within the schedule.
    """

    masks: Masks
    widths: list[LayerWidth]
    ratio_achieved: float
    rounds: list[dict[str, float]] = field(default_factory=list)
    kept: Sequence[KeptLayers] = ()
    train_macs: int = 0

    @property
    def empty_layers(self) -> list[str]:
        """Tensors without a single weight left, which a global threshold can cause."""
        return [name for name, mask in self.masks.items() if not mask.any()]

    def describe(self) -> str:
        """One line for the log."""
        line = f"ratio {self.ratio_achieved:.4f} achieved"

        if self.widths:
            changes = [
                f"{width.layers[0]} {width.before} to {width.after}" for width in self.widths
            ]
            line += f": {', '.join(changes)}"

        if self.kept:
            line += f"; kept whole: {'; '.join(kept.describe() for kept in self.kept)}"

        if self.empty_layers:
            line += f"; nothing is left of {', '.join(self.empty_layers)}"

        return line


class Pruner(Protocol):
    """Prunes one network, in one or several steps.

    A pruner knows its `PruneSpec` and thus the target ratio. A `step_ratio` is the share removed
    after a step. It is always a share of the dense network, so steps at rising ratios add up.
    """

    def check_feasible(self, saliency: Saliency) -> None:
        """Check that the target ratio can be met, without changing the network.

        Raises:
            InputError: if what can be removed misses the ratio by more than rounding explains.
        """

    def prune_to(self, saliency: Saliency, step_ratio: float) -> PruneResult:
        """Remove the least salient weights or units, for good.

        Raises:
            InputError: as `check_feasible`, at the last step of a schedule.
        """

    def zero_units(self, saliency: Saliency, step_ratio: float) -> None:
        """Zero what `prune_to` would remove. Training may bring it back."""

    def selected_units(self, saliency: Saliency, step_ratio: float) -> SelectedUnits:
        """The units that `prune_to` would remove, group by group; mask methods have none."""

    def load_weights(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        """Load the weights of a dense network; what was removed stays removed.

        `fresh` builds a dense network of the same architecture.
        """
