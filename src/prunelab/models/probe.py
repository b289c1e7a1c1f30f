"""Whether a network of a plugin keeps the rules that training, pruning and model files rely on."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.core.plugins import Registration, failure_lines
from prunelab.models.catalogue import MODELS, Option, Shape, input_kind
from prunelab.models.networks import build, build_on_meta, prunable_weights

BATCH = 2
TOLERANCE = 1e-3  # other batch sizes have torch sum in another order
# Functions of torch that make Python values of a tensor's, or a tensor whose shape depends on them.
READERS = {
    *("__array__", "__bool__", "__complex__", "__contains__", "__float__", "__index__", "__int__"),
    *("allclose", "argwhere", "bincount", "equal", "is_nonzero", "item", "masked_select"),
    *("nonzero", "numpy", "tolist", "unique", "unique_consecutive"),
}


def check_network(name: str, classes: int, shape: Shape, **options: Option) -> None:
    """Build and run a network that a plugin registers. Networks of this package pass unseen.

    Raises:
        InputError: one line, with the plugin's file and line, for the first rule that it breaks.
    """
    origin = MODELS.origin(name)
    if origin is None:
        return

    probe = _Probe(origin, classes, shape, options)
    with torch.random.fork_rng(devices=[]), probe.reporting():
        model = probe.build()
        probe.check_layers(model)
        probe.check_outputs(model)
        probe.check_structure()
        probe.check_path(model)
        probe.check_values(model)


class _Probe:
    """The rules, in the order of checking."""

    def __init__(
        self, origin: Registration, classes: int, shape: Shape, options: dict[str, Option]
    ) -> None:
        self.origin = origin
        self.classes = classes
        self.shape = shape
        self.options = options

    def refuse(self, problem: str) -> NoReturn:
        raise InputError(f"{self.origin.place}: network {self.origin.name} {problem}")

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Turn whatever the plugin raises into a line with its place."""
        try:
            yield
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            lines = failure_lines(error)
            if lines:
                raise InputError(lines) from None
            message = " ".join(str(error).split())
            self.refuse(f"fails on inputs {self.shape}: {type(error).__name__}: {message}")

    def build(self) -> nn.Module:
        model, again = (
            build(self.origin.name, self.classes, self.shape, 0, **self.options) for _ in range(2)
        )
        if not isinstance(model, nn.Module):
            self.refuse(f"is a {type(model).__name__}; return a torch.nn.Module")

        weights = model.state_dict()
        for key, value in again.state_dict().items():
            if key not in weights or not _same(weights[key], value):
                self.refuse(
                    f"has another {key} when it is built again; draw initial weights by torch alone"
                )
        return model.eval()

    def check_layers(self, model: nn.Module) -> None:
        if not prunable_weights(model):
            self.refuse("has no prunable layer; use nn.Conv2d, nn.Linear or nn.MultiheadAttention")

        head = MODELS[self.origin.name].head
        layers = dict(model.named_modules())
        if head not in layers:
            self.refuse(f"has no layer {head!r}; let `head` name its last layer")
        weight = getattr(layers[head], "weight", None)
        if not isinstance(weight, Tensor) or len(weight) != self.classes:
            self.refuse(f"has a head {head!r} without one row of weights for each class")

    def check_outputs(self, model: nn.Module) -> None:
        """In evaluation mode the same inputs give the same logits, [batch, classes]."""
        before = _random_state()
        larger_inputs = self._inputs(BATCH + 1)
        inputs, kept = larger_inputs[:BATCH].clone(), larger_inputs[:BATCH].clone()
        weights = {key: value.clone() for key, value in model.state_dict().items()}

        with torch.no_grad():
            first, second, larger = model(inputs), model(inputs), model(larger_inputs)

        if not torch.equal(inputs, kept):
            self.refuse("changes its inputs; let it work on a copy")
        for key, value in model.state_dict().items():
            if not _same(value, weights[key]):
                self.refuse(f"changes {key} in evaluation mode; change it `if self.training`")

        self._check_shapes(first, second, larger)
        if not _same(first, second) or not _random_state_equals(before):
            self.refuse("draws random numbers in evaluation mode; draw them `if self.training`")

    def _check_shapes(self, first: object, second: object, larger: object) -> None:
        expected = (BATCH, self.classes)
        if not isinstance(first, Tensor) or not first.is_floating_point():
            self.refuse("does not return one tensor of floats; return the logits")
        if tuple(first.shape) != expected:
            self.refuse(f"returns logits of shape {_shape(first)}; return {expected}")
        for logits, size in ((second, BATCH), (larger, BATCH + 1)):
            if _shape(logits) != (size, self.classes):
                self.refuse(
                    f"changes the shape of its logits between calls, from {_shape(first)} to "
                    f"{_shape(logits)}; return (batch, {self.classes}) every time"
                )

    def check_values(self, model: nn.Module) -> None:
        """The logits can be trained by, and those of an example depend on that example alone."""
        inputs = self._inputs(BATCH + 1)
        first = model(inputs[:BATCH])
        with torch.no_grad():
            larger = model(inputs)

        if not first.requires_grad:
            self.refuse("returns logits without a gradient, by which nothing can be trained")
        if not first.isfinite().all():
            self.refuse("returns logits that are not finite for standard normal inputs")
        if not torch.allclose(larger[:BATCH], first, rtol=TOLERANCE, atol=TOLERANCE):
            self.refuse("returns other logits for an example if the batch holds other examples")

    def check_structure(self) -> None:
        """Model files are rebuilt from a network without values, which shows its structure."""
        structure = build_on_meta(self.origin.name, self.classes, self.shape, **self.options)
        for key, value in structure.state_dict().items():
            if not value.is_meta:
                self.refuse(f"makes {key} on a device of its own; leave the device to torch")

    def check_path(self, model: nn.Module) -> None:
        """The same layers run for all inputs."""
        inputs = self._inputs(BATCH).as_subclass(_Unread)
        try:
            with torch.no_grad():
                model(inputs)
        except _ValuesReadError as error:
            where = next(iter(failure_lines(error)), "")
            place = where.partition(": ")[0]
            self.refuse(
                f"decides by the values of its inputs{f' at {place}' if place else ''}; pruning "
                "sees one pass alone, so let the same layers run for all inputs"
            )

    def _inputs(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(count)
        if input_kind(self.shape) == "texts":
            return torch.ones(count, *self.shape, dtype=torch.int64)
        return torch.randn(count, *self.shape, generator=generator)


class _ValuesReadError(Exception):
    """A network has looked at a value that it computes from its inputs."""


class _Unread(Tensor):
    """Inputs, and all that is computed from them: an operator whose result is no tensor, or whose
    result has another shape for other values, is an error.

    A pass on torch's meta device would find the same, but importing what that needs takes longer
    than importing torch.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.__name__ in READERS or _selects_by_values(func, args):
            raise _ValuesReadError(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def _selects_by_values(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    if func.__name__ == "where":
        return len(args) == 1
    if func.__name__ == "repeat_interleave":
        return len(args) > 1 and isinstance(args[1], _Unread)
    if func.__name__ != "__getitem__":
        return False

    indices = args[1] if isinstance(args[1], tuple) else (args[1],)
    masks = (torch.bool, torch.uint8)
    return any(isinstance(index, _Unread) and index.dtype in masks for index in indices)


def _shape(logits: object) -> tuple[int, ...]:
    return tuple(getattr(logits, "shape", ()))


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(
        torch.nan_to_num(first), torch.nan_to_num(second)
    )


def _random_state() -> tuple[Tensor, bytes]:
    return torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[index]


def _random_state_equals(before: tuple[Tensor, bytes]) -> bool:
    now = _random_state()
    return torch.equal(now[0], before[0]) and now[1] == before[1]
