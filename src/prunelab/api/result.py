"""Networks as functions of the interface return them, with what is known about them.

They are plain data and print themselves; how they come about is in `pruning` and `files`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from prunelab.artifacts.modules import ModuleCard
from prunelab.artifacts.networks import ModelCard
from prunelab.config.params import PruneSpec
from prunelab.report.text_table import aligned_table
from prunelab.training import masking

Card = ModelCard | ModuleCard
Preprocess = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LoadedNetwork:
    """A network from a file.

    Args:
        model: the network, a plain module in evaluation mode on the CPU
        card: what the file says about it, such as `card.pruning` and `card.input_shape`
        masks: of mask methods, bool, by the name of the weight; False marks a pruned weight
        preprocess: turns pixels, uint8 [B, C, H, W], into inputs, float32 [B, C, H', W']; None if
            the file does not say how
        classes: the names of the classes, if the file has them
    """

    model: nn.Module
    card: Card
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None

    def apply_masks(self) -> None:
        """Zero the pruned weights again; call it after every optimizer step."""
        masking.apply(self.model, dict(self.masks))


@dataclass(frozen=True)
class PrunedLayer:
    """One convolution, linear or attention layer before and after pruning.

    Args:
        name: the name of the layer
        width_before: its outputs in the dense network
        width: its outputs now
        weights_before: its weights in the dense network, without biases
        weights: its weights now, zeros included
        weights_nonzero: its weights now that are not zero
        kept_because: why all outputs, or with masks all weights, are still there; empty if some
            went
    """

    name: str
    width_before: int
    width: int
    weights_before: int
    weights: int
    weights_nonzero: int
    kept_because: str = ""

    @property
    def removed(self) -> float:
        """The share of the layer's weights that are gone or zero, 0 to 1."""
        return 1 - self.weights_nonzero / self.weights_before


@dataclass(frozen=True)
class PrunedNetwork:
    """A pruned network, and what went.

    Args:
        model: the network, a plain module where and in the modes that the dense one was
        spec: the method, ratio, budget and settings
        ratio_achieved: the share removed of what the budget names, 0 to 1
        layers: every layer with prunable weights, from the first to the last
        params_before: parameters of the dense network
        params: parameters now, zeros included
        params_nonzero: parameters now that are not zero
        macs_before: multiply-accumulates of the dense network for one input
        macs: multiply-accumulates now, those with zeros included
        macs_nonzero: multiply-accumulates now by weights that are not zero
        masks: of mask methods, bool, by the name of the weight; False marks a pruned weight
        rounds: a row for every step of an iterative schedule
        card: what a file will say about the network
    """

    model: nn.Module
    spec: PruneSpec
    ratio_achieved: float
    layers: Sequence[PrunedLayer]
    params_before: int
    params: int
    params_nonzero: int
    macs_before: int
    macs: int
    macs_nonzero: int
    masks: Mapping[str, Tensor]
    rounds: Sequence[Mapping[str, float]]
    card: Card

    @property
    def kept(self) -> dict[str, str]:
        """The layers that kept all outputs, or with masks all weights, and why, by name."""
        return {layer.name: layer.kept_because for layer in self.layers if layer.kept_because}

    def apply_masks(self) -> None:
        """Zero the pruned weights again; call it after every optimizer step of fine-tuning."""
        masking.apply(self.model, dict(self.masks))

    def __str__(self) -> str:
        spec = self.spec
        lines = [
            f"{spec.method}: {self.ratio_achieved:.1%} of {_BUDGETS[spec.budget]} removed "
            f"(asked for {spec.ratio:.1%})",
            self._change("parameters", self.params_before, self.params, self.params_nonzero),
            self._change("MACs", self.macs_before, self.macs, self.macs_nonzero),
            "",
            self._table(),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _change(self, name: str, before: int, after: int, nonzero: int) -> str:
        line = f"{name}: {before:,} -> {after:,}"
        if after != before:
            line += f" ({before / after:.2f}x fewer)"
        if self.masks:
            line += f", {nonzero:,} of them not zero"
        return line

    def _table(self) -> str:
        rows = []
        for layer in self.layers:
            width = f"{layer.width_before}"
            if layer.width != layer.width_before:
                width = f"{layer.width_before} -> {layer.width}"
            removed = f"{layer.removed:.1%}"
            rows.append([layer.name, width, f"{layer.weights_before:,}", removed])
            rows[-1].append(layer.kept_because)
        header = ["layer", "outputs", "weights", "removed", "outputs kept because"]
        if self.masks:
            header[-1] = "weights kept because"
        return aligned_table(header, rows)


_BUDGETS = {"native": "what it prunes", "params": "the parameters", "macs": "the MACs"}
