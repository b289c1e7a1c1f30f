"""Layers that keep their weights while the rest of a network is trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import accumulate

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.core.errors import InputError


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take every parameter out of training whose name, or that of a layer around it, matches one of the patterns.

    Patterns are shell wildcards, where `*` matches dots too: `layer1` and `layer1.*` both freeze all of layer1.

    Raises:
        InputError: if a pattern matches nothing, or if nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    frozen = {
        pattern: [name for name in parameters if within(name, pattern)] for pattern in patterns
    }
    parts = ", ".join(name for name, _ in model.named_children())
    problems = [
        f"train.freeze: {pattern!r} matches no layer with weights; valid: names of layers, with wildcards, in {parts}"
        for pattern, names in frozen.items()
        if not names
    ]
    names = {name for names in frozen.values() for name in names}
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
    """Freeze for a while; afterwards everything may be trained again."""
    freeze(model, patterns)
    try:
        yield
    finally:
        model.requires_grad_(True)


def train_mode(model: nn.Module) -> None:
    """Put a network into training mode, but for batch norms that are frozen: their running statistics stay too."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()


def within(name: str, pattern: str) -> bool:
    """Whether a pattern matches a dotted name or one of the layers it lies in."""
    return any(
        fnmatchcase(prefix, pattern) for prefix in accumulate(name.split("."), "{}.{}".format)
    )
