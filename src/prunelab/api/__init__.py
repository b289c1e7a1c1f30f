"""What a script may use: the functions and classes that `import prunelab` offers.

Every function takes networks as plain `nn.Module`s and data as plain batches, and rests on the
rooms below. Nothing here knows of projects, params.yaml or DVC, and nothing below may import it.
"""

from prunelab.api.exports import export
from prunelab.api.files import load, save
from prunelab.api.measures import Evaluation, Sensitivity, Speed, benchmark, evaluate, sensitivity
from prunelab.api.pruning import PruneSettings, prune
from prunelab.api.result import LoadedNetwork, PrunedLayer, PrunedNetwork
from prunelab.core.errors import InputError

__all__ = [
    "Evaluation",
    "InputError",
    "LoadedNetwork",
    "PruneSettings",
    "PrunedLayer",
    "PrunedNetwork",
    "Sensitivity",
    "Speed",
    "benchmark",
    "evaluate",
    "export",
    "load",
    "prune",
    "save",
    "sensitivity",
]
