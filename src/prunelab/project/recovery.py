"""What a killed DVC leaves behind that keeps it from running again: cleared here, since DVC itself asks for hands."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from prunelab.core.files import write
from prunelab.project.dvc_lock import HEAD, uncut
from prunelab.project.paths import WORKER

RWLOCK = "rwlock"


def repair(root: Path) -> Iterator[str]:
    """Mend a dvc.lock that a kill cut short and DVC's table of files in use; a line for each thing done.

    A dvc.lock that is damaged in any other way, by a merge say, is left for people to look at. Waits while a DVC that
    is alive holds its lock.
    """
    lock, table = root / "dvc.lock", root / ".dvc/tmp" / RWLOCK
    if not (lock.exists() and _is_cut(lock)) and (
        not table.exists() or table.read_bytes() == b"{}"
    ):
        return
    from dvc.repo import lock_repo

    from prunelab.project.dvc_graph import opened

    with opened(root) as repo, lock_repo(repo):  # under which both files are written
        if lock.exists() and _is_cut(lock):  # and not just being written
            kept = uncut(lock.read_text(encoding="utf-8", errors="replace")) or HEAD
            write(lock, kept.encode()) if kept != HEAD else lock.unlink()
            yield "dvc.lock was cut short by a kill; DVC takes what it lacks out of its cache, or runs it again"
        if stale := clear_stale_locks(repo):
            yield f"cleared from DVC's table of files in use: {', '.join(sorted(stale))}"


def _is_cut(lock: Path) -> bool:
    """Whether DVC cannot read its lock file, and that is because the end is missing."""
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import ParseError, parse_yaml
    from voluptuous import Invalid

    text = lock.read_text(encoding="utf-8", errors="replace")
    if (kept := uncut(text)) is None:
        return False
    try:  # the end alone: to read all of it takes seconds
        COMPILED_LOCKFILE_SCHEMA(
            parse_yaml(HEAD + text[len(kept) :] if text.startswith(HEAD) else text, str(lock))
        )
    except (DvcException, ParseError, Invalid):
        return True
    return False


def clear_stale_locks(repo: Any) -> set[str]:
    """Take from DVC's table of files in use what processes that have ended left in it; what was taken.

    DVC does so itself, but not where a process is a zombie, which in containers it may stay, or where another one has
    got its number; nor does it bear a table that a kill cut short.
    """
    from dvc.rwlock import RWLockFileCorruptedError, RWLockFileFormatError, _edit_rwlock

    path = Path(repo.tmp_dir) / RWLOCK
    written = path.stat().st_mtime if path.exists() else 0.0
    stale: set[str] = set()

    def ended(user: dict[str, Any]) -> bool:
        if gone := _ended(**user, written=written):
            stale.add(f"process {user['pid']} ({user['cmd']})")
        return gone

    try:
        with _edit_rwlock(
            repo.tmp_dir, repo.fs, repo.config["core"].get("hardlink_lock", False)
        ) as table:
            table["write"] = {
                file: user for file, user in table["write"].items() if not ended(user)
            }
            readers = {
                file: [user for user in users if not ended(user)]
                for file, users in table["read"].items()
            }
            table["read"] = {file: users for file, users in readers.items() if users}
    except (RWLockFileCorruptedError, RWLockFileFormatError, UnicodeDecodeError):
        path.unlink()
        stale.add("all, for it was cut short")
    return stale


def _ended(pid: int, cmd: str, written: float) -> bool:
    """Whether the process that DVC noted is no more; the table was last `written` then or later."""
    try:
        process = psutil.Process(pid)
        if process.create_time() > written + 1:  # clocks are rough
            return True
        its = " ".join(process.cmdline())
        return (
            not its.endswith(cmd)
            if cmd.startswith(WORKER)
            else "dvc" not in its and "python" not in its
        )
    except psutil.NoSuchProcess:  # nor does a zombie have a command line
        return True
    except psutil.AccessDenied:  # somebody else's, so it is there
        return False
