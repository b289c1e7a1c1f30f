"""Pruning studies that anybody can repeat: one command, every number and every picture.

What a script may use is in `prunelab.api`; it is imported when it is asked for, because it needs
torch, and most commands do not.
"""

# What type checkers take for true. To import `typing` would slow the start of every stage.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from prunelab.api import (
        Evaluation,
        InputError,
        LoadedNetwork,
        PrunedLayer,
        PrunedNetwork,
        PruneSettings,
        Sensitivity,
        Speed,
        benchmark,
        evaluate,
        export,
        load,
        prune,
        save,
        sensitivity,
    )

__all__ = [
    "Evaluation",
    "InputError",
    "LoadedNetwork",
    "PruneSettings",
    "PrunedLayer",
    "PrunedNetwork",
    "Sensitivity",
    "Speed",
    "__version__",
    "benchmark",
    "evaluate",
    "export",
    "load",
    "prune",
    "save",
    "sensitivity",
]

# The only place of the version: pyproject.toml reads it here.
__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prunelab import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING"})
