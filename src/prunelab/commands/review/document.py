"""The Markdown of a review: a summary in a few lines, what changed, then all details folded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from prunelab.commands.review.pictures import AFTER, BEFORE, Picture, by_stem
from prunelab.commands.review.result_tables import (
    ACCURACY,
    every_metric,
    headline,
    shown,
    summary_lines,
)
from prunelab.commands.review.significance import Configuration
from prunelab.config.params import PARAMS_FILE
from prunelab.core.escape import as_code
from prunelab.core.plurals import counted
from prunelab.core.text import name_list
from prunelab.project.environments import EnvironmentDiff
from prunelab.project.lock_state import Differences, LockState
from prunelab.report.markdown import details_block, image, link, table
from prunelab.report.pareto import BASIS, BASIS_BUT

Rows = list[list[str]]


@dataclass(frozen=True)
class ReviewResult:
    """Everything that a review shows.

    `before` and `after` hold a revision's name and what it stands for. `commits_behind` counts the
    commits of the base that the other side lacks. `troubles` are what could not be read.
    """

    before: tuple[str, str]
    after: tuple[str, str]
    commits_behind: int
    lock: LockState
    configurations: Sequence[Configuration]
    params: Differences
    pictures: Sequence[Picture]
    environments: EnvironmentDiff
    troubles: Sequence[str]


def document(result: ReviewResult, pictures: PurePosixPath | None = None) -> str:
    """The whole text.

    `pictures` is the folder of the copied pictures, as a path from where the document lies; None if
    they were not copied.
    """
    base, base_stands_for = result.before
    head, head_stands_for = result.after
    base, head = as_code(base), as_code(head)
    changed_params = _params_rows(result.params)

    summary = [
        _lock_line(result.lock),
        *summary_lines(result.configurations),
        *_counts(result, changed_params),
        *_warnings(result),
    ]
    parts = [f"# Results of {head} against {base}", "\n".join(summary)]
    parts += headline(result.configurations)

    if changed_params:
        params_table = table(["parameter", "before", "after"], changed_params)
        parts.append(details_block(f"Parameters: {len(changed_params):,} changed", params_table))
    parts += every_metric(result.configurations)
    parts += _pictures(result.pictures, pictures)
    parts += _environments(result.environments)

    notes = _notes(f"{base} is {base_stands_for}; {head} is {head_stands_for}.")
    parts.append(details_block("How to read this", *notes))

    return "\n\n".join(parts) + "\n"


def _params_rows(params: Differences) -> Rows:
    rows = []
    for path, changes in sorted(params.items()):
        for key, change in sorted(changes.items()):
            place = f"{path}: {key}"
            if path == str(PARAMS_FILE):
                place = key
            rows.append([as_code(place), _value(change.get("old")), _value(change.get("new"))])
    return rows


def _lock_line(lock: LockState) -> str:
    if lock.trouble:
        return f"- **dvc.lock cannot be checked**: {as_code(lock.trouble)}"
    if not lock.stages:
        return "- dvc.lock is up to date: these are the numbers of this code and these parameters."

    stages = _code_list(lock.stages)
    return (
        "- **dvc.lock is stale, and what follows may be the numbers of other code or parameters.** "
        f"`dvc repro` would run {stages} and what depends on it."
    )


def _code_list(names: Iterable[Any]) -> str:
    """The first names, each as code, and the number of others."""
    return name_list([as_code(name) for name in names])


def _counts(result: ReviewResult, changed_params: Rows) -> list[str]:
    params = pictures = "none changed"
    environment = "the same" if result.environments.compared else "not compared"

    if changed_params:
        params = f"{name_list([row[0] for row in changed_params])} changed"

    stored = [picture for picture in result.pictures if picture.stored]
    if stored:
        pictures = f"{_code_list(by_stem(stored))} changed"

    differing = dict.fromkeys(key for key, _, _ in result.environments.differing)
    if differing:
        verb = "differs" if len(differing) == 1 else "differ"
        environment = f"{_code_list(differing)} {verb}"

    return [
        f"- Parameters: {params}.",
        f"- Pictures: {pictures}.",
        f"- Environment: {environment}.",
    ]


def _warnings(result: ReviewResult) -> list[str]:
    warnings = [
        f"- **Not everything could be read**: {as_code(trouble)}" for trouble in result.troubles
    ]

    basis = _changed_basis(result.params)
    if basis and any(entry.change(ACCURACY).difference for entry in result.configurations):
        keys = _code_list(basis)
        warnings.append(
            f"- **Not like for like**: {keys} made other data or other dense networks, "
            "so accuracies changed for more reasons than pruning."
        )

    if result.commits_behind:
        commits = counted(result.commits_behind, "commit")
        warnings.append(
            f"- **{as_code(result.before[0])} has {commits} that "
            f"{as_code(result.after[0])} lacks**: what they changed shows here backwards. "
            "Merge them first, or name the commit that `git merge-base` finds."
        )

    mismatched = result.environments.mismatched
    if mismatched:
        warnings.append(
            "- Environments that belong to other numbers, and are left out: "
            f"{_code_list(mismatched)}."
        )
    return warnings


def _changed_basis(params: Differences) -> list[str]:
    """Changed parameters on which data and dense networks depend, by name."""
    changed = sorted(params.get(str(PARAMS_FILE), {}))
    return [key for key in changed if key.startswith(BASIS) and key not in BASIS_BUT]


def _pictures(pictures: Sequence[Picture], folder: PurePosixPath | None) -> list[str]:
    """The section of pictures; empty if none changed."""
    stored = [picture for picture in pictures if picture.stored]
    rows = []
    for stem, formats in by_stem(stored).items():
        what = [f"{PurePosixPath(entry.path).suffix} {entry.what}" for entry in formats]
        before = _copies([entry.path for entry in formats if entry.before], BEFORE, folder)
        after = _copies([entry.path for entry in formats if entry.after], AFTER, folder)
        rows.append([as_code(stem), ", ".join(what), before, after])

    absent = []
    for picture in pictures:
        if not picture.stored:
            note = "absent: DVC keeps it, Git does not"
            absent.append([as_code(picture.path), picture.what, note])

    count = f"{len(rows):,} changed"
    tables = []
    if rows:
        tables.append(table(["picture", "", BEFORE, AFTER], rows))
    if absent:
        tables.append(table(["plot", "", ""], absent))
        count += f", {len(absent):,} not in Git"

    if not tables:
        return []
    return [details_block(f"Pictures: {count}", *tables)]


def _copies(paths: Sequence[str], side: str, folder: PurePosixPath | None) -> str:
    """The first format as a picture, the others as links to its copies."""
    if not paths:
        return "none"
    if folder is None:
        return "in Git"

    first, *others = [folder / side / path for path in paths]
    links = [link(path.suffix[1:], path) for path in others]
    return " ".join([image(side, first), *links])


def _environments(environments: EnvironmentDiff) -> list[str]:
    """The section of environments; empty if they are the same."""
    rows = []
    for (key, old, new), names in environments.differing.items():
        where = _code_list(names)
        if len(names) == environments.compared:
            where = f"all {environments.compared}"
        rows.append([as_code(key), _value(old), _value(new), where])

    if not rows:
        return []
    differences = table(["", "before", "after", "configurations"], rows)
    title = f"Environment: {counted(len(rows), 'difference')}"
    return [details_block(title, differences)]


def _value(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, int) and value is not True:
        return shown(value)
    return as_code(value)


def _notes(sides: str) -> list[str]:
    return [
        sides,
        "± is half the 95 % interval. That of a change is √(before² + after²), which treats the "
        "two results as independent. Git does not hold the predictions for every image, so nothing "
        "is paired. Both sides share test images and seeds, so the interval is rather too wide "
        'than too narrow. "within" means that the change may be chance, "beyond" that it hardly '
        "is. Of twenty configurations that did not change, about one will seem to have.",
        '"exact": counts, and ratios of counts, where any change is a change. "no interval known": '
        "a measurement whose scatter was not measured, so nothing is known about chance.",
        "— stands for a value that is null or not there. "
        "Compiled from Git alone: no data, no models, no remote.",
    ]
