"""Downloads: retried, resumed, and put in place whole and verified, or not at all."""

import fcntl
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from io import BufferedIOBase, BufferedRandom
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from prunelab.core.errors import InputError

STALLED_S = 30.0
WAITS_S = (1.0, 2.0, 4.0, 8.0)  # before the second try, the third, ...
BUSY = {408, 425, 429, 500, 502, 503, 504}  # what a server says that may do better in a moment
PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Checksum:
    """The hash of a file as its authors publish it, or the beginning of it."""

    digest: str
    algorithm: str = "sha256"

    def __str__(self) -> str:
        return f"{ {'md5': 'MD5', 'sha256': 'SHA-256'}[self.algorithm] } {self.digest}"

    def problem(self, path: Path) -> str | None:
        """What is wrong with a file, if its hash is another one."""
        with path.open("rb") as file:
            return self.problem_of(file)

    def problem_of(self, file: BufferedIOBase) -> str | None:
        file.seek(0)
        got = hashlib.file_digest(
            file, lambda: hashlib.new(self.algorithm, usedforsecurity=False)
        ).hexdigest()
        found = Checksum(got[: max(16, len(self.digest))], self.algorithm)
        return None if got.startswith(self.digest) else f"its {found}, expected {self.digest}"


class _Again(Exception):
    """What another try may mend."""


def fetch(
    url: str,
    checksum: Checksum,
    path: Path,
    *,
    stalled_s: float = STALLED_S,
    waits_s: Sequence[float] = WAITS_S,
) -> None:
    """Have at `path` what is published at `url`; a file that lies there needs no network, and is verified all the same.

    It takes that name whole and verified. What arrived before a failure or a kill waits beside it, and the next call
    (one process at a time) goes on from there.

    Raises:
        InputError: if it cannot be had, or what lies there is another file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with _alone(path.with_name(f".{path.name}.partial")) as file:
                if not path.exists():  # another process may have been faster
                    _fill(file, url, checksum, path.name, stalled_s, waits_s)
                    Path(file.name).replace(path)
    except (_Again, OSError, HTTPException) as error:
        told = str(error) if isinstance(error, _Again) else _told(error)
        raise InputError(
            f"{url} cannot be downloaded to {path.parent}: {told}; the file can be put there by hand, "
            f"as {path.name} ({checksum})"
        ) from None
    if problem := checksum.problem(path):
        raise InputError(f"{path} is damaged: {problem}; delete it to download anew")


def reachable(url: str) -> bool:
    """Whether a server answers for it now."""
    try:
        with _answer(Request(url, method="HEAD"), timeout_s=10):  # noqa: S310 (addresses that libraries publish)
            return True
    except (OSError, HTTPException):
        return False


@contextmanager
def _answer(request: Request, timeout_s: float) -> Iterator[Any]:
    request.add_header("User-Agent", "prunelab")
    try:
        with urlopen(request, timeout=timeout_s) as answer:  # noqa: S310 (as above)
            yield answer
    except HTTPError as error:
        error.close()  # it holds the connection
        raise


@contextmanager
def _alone(partial: Path) -> Iterator[BufferedRandom]:
    """The file, to append to, in one process at a time; removed if it stays empty."""
    while True:
        with partial.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(partial, file):  # who had it before gave it its name, or removed it
                continue
            try:
                yield file
            finally:
                file.flush()
                if not os.fstat(file.fileno()).st_size:
                    partial.unlink()
            return


def _is_at(path: Path, file: BufferedRandom) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _fill(
    file: BufferedRandom,
    url: str,
    checksum: Checksum,
    name: str,
    stalled_s: float,
    waits_s: Sequence[float],
) -> None:
    for wait_s in waits_s:
        with suppress(_Again):
            return _go_on(file, url, checksum, name, stalled_s)
        time.sleep(wait_s)
    return _go_on(file, url, checksum, name, stalled_s)


def _go_on(file: BufferedRandom, url: str, checksum: Checksum, name: str, stalled_s: float) -> None:
    """Fetch what is not in the file yet, once."""
    start = file.seek(0, os.SEEK_END)
    if start and not checksum.problem_of(file):  # killed between the last byte and the new name
        return
    rest = {"Range": f"bytes={start}-"} if start else {}
    try:
        with _answer(Request(url, headers=rest), stalled_s) as answer:  # noqa: S310 (as above)
            start = start if answer.status == 206 else 0  # a server may send the whole all the same
            file.truncate(start)
            length = getattr(
                answer, "length", None
            )  # None of a server that does not tell, and of file:// addresses
            wanted = start + (length or 0)
            _append(file, answer, name, wanted)
    except (OSError, HTTPException) as error:
        if (
            isinstance(error, HTTPError) and error.code == 416
        ):  # more is here than there: of another file
            file.truncate(0)
        elif not _may_pass(error):
            raise
        raise _Again(_told(error)) from None
    if (size := file.seek(0, os.SEEK_END)) < wanted:
        raise _Again(f"the connection ended after {size:,} of {wanted:,} bytes")
    if problem := checksum.problem_of(file):
        file.truncate(0)
        if start:  # the beginning may have been of another file
            raise _Again(problem)
        raise OSError(problem)


def _append(file: BufferedRandom, answer: Any, name: str, wanted: int) -> None:
    """Write what comes, under a progress bar where there is a terminal to show it on."""
    hidden, done = not sys.stderr.isatty(), file.seek(0, os.SEEK_END)
    total = wanted or None
    with tqdm(
        desc=name, total=total, initial=done, unit="B", unit_scale=True, disable=hidden, leave=False
    ) as bar:
        while piece := answer.read1(PIECE_BYTES):
            bar.update(file.write(piece))


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code in BUSY
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, socket.gaierror):
        return reason.errno == socket.EAI_AGAIN
    return isinstance(reason, HTTPException | ConnectionError | TimeoutError)


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
