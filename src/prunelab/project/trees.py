"""The files of a revision: those of a commit, or those in the workspace."""

from dataclasses import dataclass
from pathlib import Path

from prunelab.core.errors import InputError
from prunelab.core.plurals import counted
from prunelab.project.git import changed_files, git, show_bytes

SHORT_HASH_LENGTH = 7


@dataclass(frozen=True)
class Tree:
    """The files of a revision: its name as the user gave it, and its commit.

    `commit` is None for the workspace.
    """

    root: Path
    name: str
    commit: str | None

    def files(self, folder: str) -> dict[str, str]:
        """Return Git's hash of every file in a folder, by path.

        In the workspace that includes files that nobody has added to Git yet.
        """
        if self.commit:
            return self._committed_files(self.commit, folder)
        return self._workspace_files(folder)

    def _committed_files(self, commit: str, folder: str) -> dict[str, str]:
        listing = git(self.root, "ls-tree", "-r", "-z", commit, "--", folder)
        hashes = {}
        for line in listing.split("\0"):
            if line:
                entry, path = line.split("\t", 1)
                _mode, _type, file_hash = entry.split()
                hashes[path] = file_hash
        return hashes

    def _workspace_files(self, folder: str) -> dict[str, str]:
        options = ("-z", "--cached", "--others", "--exclude-standard")
        listing = git(self.root, "ls-files", *options, "--", folder)
        paths = sorted({path for path in listing.split("\0") if (self.root / path).is_file()})
        if not paths:
            return {}
        hashes = git(self.root, "hash-object", "--", *paths).split()
        return dict(zip(paths, hashes, strict=True))

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is no such file."""
        try:
            if self.commit is None:
                return (self.root / path).read_bytes()
            return show_bytes(self.root, self.commit, path)
        except (InputError, FileNotFoundError):
            return None

    def describe(self) -> str:
        """Return the short commit; for the workspace, HEAD and the number of changed files."""
        if self.commit:
            return self.commit[:SHORT_HASH_LENGTH]

        head = git(self.root, "rev-parse", "HEAD")[:SHORT_HASH_LENGTH]
        changed = len(changed_files(self.root))
        if changed == 0:
            return head
        return f"{head} and {counted(changed, 'file')} not committed"
