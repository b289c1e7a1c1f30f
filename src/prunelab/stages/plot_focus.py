"""Draw the focus: its fine-tuning and its confusion matrix. evaluate_focus runs it."""

from pathlib import Path

from prunelab.artifacts.prepared import read_class_names
from prunelab.config.params import load_params
from prunelab.core.files import write_json
from prunelab.figures import figures
from prunelab.figures.save import save
from prunelab.report import rows, series, style
from prunelab.report.read_results import HISTORY, read_confusion, read_rows
from prunelab.stages.entry import run


def main(prepared: Path, history: Path, confusion: Path, out: Path) -> None:
    """Draw HISTORY and CONFUSION of the focus into the folder OUT."""
    params = load_params()
    title = f"{params.model} on {params.dataset}, {params.method} at {params.ratio}"

    class_names = read_class_names(prepared)
    matrix = series.confusion_of(read_confusion(confusion, len(class_names)), class_names)
    epochs = rows.mean_history(read_rows(history, HISTORY, may_be_empty=True))

    figure = figures.focus(epochs, matrix, title, style.colour(params.method))
    save(figure, out / "focus")
    write_json(out / "training.json", epochs)


if __name__ == "__main__":
    run(main)
