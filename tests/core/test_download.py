"""Downloads from a real server on loopback that fails in the ways of servers and networks."""

import hashlib
import multiprocessing
import os
import signal
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunelab.core import download
from prunelab.core.download import Checksum, fetch
from prunelab.core.errors import InputError
from prunelab.data.dataset import DataConfig
from prunelab.datasets import datasets
from prunelab.datasets.datasets import DATASETS
from prunelab.encoders import pretrained

CONTENT = os.urandom(300_000)
CHECKSUM = Checksum(hashlib.sha256(CONTENT).hexdigest())
HALF = len(CONTENT) // 2
WITHOUT_WAITS = {"stalled_s": 30, "waits_s": (0, 0, 0)}
NO_SERVER_URL = "http://127.0.0.1:9/file.bin"
WRONG_CONTENT = bytes(len(CONTENT))


class Server(ThreadingHTTPServer):
    """Serves one file. Each request consumes one of `faults`, if any are left.

    A fault is an HTTP status, or a word for the body: `drops` and `stalls` end it in the middle,
    `ignores` disregards the requested range, `lies` sends other bytes, `no length` announces none.
    `ranges` has the Range header of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.faults = []
        self.ranges = []
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"

    def handle_error(self, *_: object) -> None:
        pass  # a client that was killed


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.ranges.append(requested)
        fault = None
        if self.server.faults:
            fault = self.server.faults.pop(0)
        if isinstance(fault, int):
            self.send_error(fault)
            return

        content = self.server.content
        if fault == "lies":
            content = WRONG_CONTENT
        start = 0
        if requested and fault != "ignores":
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.send_error(416)
            return

        self.send_response(206 if start else 200)
        if fault != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()

        end = len(content)
        if fault in ("drops", "stalls"):
            end = start + (len(content) - start) // 2
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if fault == "stalls":
            self.server.stopping.wait(30)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    yield server

    server.stopping.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cache/file.bin"


def fetch_error(url: str, path: Path, checksum: Checksum = CHECKSUM) -> str:
    """The one line with which a download fails."""
    with pytest.raises(InputError) as error:
        fetch(url, checksum, path, **WITHOUT_WAITS)
    (line,) = error.value.problems
    assert "\n" not in line
    return line


def partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([], [None]),
        (["no length"], [None]),
        (["drops"], [None, f"bytes={HALF}-"]),
        (["drops", "drops"], [None, f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]),
        (["drops", "ignores"], [None, f"bytes={HALF}-"]),
        ([503, 503], [None, None, None]),
        (["drops", 429], [None, f"bytes={HALF}-", f"bytes={HALF}-"]),
        # The server's file has changed in the meantime.
        (["drops", "lies"], [None, f"bytes={HALF}-", None]),
    ],
)
def test_download_survives_faults_of_servers_and_networks(server, path, faults, ranges):
    server.faults = list(faults)

    fetch(server.url, CHECKSUM, path, **WITHOUT_WAITS)

    assert path.read_bytes() == CONTENT
    assert server.ranges == ranges
    assert list(path.parent.iterdir()) == [path]


def test_stalled_connection_is_given_up_and_its_bytes_are_kept(server, path):
    server.faults = ["stalls"]

    fetch(server.url, CHECKSUM, path, stalled_s=1, waits_s=[0] * 20)

    assert path.read_bytes() == CONTENT
    assert server.ranges[:2] == [None, f"bytes={HALF}-"]


def test_waits_grow_between_tries(server, path, monkeypatch):
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server.faults = [503] * 9

    with pytest.raises(InputError, match="HTTPError: HTTP Error 503"):
        fetch(server.url, CHECKSUM, path)

    assert len(server.ranges) == len(waits) + 1
    assert all(later >= 2 * earlier > 0 for earlier, later in pairwise(waits))


def test_other_bytes_are_refused_and_not_kept(server, path):
    server.faults = ["lies"]

    line = fetch_error(server.url, path)

    wrong_digest = hashlib.sha256(WRONG_CONTENT).hexdigest()[:16]
    for words in (server.url, str(path.parent), path.name, CHECKSUM.digest, wrong_digest):
        assert words in line
    assert server.ranges == [None]  # the same bytes would come again
    assert list(path.parent.iterdir()) == []


def test_missing_file_is_one_line_that_says_how_to_place_it_by_hand(server, path):
    server.faults = [404] * 9

    line = fetch_error(server.url, path)

    by_hand = f"put there by hand, as {path.name}"
    for words in ("HTTP Error 404", server.url, by_hand, CHECKSUM.digest):
        assert words in line
    assert len(server.ranges) == 1
    assert list(path.parent.iterdir()) == []


def test_missing_server_is_one_line(path):
    assert "refused" in fetch_error(NO_SERVER_URL, path)


def test_bytes_that_arrived_before_the_last_try_are_kept(server, path):
    server.faults = ["drops", 503, 503, 503]
    assert "503" in fetch_error(server.url, path)
    assert not path.exists()
    assert partial(path).read_bytes() == CONTENT[:HALF]

    fetch(server.url, CHECKSUM, path, **WITHOUT_WAITS)

    assert server.ranges[-1] == f"bytes={HALF}-"
    assert path.read_bytes() == CONTENT


def test_existing_file_is_verified_without_a_network(path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    fetch(NO_SERVER_URL, CHECKSUM, path)

    path.write_bytes(CONTENT[:-1])

    assert f"{path} is damaged" in fetch_error(NO_SERVER_URL, path)
    assert path.read_bytes() == CONTENT[:-1]  # its owner decides


@pytest.fixture
def server_and_folder(server, tmp_path):
    return server, tmp_path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    left=st.integers(0, len(CONTENT)).map(lambda size: CONTENT[:size]) | st.binary(max_size=4000),
    longer=st.booleans(),
)
def test_file_is_whole_whatever_an_earlier_download_left(server_and_folder, left, longer):
    server, folder = server_and_folder
    path = folder / "file.bin"
    path.unlink(missing_ok=True)
    partial(path).write_bytes(left + CONTENT if longer else left)

    fetch(server.url, CHECKSUM, path, **WITHOUT_WAITS)

    assert path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path]


def test_killed_download_leaves_no_file_and_is_resumed(server, path):
    server.faults = ["stalls"]
    child = multiprocessing.get_context("fork").Process(
        target=fetch, args=(server.url, CHECKSUM, path), kwargs={"stalled_s": 30}
    )
    child.start()
    while not (partial(path).exists() and partial(path).stat().st_size):
        assert child.is_alive()
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    kept_bytes = partial(path).stat().st_size
    assert not path.exists()
    assert 0 < kept_bytes <= HALF

    fetch(server.url, CHECKSUM, path, **WITHOUT_WAITS)

    assert server.ranges == [None, f"bytes={kept_bytes}-"]
    assert path.read_bytes() == CONTENT


def test_parallel_calls_download_a_file_once(server, path):
    arguments = (server.url, CHECKSUM, path)
    threads = [
        threading.Thread(target=fetch, args=arguments, kwargs=WITHOUT_WAITS) for _ in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert server.ranges == [None]
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def tiny_cifar(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> datasets.Cifar:
    """CIFAR-10 of a few bytes, published on the server."""
    batches = {f"data_batch_{number}": bytes([number]) * 1000 for number in range(1, 6)}
    files = batches | {"test_batch": b"test", "batches.meta": b"meta"}
    published = folder / "published/cifar-10-batches-py"
    published.mkdir(parents=True)
    for name, content in {**files, "readme.html": b"not needed"}.items():
        (published / name).write_bytes(content)
    with tarfile.open(folder / "archive.tar.gz", "w:gz") as archive:
        archive.add(published, published.name)
    server.content = (folder / "archive.tar.gz").read_bytes()

    dataset = DATASETS["cifar10"](DataConfig(folder / "raw"))
    hashes = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    origin = {
        "url": server.url,
        "tgz_md5": hashlib.md5(server.content).hexdigest(),
        "train_list": [(name, hashes[name]) for name in batches],
        "test_list": [("test_batch", hashes["test_batch"])],
        "meta": {"filename": "batches.meta", "md5": hashes["batches.meta"]},
    }
    for attribute, value in origin.items():
        monkeypatch.setattr(dataset._origin, attribute, value)
    return dataset


def test_data_set_is_downloaded_verified_and_unpacked_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    dataset = tiny_cifar(tmp_path, server, monkeypatch)
    unpacked = tmp_path / "raw/cifar-10-batches-py"
    assert len(dataset.missing()) == 7
    assert dataset.reachable()
    server.faults = ["drops"]

    dataset.download()

    assert dataset.missing() == dataset.damaged() == []
    assert not (unpacked / "readme.html").exists()
    assert not list(unpacked.glob(".*"))

    requests = list(server.ranges)
    (unpacked / "data_batch_3").unlink()
    dataset.download()  # from the archive that is there

    assert dataset.missing() == dataset.damaged() == []
    assert server.ranges == requests


def test_archive_placed_by_hand_is_all_a_data_set_needs(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    dataset = tiny_cifar(tmp_path, server, monkeypatch)
    origin = dataset._origin
    monkeypatch.setattr(origin, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    assert not dataset.reachable()
    with pytest.raises(InputError) as error:
        dataset.download()
    assert f"by hand, as {origin.filename} (MD5 {origin.tgz_md5})" in error.value.problems[0]
    assert len(error.value.problems) == 8

    (tmp_path / "raw" / origin.filename).write_bytes(server.content)

    assert dataset.reachable()
    dataset.download()
    assert dataset.missing() == dataset.damaged() == []


def test_damaged_file_in_the_cache_of_the_hub_is_refused(tmp_path):
    """The hub's cache calls large files by their SHA-256, and links to them."""
    blob, snapshot = tmp_path / "blobs" / CHECKSUM.digest, tmp_path / "snapshots/1"
    for folder in (blob.parent, snapshot):
        folder.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    blob.write_bytes(CONTENT)
    assert pretrained.weights_file(str(snapshot)) == snapshot / "model.safetensors"

    blob.write_bytes(WRONG_CONTENT)

    with pytest.raises(InputError, match=f"{CHECKSUM.digest} is damaged: its SHA-256 .*delete it"):
        pretrained.weights_file(str(snapshot))
