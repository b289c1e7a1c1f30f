"""What the focus is and does in the workspace, in Git's commits and in DVC's experiments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from prunelab.config.params import PARAMS_FILE
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.files import parse_json
from prunelab.core.text import abbreviate
from prunelab.project.experiments import experiments
from prunelab.project.git import git
from prunelab.project.paths import DENSE_METRICS, METRICS

WORKSPACE, HEAD = "workspace", "HEAD"
LOCK = Path("dvc.lock")
Read = Callable[[Path], str]  # raises OSError or InputError where there is no such file


@dataclass(frozen=True)
class Revision:
    """The parameters of a revision, by dotted keys, what was measured of its focus and of its dense network.

    `commit` is None for the workspace. `stale` are the keys whose values dvc.lock remembers otherwise: the numbers are
    not theirs.
    """

    name: str
    commit: str | None
    params: dict[str, Any]
    metrics: dict[str, float]
    dense: dict[str, float]
    stale: list[str]


def read_revisions(root: Path, names: Sequence[str]) -> tuple[list[Revision], dict[str, str]]:
    """The revisions of these names, and by name why others have nothing to show.

    A name is `workspace`, whatever Git takes for a commit, or an experiment's; without any they are the workspace, HEAD
    and the experiments derived from it.

    Raises:
        InputError: for each name that is none of these, with names that are like it.
    """
    found, without = [], {}
    for name, commit in resolve(root, names or _ours(root)).items():
        try:
            found.append(_revision(name, commit, _reader(root, commit)))
        except (InputError, OSError, UnicodeDecodeError) as error:
            without[name] = " ".join(str(error).split())
    return found, without


def _ours(root: Path) -> list[str]:
    head = git(root, "rev-parse", HEAD).strip()
    derived = [one.name for one in experiments(root) if one.baseline == head]
    return [WORKSPACE, HEAD, *reversed(derived)]  # the oldest first


def resolve(root: Path, names: Sequence[str]) -> dict[str, str | None]:
    """The commit that each name stands for; None for the workspace.

    Raises:
        InputError: for each name that is unknown, with names that are like it.
    """
    head, known = git(root, "rev-parse", HEAD).strip(), list(experiments(root))[::-1]
    # The newest of a name, and one of this commit rather than any other.
    commits = {one.name: one.commit for one in sorted(known, key=lambda one: one.baseline == head)}
    found = {
        name: None if name == WORKSPACE else _commit(root, name) or commits.get(name, "")
        for name in names
    }
    if unknown := [name for name, commit in found.items() if commit == ""]:
        branches = git(
            root, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags"
        ).split()
        raise InputError(_unknown(name, [WORKSPACE, HEAD, *branches, *commits]) for name in unknown)
    return found


def _commit(root: Path, name: str) -> str:
    try:
        return git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        ).strip()
    except InputError:
        return ""


def _reader(root: Path, commit: str | None) -> Read:
    if commit is None:
        return lambda path: (root / path).read_text()
    return lambda path: git(root, "show", f"{commit}:{path}")


def _unknown(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=3)
    guess = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    return f"unknown revision {name!r}{guess}; valid: {WORKSPACE}, what Git takes for a commit, an experiment's name"


def _revision(name: str, commit: str | None, read: Read) -> Revision:
    metrics, dense = (_mapping(path, parse_json, read) for path in (METRICS, DENSE_METRICS))
    params = _mapping(PARAMS_FILE, parse_yaml, read)
    try:
        text = read(LOCK)
    except (InputError, OSError):
        text = ""  # nothing that could contradict
    lock = _mapping(LOCK, partial(parse_yaml, fast=True), lambda _: text) if text else {}
    shown = {key: _shown(value) for key, value in flatten(params).items()}
    return Revision(name, commit, shown, metrics, dense, _stale(params, lock))


def _mapping(path: Path, parse: Callable[[str], Any], read: Read) -> dict[str, Any]:
    text = read(path)
    try:
        content = parse(text)
    except InputError as refused:
        raise InputError(f"{path} {refused}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a mapping")
    return content


def _stale(params: Mapping[str, Any], lock: Mapping[str, Any]) -> list[str]:
    """The keys that the stages of the focus last ran with other values of."""
    ran = [
        stage
        for name, stage in inner(lock, "stages").items()
        if "@" not in str(name) and name != "plot"
    ]
    now = flatten(params)
    before = {
        key: value
        for stage in ran
        for key, value in flatten(inner(stage, "params", str(PARAMS_FILE))).items()
    }
    return sorted(key for key in before if key in now and now[key] != before[key])


def inner(content: Any, *keys: str) -> Mapping[str, Any]:
    """What stands under these keys, from the outside in; empty where that is no mapping."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys; lists and empty sections are values."""
    values: dict[str, Any] = {}
    for key, value in content.items():
        values |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, Mapping) and value
            else {f"{prefix}{key}": value}
        )
    return values


def _shown(value: Any) -> Any:
    """A parameter as it is, or in words if it is of no kind that there is: a date, a number of thousands of digits."""
    if isinstance(value, list):
        return [_shown(one) for one in value]
    is_one = isinstance(value, bool | float | str | Mapping | None) or (
        isinstance(value, int) and abs(value) < 2**63
    )
    return value if is_one else abbreviate(value)
