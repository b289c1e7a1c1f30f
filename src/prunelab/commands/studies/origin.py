"""Which code measures: a commit, and the hash of its files that results are compared by.

Git is asked where there is a repository. A bundle for another machine brings the answer along.
"""

from dataclasses import dataclass
from pathlib import Path

import prunelab
from prunelab.artifacts.records import Strict, read_record
from prunelab.core.errors import InputError
from prunelab.core.source_code import folder_digest
from prunelab.project.experiments import current_code, require_committed, stage_closure
from prunelab.project.git import git

ORIGIN_FILE = Path("origin.json")  # in the folder of a bundle
CODE_DIGITS = 12  # as `current_code` has


class OriginRecord(Strict):
    """The content of origin.json."""

    commit: str
    code: str


@dataclass(frozen=True)
class Origin:
    """The commit of the code, empty if it is not known, and the hash of its files."""

    commit: str
    code: str


def origin_of(root: Path) -> Origin:
    """Return the origin of the code that this process runs for the project in a folder.

    Raises:
        InputError: if the code differs from the last commit, or is that of another folder.
    """
    package = Path(prunelab.__file__).parent
    own_package = root / "src/prunelab"
    if own_package.is_dir() and own_package.resolve() != package.resolve():
        raise InputError(
            f"this process runs the code in {package}, not that of this folder. "
            "Set PYTHONPATH=src, or install this folder."
        )
    if (root / ORIGIN_FILE).exists():
        return Origin(**read_record(root / ORIGIN_FILE, OriginRecord))

    try:
        commit = git(root, "rev-parse", "HEAD").strip()
        code = current_code(root)
    except InputError:
        return Origin("", folder_digest(package)[:CODE_DIGITS])

    closure = stage_closure((root / "dvc.yaml").read_text(encoding="utf-8"))
    require_committed(root, closure, "results name the commit that made them")
    return Origin(commit, code)
