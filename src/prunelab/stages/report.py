"""Write the report: one page with all that was run, found and measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from prunelab.artifacts.prepared import read_class_names, read_data_info
from prunelab.artifacts.records import Details, SearchResult, Sensitivity, Speed, read_record
from prunelab.config.params import Params, Recipe, load_params
from prunelab.core.errors import InputError
from prunelab.core.files import write
from prunelab.page.page import ReportData, page
from prunelab.report.read_results import (
    CURVE,
    CURVE_TEXTS,
    POINT,
    POINT_TEXTS,
    read_confusion,
    read_metrics,
    read_rows,
)
from prunelab.stages.entry import run

Row = dict[str, Any]


def main(
    prepared: Path,
    metrics: Path,
    plots: Path,
    out: Path,
    searches: Annotated[Path | None, Option(help="The folder of what searches found.")] = None,
) -> None:
    """Read what the stages left in the folders METRICS and PLOTS; write the page OUT."""
    params = load_params()
    keys = [key for *_, key in params.grid.cells()]

    points = _read_points(plots / "tradeoff.json", params)
    data_info = read_data_info(prepared)
    class_names = read_class_names(prepared)
    speed = read_record(metrics / "speed" / "benchmark.json", Speed)
    _check_speed(speed["latency"], ["dense", *keys], metrics / "speed")
    details = _read_details(metrics / "details", keys)

    data = ReportData(
        title=f"{params.model} on {params.dataset}",
        facts=_facts(params, data_info, details["dense"]["seeds"], speed["environment"]),
        dense=read_metrics(metrics, "base"),
        points=points,
        details=details,
        training=read_rows(plots / "training.json", CURVE, CURVE_TEXTS, may_be_empty=True),
        confusion=read_confusion(plots / "dense_confusion.json", len(class_names)),
        classes=class_names,
        sensitivity=read_record(metrics / "sensitivity.json", Sensitivity),
        speed=speed,
        searches=_read_searches(searches, params),
    )
    write(out, page(data).encode())


def _read_searches(folder: Path | None, params: Params) -> list[Row]:
    """What searches found with this network on this data."""
    if folder is None:
        return []
    found = []
    for path in sorted(folder.glob("*.json")):
        content = read_record(path, SearchResult)
        if (content["model"], content["dataset"]) == (params.model, params.dataset):
            found.append(content)
    return found


def _read_points(path: Path, params: Params) -> list[Row]:
    """The points of the trade-off, each with the key of its cell."""
    points = read_rows(path, POINT, POINT_TEXTS)
    cells = list(params.grid.cells())

    points_cells = [(point["method"], point["ratio"]) for point in points]
    if points_cells != [(method, ratio) for method, ratio, _ in cells]:
        raise InputError(f"{path} is of another grid than params.yaml. `dvc repro plot` updates it")

    return [{**point, "key": key} for point, (*_, key) in zip(points, cells, strict=True)]


def _check_speed(rows: Sequence[Row], names: Sequence[str], folder: Path) -> None:
    """Check that every network was measured with all backends and batch sizes of any network."""
    measured, settings = set(), set()
    for row in rows:
        setting = row["backend"], row["batch_size"]
        settings.add(setting)
        measured.add((row["name"], *setting))

    missing = []
    for name in names:
        if any((name, *setting) not in measured for setting in settings):
            missing.append(name)
    if missing:
        raise InputError(
            f"{folder} has no latency of {', '.join(missing)}. `dvc repro benchmark` measures it"
        )


def _read_details(folder: Path, keys: Sequence[str]) -> dict[str, Row]:
    """The details of every configuration, the dense one first."""
    files = {"dense": folder / "base.json"}
    for key in keys:
        files[key] = folder / "grid" / f"{key}.json"

    details, layers = {}, {}
    for name, file in files.items():
        details[name] = read_record(file, Details)
        layers[name] = [row["layer"] for row in details[name]["layers"]]

    problems = []
    for name in keys:
        if layers[name] != layers["dense"]:
            problems.append(
                f"{files[name]} and {files['dense']} have different layers. "
                "`dvc repro` updates them"
            )
    if problems:
        raise InputError(problems)

    return details


def _facts(
    params: Params, data_info: Row, dense_seeds: Sequence[Row], machine: Row
) -> dict[str, str]:
    """What the page says about the data, the settings and the machine."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    counts = ", ".join(f"{count:,} {name}" for name, count in data_info["counts"].items())
    ratios = ", ".join(f"{ratio:g}" for ratio in params.grid.ratios)

    data_hashes = []
    for name, hashes in data_info["sha256"].items():
        data_hashes.append(f"{name} {hashes['inputs'][:16]}")
    network_hashes = []
    for row in dense_seeds:
        network_hashes.append(f"seed {row['seed']} {row['sha256'][:16]}")

    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] != 1)
    return {
        "data": (
            f"{params.dataset}: {counts}; {len(data_info['classes'])} classes; "
            f"shape {data_info['shape']}"
        ),
        "data, SHA-256": ", ".join(data_hashes),
        "network": f"{params.model}, weights: {params.weights}",
        "dense networks, SHA-256": ", ".join(network_hashes),
        "seeds": ", ".join(map(str, params.seeds)),
        "methods": ", ".join(params.grid.methods),
        "ratios": f"{ratios} (budget: {params.budget})",
        "base training": _describe_recipe(params.train),
        "fine-tuning": _describe_recipe(params.finetune),
        "measured on": f"{machine['device']}, {threads}, {machine['precision']}",
        "versions": f"Python {machine['python']}, {versions}",
    }


def _describe_recipe(recipe: Recipe) -> str:
    return (
        f"{recipe.epochs} epochs of {recipe.optimizer}, batch {recipe.batch_size}, learning rate "
        f"{recipe.learning_rate:g} ({recipe.schedule}), weight decay {recipe.weight_decay:g}"
    )


if __name__ == "__main__":
    run(main)
