"""What machines share: the Git remote with commits and experiments, and the DVC remote."""

import re
from collections.abc import Sequence
from configparser import ConfigParser, Error
from pathlib import Path

from prunelab.core.errors import InputError
from prunelab.project.git import git, show

HERE = Path(__file__).parent
FOLDER_IN_GIT = "src/prunelab/commands/sweep/ray"  # this folder, in a commit of the project


def check_remotes(root: Path, remote: str, revision: str) -> str:
    """Return the address of a Git remote that has this commit.

    Raises:
        InputError: if there is no such remote, the remote lacks the commit, the commit names no DVC
            remote, or the code in this folder differs from that of the commit. One line per
            problem, all at once.
    """
    _check_remote_exists(root, remote)

    git(root, "fetch", "--quiet", "--no-auto-gc", remote)

    problems = []
    if not _remote_has(root, remote, revision):
        problems.append(
            f"commit {revision[:8]} is on no branch of {remote}, from which the other machines get "
            f"it. Run git push {remote} HEAD."
        )
    if not _names_a_dvc_remote(root, revision):
        problems.append(
            ".dvc/config of the last commit names no default DVC remote, through which machines "
            "share data and results. Run dvc remote add --default storage URL, then commit "
            ".dvc/config and push."
        )
    changed_files = _files_unlike_commit(root, revision)
    if changed_files:
        problems.append(
            f"{', '.join(changed_files)}: not as in commit {revision[:8]}, whose code the other "
            "machines run. Commit and push it, or use the prunelab of that commit."
        )

    if problems:
        raise InputError(problems)
    return git(root, "remote", "get-url", remote).strip()


def _check_remote_exists(root: Path, remote: str) -> None:
    remotes = git(root, "remote").split()
    if remote in remotes:
        return

    if remotes:
        hint = f"valid: {', '.join(remotes)}"
    else:
        hint = "there is none. Run git remote add origin URL, then git push."

    raise InputError(
        f"no Git remote {remote!r} here, from which other machines get the commit; {hint}"
    )


def _remote_has(root: Path, remote: str, revision: str) -> bool:
    """Whether a branch of the remote contains the commit."""
    branches = f"refs/remotes/{remote}"
    return bool(git(root, "for-each-ref", "--count=1", f"--contains={revision}", branches))


def _names_a_dvc_remote(root: Path, revision: str) -> bool:
    config = ConfigParser(interpolation=None)
    try:
        text = show(root, revision, ".dvc/config")
        config.read_string(re.sub(r"(?m)^\s+", "", text))
        return config.has_option("core", "remote")
    except (InputError, Error):
        return False


def _files_unlike_commit(root: Path, revision: str) -> list[str]:
    """Return the files of this folder that the commit lacks or has with another content.

    The driver and the nodes exchange data through these files, so both must run the same ones.
    """
    committed_hashes = {}
    for line in git(root, "ls-tree", revision, f"{FOLDER_IN_GIT}/").splitlines():
        entry, path = line.split("\t")
        committed_hashes[Path(path).name] = entry.split()[2]

    files = sorted(HERE.glob("*.py"))
    hashes = git(root, "hash-object", *map(str, files)).split()
    changed = []
    for file, file_hash in zip(files, hashes, strict=True):
        if committed_hashes.get(file.name) != file_hash:
            changed.append(f"{FOLDER_IN_GIT}/{file.name}")
    return changed


def fetch_experiments(root: Path, url: str, names: Sequence[str]) -> None:
    """Fetch the experiments of these names, derived from any commit, from a Git remote."""
    local_lines = git(root, "for-each-ref", "--format=%(objectname)\t%(refname)", "refs/exps")
    known = set(local_lines.split("\n"))
    wanted_names = set(names)

    references = []
    for line in git(root, "ls-remote", url, "refs/exps/*").splitlines():
        reference = line.split("\t")[1]
        if line not in known and reference.rsplit("/", 1)[-1] in wanted_names:
            references.append(reference)
    if references:
        _fetch_references(root, url, references)


def _fetch_references(root: Path, url: str, references: Sequence[str]) -> None:
    options = ("--quiet", "--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--stdin")
    # By standard input: a thousand references are too many for some systems' command lines.
    lines = "\n".join(f"+{reference}:{reference}" for reference in references)
    git(root, "fetch", *options, url, stdin=lines)
