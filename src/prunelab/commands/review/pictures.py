"""Which pictures in plots/ are not what they were, and copies of them from before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.files import replacing
from prunelab.project.revisions import LOCK
from prunelab.project.trees import Tree

FOLDER = "plots/"
SUFFIXES = (
    ".png",
    ".svg",
    ".jpg",
    ".jpeg",
    ".gif",
)  # the first that a picture has is the one that is looked at
SHOWN_BY_DVC = (*SUFFIXES, ".html", ".json", ".csv", ".tsv", ".yaml")
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Picture:
    """A file that is other, new or gone; `stored` where Git has it, else only DVC's hash of it is known."""

    path: str
    before: bool
    after: bool
    stored: bool = True

    @property
    def what(self) -> str:
        return "changed" if self.before and self.after else "new" if self.after else "gone"


def changed_pictures(before: Tree, after: Tree) -> list[Picture]:
    """The pictures that Git has, by path, then the plots that only DVC has."""
    found = []
    for stored, read in ((True, _in_git), (False, _in_dvc)):
        old, new = read(before), read(after)
        paths = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
        found += [Picture(path, path in old, path in new, stored) for path in paths]
    return found


def _in_git(tree: Tree) -> dict[str, str]:
    return {
        path: hash_ for path, hash_ in tree.files(FOLDER).items() if path.lower().endswith(SUFFIXES)
    }


def _in_dvc(tree: Tree) -> dict[str, str]:
    """DVC's hashes, out of dvc.lock, of the plots that Git does not have."""
    try:
        lock = parse_yaml(tree.read(str(LOCK)) or b"", fast=True) or {}
        outs = [out for stage in lock.get("stages", {}).values() for out in stage.get("outs", [])]
        hashes = {str(out["path"]): out.get("md5", "") for out in outs}
    except (InputError, AttributeError, TypeError, KeyError):
        return {}  # conflict marks, or no lock at all: whether it is stale is told elsewhere
    tracked = tree.files(FOLDER)
    wanted = [
        path for path in hashes if path.startswith(FOLDER) and path.lower().endswith(SHOWN_BY_DVC)
    ]
    return {path: hashes[path] for path in wanted if path not in tracked}


def usable(folder: Path) -> None:
    """Raises InputError for a folder whose files copies might mingle with."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"--pictures: {folder} is there already; valid: a new or an empty folder")


def save(pictures: Sequence[Picture], folder: Path, before: Tree, after: Tree) -> None:
    """Copy what Git has into folder/before and folder/after, under the same paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        for tree, side, there in ((before, BEFORE, picture.before), (after, AFTER, picture.after)):
            if there and picture.stored:
                with replacing(folder / side / picture.path) as partial:
                    partial.write_bytes(tree.read(picture.path) or b"")


def twins(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """The formats of each picture together, the one to look at first; by path less the ending."""
    found: dict[str, list[Picture]] = {}
    for picture in sorted(
        pictures, key=lambda one: SUFFIXES.index(PurePosixPath(one.path).suffix.lower())
    ):
        found.setdefault(str(PurePosixPath(picture.path).with_suffix("")), []).append(picture)
    return dict(sorted(found.items()))
