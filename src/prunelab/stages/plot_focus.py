"""Draw the focus: its fine-tuning and its confusion matrix. Run by evaluate_focus."""

from pathlib import Path

from prunelab.artifacts.prepared import read_data_info
from prunelab.config.params import load_params
from prunelab.core.errors import one_line
from prunelab.core.files import write_json
from prunelab.figures import figures
from prunelab.report import rows, style
from prunelab.report.read_results import HISTORY, read_confusion, read_rows
from prunelab.stages.entry import run


def main(prepared: Path, history: Path, confusion: Path, out: Path) -> None:
    """Draw HISTORY and CONFUSION of the focus into the folder OUT."""
    params = load_params()
    facts = read_data_info(prepared)
    name = f"{params.model} on {params.dataset}, {params.method} at {params.ratio}"
    mean = rows.mean_history(read_rows(history, HISTORY))
    names = [one_line(each) for each in facts["classes"]]
    matrix = rows.matrix_of(read_confusion(confusion, len(names)), len(names))
    style.save(figures.focus(mean, matrix, names, name, style.colour(params.method)), out / "focus")
    write_json(out / "training.json", mean)


if __name__ == "__main__":
    run(main)
