"""The parameters and metrics of the focus in the workspace, in commits and in experiments."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from prunelab.config.params import PARAMS_FILE
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.mappings import flatten, nested_mapping
from prunelab.core.text import abbreviate
from prunelab.project.experiments import Experiment, code_of, current_code, experiments
from prunelab.project.git import git, require_commit, show
from prunelab.project.metrics import ReadText, parse_mapping, read_if_present, read_metrics
from prunelab.project.paths import DENSE_METRICS, LOCK_FILE, METRICS

WORKSPACE, HEAD = "workspace", "HEAD"
MAX_INTEGER = 2**63  # larger ones are shown abbreviated


@dataclass(frozen=True)
class RevisionResult:
    """The parameters of a revision by dotted key, and the metrics of its focus and dense network.

    `commit` is None for the workspace. `stale` names the parameters whose values differ from those
    in dvc.lock: the metrics were measured with the values in dvc.lock.
    """

    name: str
    commit: str | None
    params: dict[str, Any]
    metrics: dict[str, float]
    dense: dict[str, float]
    stale: list[str]


def read_revisions(root: Path, names: Sequence[str]) -> tuple[list[RevisionResult], dict[str, str]]:
    """Return the results of revisions, and why others have none, by name.

    A name is `workspace`, anything that Git resolves to a commit, or the name of an experiment.
    Without names, the revisions are the workspace, HEAD and all experiments derived from HEAD.

    Raises:
        InputError: for every unknown name, with similar names that exist.
    """
    results = []
    reasons = {}
    for name, commit in resolve_commits(root, names or _default_names(root)).items():
        try:
            results.append(_read_revision(name, commit, _reader(root, commit)))
        except (InputError, OSError, UnicodeDecodeError) as error:
            reasons[name] = " ".join(str(error).split())
    return results, reasons


def _default_names(root: Path) -> list[str]:
    require_commit(root)
    head = git(root, "rev-parse", HEAD).strip()
    derived = [experiment.name for experiment in experiments(root) if experiment.baseline == head]
    oldest_first = reversed(derived)
    return [WORKSPACE, HEAD, *oldest_first]


def resolve_commits(root: Path, names: Sequence[str]) -> dict[str, str | None]:
    """Return the commit of each name, None for the workspace.

    Raises:
        InputError: for every unknown name, with similar names that exist; for any name but the
            workspace, if no commit of a Git repository holds the project.
    """
    if set(names) == {WORKSPACE}:
        return {WORKSPACE: None}
    require_commit(root)

    experiment_commits = _experiment_commits(root, names)
    commits: dict[str, str | None] = {}
    unknown = []
    for name in names:
        if name == WORKSPACE:
            commits[name] = None
            continue
        commit = _git_commit(root, name) or experiment_commits.get(name)
        if commit is None:
            unknown.append(name)
        commits[name] = commit

    if unknown:
        name_format = "--format=%(refname:short)"
        branches = git(root, "for-each-ref", name_format, "refs/heads", "refs/tags").split()
        known = [WORKSPACE, HEAD, *branches, *experiment_commits]
        raise InputError(_unknown_revision(name, known) for name in unknown)
    return commits


def _experiment_commits(root: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the commit of every experiment by name.

    Of experiments with the same name, one derived from HEAD wins, then one that the code of HEAD
    made, then the newest. Code is looked at for `names` alone.
    """
    head = git(root, "rev-parse", HEAD).strip()
    newest_first: dict[str, list[Experiment]] = {}
    for experiment in experiments(root):
        newest_first.setdefault(experiment.name, []).append(experiment)

    wanted = set(names)
    commits = {}
    for name, candidates in newest_first.items():
        preferred = [candidate for candidate in candidates if candidate.baseline == head]
        if not preferred and len(candidates) > 1 and name in wanted:
            preferred = [each for each in candidates if _is_of_current_code(root, each)]
        commits[name] = [*preferred, *candidates][0].commit
    return commits


def _is_of_current_code(root: Path, experiment: Experiment) -> bool:
    """Whether the code of HEAD made an experiment: that code may have been changed and restored."""
    try:
        return code_of(root, experiment.commit) == current_code(root)
    except InputError:  # one made by hand may not say what made it
        return False


def _git_commit(root: Path, name: str) -> str | None:
    options = ("--verify", "--quiet", "--end-of-options")
    try:
        return git(root, "rev-parse", *options, f"{name}^{{commit}}").strip()
    except InputError:
        return None


def _unknown_revision(name: str, known: Iterable[str]) -> str:
    guess = ""
    similar = get_close_matches(name, list(known), n=3)
    if similar:
        guess = f" (did you mean {' or '.join(map(repr, similar))}?)"
    return (
        f"unknown revision {name!r}{guess}; valid: {WORKSPACE}, a commit, branch or tag of Git, "
        "the name of an experiment"
    )


def _reader(root: Path, commit: str | None) -> ReadText:
    if commit is None:
        return lambda path: (root / path).read_text(encoding="utf-8")
    return lambda path: show(root, commit, path)


def _read_revision(name: str, commit: str | None, read: ReadText) -> RevisionResult:
    metrics = read_metrics(METRICS, read)
    dense = read_metrics(DENSE_METRICS, read)
    params = parse_mapping(PARAMS_FILE, read(PARAMS_FILE), parse_yaml)
    lock = _read_lock(read)
    displayed = {key: _displayed(value) for key, value in flatten(params).items()}
    return RevisionResult(name, commit, displayed, metrics, dense, _stale_keys(params, lock))


def _read_lock(read: ReadText) -> dict[str, Any]:
    """Return the content of dvc.lock; empty if there is none, so that nothing is stale."""
    text = read_if_present(LOCK_FILE, read)
    if not text:
        return {}
    return parse_mapping(LOCK_FILE, text, partial(parse_yaml, fast=True))


def _stale_keys(params: Mapping[str, Any], lock: Mapping[str, Any]) -> list[str]:
    """Return the keys with which the stages of the focus last ran at other values."""
    locked_values: dict[str, Any] = {}
    for name, stage in nested_mapping(lock, "stages").items():
        is_of_the_focus = "@" not in str(name) and name != "plot"
        if is_of_the_focus:
            locked_values.update(flatten(nested_mapping(stage, "params", str(PARAMS_FILE))))

    values = flatten(params)
    stale = []
    for key, locked_value in locked_values.items():
        if key in values and values[key] != locked_value:
            stale.append(key)
    return sorted(stale)


def _displayed(value: Any) -> Any:
    """Return a parameter as it is; abbreviated text for a date, a huge integer and the like."""
    if isinstance(value, list):
        return [_displayed(entry) for entry in value]
    if isinstance(value, bool | float | str | Mapping | None):
        return value
    if isinstance(value, int) and abs(value) < MAX_INTEGER:
        return value
    return abbreviate(value)
