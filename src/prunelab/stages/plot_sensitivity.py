"""Draw the sensitivity curves of the dense networks' layers.

It is a stage of its own, so that a change of the picture does not measure again.
"""

from pathlib import Path

from prunelab.artifacts.records import Sensitivity, read_record
from prunelab.config.params import load_params
from prunelab.figures.save import save
from prunelab.figures.sensitivity_figures import sensitivity
from prunelab.stages.entry import run


def main(measured: Path, out: Path) -> None:
    """Draw the rows of the file MEASURED into OUT.svg and OUT.png."""
    params = load_params()
    record = read_record(measured, Sensitivity)

    count = len(record["seeds"])
    seeds = f"{count} seed" + "s" * (count > 1)
    title = (
        f"{params.model} on {params.dataset}: what its layers bear, without fine-tuning, "
        f"mean over {seeds}"
    )
    save(sensitivity(record, title), out)


if __name__ == "__main__":
    run(main)
