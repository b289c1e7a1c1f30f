"""Follow channels through one forward pass, function by function of torch.

Every tensor of activations carries labels of its own shape: the node of `ChannelFlow` that each
element belongs to. Functions that only move elements (view, permute, cat, roll ...) move labels in
the same way. The others have a rule each, in RULES. What no rule knows keeps its channels.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from prunelab.pruning.structured.flow import (
    CONSTANT,
    ChannelFlow,
    compact,
    constant_along,
    without_repetition,
)

# The first is the function's tensor of activations, if it has one.
Rule = Callable[["Tracer", "Call"], None]


class Call:
    """One call of a function of torch, with what it returned."""

    def __init__(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], output: Any
    ) -> None:
        self.func, self.args, self.kwargs, self.output = func, tuple(args), kwargs, output

    @property
    def name(self) -> str:
        """The function's name, without the underscores of its in-place and reflected forms."""
        return getattr(self.func, "__name__", str(self.func)).strip("_")

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """An argument that may have been given by position or by one of its names."""
        if position < len(self.args):
            return self.args[position]
        for name in names:
            if name in self.kwargs:
                return self.kwargs[name]
        return default

    @property
    def input(self) -> Tensor:
        """The tensor that the function works on."""
        tensor = self.argument(0, "input", "query", "tensors")
        assert isinstance(tensor, Tensor)
        return tensor

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [*_tensors_in(self.args), *_tensors_in(self.kwargs.values())]


def _tensors_in(values: Iterable[Any]) -> list[Tensor]:
    tensors = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors += _tensors_in(value)
    return tensors


class Tracer(TorchFunctionMode):
    """Fills a ChannelFlow while a network computes.

    `producers` are the layers that produced outputs, by what computes the gradient of these. They
    give layers their order.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.flow = ChannelFlow()
        self.producers: dict[Any, str] = {}
        self._labels: Any = WeakTensorKeyDictionary()
        self._layers: dict[int, str] = {}
        self._shared: set[int] = set()
        self._tensors: dict[str, list[Tensor]] = {}
        self._weights: dict[str, Tensor] = {}

        for name, module in model.named_modules():
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            self._tensors[name] = tensors
            for tensor in tensors:
                if id(tensor) in self._layers:
                    self._shared.add(id(tensor))
                self._layers[id(tensor)] = name

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))

        outputs = _tensors_in([output])
        if outputs:
            call = Call(func, args, kwargs or {}, output)
            rule = RULES.get(call.name, _unknown)
            if rule is _layer or any(tensor in self._labels for tensor in call.tensors()):
                rule(self, call)
        return output

    def labels(self, tensor: Tensor) -> Tensor | None:
        """The labels of a tensor; None if no layer of channels produced it."""
        labels: Tensor | None = self._labels.get(tensor)
        return labels

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Label a tensor; `labels` have its shape."""
        assert labels.shape == tensor.shape
        self._labels[tensor] = labels

    def layer_of(self, tensor: Tensor | None) -> str | None:
        """The layer that a weight belongs to; None if no layer, or more than one, has it."""
        if tensor is None or id(tensor) in self._shared:
            return None
        return self._layers.get(id(tensor))

    def layer_of_weight(self, weight: Tensor | None) -> str | None:
        """The layer that takes in and produces channels by this weight; None if there is none.

        A module with several such weights is no single layer: what is traced of it already stays.
        """
        layer = self.layer_of(weight)
        if layer is None or weight is None:
            return None
        if self._weights.setdefault(layer, weight) is weight:
            return layer

        for block in self.flow.blocks:
            if block.layer == layer:
                self.flow.keep(block.nodes, f"{layer} has several weights")
        return None

    def tensors_of(self, layer: str) -> list[Tensor]:
        """The parameters and buffers of a layer itself."""
        return self._tensors[layer]

    def channels(self, tensor: Tensor, dim: int) -> Tensor | None:
        """The labels of a tensor along one dimension: at other positions they go together."""
        labels = self.labels(tensor)
        if labels is None:
            return None

        dim %= labels.dim()
        first = labels
        for other in range(labels.dim()):
            if other != dim:
                first = first.narrow(other, 0, 1)
        pair = without_repetition([labels, first.expand_as(labels)])
        self.flow.link(pair[0], pair[1], "positions of one channel come from different layers")
        return first.reshape(-1)


# --- Rules ---


def _unknown(tracer: Tracer, call: Call) -> None:
    _keep_all(tracer, call, f"{call.name} may mix channels")


def _attention(tracer: Tracer, call: Call) -> None:
    _keep_all(tracer, call, f"{call.name} multiplies activations with each other")


def _keep_all(tracer: Tracer, call: Call, reason: str) -> None:
    for tensor in call.tensors():
        labels = tracer.labels(tensor)
        if labels is not None:
            tracer.flow.keep(labels, reason)


def _layer(tracer: Tracer, call: Call) -> None:
    """A convolution or a linear layer: it takes in channels and produces others."""
    weight = call.argument(1, "weight")
    layer = tracer.layer_of_weight(weight)
    if layer is None:
        _keep_all(tracer, call, f"the weights of a {call.name} belong to no single layer")
        return

    dim = -1 if call.name == "linear" else -weight.dim() + 1
    groups = 1
    if call.name != "linear":
        groups = call.input.shape[dim] // weight.shape[1]

    outputs = tracer.flow.nodes(layer, len(weight), outputs=True)
    taken = tracer.channels(call.input, dim)
    if taken is None:
        taken = torch.full((weight.shape[1] * groups,), CONSTANT)

    by_group = outputs.view(groups, -1)
    if groups > 1 and weight.shape[1] == 1:  # depthwise: a channel has filters of its own
        spread = taken[:, None].expand_as(by_group)
        tracer.flow.link(by_group, spread, f"{layer} filters what no layer of channels produced")
    else:
        # Every group of filters loses the same channels, so that all keep equal counts.
        inputs = tracer.flow.nodes(layer, weight.shape[1], outputs=False)
        taken = taken.view(groups, -1)
        reason = f"{layer} takes in what no layer of channels produced"
        tracer.flow.link(taken, inputs.expand_as(taken), reason)
        tracer.flow.link(by_group, by_group[:1].expand_as(by_group), reason)

    _produce(tracer, call, layer, outputs, dim)


def _transposed(tracer: Tracer, call: Call) -> None:
    """A transposed convolution: it takes in channels. Its own stay."""
    weight = call.argument(1, "weight")
    layer = tracer.layer_of_weight(weight)
    if layer is None:
        _keep_all(tracer, call, f"the weights of a {call.name} belong to no single layer")
        return
    if call.argument(6, "groups", default=1) > 1:
        _keep_all(tracer, call, f"a {call.name} in groups takes them in")
        return

    dim = -weight.dim() + 1
    taken = tracer.channels(call.input, dim)
    assert taken is not None
    inputs = tracer.flow.nodes(layer, len(taken), outputs=False)
    tracer.flow.link(taken, inputs, f"{layer} takes in what no layer of channels produced")

    outputs = tracer.flow.nodes(layer, call.output.shape[dim], outputs=True)
    tracer.flow.keep(outputs, "a transposed convolution keeps its own channels")
    _produce(tracer, call, layer, outputs, dim)


def _produce(tracer: Tracer, call: Call, layer: str, outputs: Tensor, dim: int) -> None:
    """Label what a layer returned: its outputs, [count], are in dimension `dim`."""
    if call.output.grad_fn is not None:
        tracer.producers[call.output.grad_fn] = layer
    tracer.set_labels(call.output, _spread(outputs, dim, call.output))


def _spread(channels: Tensor, dim: int, tensor: Tensor) -> Tensor:
    """Labels of a tensor's shape that depend on the position in dimension `dim` alone."""
    shape = [1] * tensor.dim()
    shape[dim] = -1
    return channels.view(shape).expand(tensor.shape)


def _batch_norm(tracer: Tracer, call: Call) -> None:
    statistics = call.argument(1, "running_mean")
    weight = call.argument(3, "weight")
    layer = tracer.layer_of(weight if statistics is None else statistics)
    if layer is None:
        _unknown(tracer, call)
        return

    channels = tracer.channels(call.input, 1)
    assert channels is not None
    nodes = tracer.flow.nodes(layer, len(channels), outputs=True)
    tracer.flow.link(nodes, channels, f"{layer} scales what no layer of channels produced")
    _same(tracer, call)


def _same(tracer: Tracer, call: Call) -> None:
    """A function of each element by itself."""
    tensor = call.argument(0, "input")
    labels = tracer.labels(tensor) if isinstance(tensor, Tensor) else None  # as 2 in pow(2, x)
    if labels is None or labels.shape != call.output.shape:
        _unknown(tracer, call)
        return
    tracer.set_labels(call.output, labels)


def _layer_norm(tracer: Tracer, call: Call) -> None:
    dims = len(call.argument(1, "normalized_shape"))
    _keep_mixed(tracer, call, range(-dims, 0), "a layer norm averages over them")
    _same(tracer, call)


def _group_norm(tracer: Tracer, call: Call) -> None:
    _keep_mixed(tracer, call, [1], "a group norm averages over them")
    _same(tracer, call)


def _softmax(tracer: Tracer, call: Call) -> None:
    dim = call.argument(1, "dim", default=-1)
    _keep_mixed(tracer, call, [dim], f"{call.name} normalises over them")
    _same(tracer, call)


def _keep_mixed(tracer: Tracer, call: Call, dims: Iterable[int], reason: str) -> None:
    """Keep the channels of a tensor if the function mixes dimensions in which they differ."""
    labels = tracer.labels(call.input)
    if labels is not None and not all(constant_along(labels, dim) for dim in dims):
        tracer.flow.keep(labels, reason)


def _pool(tracer: Tracer, call: Call) -> None:
    """A function of the positions within each channel."""
    channels = tracer.channels(call.input, 1)
    if channels is None or not isinstance(call.output, Tensor):
        _unknown(tracer, call)
        return
    tracer.set_labels(call.output, _spread(channels, 1, call.output))


def _reduce(tracer: Tracer, call: Call) -> None:
    """A mean, sum or maximum over some dimensions, or over all."""
    labels = tracer.labels(call.input)
    dims = call.argument(1, "dim", "axis")
    if dims is None or labels is None or not isinstance(call.output, Tensor):
        _unknown(tracer, call)
        return

    dims = [dims] if isinstance(dims, int) else list(dims)
    dims = [dim % labels.dim() for dim in dims]
    _keep_mixed(tracer, call, dims, f"{call.name} runs over them")
    for dim in sorted(dims, reverse=True):
        labels = labels.narrow(dim, 0, 1)
        if call.output.dim() < call.input.dim():
            labels = labels.squeeze(dim)
    tracer.set_labels(call.output, labels)


def _move(tracer: Tracer, call: Call) -> None:
    """A function that moves elements: the labels move with them."""
    try:
        moved = _moved(tracer, call)
    except NotImplementedError:  # torch cannot move whole numbers by it, as by F.unfold
        _unknown(tracer, call)
        return
    for tensor, labels in zip(_tensors_in([call.output]), moved, strict=True):
        tracer.set_labels(tensor, labels)


def _pad(tracer: Tracer, call: Call) -> None:
    """Padding: zeros, or a channel's own values, at the border of its positions are the channel's.

    Any other value there would remain without the channel.
    """
    labels = tracer.labels(call.input)
    padded = len(call.argument(1, "pad")) // 2
    mode = call.argument(2, "mode", default="constant")
    value = call.argument(3, "value")
    if labels is None or (mode == "constant" and value):
        _move(tracer, call)
        return

    dims = range(labels.dim() - padded, labels.dim())
    if not all(constant_along(labels, dim) for dim in dims):
        _move(tracer, call)
        return
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    tracer.set_labels(call.output, labels.expand(call.output.shape))


def _reshape(tracer: Tracer, call: Call) -> None:
    """A move that may cut channels into parts, as for a channel shuffle, which must stay equal."""
    before = tracer.labels(call.input)
    _move(tracer, call)
    after = tracer.labels(call.output)
    if before is None or after is None:
        return

    parts = _varying(after)
    if len(_varying(before)) == 1 and len(parts) == 2:
        first = after.narrow(parts[0], 0, 1).expand_as(after)
        pair = without_repetition([after, first])
        tracer.flow.link(pair[0], pair[1], f"{call.name} cuts them beside what is no channel")


def _shuffle(tracer: Tracer, call: Call) -> None:
    """A channel shuffle by torch's own function: its groups of channels must stay equal."""
    channels = tracer.channels(call.input, 1)
    assert channels is not None
    groups = channels.view(call.argument(1, "groups"), -1)
    first = groups[:1].expand_as(groups)
    tracer.flow.link(groups, first, f"{call.name} cuts them beside what is no channel")
    _move(tracer, call)


def _varying(labels: Tensor) -> list[int]:
    return [dim for dim in range(labels.dim()) if not constant_along(labels, dim)]


def _moved(tracer: Tracer, call: Call) -> list[Tensor]:
    def labels_or_constant(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [labels_or_constant(part) for part in value]
        labels = tracer.labels(value)
        if labels is None:
            labels = torch.full((), CONSTANT).expand(value.shape)
        return labels

    moved = labels_or_constant(call.argument(0, "input", "tensors"))
    others = {key: value for key, value in call.kwargs.items() if key not in ("input", "tensors")}

    func = call.func
    if call.name == "view":  # repeated labels have no memory of their own to look at
        func = torch.Tensor.reshape
    arguments = call.args[1:]
    if call.name in ("reshape_as", "view_as"):
        func, arguments = torch.Tensor.reshape, (call.output.shape,)
        others = {}
    return [compact(part) for part in _tensors_in([func(moved, *arguments, **others)])]


def _cut(tracer: Tracer, call: Call) -> None:
    """A function that takes parts out. It cuts at fixed places, so that what it cuts must stay."""
    labels = tracer.labels(call.input)
    _move(tracer, call)
    if labels is None:
        return

    (labels,) = without_repetition([labels])
    nodes = torch.unique(labels)
    for tensor in _tensors_in([call.output]):
        part = tracer.labels(tensor)
        assert part is not None
        if part.numel() and len(torch.unique(*without_repetition([part]))) < len(nodes):
            tracer.flow.keep(labels, f"{call.name} cuts them at fixed places")
            return


def _chunk(tracer: Tracer, call: Call) -> None:
    """Equal parts of whatever width there is: all parts lose the same channels."""
    _move(tracer, call)
    first, *others = _tensors_in([call.output])
    if any(other.shape != first.shape for other in others):
        _keep_all(tracer, call, f"{call.name} cuts them into unequal parts")
        return

    for other in others:
        parts = [tracer.labels(first), tracer.labels(other)]
        pair = without_repetition([part for part in parts if part is not None])
        tracer.flow.link(pair[0], pair[1], f"{call.name} cuts them beside what is no channel")


def _elementwise(tracer: Tracer, call: Call) -> None:
    """Arithmetic between tensors that are broadcast against each other."""
    if not isinstance(call.output, Tensor):
        _unknown(tracer, call)
        return

    shape = call.output.shape
    operands = []
    unlabelled = []
    for tensor in call.tensors():
        labels = tracer.labels(tensor)
        if labels is None:
            unlabelled.append(tensor)
        else:
            operands.append(labels.expand(shape))

    varying = sorted({dim for labels in operands for dim in _varying(labels)})
    joined = _join(tracer, call, operands, varying)
    tracer.set_labels(call.output, joined)

    for tensor in unlabelled:
        _beside_unlabelled(tracer, call, tensor, joined, varying)


def _join(tracer: Tracer, call: Call, operands: list[Tensor], varying: Sequence[int]) -> Tensor:
    """The labels of the result of several labelled operands, whose channels go together."""
    joined: Tensor | None = None
    # An operand that is the same for all channels of another is a gate or a map, not a channel.
    for labels in operands:
        if varying and not _varying(labels):
            tracer.flow.keep(labels, f"its channel is one for all channels in {call.name}")
            continue
        if joined is None:
            joined = labels
            continue

        pair = without_repetition([joined, labels])
        if call.name in MULTIPLICATIONS:  # a channel times a constant is still that channel
            both = (pair[0] != CONSTANT) & (pair[1] != CONSTANT)
            tracer.flow.link(pair[0][both], pair[1][both], "")
            merged = torch.where(pair[0] != CONSTANT, pair[0], pair[1])
        else:
            tracer.flow.link(pair[0], pair[1], f"{call.name} joins them with what is no channel")
            merged = torch.maximum(*pair)
        joined = merged.expand(call.output.shape)

    return operands[0] if joined is None else joined


def _beside_unlabelled(
    tracer: Tracer, call: Call, tensor: Tensor, labels: Tensor, varying: Sequence[int]
) -> None:
    """Keep channels whose number a tensor beside them fixes, or which it makes differ from 0."""
    offset = labels.dim() - tensor.dim()
    fixes_width = any(dim >= offset and tensor.shape[dim - offset] > 1 for dim in varying)
    multiplies = call.name in MULTIPLICATIONS
    if fixes_width and multiplies and _scaled(tracer, tensor, labels, varying):
        return
    if fixes_width:
        what = "a tensor of fixed width"
        if isinstance(tensor, nn.Parameter):
            what = "a parameter of fixed width"
        tracer.flow.keep(labels, f"{call.name} joins them with {what}")
    elif not multiplies and tensor.dim():
        tracer.flow.keep(labels, f"{call.name} joins them with what is no channel")


def _scaled(tracer: Tracer, tensor: Tensor, labels: Tensor, varying: Sequence[int]) -> bool:
    """Let a scale of every channel go with its channel, if it is one: whether it is.

    It is a parameter, or a view of one, with a number for each channel, and its module has no other
    tensors of its own (as the layer scale of ConvNeXt).
    """
    parameter = tensor
    if not isinstance(tensor, nn.Parameter) and tensor._base is not None:
        parameter = tensor._base
    layer = tracer.layer_of(parameter)
    if layer is None or len(varying) != 1 or parameter.numel() != len(parameter):
        return False

    count = labels.shape[varying[0]]
    own = tracer.tensors_of(layer)
    if tensor.numel() != count or any(other.shape[:1] != (count,) for other in own):
        return False
    for dim in range(labels.dim()):
        if dim != varying[0]:
            labels = labels.narrow(dim, 0, 1)
    nodes = tracer.flow.nodes(layer, count, outputs=True)
    tracer.flow.link(nodes, labels, f"{layer} scales what no layer of channels produced")
    return True


def _nothing(tracer: Tracer, call: Call) -> None:
    """A function whose result says nothing of channels, such as a shape."""


MULTIPLICATIONS = {"mul", "imul", "rmul", "multiply", "div", "truediv", "itruediv", "divide"}
SUMS = {"add", "iadd", "radd", "sub", "isub", "rsub", "subtract", "maximum", "minimum", "where"}

UNARY = """
    relu relu6 hardtanh hardswish hardsigmoid silu gelu sigmoid tanh mish leaky_relu elu selu celu
    softplus exp log sqrt rsqrt pow square neg abs clamp clamp_min clamp_max dropout dropout1d
    dropout2d dropout3d feature_dropout alpha_dropout clone contiguous to float double half type
    type_as detach requires_grad threshold
"""
MOVES = """
    flatten permute transpose swapaxes swapdims movedim moveaxis t cat concat
    concatenate stack squeeze unsqueeze expand expand_as repeat tile roll flip unfold get
    pixel_shuffle pixel_unshuffle
"""
CUTS = "split tensor_split split_with_sizes unbind narrow select getitem index_select"
POOLS = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d interpolate boolean_dispatch
    upsample
"""
ATTENTION = """
    matmul bmm rmatmul einsum baddbmm mm scaled_dot_product_attention multi_head_attention_forward
    _native_multi_head_attention
"""

RULES: dict[str, Rule] = {
    "conv1d": _layer,
    "conv2d": _layer,
    "conv3d": _layer,
    "conv_transpose1d": _transposed,
    "conv_transpose2d": _transposed,
    "conv_transpose3d": _transposed,
    "linear": _layer,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "normalize": _unknown,
    "pad": _pad,
    "mean": _reduce,
    "sum": _reduce,
    "amax": _reduce,
    "chunk": _chunk,
    "channel_shuffle": _shuffle,
    "native_channel_shuffle": _shuffle,
    "view": _reshape,
    "reshape": _reshape,
    "unflatten": _reshape,
    "reshape_as": _reshape,
    "view_as": _reshape,
}
for _rule, _names in {
    _elementwise: " ".join(MULTIPLICATIONS | SUMS),
    _same: UNARY,
    _move: MOVES,
    _cut: CUTS,
    _pool: POOLS,
    _attention: ATTENTION,
}.items():
    RULES |= dict.fromkeys(_names.split(), _rule)
