"""What a network costs as a function of the widths of its groups, and the widths that meet a budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from prunelab.models.cost import macs as count_macs
from prunelab.models.cost import output_positions
from prunelab.pruning.structured.groups import Group


@dataclass(frozen=True)
class Costs:
    """What a network costs as a function of its groups' widths: `params` or `macs`, counted layer by layer.

    `positions` says at how many places (pixels, tokens) a layer is applied to one input; `other` is what the network
    costs beyond its layers, such as the products of queries, keys and values.
    """

    model: nn.Module
    positions: Mapping[str, int]
    macs: bool
    other: int = 0

    @classmethod
    def of(cls, model: nn.Module, example: Tensor, *, macs: bool) -> "Costs":
        """The costs of a network that agree with its MACs as measured, or its parameters, as long as nothing is cut."""
        layers = cls(model, output_positions(model, example), macs)
        if not macs:
            return layers
        return replace(
            layers, other=count_macs(model, tuple(example.shape[1:])) - layers.total([], [])
        )

    def total(self, groups: Sequence[Group], widths: Sequence[int]) -> int:
        """The cost of the network once every group keeps so many units (the first ones: which does not matter)."""
        gone: dict[tuple[str, bool], int] = {}
        for group, width in zip(groups, widths, strict=True):
            for member in group.members:
                key = (member.layer, member.outputs)
                per_unit = len(member.indices) / group.count
                gone[key] = gone.get(key, 0) + round(per_unit * (group.count - width))
        whole = {
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.MultiheadAttention)
        }
        layers = sum(
            self._layer(name, module, gone.get((name, True), 0), gone.get((name, False), 0))
            for name, module in self.model.named_modules()
            if name.rpartition(".")[0] not in whole  # attention is counted as one layer
        )
        heads = [
            (group.count, width)
            for group, width in zip(groups, widths, strict=True)
            if group.kind == "head"
        ]
        before, after = (sum(counts) for counts in zip(*heads, strict=True)) if heads else (1, 1)
        return layers + self.other * after // before  # every head has an equal part in the products

    def _layer(self, name: str, module: nn.Module, outputs_gone: int, inputs_gone: int) -> int:
        places = self.positions.get(name, 1)
        if isinstance(module, nn.Conv2d):
            outputs = module.out_channels - outputs_gone
            # A depthwise convolution loses its one input per filter with the filter.
            inputs = module.in_channels // module.groups - (
                inputs_gone if module.groups == 1 else 0
            )
            weights, biases = (
                outputs * inputs * module.weight[0, 0].numel(),
                outputs * (module.bias is not None),
            )
        elif isinstance(module, nn.Linear):
            outputs = module.out_features - outputs_gone
            weights = outputs * (module.in_features - inputs_gone)
            biases = outputs * (module.bias is not None)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            features = module.weight.numel() - max(outputs_gone, inputs_gone)
            return features * places if self.macs else 2 * features
        elif isinstance(module, nn.MultiheadAttention):
            width = module.embed_dim - max(outputs_gone, inputs_gone)
            weights, biases = 4 * width**2, 4 * width
        else:
            return (
                0
                if self.macs
                else sum(parameter.numel() for parameter in module.parameters(recurse=False))
            )
        return weights * places if self.macs else weights + biases


def solve(
    widths_at: Callable[[float], list[int]], kept: Callable[[Sequence[int]], float], target: float
) -> list[int]:
    """The widths whose cost is nearest to the share `target` that is to be kept; `kept` gives a share for widths.

    `widths_at` gives the widths at a ratio, 0 to below 1, and falls with it. The ratio is bisected until the widths at
    its two ends differ by single steps; then these are taken one after the other, since many groups make a step at the
    same ratio.
    """
    low, high = (
        0.0,
        1.0 - 1e-9,
    )  # at `low` too much is kept, at `high` too little (or the least there can be)
    more, less = widths_at(low), widths_at(high)
    for _ in range(40):
        middle = (low + high) / 2
        widths = widths_at(middle)
        if kept(widths) >= target:
            low, more = middle, widths
        else:
            high, less = middle, widths
    best, widths = more, list(more)
    for index, width in enumerate(less):
        widths[index] = width
        if abs(kept(widths) - target) < abs(kept(best) - target):
            best = list(widths)
    return best
