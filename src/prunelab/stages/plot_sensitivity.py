"""Draw the curves of the dense networks' layers: a stage of its own, so that to draw anew is not to measure anew."""

from pathlib import Path

from prunelab.artifacts.records import Sensitivity, read_record
from prunelab.config.params import load_params
from prunelab.figures.sensitivity_figures import sensitivity
from prunelab.report import style
from prunelab.stages.entry import run


def main(measured: Path, out: Path) -> None:
    """Draw the rows of the file MEASURED into OUT.svg and OUT.png."""
    params = load_params()
    record = read_record(measured, Sensitivity)
    seeds = f"{len(record['seeds'])} seed" + "s" * (len(record["seeds"]) > 1)
    title = f"{params.model} on {params.dataset}: what its layers bear, without fine-tuning, mean over {seeds}"
    style.save(sensitivity(record, title), out)


if __name__ == "__main__":
    run(main)
