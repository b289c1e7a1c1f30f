"""The Markdown of a review: the verdict in a few lines, then what moved, then everything else folded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from prunelab.commands.review.pictures import AFTER, BEFORE, Picture, twins
from prunelab.commands.review.result_tables import ACCURACY, every_metric, headline, shown, verdict
from prunelab.commands.review.significance import Configuration
from prunelab.config.params import PARAMS_FILE
from prunelab.core.escape import as_code
from prunelab.project.environments import Environments
from prunelab.project.lock_state import Differences, Lock
from prunelab.report.labels import abbreviate
from prunelab.report.markdown import details_block, image, link, table
from prunelab.report.pareto import is_basis


@dataclass(frozen=True)
class Findings:
    """All that a review tells; `behind`: commits of the base that the other side does not have."""

    before: tuple[str, str]  # the name and what it stands for
    after: tuple[str, str]
    behind: int
    lock: Lock
    configurations: Sequence[Configuration]
    params: Differences
    pictures: Sequence[Picture]
    environments: Environments
    troubles: Sequence[str]


def document(found: Findings, pictures: PurePosixPath | None = None) -> str:
    """The whole text. `pictures` is the folder of their copies, as the document's reader gets there."""
    params = [
        [
            as_code(key if path == str(PARAMS_FILE) else f"{path}: {key}"),
            _value(its.get("old")),
            _value(its.get("new")),
        ]
        for path, keys in sorted(found.params.items())
        for key, its in sorted(keys.items())
    ]
    (base, base_is), (head, head_is) = found.before, found.after
    parts = [
        f"# Results of {as_code(head)} against {as_code(base)}",
        "\n".join(
            [
                _lock(found.lock),
                *verdict(found.configurations),
                *_counts(found, params),
                *_warnings(found),
            ]
        ),
        *headline(found.configurations),
    ]
    if params:
        parts.append(
            details_block(
                f"Parameters: {len(params):,} changed",
                table(["parameter", "before", "after"], params),
            )
        )
    parts += every_metric(found.configurations)
    parts += _pictures(found.pictures, pictures)
    parts += _environments(found.environments)
    parts += [
        details_block(
            "How to read this",
            *_notes(f"{as_code(base)} is {base_is}; {as_code(head)} is {head_is}."),
        )
    ]
    return "\n\n".join(parts) + "\n"


def _lock(lock: Lock) -> str:
    if lock.trouble:
        return f"- **dvc.lock cannot be checked**: {as_code(lock.trouble)}"
    if not lock.stages:
        return "- dvc.lock is up to date: these are the numbers of this code and these parameters."
    return (
        f"- **dvc.lock is stale, and what follows may be the numbers of other code or parameters.** "
        f"`dvc repro` would run {abbreviate([as_code(stage) for stage in lock.stages])} and what rests on it."
    )


def _counts(found: Findings, params: Sequence[Sequence[str]]) -> list[str]:
    differing = list(dict.fromkeys(key for key, _, _ in found.environments.differing))
    names = [as_code(path) for path in twins([one for one in found.pictures if one.stored])]
    return [
        f"- Parameters: {abbreviate([row[0] for row in params])}{' changed' if params else 'none changed'}.",
        f"- Pictures: {abbreviate(names) + ' changed' if names else 'none changed'}.",
        f"- Environment: {abbreviate([as_code(key) for key in differing]) + ' differ' if differing else 'the same'}.",
    ]


def _warnings(found: Findings) -> list[str]:
    told = [
        f"- **DVC could not read everything**: {as_code(trouble)}" for trouble in found.troubles
    ]
    basis = [
        key
        for key in sorted(found.params.get(str(PARAMS_FILE), {}))
        if is_basis(key)
    ]
    if basis and any(one.change(ACCURACY).difference for one in found.configurations):
        told.append(
            f"- **Not like for like**: {abbreviate([as_code(key) for key in basis])} made other data or other dense networks, "
            "so accuracies changed for more reasons than pruning."
        )
    if found.behind:
        told.append(
            f"- **{as_code(found.before[0])} has {found.behind:,} commit{'s' * (found.behind > 1)} that "
            f"{as_code(found.after[0])} lacks**: what they changed shows here backwards. Merge them first, or name "
            "the commit that `git merge-base` finds."
        )
    if found.environments.astray:
        told.append(
            f"- Environments that belong to other numbers, and are left out: "
            f"{abbreviate([as_code(name) for name in found.environments.astray])}."
        )
    return told


def _pictures(pictures: Sequence[Picture], folder: PurePosixPath | None) -> list[str]:
    stored = twins([one for one in pictures if one.stored])
    absent = [
        [as_code(one.path), one.what, "absent: DVC keeps it, Git does not"]
        for one in pictures
        if not one.stored
    ]
    rows = [
        [
            as_code(stem),
            ", ".join(f"{PurePosixPath(one.path).suffix} {one.what}" for one in formats),
        ]
        + [_copy(formats, side, folder) for side in (BEFORE, AFTER)]
        for stem, formats in stored.items()
    ]
    tables = [table(["picture", "", BEFORE, AFTER], rows)] if rows else []
    tables += [table(["plot", "", ""], absent)] if absent else []
    count = f"{len(rows):,} changed" + (f", {len(absent):,} not in Git" if absent else "")
    return [details_block(f"Pictures: {count}", *tables)] if tables else []


def _copy(formats: Sequence[Picture], side: str, folder: PurePosixPath | None) -> str:
    there = [
        PurePosixPath(side) / one.path
        for one in formats
        if (one.before if side == BEFORE else one.after)
    ]
    if not there:
        return "none"
    if folder is None:
        return "in Git"
    first, *others = [folder / path for path in there]
    return " ".join([image(side, first), *(link(path.suffix[1:], path) for path in others)])


def _environments(found: Environments) -> list[str]:
    rows = [
        [as_code(key), _value(old), _value(new), f"all {found.compared}" if len(names) == found.compared else
         abbreviate([as_code(name) for name in names])]
        for (key, old, new), names in found.differing.items()
    ]  # fmt: skip
    header = ["", "before", "after", "configurations"]
    return (
        [details_block(f"Environment: {len(rows):,} differences", table(header, rows))]
        if rows
        else []
    )


def _value(value: Any) -> str:
    return (
        "—"
        if value is None
        else shown(value)
        if isinstance(value, int) and value is not True
        else as_code(value)
    )


def _notes(sides: str) -> list[str]:
    return [
        sides,
        "± is half the 95 % interval. That of a change is √(before² + after²), as for two results that have nothing "
        "to do with each other. What the networks said of every image is not in Git, so nothing is paired; as "
        "both sides share test images and seeds, the interval is rather too wide than too narrow. "
        '"within" means that the change may be chance, "beyond" that it hardly is; each by itself: of twenty '
        "configurations that did not change, one will seem to have.",
        '"exact": counts, and ratios of counts, where any change is a change. "no interval known": a measurement '
        "whose scatter was not measured, so that nothing can be said about chance.",
        "— stands for a value that is null or not there. Compiled from Git alone: no data, no models, no remote.",
    ]
