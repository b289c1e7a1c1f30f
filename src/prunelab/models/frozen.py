"""Layers that keep their weights while the rest of a network is trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import accumulate

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.core.errors import InputError


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude from training the parameters that a pattern matches, by name or by a layer around.

    Patterns are shell wildcards, and `*` matches dots too: `layer1` and `layer1.*` both freeze all
    of layer1.

    Raises:
        InputError: if a pattern matches nothing, or if nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    layers = ", ".join(name for name, _ in model.named_children())

    names: set[str] = set()
    problems = []
    for pattern in dict.fromkeys(patterns):
        matching = [name for name in parameters if within(name, pattern)]
        names.update(matching)
        if not matching:
            problems.append(
                f"train.freeze: {pattern!r} matches no layer with weights; "
                f"valid: names of layers, with wildcards, in {layers}"
            )

    if patterns and len(names) == len(parameters):
        problems.append(
            f"train.freeze: {', '.join(patterns)} leaves nothing of the network to train"
        )
    if problems:
        raise InputError(problems)

    for name in names:
        parameters[name].requires_grad_(False)


@contextmanager
def frozen(model: nn.Module, patterns: Sequence[str]) -> Iterator[None]:
    """Freeze layers inside a `with` block. After it all parameters can be trained again."""
    freeze(model, patterns)
    try:
        yield
    finally:
        model.requires_grad_(True)


def train_mode(model: nn.Module) -> None:
    """Put a network into training mode, except frozen batch norms: their statistics stay too."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()


def within(name: str, pattern: str) -> bool:
    """Whether a pattern matches a dotted name, or one of the layers that contain it."""
    prefixes = accumulate(name.split("."), "{}.{}".format)
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes)
