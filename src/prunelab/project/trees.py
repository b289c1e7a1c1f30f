"""The files of one side of a review: a commit's, or those in the workspace."""

from dataclasses import dataclass
from pathlib import Path

from prunelab.core.errors import InputError
from prunelab.project.git import git, git_bytes


@dataclass(frozen=True)
class Tree:
    """One side: its name as it was given, and its commit; None for the workspace."""

    root: Path
    name: str
    commit: str | None

    def files(self, folder: str) -> dict[str, str]:
        """Git's hash of every file in a folder; in the workspace of those too that nobody has added yet."""
        if self.commit:
            lines = git(self.root, "ls-tree", "-r", "-z", self.commit, "--", folder).split("\0")
            return {
                path: about.split()[2]
                for about, _, path in (line.partition("\t") for line in lines if line)
            }
        listed = git(
            self.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", folder
        )
        paths = sorted({path for path in listed.split("\0") if (self.root / path).is_file()})
        hashes = git(self.root, "hash-object", "--", *paths).split() if paths else []
        return dict(zip(paths, hashes, strict=True))

    def read(self, path: str) -> bytes | None:
        """A file's content; None where there is no such file."""
        try:
            if self.commit is None:
                return (self.root / path).read_bytes()
            return git_bytes(self.root, "cat-file", "blob", f"{self.commit}:./{path}")
        except (InputError, FileNotFoundError):
            return None

    def told(self) -> str:
        """Its commit, shortened, and how many files of the workspace are not what the last commit has."""
        if self.commit:
            return self.commit[:7]
        edited = len(git(self.root, "status", "--porcelain").splitlines())
        head = git(self.root, "rev-parse", "HEAD")[:7]
        return f"{head} and {edited} file{'s' * (edited > 1)} not committed" if edited else head
