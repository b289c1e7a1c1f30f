"""What machines share: the Git remote, with commits and experiments, and the DVC remote that the commit names."""

import re
import subprocess
from collections.abc import Sequence
from configparser import ConfigParser, Error
from pathlib import Path

from prunelab.core.errors import InputError
from prunelab.project.git import git

HERE = Path(__file__).parent


def check_remotes(root: Path, remote: str, revision: str) -> str:
    """The address of a Git remote that has this commit.

    Raises:
        InputError: if there is no such remote, the commit is not there, or names no DVC remote, or has other machinery
            than what runs here; one line per problem, all of them at once.
    """
    problems = []
    names = git(root, "remote").split()
    if remote not in names:
        known = (
            f"valid: {', '.join(names)}"
            if names
            else "there is none; git remote add origin URL, then git push"
        )
        raise InputError(
            f"no Git remote {remote!r} here, from which other machines get the commit; {known}"
        )
    git(root, "fetch", "--quiet", "--no-auto-gc", remote)
    if not git(
        root, "for-each-ref", "--count=1", f"--contains={revision}", f"refs/remotes/{remote}"
    ):
        problems.append(
            f"commit {revision[:8]} is on no branch of {remote}, where other machines get it: git push {remote} HEAD"
        )
    if not _names_a_dvc_remote(root, revision):
        problems.append(
            ".dvc/config of the last commit names no default DVC remote, by which machines share data and results: "
            "dvc remote add --default storage URL, then commit .dvc/config and push"
        )
    if changed := _other_machinery(root, revision):
        problems.append(
            f"{', '.join(changed)}: not as in commit {revision[:8]}, whose code the other machines run; commit and "
            "push it, or use the prunelab of that commit"
        )
    if problems:
        raise InputError(problems)
    return git(root, "remote", "get-url", remote).strip()


def _names_a_dvc_remote(root: Path, revision: str) -> bool:
    config = ConfigParser(interpolation=None)
    try:
        config.read_string(re.sub(r"(?m)^\s+", "", git(root, "show", f"{revision}:.dvc/config")))
        return config.has_option("core", "remote")
    except (InputError, Error):
        return False


def _other_machinery(root: Path, revision: str) -> list[str]:
    """Modules of this package of which the commit has another version, or none."""
    committed = {}
    for line in git(root, "ls-tree", revision, "src/prunelab/commands/sweep/ray/").splitlines():
        entry, path = line.split("\t")
        committed[Path(path).name] = entry.split()[2]
    files = sorted(HERE.glob("*.py"))
    hashes = git(root, "hash-object", *map(str, files)).split()
    pairs = zip(files, hashes, strict=True)
    return [
        f"src/prunelab/commands/sweep/ray/{file.name}"
        for file, its in pairs
        if committed.get(file.name) != its
    ]


def fetch_experiments(root: Path, url: str, names: Sequence[str]) -> None:
    """Bring the experiments of these names, whatever commit they rest on, from a Git remote into the project."""
    wanted, have = (
        set(names),
        set(
            git(root, "for-each-ref", "--format=%(objectname)\t%(refname)", "refs/exps").split("\n")
        ),
    )
    lines = git(root, "ls-remote", url, "refs/exps/*").splitlines()
    references = [
        line.split("\t")[1]
        for line in lines
        if line.rsplit("/", 1)[-1] in wanted and line not in have
    ]
    if references:
        # By standard input: a thousand of them are too many for some systems' command lines.
        subprocess.run(
            [
                "git",
                "-C",
                str(root),
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-auto-gc",
                "--no-write-fetch-head",
                "--stdin",
                url,
            ],
            input="\n".join(f"+{reference}:{reference}" for reference in references),
            text=True,
            check=True,
        )
