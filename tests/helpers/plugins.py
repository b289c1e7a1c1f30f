"""Plugins as a project may hold them, written as text."""

from pathlib import Path

NETWORK = """
from torch import nn

from prunelab.models.catalogue import MODELS, Architecture


def tiny(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


MODELS.register("tiny", Architecture("plugins.net:tiny", head="1"))
"""

CRITERION = """
from prunelab.models.networks import prunable_weights
from prunelab.pruning.criteria import CRITERIA


@CRITERIA.register("squared")
def squared(model, calibration):
    return {name: weight.detach() ** 2 for name, weight in prunable_weights(model).items()}
"""

METHOD = """
from prunelab.config.restart import Restart
from prunelab.pruning.methods import METHODS, Method

METHODS.register("squared_channel", Method("squared", "channel", "uniform"))
METHODS.register("squared_rewind", Method("squared", "weight", "global", restart=Restart.WEIGHTS))
"""

AUGMENTATION = """
from prunelab.data.augmentations import AUGMENTATIONS


@AUGMENTATIONS.register("darker")
def darker(images, random):
    return images * random[:, :1, None, None]
"""

METRIC = """
from prunelab.evaluation.metric_table import METRICS


@METRICS.register("share")
def share(labels, predictions):
    return float((predictions.classes == labels).mean())
"""

LR_SCHEDULE = """
from prunelab.training.lr_schedules import LR_SCHEDULES


@LR_SCHEDULES.register("square")
def square(recipe, progress):
    return (1 - progress) ** 2
"""

DATASET = """
from prunelab.data.dataset import ClassCounts, DataInfo
from prunelab.datasets.datasets import DATASETS


@DATASETS.register("dots")
class Dots:
    \"\"\"Images of dots.\"\"\"

    def __init__(self, config):
        pass

    def missing(self):
        return []

    def damaged(self):
        return []

    def reachable(self):
        return True

    def download(self):
        pass

    def info(self):
        return DataInfo(2, (1, 8, 8))

    def class_counts(self):
        return ClassCounts({"few": 400, "many": 400})

    def digest(self):
        return None

    def read(self):
        raise NotImplementedError
"""


def write_plugins(project: Path, **files: str) -> None:
    """Write plugins by the names of their files."""
    folder = project / "plugins"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def line_of(text: str, part: str) -> int:
    """The number of the first line of a text that holds a part."""
    return next(number for number, line in enumerate(text.split("\n"), 1) if part in line)
