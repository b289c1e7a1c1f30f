"""The pipeline as DVC sees it: its stages, what each needs, and which are up to date."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError
from prunelab.core.project_root import where_to_go
from prunelab.core.registry import pick
from prunelab.project.dvc_lock import split_entries
from prunelab.project.paths import LOCK_FILE


@dataclass(frozen=True)
class Pipeline:
    """Stages by name, and for each the stages it needs directly, in the order of `dvc repro`."""

    stages: dict[str, Any]
    needs: dict[str, set[str]]

    @property
    def alone(self) -> set[str]:
        """The stages marked `meta: {alone: true}` in dvc.yaml: those that measure time."""
        names = set()
        for name, stage in self.stages.items():
            meta = getattr(stage, "meta", None) or {}
            if meta.get("alone"):
                names.add(name)
        return names


@contextmanager
def open_repo(root: Path) -> Iterator[Any]:
    """Yield DVC's view of the project. If another DVC holds the lock, operations wait for it.

    Raises:
        InputError: if there is no pipeline, or DVC cannot read it.
    """
    from dvc.exceptions import DvcException

    if not (root / "dvc.yaml").exists():
        raise InputError(f"{root} has no dvc.yaml. {where_to_go()}")
    try:
        with load_repo(root) as repo:
            yield repo
    except DvcException as error:
        raise InputError(f"DVC: {' '.join(str(error).split())}") from None


def load_repo(root: Path) -> Any:
    """Return DVC's object of the project, which works without Git if the project is in none.

    The file .dvc/config could say so as well (core.no_scm). It would then hide a repository that
    somebody makes later.
    """
    from dvc.repo import Repo
    from dvc.scm import SCM, SCMError

    config = {}
    try:
        SCM(str(root)).close()
    except SCMError:
        config = {"core": {"no_scm": True}}

    # `_wait_for_lock` is what `dvc --wait-for-lock` sets. The Python class has no public name for
    # it. Without it, test_workers_at_their_busiest_do_not_block_each_other fails.
    return Repo(str(root), config=config, _wait_for_lock=True)


def load_pipeline(repo: Any, targets: Sequence[str] = ()) -> Pipeline:
    """Return the targets with all stages that they need.

    A target is a stage or a group, such as all stages of a matrix. Without targets, all stages of
    dvc.yaml are returned.

    Raises:
        InputError: for targets that are not stages.
    """
    from dvc.repo.reproduce import get_active_graph, plan_repro

    graph = get_active_graph(repo.index.graph)
    stages = {stage.addressing: stage for stage in graph}
    if targets:
        names = _resolve_targets(targets, list(stages))
    else:
        names = [name for name, stage in stages.items() if stage.path_in_repo == "dvc.yaml"]

    plan = plan_repro(graph, [stages[name] for name in names])
    needs = {}
    for stage in plan:
        needs[stage.addressing] = {needed.addressing for needed in graph.successors(stage)}
    return Pipeline({stage.addressing: stage for stage in plan}, needs)


def _resolve_targets(targets: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the stages that targets name: a stage, `group`, or one stage of it, `group@key`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition("@")[0], []).append(name)

    resolved = []
    problems = []
    for target in targets:
        group, at, _ = target.partition("@")
        try:
            members = pick(groups, group if group in groups else target, "stage")
            if at:
                resolved.append(pick({name: name for name in members}, target, "stage"))
            else:
                resolved += members
        except InputError as error:
            problems += error.problems

    if problems:
        raise InputError(problems)
    return resolved


def up_to_date(repo: Any, pipeline: Pipeline) -> list[str]:
    """Return the stages that a serial run would skip, as far as is known before any stage runs."""
    from dvc.repo import lock_repo

    unchanged: list[str] = []
    with lock_repo(repo):
        for name, stage in pipeline.stages.items():
            if pipeline.needs[name].issubset(unchanged) and not stage.changed():
                unchanged.append(name)
    return unchanged


def lock_order(root: Path, pipeline: Pipeline) -> list[str]:
    """Return the stages in the order that a serial run leaves in dvc.lock.

    Stages that are in the file keep their places. The others follow in the order of the pipeline.
    """
    path = root / LOCK_FILE
    present: dict[str, str] = {}
    if path.exists():
        present = split_entries(path.read_text(encoding="utf-8")) or {}
    return list(dict.fromkeys([*present, *pipeline.stages]))
