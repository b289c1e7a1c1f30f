"""Repairs of what a killed DVC leaves behind and another DVC stumbles over.

DVC itself asks the user to repair these files by hand.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from prunelab.core.files import write
from prunelab.project.dvc_lock import HEADER, complete_part, ends_whole
from prunelab.project.paths import LOCK_FILE, WORKER

RWLOCK = "rwlock"  # DVC's table of files in use
CLOCK_TOLERANCE_S = 1.0  # between the start time of a process and the time stamp of a file


def repair(root: Path) -> Iterator[str]:
    """Repair a dvc.lock that was cut short, and DVC's table of files in use.

    Yields a line for each repair. A dvc.lock with other damage, such as marks of a merge conflict,
    stays as it is. While another DVC holds the lock, this waits.
    """
    lock = root / LOCK_FILE
    table = root / ".dvc/tmp" / RWLOCK
    table_has_entries = table.exists() and table.read_bytes() != b"{}"
    if not table_has_entries and not _is_cut_short(lock):
        return
    from dvc.repo import lock_repo

    from prunelab.project.dvc_graph import open_repo

    # DVC writes both files while it holds this lock. The check is repeated under it: the file may
    # have looked cut short because DVC was just writing it.
    with open_repo(root) as repo, lock_repo(repo):
        if _is_cut_short(lock):
            _repair_lock(lock)
            yield (
                "repaired dvc.lock, which a kill had cut short; DVC restores lost entries from its "
                "cache, or runs their stages again"
            )
        stale = clear_stale_locks(repo)
        if stale:
            yield f"cleared from DVC's table of files in use: {', '.join(sorted(stale))}"


def _repair_lock(lock: Path) -> None:
    kept = complete_part(lock.read_text(encoding="utf-8", errors="replace")) or HEADER
    if kept == HEADER:
        lock.unlink()
    else:
        write(lock, kept.encode())


def _is_cut_short(lock: Path) -> bool:
    """Whether DVC cannot read dvc.lock, and the only damage is that its end is missing."""
    if not lock.exists():
        return False
    text = lock.read_text(encoding="utf-8", errors="replace")
    if ends_whole(text):
        return False

    from dvc.exceptions import DvcException

    # The schema is internal to DVC. The public way to use it is to load the whole project, which
    # fails for other reasons as well. If DVC changes it,
    # test_a_lock_cut_short_is_repaired_and_keeps_whole_entries fails.
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import ParseError, parse_yaml
    from voluptuous import Invalid

    complete = complete_part(text)
    if complete is None:
        return False

    # Only the end is parsed: the whole file would take seconds.
    doubtful = text
    if text.startswith(HEADER):
        doubtful = HEADER + text[len(complete) :]
    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(doubtful, str(lock)))
    except (DvcException, ParseError, Invalid):
        return True
    return False


def clear_stale_locks(repo: Any) -> set[str]:
    """Remove ended processes from DVC's table of files in use, and return what was removed.

    DVC does so itself, with three exceptions: a process that is a zombie, which in a container it
    may remain; a process whose id another process has now; and a table that was cut short.
    """
    # `_edit_rwlock` is internal to DVC: it reads and writes the table under the table's own lock.
    # There is no public way to edit the table. If DVC changes it,
    # test_a_reused_process_id_does_not_block fails.
    from dvc.rwlock import RWLockFileCorruptedError, RWLockFileFormatError, _edit_rwlock

    path = Path(repo.tmp_dir) / RWLOCK
    written = 0.0
    if path.exists():
        written = path.stat().st_mtime
    hardlink = repo.config["core"].get("hardlink_lock", False)
    try:
        with _edit_rwlock(repo.tmp_dir, repo.fs, hardlink) as table:
            return _remove_ended(table, written)
    except (RWLockFileCorruptedError, RWLockFileFormatError, UnicodeDecodeError):
        path.unlink()
        return {"everything, because the table was cut short"}


def _remove_ended(table: dict[str, Any], written: float) -> set[str]:
    """Remove ended processes from the table in place, and return their descriptions."""
    removed = set()
    writers = {}
    for file, user in table["write"].items():
        if _has_ended(**user, written=written):
            removed.add(_describe_user(user))
        else:
            writers[file] = user

    readers: dict[str, list[dict[str, Any]]] = {}
    for file, users in table["read"].items():
        for user in users:
            if _has_ended(**user, written=written):
                removed.add(_describe_user(user))
            else:
                readers.setdefault(file, []).append(user)

    table["write"] = writers
    table["read"] = readers
    return removed


def _describe_user(user: dict[str, Any]) -> str:
    return f"process {user['pid']} ({user['cmd']})"


def _has_ended(pid: int, cmd: str, written: float) -> bool:
    """Whether a process in the table has ended. The table was `written` while it was alive."""
    try:
        process = psutil.Process(pid)
        if process.create_time() > written + CLOCK_TOLERANCE_S:
            return True  # another process has the number now
        command = " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # also raised for a zombie, which has no command line
        return True
    except psutil.AccessDenied:
        return False  # it exists and belongs to another user

    if cmd.startswith(WORKER):
        return not command.endswith(cmd)
    return "dvc" not in command and "python" not in command
