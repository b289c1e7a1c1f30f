"""The operators of torch that a computation calls: recorded with inputs, and computed again.

`python -m helpers.operators RECORDING` computes them in a process of its own, with portable bits,
and prints the digest of each result. It also computes what NumPy and SciPy do for this package,
which no recorder sees.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

MAX_VALUES = 200_000  # in the arguments of a recorded call
# QEMU 7.2 ends with a segmentation fault where an AVX2 gather leaves out elements.
NOT_EMULATED = ("grid_sampler_2d", "grid_sampler_2d_backward")
# Memory that nobody has written to, and what only looks at a tensor.
WITHOUT_RESULT = ("empty", "new_empty", "empty_like", "new_empty_strided", "set_")


class Recorder(TorchDispatchMode):
    """Keeps the largest call of every operator, by its name and the types of its tensors.

    `calls` holds for each the name of the operator, its arguments and its named arguments.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[str, Any, Any]] = {}
        self._sizes: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if computes(func):
            self._keep(str(func), args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _keep(self, name: str, args: Any, kwargs: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return

        size = sum(tensor.numel() for tensor in tensors)
        key = f"{name} {' '.join(sorted({str(tensor.dtype)[6:] for tensor in tensors}))}".strip()
        if self._sizes.get(key, -1) < size <= MAX_VALUES:
            self._sizes[key] = size
            self.calls[key] = (name, *tree_map(_kept, (args, kwargs)))


def computes(operator: Any) -> bool:
    """Whether an operator makes values, unlike one that returns a view of what it was given."""
    namespace, name = operator._schema.name.split("::")
    if namespace != "aten" or name in WITHOUT_RESULT + NOT_EMULATED:
        return False
    aliases = [each.alias_info for each in operator._schema.returns]
    return not any(alias is not None and not alias.is_write for alias in aliases)


def without_recording(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, unseen by a `Recorder`."""

    @wraps(function)
    def unseen(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return unseen


def _kept(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    if isinstance(leaf, torch.Generator):
        return _GeneratorState(leaf.get_state())
    if isinstance(leaf, torch.memory_format):
        return _MemoryFormat(str(leaf).split(".")[-1])
    return leaf


@dataclass(frozen=True)
class _GeneratorState:
    """A random generator as a recording holds it."""

    state: Tensor


@dataclass(frozen=True)
class _MemoryFormat:
    """A memory format as a recording holds it; torch's own cannot be written to files."""

    name: str


def _restored(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.clone()
    if isinstance(leaf, _GeneratorState):
        generator = torch.Generator()
        generator.set_state(leaf.state)
        return generator
    if isinstance(leaf, _MemoryFormat):
        return getattr(torch, leaf.name)
    return leaf


def save(recorder: Recorder, path: Path) -> None:
    torch.save(recorder.calls, path)


def digests(path: Path) -> dict[str, str]:
    """Compute every recorded call: the digest of its result and of what it changed in place."""
    results = {}
    for key, (name, args, kwargs) in torch.load(path, weights_only=False).items():
        _, operator, overload = name.split(".")
        call = getattr(getattr(torch.ops.aten, operator), overload)
        args, kwargs = tree_map(_restored, (args, kwargs))
        torch.manual_seed(0)
        print(key, file=sys.stderr, flush=True)  # an emulator that fails fails here
        results[key] = _digest((call(*args, **kwargs), args, kwargs))
    return results


def array_functions() -> dict[str, Callable[[], Any]]:
    """Functions of NumPy and SciPy, by name, on many values with equals among them."""
    from scipy.optimize import isotonic_regression
    from scipy.special import stdtrit

    random = np.random.default_rng(0)
    values = random.random(20_001) + 0.01
    floats, equals = values.astype(np.float32), np.floor(values * 50)
    square = random.random((150, 150)) - 0.5
    functions: dict[str, Callable[[], Any]] = {
        "matmul": lambda: (square @ square, square @ values[:150], values @ values),
        "matmul float32": lambda: square.astype(np.float32) @ floats[:150],
        "argsort": lambda: [np.argsort(each, kind="stable") for each in (equals, floats)],
        "lexsort": lambda: np.lexsort((equals, values)),
        "sort": lambda: (np.sort(values), np.partition(floats, 500)),
        "mean": lambda: (values.mean(), floats.mean(), square.mean(0), np.average(values)),
        "std": lambda: (values.std(ddof=1), floats.std(), square.std(1)),
        "quantile": lambda: (np.quantile(values, 0.975), np.percentile(floats, 2.5)),
        "unique": lambda: np.unique(equals, return_counts=True),
        "interp": lambda: np.interp(values, [0, 0.3, 1.1], [1, 0.7, 0.1]),
        "hypot": lambda: np.hypot(values, equals),
        "power": lambda: (values**1.7, floats**1.7),
        "multinomial": lambda: random.multinomial(1000, [0.2, 0.5, 0.3], size=200),
        "normal": lambda: random.standard_normal(2000),
        "stdtrit": lambda: [stdtrit(degrees, 0.975) for degrees in range(1, 200)],
        "isotonic_regression": lambda: isotonic_regression(values, increasing=False).x,
    }
    for function in (np.exp, np.log, np.log2, np.log10, np.sqrt, np.tanh, np.sin, np.cumsum):
        functions[function.__name__] = partial(_of_both, function, values, floats)
    return functions


def _of_both(function: Callable[[Any], Any], *arrays: np.ndarray) -> list[Any]:
    return [function(array) for array in arrays]


def _digest(content: Any) -> str:
    digest = hashlib.sha256()
    for leaf in tree_leaves(content):
        if isinstance(leaf, Tensor):
            leaf = leaf.numpy()
        if isinstance(leaf, np.ndarray | np.generic):
            digest.update(leaf.tobytes())
        elif isinstance(leaf, int | float | bool):
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def main() -> None:
    from helpers.params import runtime_params
    from prunelab.runtime.device import configure

    configure(runtime_params())
    torch.set_deterministic_debug_mode("default")
    results = digests(Path(sys.argv[1]))
    for name, function in array_functions().items():
        results[f"array {name}"] = _digest(function())
    print(json.dumps(results))


if __name__ == "__main__":
    # The recording names the classes of this module, not those of `__main__`.
    from helpers import operators

    operators.main()
