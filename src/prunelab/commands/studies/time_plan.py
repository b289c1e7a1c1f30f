"""How long a setting will take, from what its stages took before: seconds of an epoch, by stage."""

from collections.abc import Iterable, Mapping
from typing import Any

from prunelab.commands.studies.work_folder import StageFolder
from prunelab.config.params import Params
from prunelab.config.restart import Restart
from prunelab.pruning.methods import METHODS
from prunelab.training.retraining import retraining

SAFETY = 1.1  # a setting is expected to take so many times what was measured


class TimePlan:
    """What finished stages took."""

    def __init__(self) -> None:
        self._seconds_per_epoch: dict[str, float] = {}
        self._seconds: dict[str, float] = {}  # of stages without training

    def learn(self, folder: StageFolder) -> None:
        """Take in what a finished stage took."""
        done = folder.done()
        name, epochs = folder.stage.name, done["epochs"]
        if epochs:
            rate = done["seconds"] / epochs
            self._seconds_per_epoch[name] = max(rate, self._seconds_per_epoch.get(name, 0.0))
        else:
            self._seconds[name] = max(done["seconds"], self._seconds.get(name, 0.0))

    def seconds(self, folders: Iterable[StageFolder], params: Mapping[str, Any]) -> float | None:
        """Return the expected seconds of stages to come, or None if no epoch was measured yet.

        A stage that never ran is taken to train as slowly as the slowest that did.
        """
        total = 0.0
        for folder in folders:
            name = folder.stage.name
            epochs = epochs_of(name, params)
            if epochs:
                rate = self._seconds_per_epoch.get(name)
                if rate is None:
                    rate = max(self._seconds_per_epoch.values(), default=None)
                if rate is None:
                    return None
                total += max(0.0, epochs * rate - folder.spent())
            else:
                total += self._seconds.get(name, 0.0)
        return SAFETY * total


def epochs_of(stage: str, params: Mapping[str, Any]) -> int:
    """Return how many epochs a stage of dvc.yaml trains, for every seed."""
    if stage.startswith("train_base"):
        return int(params["train"]["epochs"])
    if stage.startswith("prune"):
        return _epochs_of_schedule(params)
    if stage.startswith("finetune"):
        checked = Params.model_validate(params)
        restart = METHODS[checked.method].restart
        recipe, start_epoch = retraining(restart, checked.train, checked.finetune)
        return recipe.epochs - start_epoch
    return 0


def _epochs_of_schedule(params: Mapping[str, Any]) -> int:
    method, prune = METHODS[params["method"]], params["prune"]
    if not method.trains:
        return 0
    if method.schedule != "iterative":
        return int(prune["epochs"])
    if method.restart is Restart.WEIGHTS:
        return int(prune["iterations"] * params["train"]["epochs"])
    return int(prune["iterations"] * prune["epochs"])
