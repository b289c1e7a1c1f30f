"""Downloads against a real server on loopback that does what servers and networks do."""

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
AT_ONCE = {"stalled_s": 30, "waits_s": (0, 0, 0)}
NOWHERE = "http://127.0.0.1:9/file.bin"
WRONG = bytes(len(CONTENT))


class Server(ThreadingHTTPServer):
    """Serves one file; each request is met by the next of `moods`, then by none.

    A mood is a status, or says what becomes of the body: `drops`, `stalls` (both in the middle), `ignores` (the range
    asked for), `lies` (other bytes), `untold` (no length). `asked` holds the Range of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.moods, self.asked, self.over = CONTENT, [], [], threading.Event()
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
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        mood = self.server.moods.pop(0) if self.server.moods else None
        if isinstance(mood, int):
            self.send_error(mood)
            return
        content = WRONG if mood == "lies" else self.server.content
        start = (
            int(asked.removeprefix("bytes=").removesuffix("-"))
            if asked and mood != "ignores"
            else 0
        )
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if mood != "untold":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stops = start + (len(content) - start) // 2 if mood in ("drops", "stalls") else len(content)
        self.wfile.write(content[start:stops])
        self.wfile.flush()
        if mood == "stalls":
            self.server.over.wait(30)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cache/file.bin"


def refused(url: str, path: Path, checksum: Checksum = CHECKSUM) -> str:
    with pytest.raises(InputError) as failure:
        fetch(url, checksum, path, **AT_ONCE)
    (line,) = failure.value.problems
    assert "\n" not in line
    return line


def partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


@pytest.mark.parametrize(
    ("moods", "asked"),
    [
        ([], [None]),
        (["untold"], [None]),
        (["drops"], [None, f"bytes={HALF}-"]),
        (["drops", "drops"], [None, f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]),
        (["drops", "ignores"], [None, f"bytes={HALF}-"]),
        ([503, 503], [None, None, None]),
        (["drops", 429], [None, f"bytes={HALF}-", f"bytes={HALF}-"]),
        (["drops", "lies"], [None, f"bytes={HALF}-", None]),  # a server whose file has changed meanwhile
    ],
)  # fmt: skip
def test_what_servers_and_networks_do_is_outlived(server, path, moods, asked):
    server.moods = list(moods)
    fetch(server.url, CHECKSUM, path, **AT_ONCE)
    assert path.read_bytes() == CONTENT
    assert server.asked == asked
    assert list(path.parent.iterdir()) == [path]


def test_a_connection_that_stalls_is_given_up_and_what_it_brought_is_kept(server, path):
    server.moods = ["stalls"]
    fetch(server.url, CHECKSUM, path, stalled_s=1, waits_s=[0] * 20)
    assert path.read_bytes() == CONTENT
    assert server.asked[:2] == [None, f"bytes={HALF}-"]


def test_waits_grow_between_tries(server, path, monkeypatch):
    waited = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    server.moods = [503] * 9
    with pytest.raises(InputError, match="HTTPError: HTTP Error 503"):
        fetch(server.url, CHECKSUM, path)
    assert len(server.asked) == len(waited) + 1
    assert all(later >= 2 * earlier > 0 for earlier, later in pairwise(waited))


def test_other_bytes_are_refused_by_name_and_nothing_of_them_stays(server, path):
    server.moods = ["lies"]
    line = refused(server.url, path)
    wrong = hashlib.sha256(WRONG).hexdigest()
    for told in (server.url, str(path.parent), path.name, CHECKSUM.digest, wrong[:16]):
        assert told in line
    assert server.asked == [None]  # the same bytes would come again
    assert list(path.parent.iterdir()) == []


def test_a_file_that_is_not_there_is_one_line_with_the_way_to_place_it_by_hand(server, path):
    server.moods = [404] * 9
    line = refused(server.url, path)
    for told in (
        "HTTP Error 404",
        server.url,
        f"put there by hand, as {path.name}",
        CHECKSUM.digest,
    ):
        assert told in line
    assert len(server.asked) == 1
    assert list(path.parent.iterdir()) == []


def test_a_server_that_is_not_there_is_one_line(path):
    assert "refused" in refused(NOWHERE, path)


def test_what_arrived_before_all_tries_failed_is_not_fetched_again(server, path):
    server.moods = ["drops", 503, 503, 503]
    assert "503" in refused(server.url, path)
    assert not path.exists()
    assert partial(path).read_bytes() == CONTENT[:HALF]
    fetch(server.url, CHECKSUM, path, **AT_ONCE)
    assert server.asked[-1] == f"bytes={HALF}-"
    assert path.read_bytes() == CONTENT


def test_a_file_that_is_there_needs_no_network_and_is_verified(path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    fetch(NOWHERE, CHECKSUM, path)
    path.write_bytes(CONTENT[:-1])
    assert f"{path} is damaged" in refused(NOWHERE, path)
    assert path.read_bytes() == CONTENT[:-1]  # for its owner to judge


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    left=st.integers(0, len(CONTENT)).map(lambda size: CONTENT[:size]) | st.binary(max_size=4000),
    longer=st.booleans(),
)
def test_whatever_an_earlier_download_left_the_file_is_whole(shared_server, left, longer):
    server, folder = shared_server
    path = folder / "file.bin"
    path.unlink(missing_ok=True)
    partial(path).write_bytes(left + CONTENT if longer else left)
    fetch(server.url, CHECKSUM, path, **AT_ONCE)
    assert path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path]


@pytest.fixture
def shared_server(server, tmp_path):
    return server, tmp_path


def test_killed_in_the_middle_it_leaves_no_file_and_goes_on(server, path):
    server.moods = ["stalls"]
    context = multiprocessing.get_context("fork")
    child = context.Process(
        target=fetch, args=(server.url, CHECKSUM, path), kwargs={"stalled_s": 30}
    )
    child.start()
    while not (partial(path).exists() and partial(path).stat().st_size):
        assert child.is_alive()
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    kept = partial(path).stat().st_size
    assert not path.exists()
    assert 0 < kept <= HALF
    fetch(server.url, CHECKSUM, path, **AT_ONCE)
    assert server.asked == [None, f"bytes={kept}-"]
    assert path.read_bytes() == CONTENT


def test_several_at_once_fetch_one_file(server, path):
    threads = [
        threading.Thread(target=fetch, args=(server.url, CHECKSUM, path), kwargs=AT_ONCE)
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == [None]
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def cifar(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> datasets.Cifar:
    """CIFAR-10 of a few bytes, published on the server."""
    files = {f"data_batch_{number}": bytes([number]) * 1000 for number in range(1, 6)}
    files |= {"test_batch": b"test", "batches.meta": b"meta"}
    tree = folder / "published/cifar-10-batches-py"
    tree.mkdir(parents=True)
    for name, content in {**files, "readme.html": b"not asked for"}.items():
        (tree / name).write_bytes(content)
    with tarfile.open(folder / "archive.tar.gz", "w:gz") as archive:
        archive.add(tree, tree.name)
    server.content = (folder / "archive.tar.gz").read_bytes()
    dataset = DATASETS["cifar10"](DataConfig(folder / "raw"))
    hashes = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(dataset._origin, "url", server.url)
    monkeypatch.setattr(dataset._origin, "tgz_md5", hashlib.md5(server.content).hexdigest())
    monkeypatch.setattr(
        dataset._origin, "train_list", [(name, hashes[name]) for name in files if "data" in name]
    )
    monkeypatch.setattr(dataset._origin, "test_list", [("test_batch", hashes["test_batch"])])
    monkeypatch.setattr(
        dataset._origin, "meta", {"filename": "batches.meta", "md5": hashes["batches.meta"]}
    )
    return dataset


def test_a_data_set_is_downloaded_verified_and_unpacked_once(server, tmp_path, monkeypatch):
    dataset = cifar(tmp_path, server, monkeypatch)
    assert len(dataset.missing()) == 7
    assert dataset.reachable()
    server.moods = ["drops"]
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    dataset.download()
    assert dataset.missing() == dataset.damaged() == []
    unpacked = tmp_path / "raw/cifar-10-batches-py"
    assert not (unpacked / "readme.html").exists()
    assert not list(unpacked.glob(".*"))
    asked = list(server.asked)
    (unpacked / "data_batch_3").unlink()  # the archive has it: no network
    dataset.download()
    assert dataset.missing() == dataset.damaged() == []
    assert server.asked == asked


def test_an_archive_placed_by_hand_is_all_a_data_set_needs(server, tmp_path, monkeypatch):
    dataset = cifar(tmp_path, server, monkeypatch)
    monkeypatch.setattr(dataset._origin, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    assert not dataset.reachable()
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with pytest.raises(InputError) as failure:
        dataset.download()
    problems = failure.value.problems
    assert f"by hand, as {dataset._origin.filename} (MD5 {dataset._origin.tgz_md5})" in problems[0]
    assert len(problems) == 8
    (tmp_path / "raw" / dataset._origin.filename).write_bytes(server.content)
    assert dataset.reachable()
    dataset.download()
    assert dataset.missing() == dataset.damaged() == []


def test_a_file_of_the_hub_that_is_not_what_its_name_says_is_refused(tmp_path):
    """The hub's cache calls large files by their SHA-256, and links to them."""
    blob, snapshot = tmp_path / "blobs" / CHECKSUM.digest, tmp_path / "snapshots/1"
    for folder in (blob.parent, snapshot):
        folder.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    blob.write_bytes(CONTENT)
    assert pretrained.weights_file(str(snapshot)) == snapshot / "model.safetensors"
    blob.write_bytes(WRONG)
    with pytest.raises(InputError, match=f"{CHECKSUM.digest} is damaged: its SHA-256 .*delete it"):
        pretrained.weights_file(str(snapshot))
