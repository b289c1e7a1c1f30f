"""Write the report: one page with all that was run, found and measured."""

from pathlib import Path

from prunelab.artifacts.prepared import read_data_info
from prunelab.artifacts.records import Details, Sensitivity, Speed, read_record
from prunelab.config.params import Params, Recipe, load_params
from prunelab.core.errors import InputError, one_line
from prunelab.core.files import write
from prunelab.page.page import Findings, page
from prunelab.report.read_results import (
    CURVE,
    CURVE_WORDS,
    POINT,
    POINT_WORDS,
    read_confusion,
    read_metrics,
    read_rows,
)
from prunelab.stages.entry import run


def main(prepared: Path, metrics: Path, plots: Path, out: Path) -> None:
    """Read what the stages left in the folders METRICS and PLOTS; write the page OUT."""
    params = load_params()
    keys = [key for *_, key in params.grid.cells()]
    points = read_rows(plots / "tradeoff.json", POINT, POINT_WORDS)
    grid = [(method, ratio) for method, ratio, _ in params.grid.cells()]
    if [(point["method"], point["ratio"]) for point in points] != grid:
        raise InputError(
            f"{plots / 'tradeoff.json'} is of another grid than params.yaml; `dvc repro plot` makes it anew"
        )
    facts, speed = (
        read_data_info(prepared),
        read_record(metrics / "speed" / "benchmark.json", Speed),
    )
    if missing := _untimed(speed["latency"], ["dense", *keys]):
        raise InputError(
            f"{metrics / 'speed'} has no latency of {', '.join(missing)}; `dvc repro benchmark` measures it"
        )
    details = _details(metrics / "details", keys)
    found = Findings(
        title=f"{params.model} on {params.dataset}",
        facts=_facts(params, facts, details["dense"]["seeds"], speed["environment"]),
        dense=read_metrics(metrics / "base.json"),
        points=[{**point, "key": key} for point, key in zip(points, keys, strict=True)],
        details=details,
        training=read_rows(plots / "training.json", CURVE, CURVE_WORDS),
        confusion=read_confusion(plots / "dense_confusion.json", len(facts["classes"])),
        classes=[one_line(name) for name in facts["classes"]],
        sensitivity=read_record(metrics / "sensitivity.json", Sensitivity),
        speed=speed,
    )
    write(out, page(found).encode())


def _untimed(rows: list[dict], names: list[str]) -> list[str]:
    """The networks that were not measured in all the ways that one was."""
    measured = {(row["name"], row["backend"], row["batch_size"]) for row in rows}
    ways = {(backend, size) for _, backend, size in measured}
    return [name for name in names if any((name, *way) not in measured for way in ways)]


def _details(folder: Path, keys: list[str]) -> dict[str, dict]:
    """By configuration, the dense one first."""
    files = {"dense": folder / "base.json"} | {key: folder / "grid" / f"{key}.json" for key in keys}
    details = {name: read_record(file, Details) for name, file in files.items()}
    layers = {name: [row["layer"] for row in each["layers"]] for name, each in details.items()}
    if others := [name for name in keys if layers[name] != layers["dense"]]:
        raise InputError(
            f"{files[name]} and {files['dense']} are of other layers; `dvc repro` mends it"
            for name in others
        )
    return details


def _facts(params: Params, data: dict, dense: list[dict], machine: dict) -> dict[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    counts = ", ".join(f"{count:,} {name}" for name, count in data["counts"].items())
    return {
        "data": f"{params.dataset}: {counts}; {len(data['classes'])} classes; shape {data['shape']}",
        "data, SHA-256": ", ".join(
            f"{name} {files['inputs'][:16]}" for name, files in data["sha256"].items()
        ),
        "network": f"{params.model}, weights: {params.weights}",
        "dense networks, SHA-256": ", ".join(
            f"seed {row['seed']} {row['sha256'][:16]}" for row in dense
        ),
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
