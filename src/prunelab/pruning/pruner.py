"""What cutting a network means, whichever way it is done, and what it leaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import log1p
from typing import Protocol

from torch import Tensor, nn

from prunelab.pruning.structured.groups import LayerWidth
from prunelab.pruning.structured.penalties import SelectedUnits
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.training.masking import Masks

BUDGET_TOLERANCE = 0.01  # of the dense network's cost: how far from its budget a cut may end


def scheduled_ratio(own: float, ratio: float, final: float) -> float:
    """A layer's own ratio at a cut by `ratio` of a schedule that ends at `final`: as far on its way as the others."""
    return own if ratio >= final else 1 - (1 - own) ** (log1p(-ratio) / log1p(-final))


@dataclass
class PruneResult:
    """What pruning did: masks (for mask methods), widths (for the others), the ratio achieved, and what it took.

    `rounds` has a row for every cut of a schedule with several; `train_macs` is what training in between cost.
    """

    masks: Masks
    widths: list[LayerWidth]
    ratio_achieved: float
    rounds: list[dict[str, float]] = field(default_factory=list)
    train_macs: int = 0

    @property
    def empty_layers(self) -> list[str]:
        """Layers without a single weight left: possible under a global threshold, and worth knowing."""
        return [name for name, mask in self.masks.items() if not mask.any()]

    def describe(self) -> str:
        """One line for the log."""
        text = f"ratio {self.ratio_achieved:.4f} achieved"
        if self.widths:
            text += ": " + ", ".join(
                f"{width.layers[0]} {width.before} to {width.after}" for width in self.widths
            )
        if self.empty_layers:
            text += f"; nothing is left of {', '.join(self.empty_layers)}"
        return text


class Pruner(Protocol):
    """Cuts one network. Ratios are always of the dense network, so cuts at rising ratios add up."""

    def prune_to(self, saliency: Saliency, step_ratio: float) -> PruneResult:
        """Take out what matters least, for good."""

    def zero_units(self, saliency: Saliency, step_ratio: float) -> None:
        """Zero what a cut would take out, and leave it free to return."""

    def selected_units(self, saliency: Saliency, step_ratio: float) -> SelectedUnits:
        """What a cut would take out now, group by group; mask methods have none."""

    def load_weights(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        """Go on with a dense network's weights; what is cut stays cut. `fresh` builds such a network."""
