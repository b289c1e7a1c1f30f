"""Layers that keep their weights while the rest of a network is trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import accumulate

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.config.params import Train
from prunelab.core.errors import InputError
from prunelab.encoders.pretrained import NO_WEIGHTS


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


def check_transfer(train: Train, weights: str) -> None:
    """Check that base training does not keep what no weights have given.

    That would be random layers while only the head is trained, or the statistics with which batch
    norms begin, which normalise nothing.

    Raises:
        InputError: if it would.
    """
    if train.freeze_epochs and weights == NO_WEIGHTS:
        raise InputError(
            f"train.freeze_epochs is {train.freeze_epochs} and weights is {NO_WEIGHTS}: "
            "all layers but the head would stay random; set train.freeze_epochs: 0, or weights"
        )
    if train.norm == "eval" and weights == NO_WEIGHTS:
        raise InputError(
            f"train.norm is eval and weights is {NO_WEIGHTS}: batch norms would keep mean 0 and "
            "variance 1; set train.norm: train, or weights"
        )


@contextmanager
def only_head_trained(model: nn.Module, head: str) -> Iterator[None]:
    """Freeze all but the layer `head` inside a `with` block; after it, all is as it was before.

    Raises:
        InputError: if nothing in that layer is trained.
    """
    parameters = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    backbone = [parameter for name, parameter in parameters if not within(name, head)]
    if len(backbone) == len(parameters):
        raise InputError(f"freeze_epochs trains only {head}, the head, and train.freeze keeps it")

    for parameter in backbone:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in backbone:
            parameter.requires_grad_(True)


def train_mode(model: nn.Module, *, keep_statistics: bool = False) -> None:
    """Put a network into training mode, except frozen batch norms: their statistics stay too.

    With `keep_statistics` all batch norms keep them, and their weights are trained nevertheless.
    """
    model.train()
    for module in model.modules():
        if not isinstance(module, _BatchNorm):
            continue
        if keep_statistics or (module.affine and not module.weight.requires_grad):
            module.eval()


def within(name: str, pattern: str) -> bool:
    """Whether a pattern matches a dotted name, or one of the layers that contain it."""
    prefixes = accumulate(name.split("."), "{}.{}".format)
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes)
