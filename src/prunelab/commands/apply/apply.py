"""What `prunelab apply` does: gather what an experiment changes, check, and only then write."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.config.edit_params import with_values
from prunelab.config.params import PARAMS_FILE, parse_params
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.files import write
from prunelab.core.mappings import flatten
from prunelab.project.dvc_graph import load_pipeline, open_repo, up_to_date
from prunelab.project.dvc_lock import HEADER, join_entries, split_entries
from prunelab.project.experiments import StageClosure, experiments, stage_closure
from prunelab.project.git import blobs, changed_files, git, holds, show
from prunelab.project.metrics import parse_mapping
from prunelab.project.outputs import restore_stages
from prunelab.project.paths import DENSE_ENVIRONMENT, ENVIRONMENT, LOCK_FILE, TARGET
from prunelab.project.revisions import HEAD, WORKSPACE, resolve_commits
from prunelab.project.trees import Tree

PrintLine = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """What an experiment changes in the tree.

    `params` and `lock` are the new texts of params.yaml and dvc.lock. `keys` are the parameters
    that change, dotted. `restored` are the files of results that its commit has with another
    content, and `removed` those that only the tree has.
    """

    name: str
    commit: str
    params: str
    keys: list[str]
    lock: str
    restored: list[str]
    removed: list[str]


def apply_revision(root: Path, name: str, *, stash: bool, print_line: PrintLine) -> None:
    """Bring the parameters and the results of a revision's focus into the tree.

    Raises:
        InputError: for an unknown revision, one without results, or edits in the way; nothing is
            changed then.
    """
    commit = resolve_commits(root, [name])[name]
    if commit is None:
        raise InputError(f"{WORKSPACE} is what is here already; valid: an experiment, a commit")

    closure = stage_closure((root / "dvc.yaml").read_text(encoding="utf-8"))
    change = gather(root, name, commit, closure)
    edits = edits_in_the_way(root, change, closure)
    if edits and not stash:
        advice = f"commit it, or set it aside: prunelab apply {name} --stash"
        raise InputError(f"{edit} is in no commit and in no experiment; {advice}" for edit in edits)

    edited_files = list(edits.values())
    with _restored_on_failure(root, change, edited_files):
        write(root / LOCK_FILE, change.lock.encode())
        missing = restore_stages(root, closure.stages)
        _write_results(root, change)
        write(root / PARAMS_FILE, change.params.encode())

    for line in _describe(root, change, missing, edited_files):
        print_line(line)


def gather(root: Path, name: str, commit: str, closure: StageClosure) -> Change:
    """Return what a commit changes in the tree.

    Raises:
        InputError: if the commit has no results of the focus, or parameters that are not valid
            here, or if params.yaml or a dvc.lock is damaged.
    """
    text_here = (root / PARAMS_FILE).read_text(encoding="utf-8")
    parse_mapping(PARAMS_FILE, text_here, parse_yaml)  # `with_values` would not name the file
    committed = parse_mapping(PARAMS_FILE, show(root, commit, PARAMS_FILE), parse_yaml)
    text = with_values(text_here, _read_by_focus(closure, committed))
    _check_params(name, text)

    values_here, values = _flat(closure, text_here), _flat(closure, text)
    all_keys = sorted({*values_here, *values})
    keys = [key for key in all_keys if values.get(key) != values_here.get(key)]

    lock = _merged_lock(root, name, commit, closure)
    restored, removed = _differing_results(root, name, commit, closure)
    return Change(name, commit, text, keys, lock, restored, removed)


def _flat(closure: StageClosure, text: str) -> dict[str, Any]:
    """Return the parameters that the focus reads in the text of a params.yaml, by dotted key."""
    return flatten(closure.select(parse_yaml(text)))


def _read_by_focus(closure: StageClosure, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that the focus reads, in sections; without those that are missing."""
    content: dict[str, Any] = {}
    for key in closure.parameters:
        section, _, inner_key = key.partition(".")
        if section not in params:
            continue
        if not inner_key:
            content[section] = params[section]
        elif inner_key in params[section]:
            content.setdefault(section, {})[inner_key] = params[section][inner_key]
    return content


def _check_params(name: str, text: str) -> None:
    try:
        parse_params(parse_yaml(text))
    except InputError as error:
        raise InputError(
            f"with the parameters of {name}, {PARAMS_FILE} would not be valid: {problem}"
            for problem in error.problems
        ) from None


def _merged_lock(root: Path, name: str, commit: str, closure: StageClosure) -> str:
    """Return the text of dvc.lock with the commit's entries of the focus; others stay."""
    committed = None
    if holds(root, commit, LOCK_FILE):
        committed = split_entries(show(root, commit, LOCK_FILE))
    if not committed or TARGET not in committed:
        raise InputError(f"{name} has no result: its {LOCK_FILE} has no entry of {TARGET}")

    text = HEADER
    if (root / LOCK_FILE).exists():
        text = (root / LOCK_FILE).read_text(encoding="utf-8")
    entries = split_entries(text)
    if entries is None:
        raise InputError(f"{LOCK_FILE} is damaged; type: git restore {LOCK_FILE}")

    order = list(entries)
    for stage in closure.stages:
        if stage in committed and not _is_same_work(committed[stage], entries.get(stage)):
            entries[stage] = committed[stage]
    return join_entries(entries, order)


def _is_same_work(entry: str, other_entry: str | None) -> bool:
    """Whether two entries of dvc.lock have the same outputs of the same command and parameters.

    They may have read other files. The entry here then knows the code that is here.
    """
    if other_entry is None:
        return False
    works = []
    for text in (entry, other_entry):
        (work,) = parse_yaml(text, fast=True).values()
        works.append({key: value for key, value in work.items() if key != "deps"})
    return bool(works[0] == works[1])


def _differing_results(
    root: Path, name: str, commit: str, closure: StageClosure
) -> tuple[list[str], list[str]]:
    """Return the files of results that differ from a commit, and those that it does not have."""
    committed: dict[str, str] = {}
    for path in _result_paths(closure):
        committed |= Tree(root, name, commit).files(path)
    here = _results_here(root, closure)

    restored = [path for path, digest in committed.items() if here.get(path) != digest]
    removed = [path for path in here if path not in committed]
    return restored, removed


def _results_here(root: Path, closure: StageClosure) -> dict[str, str]:
    """Return Git's hash of every file of results in the tree, by path."""
    hashes: dict[str, str] = {}
    for path in _result_paths(closure):
        hashes |= Tree(root, WORKSPACE, None).files(path)
    return hashes


def _result_paths(closure: StageClosure) -> list[str]:
    return [*closure.outputs_in_git, str(ENVIRONMENT), str(DENSE_ENVIRONMENT)]


def edits_in_the_way(root: Path, change: Change, closure: StageClosure) -> dict[str, str]:
    """Return what would be lost, as a text for each, and the file that it is in.

    A content that the last commit or any experiment has is not lost. `dvc exp run` leaves such
    contents in the tree.
    """
    commits = [HEAD, change.commit, *(experiment.commit for experiment in experiments(root))]

    edits = {}
    for key in _edited_keys(root, change.keys, closure, commits):
        edits[f"{key} in {PARAMS_FILE}"] = str(PARAMS_FILE)

    here = _results_here(root, closure)
    overwritten = [path for path in [*change.restored, *change.removed] if path in here]
    known = blobs(root, commits, overwritten)
    for path in overwritten:
        if here[path] not in known[path]:
            edits[path] = path
    return edits


def _edited_keys(
    root: Path, keys: Sequence[str], closure: StageClosure, commits: Sequence[str]
) -> list[str]:
    """Return those of the keys whose value in the tree is in none of the commits."""
    values = _flat(closure, (root / PARAMS_FILE).read_text(encoding="utf-8"))
    edited = list(keys)
    for commit in _different_params(root, commits):
        if not edited:
            break
        known = _flat(closure, show(root, commit, PARAMS_FILE))
        edited = [key for key in edited if values.get(key) != known.get(key)]
    return edited


def _different_params(root: Path, commits: Sequence[str]) -> Iterator[str]:
    """Yield the commits whose params.yaml no earlier commit of the sequence has."""
    seen: set[str] = set()
    for commit in commits:
        hashes = blobs(root, [commit], [str(PARAMS_FILE)])[str(PARAMS_FILE)]
        if hashes - seen:
            yield commit
        seen |= hashes


@contextmanager
def _restored_on_failure(root: Path, change: Change, edited_files: Sequence[str]) -> Iterator[None]:
    """Put edited files into Git's stash; on failure, give all files their former content."""
    paths = [str(LOCK_FILE), str(PARAMS_FILE), *change.restored, *change.removed]
    before = {}
    for path in paths:
        if (root / path).exists():
            before[path] = (root / path).read_bytes()

    stashed = bool(edited_files) and _stash(root, change.name, edited_files)
    try:
        yield
    except BaseException:
        for path in paths:
            if path in before:
                write(root / path, before[path])
            else:
                (root / path).unlink(missing_ok=True)
        if stashed:
            git(root, "stash", "drop", "--quiet")
        raise


def _stash(root: Path, name: str, edited_files: Sequence[str]) -> bool:
    """Put files into Git's stash, and dvc.lock with them; return whether it has a new entry."""
    changed = changed_files(root, str(LOCK_FILE), *edited_files)
    entries = git(root, "stash", "list")
    message = f"before prunelab apply {name}"
    git(root, "stash", "push", "--quiet", "--include-untracked", "-m", message, "--", *changed)
    return git(root, "stash", "list") != entries


def _write_results(root: Path, change: Change) -> None:
    if change.restored:
        git(root, "restore", f"--source={change.commit}", "--worktree", "--", *change.restored)
    for path in change.removed:
        (root / path).unlink(missing_ok=True)


def _describe(
    root: Path, change: Change, missing: Sequence[str], edited_files: Sequence[str]
) -> Iterator[str]:
    """Yield lines on what was done, and on what is left to do."""
    if edited_files:
        files = ", ".join(dict.fromkeys(edited_files))
        yield f"put into Git's stash: {files} (git stash show -p)"

    keys = ", ".join(change.keys) or "none differ"
    files = ", ".join([*change.restored, *change.removed]) or "none differ"
    yield f"{change.name} is here. Parameters: {keys}. Files of results: {files}."

    if missing:
        yield (
            f"not in DVC's cache: {', '.join(missing)}; type: dvc pull --with-deps {TARGET}, "
            f"or make them again: prunelab repro {TARGET}"
        )
        return

    stale = _stale_stages(root)
    if stale:
        yield (
            f"not of the code and files here: {', '.join(stale)}; "
            f"prunelab repro {TARGET} brings them up to date"
        )


def _stale_stages(root: Path) -> list[str]:
    # DVC names stages relative to the current folder.
    with chdir(root), open_repo(root) as repo:
        pipeline = load_pipeline(repo, [TARGET])
        unchanged = up_to_date(repo, pipeline)
    return [name for name in pipeline.stages if name not in unchanged]
