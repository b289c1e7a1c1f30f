"""What a network costs at given widths of its groups, and the widths that meet a budget."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prunelab.models.attention import PARTS
from prunelab.models.cost import macs_at, output_positions, parameters
from prunelab.models.resize import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from prunelab.pruning.structured.groups import Group

BISECTION_STEPS = 40  # halves the ratio's interval to 1e-12
# The layers that cost a product of their outputs, inputs and positions.
LAYERS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear, nn.MultiheadAttention)


@dataclass(frozen=True)
class Costs:
    """The parameters or MACs of a network as a function of the widths of its groups.

    Nothing is removed to compute a cost: layers are counted by their sizes. `positions` is the
    number of places (pixels, tokens) at which a layer is applied to one input, by layer name.
    `beyond_layers` is what the network costs besides its layers, such as the products of queries,
    keys and values. `counted_twice` are parameters that layers share: they never lose a channel.
    """

    model: nn.Module
    positions: Mapping[str, int]
    macs: bool
    beyond_layers: int = 0
    counted_twice: int = 0

    @classmethod
    def of(cls, model: nn.Module, example_input: Tensor, *, macs: bool) -> "Costs":
        """The costs of a network: its MACs if `macs`, else its parameters.

        At full width they equal the MACs as measured, or the number of parameters.
        """
        layers = cls(model, output_positions(model, example_input), macs)
        if not macs:
            by_layer = [module.parameters(recurse=False) for module in model.modules()]
            count = sum(parameter.numel() for layer in by_layer for parameter in layer)
            return replace(layers, counted_twice=count - parameters(model))

        measured = macs_at(model, example_input)
        return replace(layers, beyond_layers=measured - layers.total([], []))

    def total(self, groups: Sequence[Group], widths: Sequence[int]) -> int:
        """The cost of the network if every group keeps so many units, no matter which."""
        lost_outputs, lost_inputs = _lost_features(groups, widths)

        layers_cost = 0
        attention_layers = set()
        for name, module in self.model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                attention_layers.add(name)
            if name.rpartition(".")[0] in attention_layers:
                continue  # attention is counted as one layer, with the layers in it

            layers_cost += self._layer_cost(name, module, lost_outputs[name], lost_inputs[name])

        # Every head has an equal part in the products of queries, keys and values.
        heads_before, heads_after = _count_heads(groups, widths)
        beyond_layers = self.beyond_layers * heads_after // heads_before
        return layers_cost + beyond_layers - self.counted_twice

    def _layer_cost(self, name: str, module: nn.Module, lost_outputs: int, lost_inputs: int) -> int:
        """The cost of one layer. Modules that are no such layers have parameters but no MACs."""
        if isinstance(module, _BatchNorm | nn.LayerNorm) and module.weight is not None:
            features = module.weight.numel() - max(lost_outputs, lost_inputs)
            weights, biases = features, features
        elif isinstance(module, LAYERS):
            weights, biases = _count_parameters(module, lost_outputs, lost_inputs)
        elif self.macs:
            return 0
        else:
            return sum(
                _count_values(parameter, lost_outputs, lost_inputs)
                for parameter in module.parameters(recurse=False)
            )

        if self.macs:
            return weights * self.positions.get(name, 1)
        return weights + biases


def _lost_features(
    groups: Sequence[Group], widths: Sequence[int]
) -> tuple[Counter[str], Counter[str]]:
    """How many outputs and how many inputs every layer loses, by layer name."""
    lost_outputs: Counter[str] = Counter()
    lost_inputs: Counter[str] = Counter()
    for group, width in zip(groups, widths, strict=True):
        for member in group.members:
            indices_per_unit = len(member.indices) / group.count
            lost = round(indices_per_unit * (group.count - width))

            if member.loses_outputs:
                lost_outputs[member.layer] += lost
            else:
                lost_inputs[member.layer] += lost

    return lost_outputs, lost_inputs


def _count_parameters(
    layer: _ConvNd | nn.Linear | nn.MultiheadAttention, lost_outputs: int, lost_inputs: int
) -> tuple[int, int]:
    """The weights and the biases of a layer that lost so many outputs and inputs."""
    if isinstance(layer, nn.MultiheadAttention):
        # Its outputs in `lost_outputs` are rows of queries, keys and values.
        tensors = [*layer.parameters(recurse=False), *layer.out_proj.parameters()]
        weights = sum(tensor.numel() for tensor in tensors if tensor.dim() == 2)
        biases = sum(tensor.numel() for tensor in tensors if tensor.dim() == 1)
        lost_columns = lost_outputs // PARTS
        weights -= (PARTS * layer.embed_dim + layer.embed_dim) * lost_columns
        if layer.in_proj_bias is not None:
            biases -= lost_outputs
        return weights, biases

    if isinstance(layer, nn.Linear):
        outputs = layer.out_features - lost_outputs
        weights = outputs * (layer.in_features - lost_inputs)
        return weights, outputs * (layer.bias is not None)

    outputs = layer.out_channels - lost_outputs
    # A depthwise filter keeps its one input as long as it exists; it is no member by its inputs.
    inputs = layer.in_channels // layer.groups - lost_inputs
    kernel_size = layer.weight[0, 0].numel()
    return outputs * inputs * kernel_size, outputs * (layer.bias is not None)


def _count_values(parameter: nn.Parameter, lost_outputs: int, lost_inputs: int) -> int:
    """The values of a parameter that lost so many rows and columns, such as a scale or a table."""
    count = parameter.numel()
    if parameter.dim() >= 1:
        count = count // len(parameter) * (len(parameter) - lost_outputs)
    if parameter.dim() >= 2:
        count = count // parameter.shape[1] * (parameter.shape[1] - lost_inputs)
    return count


def _count_heads(groups: Sequence[Group], widths: Sequence[int]) -> tuple[int, int]:
    """Attention heads before and after, over all groups of heads; (1, 1) if there are none."""
    before, after = 0, 0

    for group, width in zip(groups, widths, strict=True):
        if group.kind == "head":
            before += group.count
            after += width

    if before == 0:
        return 1, 1
    return before, after


def solve(
    widths_at: Callable[[float], list[int]],
    share_kept: Callable[[Sequence[int]], float],
    target_share: float,
) -> list[int]:
    """The widths whose cost is nearest to the share `target_share` of the dense cost.

    `widths_at(solver_ratio)` gives the widths at a ratio, 0 to below 1; they must not grow with it.
    `share_kept(widths)` gives the share of the dense cost that widths keep.

    The ratio is bisected until the widths at both ends differ by single steps. Many groups may
    make a step at the same ratio, so these steps are then taken one group after the other.
    """
    # Invariant: `wide` keeps too much or just enough, `narrow` too little (or the least possible).
    low, high = 0.0, 1.0 - 1e-9
    wide, narrow = widths_at(low), widths_at(high)
    for _ in range(BISECTION_STEPS):
        solver_ratio = (low + high) / 2
        widths = widths_at(solver_ratio)
        if share_kept(widths) >= target_share:
            low, wide = solver_ratio, widths
        else:
            high, narrow = solver_ratio, widths

    best, widths = wide, list(wide)
    for index, width in enumerate(narrow):
        widths[index] = width
        if abs(share_kept(widths) - target_share) < abs(share_kept(best) - target_share):
            best = list(widths)
    return best
