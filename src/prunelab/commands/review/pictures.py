"""Which pictures in plots/ changed, and copies of them from before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.files import replacing
from prunelab.project.paths import LOCK_FILE
from prunelab.project.trees import Tree

FOLDER = "plots/"
# Of a picture in several formats, the first of these is the one that is shown.
SUFFIXES = (".png", ".svg", ".jpg", ".jpeg", ".gif")
SHOWN_BY_DVC = (*SUFFIXES, ".html", ".json", ".csv", ".tsv", ".yaml")
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Picture:
    """A file that changed, came or went.

    `stored` says whether Git has its content; otherwise only DVC's hash of it is known.
    """

    path: str
    before: bool
    after: bool
    stored: bool = True

    @property
    def what(self) -> str:
        """What happened to it, in a word."""
        if self.before and self.after:
            return "changed"
        if self.after:
            return "new"
        return "gone"


def changed_pictures(before: Tree, after: Tree) -> list[Picture]:
    """The pictures in Git, by path, then the plots that only DVC has."""
    in_git = _changed(_in_git(before), _in_git(after), stored=True)
    in_dvc = _changed(_in_dvc(before), _in_dvc(after), stored=False)
    return in_git + in_dvc


def _changed(old: dict[str, str], new: dict[str, str], *, stored: bool) -> list[Picture]:
    """The files whose hashes differ; `old` and `new` map paths to hashes."""
    return [
        Picture(path, before=path in old, after=path in new, stored=stored)
        for path in sorted({*old, *new})
        if old.get(path) != new.get(path)
    ]


def _in_git(tree: Tree) -> dict[str, str]:
    files = tree.files(FOLDER)
    return {path: digest for path, digest in files.items() if path.lower().endswith(SUFFIXES)}


def _in_dvc(tree: Tree) -> dict[str, str]:
    """DVC's hashes, from dvc.lock, of the plots that Git does not have."""
    hashes: dict[str, str] = {}
    try:
        lock = parse_yaml(tree.read(str(LOCK_FILE)) or b"", fast=True) or {}
        for stage in lock.get("stages", {}).values():
            for out in stage.get("outs", []):
                hashes[str(out["path"])] = out.get("md5", "")
    except (InputError, AttributeError, TypeError, KeyError):
        return {}  # no lock, or one with conflict marks: another line of the review reports it

    tracked = tree.files(FOLDER)
    plots = {}
    for path, digest in hashes.items():
        is_plot = path.startswith(FOLDER) and path.lower().endswith(SHOWN_BY_DVC)
        if is_plot and path not in tracked:
            plots[path] = digest
    return plots


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds files, which copies could mix with.

    Raises:
        InputError: if `folder` is a file, or a folder that is not empty.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise InputError(f"--pictures: {folder} exists already; valid: a new or an empty folder")


def save(pictures: Sequence[Picture], folder: Path, before: Tree, after: Tree) -> None:
    """Copy what Git has into folder/before and folder/after, under the same paths."""
    folder.mkdir(parents=True, exist_ok=True)

    for picture in pictures:
        if not picture.stored:
            continue
        if picture.before:
            _copy(picture, before, folder / BEFORE)
        if picture.after:
            _copy(picture, after, folder / AFTER)


def _copy(picture: Picture, tree: Tree, folder: Path) -> None:
    with replacing(folder / picture.path) as partial:
        partial.write_bytes(tree.read(picture.path) or b"")


def by_stem(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """The formats of each picture together, the one to show first; keyed by path less suffix."""

    def rank(picture: Picture) -> int:
        return SUFFIXES.index(PurePosixPath(picture.path).suffix.lower())

    formats: dict[str, list[Picture]] = {}
    for picture in sorted(pictures, key=rank):
        stem = str(PurePosixPath(picture.path).with_suffix(""))
        formats.setdefault(stem, []).append(picture)
    return dict(sorted(formats.items()))
