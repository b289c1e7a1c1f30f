"""Networks of the table: how one is made, and which of its tensors pruning may change."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from prunelab.core.errors import InputError
from prunelab.core.registry import resolve
from prunelab.core.text import name_list
from prunelab.models.catalogue import (
    MODELS,
    Architecture,
    Option,
    Shape,
    find_architecture,
    input_kind,
)
from prunelab.models.resize import CONVOLUTIONS
from prunelab.runtime.device import seed_for

# Where a network keeps the name of its head, if it was chosen or its library knows it.
HEAD_ATTRIBUTE = "_prunelab_head"

DRAWS = {
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.trunc_normal_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
    nn.init.xavier_normal_,
    nn.init.xavier_uniform_,
}


def build(name: str, classes: int, shape: Shape, /, seed: int = 0, **options: Option) -> nn.Module:
    """A fresh network, whose initial weights depend on the seed alone.

    Raises:
        InputError: if there is no network of that name, or if it cannot have this input or option.
    """
    architecture = _check_request(name, classes, shape, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("init", seed))
        return _make(architecture, classes, shape, options)


def build_on_meta(name: str, classes: int, shape: Shape, /, **options: Option) -> nn.Module:
    """A network without values, on the meta device: its structure, or a place to load weights into.

    Raises:
        InputError: as `build` does.
    """
    architecture = _check_request(name, classes, shape, options)
    try:
        with torch.device("meta"), _SkipDraws():
            return _make(architecture, classes, shape, options)
    except NotImplementedError:  # it computes its sizes by tensors, which have no values there
        with torch.random.fork_rng(devices=[]), _SkipDraws():
            return _make(architecture, classes, shape, options).to("meta")


def restore_constants(
    model: nn.Module, name: str, classes: int, shape: Shape, /, **options: Option
) -> None:
    """Give a network from the meta device the buffers that files do not hold, in place.

    Such buffers follow from the network's sizes, as the table of the distances of two tokens does.
    """
    saved = model.state_dict()
    lacking = [key for key, _ in model.named_buffers() if key not in saved]
    if not lacking:
        return

    architecture = find_architecture(name)
    with torch.random.fork_rng(devices=[]), _SkipDraws():
        whole = _make(architecture, classes, shape, options)
    buffers = dict(whole.named_buffers())
    for key in lacking:
        parent, _, buffer = key.rpartition(".")
        setattr(model.get_submodule(parent), buffer, buffers[key])


class _SkipDraws(TorchFunctionMode):
    """Skips random draws, of values that are not needed.

    On the meta device torch imports its compiler for normal draws, for seconds. Elsewhere memory
    that nobody writes to is not taken.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _check_request(
    name: str, classes: int, shape: Shape, options: dict[str, Option]
) -> Architecture:
    """The architecture of that name, if it can be built with this input and these options."""
    architecture = find_architecture(name)

    kind = input_kind(shape)
    if architecture.reads != kind:
        others = [model for model, entry in MODELS.own.items() if entry.reads == kind]
        raise InputError(
            f"model: {name} reads {architecture.reads}, the data set holds {kind}; "
            f"valid: {name_list(others)} (prunelab list models)"
        )

    function = _function(name, architecture)
    takes = _options_of(function, architecture)
    unknown = [key for key in options if takes is not None and key not in takes]
    if unknown:
        raise InputError(
            f"model_options: {name} cannot be built with the options {', '.join(unknown)}; "
            f"valid: {', '.join(takes or ()) or 'none'}"
        )
    try:
        inspect.signature(function).bind(classes, shape, **architecture.arguments, **options)
    except TypeError as error:
        raise InputError(
            f"{_place(name)}: {name} cannot be built with the options {options}: {error}"
        ) from None
    return architecture


def _options_of(function: Callable[..., nn.Module], architecture: Architecture) -> list[str] | None:
    """The options that a function takes besides classes and shape; None if it takes any."""
    parameters = list(inspect.signature(function).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [
        parameter.name
        for parameter in parameters[2:]
        if parameter.name not in architecture.arguments
    ]


def _function(name: str, architecture: Architecture) -> Callable[..., nn.Module]:
    """The function that makes a network."""
    try:
        function: Callable[..., nn.Module] = resolve(architecture.build)
    except (ImportError, AttributeError) as error:
        if MODELS.origin(name) is None:
            raise
        raise InputError(
            f"{_place(name)}: {name} is to be built by {architecture.build!r}: {error}; "
            "write module:function"
        ) from None
    return function


def _place(name: str) -> str:
    """Where a message sends the reader: the line of a plugin, or else the parameter."""
    origin = MODELS.origin(name)
    return "model" if origin is None else origin.place


def _make(
    architecture: Architecture, classes: int, shape: Shape, options: Mapping[str, Option]
) -> nn.Module:
    function = resolve(architecture.build)
    network: nn.Module = function(classes, shape, **architecture.arguments, **options)
    return network


def example_input(shape: Shape) -> torch.Tensor:
    """One input to trace a network with.

    No token of a text is padding (0 in BERT's vocabulary), so its cost is that of a full text.

    Returns:
        A black image, float [1, C, H, W], or a text, int64 [1, L].
    """
    if input_kind(shape) == "texts":
        return torch.ones(1, *shape, dtype=torch.int64)
    return torch.zeros(1, *shape)


def find_head(name: str, model: nn.Module) -> str:
    """The name of a network's last layer, whose outputs are the classes."""
    head = getattr(model, HEAD_ATTRIBUTE, "") or find_architecture(name).head
    if head:
        return str(head)
    layers = [
        path for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    return str(layers[-1])


def fixed_layers(name: str, model: nn.Module) -> list[nn.Module]:
    """The layers of a network whose output channels pruning must keep."""
    patterns = (find_head(name, model), *find_architecture(name).fixed)

    layers = []
    for path, layer in model.named_modules():
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            layers.append(layer)
    return layers


def compute_shapes(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The outputs for inputs, without values: nothing is computed, and no memory is used for it.

    It raises what the network raises for inputs of this shape.
    """
    tensors = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        tensors[name] = torch.empty_like(tensor, device="meta")

    with torch.no_grad():
        outputs: torch.Tensor = torch.func.functional_call(model, tensors, inputs.to("meta"))
    return outputs


def load_state(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    strict: bool = True,
    assign: bool = False,
) -> None:
    """Load tensors that files keep without the versions of layers: they are of today's versions."""
    versioned = OrderedDict(state)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=strict, assign=assign)


def prunable_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that pruning may set to zero, by parameter name.

    These are the weights of every convolution and linear layer, including the head, but no biases.
    Of attention they include all projections: queries, keys and values share one matrix, which is a
    parameter without a layer of its own. A weight that several layers share is there once, by the
    name that it has in the first of them.
    """
    weights = _weights_of_layers(model)
    return {name: weights[name] for name in dict.fromkeys(prunable_names(model).values())}


def prunable_names(model: nn.Module) -> dict[str, str]:
    """The name in `prunable_weights` of every such weight, by each name that it has in a layer."""
    first_names: dict[int, str] = {}
    weights = _weights_of_layers(model)
    return {name: first_names.setdefault(id(weight), name) for name, weight in weights.items()}


def _weights_of_layers(model: nn.Module) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            weights[f"{name}.weight"] = module.weight
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            weights[f"{name}.in_proj_weight"] = module.in_proj_weight
    return weights
