"""Draw the dense network and the whole grid, and write the table."""

from pathlib import Path

from prunelab.artifacts.files import read_json, replacing, write_json
from prunelab.params import load_params
from prunelab.report import figures, rows, style
from prunelab.report.tables import table
from prunelab.stages.entry import run


def main(prepared: Path, histories: Path, metrics: Path, confusion: Path, out: Path) -> None:
    """Read HISTORIES, METRICS and CONFUSION of all cells in params.yaml; draw into OUT, write METRICS/table.md."""
    params = load_params()
    cells = list(params.grid.cells())
    facts, dense = read_json(prepared / "dataset.json"), read_json(metrics / "base.json")
    measured = [read_json(metrics / "grid" / f"{key}.json") for *_, key in cells]
    points = rows.tradeoff_rows([(method, ratio) for method, ratio, _ in cells], measured)
    _mention_leftovers(metrics / "grid", {f"{key}.json" for *_, key in cells})
    study = f"{params.model} on {params.dataset}, {_seeds(len(params.seeds))}"

    tradeoff = figures.tradeoff(points, dense | {"kept": 1.0}, f"{study}: accuracy against what is left")
    style.save(tradeoff, out / "tradeoff")
    write_json(out / "tradeoff.json", points)

    curves = [_curve("dense", "dense training", style.DENSE_COLOUR, histories / "base.json")]
    for method, ratio, key in cells:
        group = f"fine-tuning, ratio {ratio}"
        curves.append(_curve(method, group, style.colour(method), histories / f"{key}.json"))
    style.save(figures.training(curves, f"{study}: training, mean over seeds"), out / "training")
    write_json(
        out / "training.json",
        [{"name": c.name, "group": c.group, "colour": c.colour, **row} for c in curves for row in c.rows],
    )

    matrix = rows.matrix_of(read_json(confusion), len(facts["classes"]))
    title = f"{params.model} on {params.dataset}, dense: test images over {_seeds(len(params.seeds))}"
    style.save(figures.confusion(matrix, facts["classes"], title), out / "confusion_dense")

    with replacing(metrics / "table.md") as partial:
        partial.write_text(table(dense, points, study, imported=bool(dense["imported"])))


def _mention_leftovers(folder: Path, expected: set[str]) -> None:
    # Never drawn, for cells come from params.yaml; but they look like results, and DVC hashes the folder.
    if leftovers := sorted({path.name for path in folder.glob("*.json")} - expected):
        print(f"no part of the grid in params.yaml, remove them: {', '.join(leftovers)} in {folder}")


def _curve(name: str, group: str, colour: str, history: Path) -> figures.Curve:
    return figures.Curve(name, group, colour, rows.mean_history(read_json(history)))


def _seeds(count: int) -> str:
    return f"{count} seed" + "s" * (count > 1)


if __name__ == "__main__":
    run(main)
