"""Collect what a review shows of two revisions, from Git and by way of DVC."""

from pathlib import Path

from prunelab.commands.review.document import ReviewResult
from prunelab.commands.review.own_metrics import own_metrics
from prunelab.commands.review.pictures import changed_pictures
from prunelab.commands.review.significance import configurations
from prunelab.core.errors import InputError
from prunelab.core.project_root import where_to_go
from prunelab.project.environments import compare_environments
from prunelab.project.git import git
from prunelab.project.lock_state import dvc_diff, lock_state
from prunelab.project.revisions import HEAD, WORKSPACE, resolve_commits
from prunelab.project.trees import Tree


def sides(root: Path, base: str, head: str) -> tuple[Tree, Tree]:
    """Both sides of a review.

    Raises:
        InputError: for unknown revisions, a base that is no commit, or a folder without a pipeline.
    """
    if not (root / "dvc.yaml").is_file():
        raise InputError(f"no dvc.yaml here. {where_to_go()}")

    commits = resolve_commits(root, [base, head])
    if commits[base] is None:
        raise InputError(
            f"BASE: {WORKSPACE} is no revision to start from; "
            "valid: a commit, a branch, an experiment"
        )
    return Tree(root, base, commits[base]), Tree(root, head, commits[head])


def collect(before: Tree, after: Tree) -> ReviewResult:
    """Everything that a review shows."""
    listed_metrics, metrics_trouble = dvc_diff("metrics", before, after)
    metrics, own_troubles = own_metrics(before, after)
    params, params_trouble = dvc_diff("params", before, after)
    troubles = dict.fromkeys((metrics_trouble, *own_troubles, params_trouble))

    missing = git(before.root, "rev-list", "--count", f"{after.commit or HEAD}..{before.commit}")

    return ReviewResult(
        before=(before.name, before.describe()),
        after=(after.name, after.describe()),
        commits_behind=int(missing),
        lock=lock_state(after),
        configurations=configurations({**listed_metrics, **metrics}),
        params=params,
        pictures=changed_pictures(before, after),
        environments=compare_environments(before, after),
        troubles=[trouble for trouble in troubles if trouble],
    )
