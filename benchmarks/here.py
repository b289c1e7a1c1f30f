"""What `prunelab study run NAME --here` takes beside training, as a share of the training.

    python benchmarks/here.py resnet26_filters_cpu --only l1_channel-0.3

Run it in the project's folder, with the study's data in data/raw. The study runs in a temporary
folder, on one core, so that its seeds train one after another in this process. Training is what
`Trainer.fit` takes: steps, validation after every epoch, and checkpoints. All else is reported by
stage: reading data, evaluating on the test split, files, hashes. Seconds are those of the CPU,
which other work on the machine changes little.
"""

import os
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from prunelab.commands.common import reporting_errors
from prunelab.commands.studies.here_command import HereOptions, run_study_here
from prunelab.commands.studies.work_folder import StageFolder
from prunelab.core.cores import available_cores
from prunelab.training.trainer import Trainer

GOAL = 0.03


class Clock:
    """CPU seconds of this process by stage, and those of them that are training."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.training: defaultdict[str, float] = defaultdict(float)
        self._training_now = 0.0
        self._stage_began = 0.0

    def install(self) -> None:
        """Let every stage and every training be timed."""
        fit, set_up, finish = Trainer.fit, StageFolder.set_up, StageFolder.finish

        def timed_fit(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            try:
                return fit(*arguments, **options)
            finally:
                self._training_now += time.process_time() - began

        def timed_set_up(folder: StageFolder, *arguments: Any) -> None:
            self._stage_began = time.process_time()
            self._training_now = 0.0
            set_up(folder, *arguments)

        def timed_finish(folder: StageFolder, *arguments: Any) -> None:
            finish(folder, *arguments)
            self.seconds[folder.stage.name] += time.process_time() - self._stage_began
            self.training[folder.stage.name] += self._training_now

        for owner, name, function in (
            (Trainer, "fit", timed_fit),
            (StageFolder, "set_up", timed_set_up),
            (StageFolder, "finish", timed_finish),
        ):
            setattr(owner, name, function)

    def report(self, whole: float) -> str:
        """A table; `whole` are the CPU seconds of the process."""
        training = sum(self.training.values())
        lines = [f"{'':<18}{'CPU s':>9}{'training':>10}{'beside it':>11}"]
        for stage, seconds in self.seconds.items():
            beside = seconds - self.training[stage]
            lines.append(f"{stage:<18}{seconds:>9.1f}{self.training[stage]:>10.1f}{beside:>11.1f}")

        others = whole - sum(self.seconds.values())
        lines.append(f"{'start, checks':<18}{others:>9.1f}{0:>10.1f}{others:>11.1f}")
        lines.append(f"{'all':<18}{whole:>9.1f}{training:>10.1f}{whole - training:>11.1f}")
        if training:
            share = whole / training - 1
            lines.append(f"beside training: {share:.1%} of it (goal: at most {GOAL:.0%})")
        return "\n".join(lines)


def main(
    study: Annotated[str, typer.Argument(help="A name that `prunelab study list` shows.")],
    only: Annotated[
        list[str] | None, typer.Option(metavar="SETTING", help="One of its settings; repeatable.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Multiplies all epochs.")] = 1.0,
) -> None:
    """Print what a study takes beside training, by stage."""
    os.sched_setaffinity(0, {available_cores()[0]})
    clock = Clock()
    clock.install()
    with TemporaryDirectory() as folder, reporting_errors():
        run_study_here(
            study,
            variant={"quick": False, "nearest": False},
            only=only or [],
            # On the one core. With something set, results stay in the work folder.
            overrides={"runtime.threads": 1},
            options=HereOptions(work=Path(folder) / "work", scale=scale),
        )
    print(clock.report(time.process_time()))


if __name__ == "__main__":
    typer.run(main)
