"""Write the report: one page with all that was run, found and measured."""

from pathlib import Path

from prunelab.artifacts.files import read_json, write
from prunelab.errors import Refused, one_line
from prunelab.params import Params, Recipe, load_params
from prunelab.report.files import CURVE, METRICS, read_confusion, read_metrics, read_rows
from prunelab.report.page import Findings, page
from prunelab.stages.entry import run


def main(prepared: Path, metrics: Path, plots: Path, out: Path) -> None:
    """Read what the stages left in the folders METRICS and PLOTS; write the page OUT."""
    params = load_params()
    keys = [key for *_, key in params.grid.cells()]
    facts, speed = read_json(prepared / "dataset.json"), read_json(metrics / "speed" / "benchmark.json")
    points = read_rows(plots / "tradeoff.json", ("ratio", *METRICS))
    grid = [(method, ratio) for method, ratio, _ in params.grid.cells()]
    if [(point.get("method"), point["ratio"]) for point in points] != grid:
        raise Refused(f"{plots / 'tradeoff.json'} is of another grid than params.yaml; `dvc repro plot` makes it anew")
    details = {"dense": read_json(metrics / "details" / "base.json")}
    details |= {key: read_json(metrics / "details" / "grid" / f"{key}.json") for key in keys}
    found = Findings(
        title=f"{params.model} on {params.dataset}",
        facts=_facts(params, facts, details["dense"]["seeds"], speed["environment"]),
        dense=read_metrics(metrics / "base.json"),
        points=[{**point, "key": key} for point, key in zip(points, keys, strict=True)],
        details=details,
        training=read_rows(plots / "training.json", CURVE),
        confusion=read_confusion(plots / "dense_confusion.json", len(facts["classes"])),
        classes=[one_line(name) for name in facts["classes"]],
        sensitivity=read_json(metrics / "sensitivity.json"),
        speed=speed,
    )
    write(out, page(found).encode())


def _facts(params: Params, data: dict, dense: list[dict], machine: dict) -> dict[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    counts = ", ".join(f"{count:,} {name}" for name, count in data["counts"].items())
    return {
        "data": f"{params.dataset}: {counts}; {len(data['classes'])} classes; shape {data['shape']}",
        "data, SHA-256": ", ".join(f"{name} {files['inputs'][:16]}" for name, files in data["sha256"].items()),
        "network": f"{params.model}, weights: {params.weights}",
        "dense networks, SHA-256": ", ".join(f"seed {row['seed']} {row['sha256'][:16]}" for row in dense),
        "seeds": ", ".join(map(str, params.seeds)),
        "methods": ", ".join(params.grid.methods),
        "ratios": f"{', '.join(f'{ratio:g}' for ratio in params.grid.ratios)} of {params.budget}",
        "base training": _recipe(params.train),
        "fine-tuning": _recipe(params.finetune),
        "measured on": f"{machine['device']}, {machine['threads']} threads, {machine['precision']}",
        "versions": f"Python {machine['python']}, {versions}",
    }


def _recipe(recipe: Recipe) -> str:
    return (
        f"{recipe.epochs} epochs of {recipe.optimizer}, batch {recipe.batch_size}, learning rate "
        f"{recipe.learning_rate:g} ({recipe.schedule}), weight decay {recipe.weight_decay:g}"
    )


if __name__ == "__main__":
    run(main)
