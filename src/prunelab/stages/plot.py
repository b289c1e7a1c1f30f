"""Draw the dense network and the whole grid, and write the table."""

from pathlib import Path

from prunelab.artifacts.predictions import load_predictions
from prunelab.artifacts.prepared import read_data_info
from prunelab.config.params import Grid, load_params
from prunelab.core.errors import one_line
from prunelab.core.files import write, write_json
from prunelab.figures import figures
from prunelab.report import rows, style
from prunelab.report.read_results import HISTORY, read_confusion, read_metrics, read_rows
from prunelab.report.tables import table
from prunelab.stages.entry import run
from prunelab.statistics.similarity import indistinguishable


def main(
    prepared: Path, histories: Path, predictions: Path, metrics: Path, confusion: Path, out: Path
) -> None:
    """Read what all cells in params.yaml left in the folders; draw into OUT, write METRICS/table.md."""
    params = load_params()
    cells = list(params.grid.cells())
    facts, dense = read_data_info(prepared), read_metrics(metrics / "base.json")
    measured = [read_metrics(metrics / "grid" / f"{key}.json") for *_, key in cells]
    same = _alike(predictions, params.grid, params.evaluate.bootstrap_samples)
    points = rows.tradeoff_rows(cells, measured, same)
    _mention_leftovers(metrics / "grid", {f"{key}.json" for *_, key in cells})
    study = f"{params.model} on {params.dataset}, {_seeds(len(params.seeds))}"

    tradeoff = figures.tradeoff(
        points, dense | {"kept": 1.0}, f"{study}: accuracy against what is left"
    )
    style.save(tradeoff, out / "tradeoff")
    write_json(out / "tradeoff.json", points)

    curves = [_curve("dense", "dense training", style.DENSE_COLOUR, histories / "base.json")]
    for method, ratio, key in cells:
        group = f"fine-tuning, ratio {ratio}"
        curves.append(_curve(method, group, style.colour(method), histories / f"{key}.json"))
    style.save(figures.training(curves, f"{study}: training, mean over seeds"), out / "training")
    write_json(
        out / "training.json",
        [
            {"name": c.name, "group": c.group, "colour": c.colour, **row}
            for c in curves
            for row in c.rows
        ],
    )

    write(
        metrics / "table.md", table(dense, points, study, imported=bool(dense["imported"])).encode()
    )

    names = [one_line(name) for name in facts["classes"]]
    matrix = rows.matrix_of(read_confusion(confusion, len(names)), len(names))
    title = (
        f"{params.model} on {params.dataset}, dense: test images over {_seeds(len(params.seeds))}"
    )
    style.save(figures.confusion(matrix, names, title), out / "confusion_dense")


def _alike(predictions: Path, grid: Grid, resamples: int) -> dict[str, list[str]]:
    """By cell, the methods of the same ratio that it cannot be told from."""
    methods = {key: method for method, _, key in grid.cells()}
    found: dict[str, list[str]] = {}
    for wanted in grid.ratios:
        keys = [key for _, ratio, key in grid.cells() if ratio == wanted]
        said = {key: load_predictions(predictions / f"{key}.safetensors") for key in keys}
        same = indistinguishable(
            {key: each["after"] == each["labels"] for key, each in said.items()}, resamples
        )
        found |= {key: [methods[other] for other in others] for key, others in same.items()}
    return found


def _mention_leftovers(folder: Path, expected: set[str]) -> None:
    # Never drawn, for cells come from params.yaml; but they look like results, and DVC hashes the folder.
    if leftovers := sorted({path.name for path in folder.glob("*.json")} - expected):
        print(
            f"no part of the grid in params.yaml, remove them: {', '.join(leftovers)} in {folder}"
        )


def _curve(name: str, group: str, colour: str, history: Path) -> figures.Curve:
    return figures.Curve(name, group, colour, rows.mean_history(read_rows(history, HISTORY)))


def _seeds(count: int) -> str:
    return f"{count} seed" + "s" * (count > 1)


if __name__ == "__main__":
    run(main)
