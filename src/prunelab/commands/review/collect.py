"""Gather what a review tells: two revisions, read out of Git by way of DVC."""

from pathlib import Path

from prunelab.commands.review.document import Findings
from prunelab.commands.review.pictures import changed_pictures
from prunelab.commands.review.significance import configurations
from prunelab.core.errors import InputError
from prunelab.project.environments import environments
from prunelab.project.git import git
from prunelab.project.lock_state import differences, lock_state
from prunelab.project.revisions import HEAD, WORKSPACE, resolve
from prunelab.project.trees import Tree


def sides(root: Path, base: str, head: str) -> tuple[Tree, Tree]:
    """Both sides of a review.

    Raises:
        InputError: for unknown revisions, a base that is no commit, or a folder that holds no pipeline.
    """
    if not (root / "dvc.yaml").is_file():
        raise InputError("no dvc.yaml here; run this in the top folder of a study")
    commits = resolve(root, [base, head])
    if commits[base] is None:
        raise InputError(
            f"BASE: {WORKSPACE} is no revision to start from; valid: a commit, a branch, an experiment"
        )
    return Tree(root, base, commits[base]), Tree(root, head, commits[head])


def findings(before: Tree, after: Tree) -> Findings:
    metrics, unread = differences("metrics", before, after)
    params, unread_too = differences("params", before, after)
    behind = git(before.root, "rev-list", "--count", f"{after.commit or HEAD}..{before.commit}")
    return Findings(
        before=(before.name, before.told()),
        after=(after.name, after.told()),
        behind=int(behind),
        lock=lock_state(after),
        configurations=configurations(metrics),
        params=params,
        pictures=changed_pictures(before, after),
        environments=environments(before, after),
        troubles=[trouble for trouble in dict.fromkeys((unread, unread_too)) if trouble],
    )
