"""Downloads that retry, resume, and put a verified file in place or none.

Pooch verifies and retries too, but it starts every file from zero and takes no lock: it neither
resumes what a broken connection or a kill left, nor keeps two processes off the same file.
"""

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

STALLED_S = 30.0  # without a byte for so long, a connection is given up
WAITS_S = (1.0, 2.0, 4.0, 8.0)  # before the second try, the third, ...
RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
RANGE_NOT_SATISFIABLE = 416
CHUNK_BYTES = 2**20
MIN_DIGEST_LENGTH = 16  # characters of a wrong hash that a message shows
ALGORITHM_NAMES = {"md5": "MD5", "sha256": "SHA-256"}


@dataclass(frozen=True)
class Checksum:
    """The hash of a file as its authors publish it, or the beginning of that hash."""

    digest: str
    algorithm: str = "sha256"

    def __str__(self) -> str:
        return f"{ALGORITHM_NAMES[self.algorithm]} {self.digest}"

    def problem(self, path: Path) -> str | None:
        """What is wrong with the file at `path`; None if its hash is this one."""
        with path.open("rb") as file:
            return self.problem_in(file)

    def problem_in(self, file: BufferedIOBase) -> str | None:
        """The same for an open file, which is read from its start."""
        file.seek(0)
        new_hash = hashlib.new(self.algorithm, usedforsecurity=False)
        actual = hashlib.file_digest(file, lambda: new_hash).hexdigest()
        if actual.startswith(self.digest):
            return None

        shown = actual[: max(MIN_DIGEST_LENGTH, len(self.digest))]
        return f"its {Checksum(shown, self.algorithm)}, expected {self.digest}"


class _RetryableError(Exception):
    """A failure that another try may not have."""


def fetch(
    url: str,
    checksum: Checksum,
    path: Path,
    *,
    stalled_s: float = STALLED_S,
    waits_s: Sequence[float] = WAITS_S,
) -> None:
    """Download `url` to `path`, unless the file is there already; verify it in both cases.

    The file takes its name when it is complete and verified. Until then its bytes are kept beside
    it, so that the next call resumes after a failure or a kill. One process downloads at a time.

    Args:
        url: where the file is published.
        checksum: the hash that its authors publish.
        path: where to put it.
        stalled_s: seconds without a byte after which a connection is given up.
        waits_s: seconds to wait before each further try.

    Raises:
        InputError: if the file cannot be downloaded, or the one at `path` is damaged.
    """
    download = _Download(url, checksum, path.name, stalled_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with _locked(path.with_name(f".{path.name}.partial")) as file:
                if not path.exists():  # another process may have been faster
                    download.complete(file, waits_s)
                    Path(file.name).replace(path)
    except (_RetryableError, OSError, HTTPException) as error:
        raise InputError(
            f"{url} cannot be downloaded to {path.parent}: {_cause(error)}; "
            f"the file can be put there by hand, as {path.name} ({checksum})"
        ) from None

    problem = checksum.problem(path)
    if problem:
        raise InputError(f"{path} is damaged: {problem}; delete it to download it again")


def reachable(url: str) -> bool:
    """Whether a server answers for `url` now."""
    # Addresses are those that libraries publish.
    request = Request(url, method="HEAD")  # noqa: S310
    try:
        with _response(request, timeout_s=10):
            return True
    except (OSError, HTTPException):
        return False


@dataclass(frozen=True)
class _Download:
    url: str
    checksum: Checksum
    name: str  # for the progress bar
    stalled_s: float

    def complete(self, file: BufferedRandom, waits_s: Sequence[float]) -> None:
        """Append what the file still needs, in as many tries as there are waits, and one more."""
        for wait_s in waits_s:
            with suppress(_RetryableError):
                self._resume(file)
                return
            time.sleep(wait_s)
        self._resume(file)

    def _resume(self, file: BufferedRandom) -> None:
        """Append what the file still needs, in one try."""
        start = file.seek(0, os.SEEK_END)
        if start and not self.checksum.problem_in(file):
            return  # an earlier call was killed after the last byte, before it renamed the file

        try:
            start, expected_size = self._receive(file, start)
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError) and error.code == RANGE_NOT_SATISFIABLE:
                file.truncate(0)  # it is longer than what is published, so it is another file
            elif not _is_transient(error):
                raise
            raise _RetryableError(_cause(error)) from None

        size = file.seek(0, os.SEEK_END)
        if size < expected_size:
            raise _RetryableError(f"the connection ended after {size:,} of {expected_size:,} bytes")

        problem = self.checksum.problem_in(file)
        if problem:
            file.truncate(0)
            if start:  # the beginning may have been of another file
                raise _RetryableError(problem)
            raise OSError(problem)

    def _receive(self, file: BufferedRandom, start: int) -> tuple[int, int]:
        """Append the answer to one request for the bytes from `start` on.

        Returns:
            The size at which appending began (0 if the server sent the whole file all the same),
            and the size that the file must have now, as far as the server announced it.
        """
        request = Request(self.url)  # noqa: S310 (as above)
        if start:
            request.add_header("Range", f"bytes={start}-")

        with _response(request, self.stalled_s) as response:
            if response.status != 206:
                start = 0
            file.truncate(start)

            # None of a server that announces no length, and absent of file:// addresses.
            length = getattr(response, "length", None)
            expected_size = start + (length or 0)
            self._append(file, response, expected_size)
        return start, expected_size

    def _append(self, file: BufferedRandom, response: Any, expected_size: int) -> None:
        """Write what arrives, under a progress bar if there is a terminal to show it on."""
        size = file.seek(0, os.SEEK_END)

        with tqdm(
            desc=self.name,
            total=expected_size or None,
            initial=size,
            unit="B",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
            leave=False,
        ) as bar:
            while chunk := response.read1(CHUNK_BYTES):
                bar.update(file.write(chunk))


@contextmanager
def _response(request: Request, timeout_s: float) -> Iterator[Any]:
    request.add_header("User-Agent", "prunelab")
    try:
        with urlopen(request, timeout=timeout_s) as response:  # noqa: S310 (as above)
            yield response
    except HTTPError as error:
        error.close()  # it holds the connection
        raise


@contextmanager
def _locked(partial: Path) -> Iterator[BufferedRandom]:
    """The file, to append to, for one process at a time; removed if it stays empty."""
    while True:
        with partial.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _has_path(file, partial):
                continue  # the process that had the lock before renamed or removed it

            try:
                yield file
            finally:
                file.flush()
                if not os.fstat(file.fileno()).st_size:
                    partial.unlink()
            return


def _has_path(file: BufferedRandom, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _is_transient(error: Exception) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, HTTPError):
        return error.code in RETRY_STATUSES

    reason: object = error
    if isinstance(error, URLError):
        reason = error.reason
    if isinstance(reason, socket.gaierror):
        return reason.errno == socket.EAI_AGAIN
    return isinstance(reason, HTTPException | ConnectionError | TimeoutError)


def _cause(error: Exception) -> str:
    if isinstance(error, _RetryableError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())
