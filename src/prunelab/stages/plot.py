"""Draw the dense network and the whole grid, and write the table."""

from pathlib import Path

from prunelab.artifacts.predictions import load_predictions
from prunelab.artifacts.prepared import read_class_names
from prunelab.config.params import Grid, load_params
from prunelab.core.errors import InputError
from prunelab.core.files import write, write_json
from prunelab.figures import figures, tradeoff_figures
from prunelab.figures.save import save
from prunelab.report import rows, series
from prunelab.report.labels import DENSE
from prunelab.report.read_results import HISTORY, read_confusion, read_metrics, read_rows
from prunelab.report.tables import table
from prunelab.stages.entry import run
from prunelab.statistics.similarity import indistinguishable


def main(
    prepared: Path, histories: Path, predictions: Path, metrics: Path, confusion: Path, out: Path
) -> None:
    """Draw the results of all cells in params.yaml into OUT, and write METRICS/table.md."""
    params = load_params()
    if params.evaluate.split != "test":
        raise InputError(
            f"evaluate.split: the pictures and the table are of the test split, not of "
            f"{params.evaluate.split}. Set it to test, and measure the focus alone on another "
            f"split: dvc exp run -S evaluate.split={params.evaluate.split} evaluate_focus"
        )
    cells = list(params.grid.cells())
    seeds = f"{len(params.seeds)} seed" + "s" * (len(params.seeds) > 1)
    study = f"{params.model} on {params.dataset}, {seeds}"

    # Accuracy against what is left.
    dense = read_metrics(metrics, "base")
    cell_metrics = [read_metrics(metrics, f"grid/{key}") for *_, key in cells]
    same = _indistinguishable_methods(predictions, params.grid, params.evaluate.bootstrap_samples)
    points = rows.tradeoff_rows(cells, cell_metrics, same)
    _report_leftovers(metrics / "grid", {f"{key}.json" for *_, key in cells})

    dense_point = dense | {"kept": 1.0}
    title = f"{study}: accuracy against what is left"
    after = tradeoff_figures.tradeoff(points, dense_point, title, "accuracy")
    before = tradeoff_figures.tradeoff(points, dense_point, title, "accuracy_pruned")
    save(after, out / "tradeoff")
    save(before, out / "tradeoff_before")
    save(tradeoff_figures.overview(points, dense_point, study), out / "overview")
    write_json(out / "tradeoff.json", points)

    # Training curves.
    curves = [_training_curve(DENSE, "dense training", histories / "base.json")]
    for method, ratio, key in cells:
        group = f"fine-tuning, ratio {ratio}"
        curves.append(_training_curve(method, group, histories / f"{key}.json"))
    save(figures.training(curves, f"{study}: training, mean over seeds"), out / "training")
    write_json(out / "training.json", series.training_rows(curves))

    # The table.
    text = table(dense, points, study, imported=bool(dense["imported"]))
    write(metrics / "table.md", text.encode())

    # The confusion matrix of the dense network.
    class_names = read_class_names(prepared)
    matrix = series.confusion_of(read_confusion(confusion, len(class_names)), class_names)
    title = f"{params.model} on {params.dataset}, dense: test images over {seeds}"
    save(figures.confusion(matrix, title), out / "confusion_dense")


def _indistinguishable_methods(
    predictions: Path, grid: Grid, resamples: int
) -> dict[str, list[str]]:
    """For each cell, the methods of the same ratio that are not significantly different."""
    cells = list(grid.cells())
    methods = {key: method for method, _, key in cells}

    same_methods: dict[str, list[str]] = {}
    for grid_ratio in grid.ratios:
        right = {}
        for _, ratio, key in cells:
            if ratio == grid_ratio:
                arrays = load_predictions(predictions / f"{key}.safetensors")
                right[key] = arrays["after"] == arrays["labels"]

        for key, same_keys in indistinguishable(right, resamples).items():
            same_methods[key] = [methods[same_key] for same_key in same_keys]
    return same_methods


def _report_leftovers(folder: Path, expected: set[str]) -> None:
    """Print which files of a folder belong to no cell.

    They are never drawn, since the cells come from params.yaml. But they look like results, and DVC
    hashes the folder.
    """
    leftovers = sorted({path.name for path in folder.glob("*.json")} - expected)
    if leftovers:
        names = ", ".join(leftovers)
        print(f"not part of the grid in params.yaml, remove them: {names} in {folder}")


def _training_curve(name: str, group: str, history: Path) -> series.TrainingCurve:
    epochs = read_rows(history, HISTORY, may_be_empty=True)
    return series.TrainingCurve(name, group, rows.mean_history(epochs))


if __name__ == "__main__":
    run(main)
