"""The files of a search for people and for the page: searches/NAME.json, .svg and .png."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunelab.commands.search.engine import front
from prunelab.commands.search.plan import Plan
from prunelab.commands.search.records import SearchState, Try
from prunelab.commands.search.sampler import importances
from prunelab.core.files import write_json

FOLDER = Path("searches")


def result_of(
    plan: Plan, methods: Sequence[str], state: SearchState, lines: Sequence[str], command: str
) -> dict[str, Any]:
    """The content of searches/NAME.json; costs are shares of the dense network's, drops shares."""
    request, metric = plan.request, plan.request.objective.metric
    on_front = {tried.number for tried in front(state.tries, metric)}

    tries = []
    for tried in state.tries:
        if tried.runs:
            tries.append(_try_row(tried, metric, on_front))

    finals = []
    for final in state.finals:
        measurement = final.measurement
        if measurement is None or (metric == "latency" and measurement.faster is None):
            continue
        finals.append(
            {
                "role": final.role,
                "method": final.method,
                "experiment": final.name,
                "seeds": final.params["seeds"],
                "share": measurement.share(metric),
                "accuracy": measurement.accuracy,
                "drop": measurement.drop,
                "drop_ci95": measurement.drop_ci95,
            }
        )

    noun, params = request.objective.noun, plan.params
    return {
        "title": f"{params.model} on {params.dataset}, fewest {noun} within {request.max_drop:g}",
        "model": params.model,
        "dataset": params.dataset,
        "noun": noun,
        "max_drop": request.max_drop,
        "request": state.request,
        "answer": [line for line in lines if line.strip()],
        "command": command,
        "validation_networks": state.validation_networks,
        "epochs": state.epochs,
        "seconds": state.seconds,
        "tries": tries,
        "finals": finals,
        "importances": importances(params.search, methods, state.tries),
    }


def _try_row(tried: Try, metric: str, on_front: set[int]) -> dict[str, Any]:
    run = tried.runs[-1]
    return {
        "number": tried.number + 1,
        "method": tried.point.method,
        "what": tried.point.describe(),
        "experiment": run.name,
        "complete": tried.state == "complete",
        "front": tried.number in on_front,
        "epochs": run.epochs,
        "seeds": run.seeds,
        "share": tried.last.share(metric),
        "accuracy": tried.last.accuracy,
        "drop": tried.last.drop,
    }


def write_result(root: Path, name: str, result: dict[str, Any]) -> Path:
    """Write the JSON file and the pictures of the same name; return the path of the first."""
    from prunelab.figures.save import METADATA, save_as
    from prunelab.figures.search_figure import search_picture

    # The report looks in this folder alone, and some networks have a slash in their names.
    path = root / FOLDER / f"{name.replace('/', '-')}.json"
    write_json(path, result)
    picture = search_picture(result)
    for suffix in METADATA:
        save_as(picture, path.with_suffix(suffix))
    return path
