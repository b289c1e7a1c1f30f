"""What DVC knows of the pipeline: its stages, what each needs, which run alone, and which are up to date."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError
from prunelab.core.registry import pick
from prunelab.project.dvc_lock import blocks


@dataclass(frozen=True)
class Pipeline:
    """Stages by name, and for each those it needs directly, in the order in which `dvc repro` takes them."""

    stages: dict[str, Any]
    needs: dict[str, set[str]]

    @property
    def alone(self) -> set[str]:
        """Those marked `meta: {alone: true}` in dvc.yaml: what rests on a clock."""
        return {
            name
            for name, stage in self.stages.items()
            if (getattr(stage, "meta", None) or {}).get("alone")
        }


@contextmanager
def opened(root: Path) -> Iterator[Any]:
    """DVC's view of the project, patient where another DVC holds its lock.

    Raises:
        InputError: if there is no pipeline, or DVC cannot read it.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not (root / "dvc.yaml").exists():
        raise InputError(f"{root} holds no dvc.yaml; go to the top folder of the project")
    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            yield repo
    except DvcException as error:
        raise InputError(f"DVC: {' '.join(str(error).split())}") from None


def pipeline(repo: Any, targets: Sequence[str] = ()) -> Pipeline:
    """The stages of dvc.yaml, or the targets (stages, or groups of a matrix), with all that they rest on.

    Raises:
        InputError: for targets that are no stages.
    """
    from dvc.repo.reproduce import get_active_graph, plan_repro

    graph = get_active_graph(repo.index.graph)
    names = {stage.addressing: stage for stage in graph}
    wanted = (
        _named(targets, list(names))
        if targets
        else [name for name in names if names[name].path_in_repo == "dvc.yaml"]
    )
    plan = plan_repro(graph, [names[name] for name in wanted])
    return Pipeline(
        {stage.addressing: stage for stage in plan},
        {
            stage.addressing: {needed.addressing for needed in graph.successors(stage)}
            for stage in plan
        },
    )


def _named(targets: Sequence[str], names: Sequence[str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition("@")[0], []).append(name)
    found, problems = [], []
    for target in targets:
        group, at, _ = target.partition("@")
        try:
            cells = pick(groups, group if group in groups else target, "stage")
            found += [pick({cell: cell for cell in cells}, target, "stage")] if at else cells
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(problems)
    return found


def up_to_date(repo: Any, pipeline: Pipeline) -> list[str]:
    """The stages that a serial run would pass over, as far as that can be said before anything has run."""
    from dvc.repo import lock_repo

    found: dict[str, None] = {}
    with lock_repo(repo):
        for name, stage in pipeline.stages.items():
            if pipeline.needs[name] <= found.keys() and not stage.changed():
                found[name] = None
    return list(found)


def lock_order(root: Path, pipeline: Pipeline) -> list[str]:
    """The order that a serial run would leave in dvc.lock: what is there keeps its place, the rest follows."""
    path = root / "dvc.lock"
    there = blocks(path.read_text(encoding="utf-8")) if path.exists() else {}
    return list(dict.fromkeys([*(there or {}), *pipeline.stages]))
