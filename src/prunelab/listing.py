"""What there is to choose from, as rows of words under a row of headings, made from the tables themselves."""

from collections.abc import Sequence

from prunelab.data.datasets import DATASETS
from prunelab.models.catalogue import MODELS, Architecture
from prunelab.pruning.granularity import GRANULARITIES, Granularity
from prunelab.pruning.masks import Scope
from prunelab.pruning.methods import METHODS
from prunelab.pruning.restart import Restart

Rows = Sequence[tuple[str, ...]]


def methods() -> Rows:
    return [("method", "criterion", "granularity", "scope", "schedule", "restart")] + [
        (
            name,
            method.criterion.__name__,
            _granularity(method.granularity),
            method.scope.name.lower() if isinstance(method.scope, Scope) else method.scope.__name__,
            method.schedule.__name__,
            "" if method.restart is Restart.NONE else method.restart.value,
        )
        for name, method in METHODS.items()
    ]


def _granularity(granularity: Granularity | str) -> str:
    if isinstance(granularity, str):
        return granularity
    return next(name for name, other in GRANULARITIES.items() if other is granularity)


def models() -> Rows:
    rows = [(name, architecture.reads, _weights(architecture)) for name, architecture in MODELS.items()]
    return [("model", "reads", "weights"), *rows]


def _weights(architecture: Architecture) -> str:
    if architecture.reads == "texts":
        return "none, minilm, a folder, or a name on the hub"
    return "none, imagenet, or a file" if architecture.imagenet else "none, or a file"


def datasets() -> Rows:
    rows = [(name, (getattr(make, "func", make).__doc__ or "").splitlines()[0]) for name, make in DATASETS.items()]
    return [("dataset", "what it is"), *rows]
