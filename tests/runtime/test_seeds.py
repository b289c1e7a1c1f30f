"""Seeds side by side: the results, bits, errors and signals of their processes."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children

import numpy as np
import psutil
import pytest
import torch
from helpers.params import PROJECT

from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.core.lifecycle import RESUME_HINT
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.runtime import bars, seeds
from prunelab.runtime.device import Execution
from prunelab.runtime.distributed import Distributed
from prunelab.runtime.seeds import for_each_seed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seeds run side by side on Linux")

HANG_TIMEOUT_S = 120


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    use_cores(monkeypatch, 2)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_hang():
    """A test that hangs fails: processes that wait for each other would wait for ever."""

    def fail(number: int, frame: object) -> None:
        raise TimeoutError(f"it hangs for {HANG_TIMEOUT_S} s")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(HANG_TIMEOUT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def use_cores(monkeypatch, count: int) -> None:
    monkeypatch.setattr(seeds, "available_cores", lambda: list(range(count)))


def process_of(seed: int) -> tuple[int, int]:
    return seed, os.getpid()


def wait_for(condition, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def test_every_seed_runs_in_a_process_of_its_own_and_results_keep_their_order(execution):
    def slow_first_seed(seed: int) -> tuple[int, int]:
        time.sleep(0.3 * (seed == 7))
        return process_of(seed)

    results = list(for_each_seed([7, 3, 5], slow_first_seed, execution))

    assert [seed for seed, _ in results] == [7, 3, 5]
    assert len({process for _, process in results} - {os.getpid()}) == 3
    assert active_children() == []


@pytest.mark.parametrize(
    ("count", "cores", "threads", "processes"),
    [(1, 4, 1, 1), (3, 1, 1, 1), (3, 3, 2, 1), (3, 4, 1, 2)],
    ids=["one seed", "one core", "one core too few", "processes that train together"],
)
def test_seeds_without_room_beside_another_run_in_this_process(
    count, cores, threads, processes, execution, monkeypatch
):
    use_cores(monkeypatch, cores)
    torch.set_num_threads(threads)

    results = for_each_seed(range(count), process_of, execution, Distributed(0, processes))

    assert list(results) == [(seed, os.getpid()) for seed in range(count)]


def test_seeds_on_a_gpu_run_in_threads_of_this_process(monkeypatch):
    devices = []

    def in_threads(chosen, work, device):
        devices.append(device.type)
        return map(work, chosen)

    monkeypatch.setattr(seeds, "in_threads", in_threads)
    gpu = Execution(torch.device("cuda"), None, torch.contiguous_format)

    assert list(for_each_seed([0, 1], process_of, gpu)) == [(0, os.getpid()), (1, os.getpid())]
    assert list(for_each_seed([0], process_of, gpu)) == [(0, os.getpid())]
    assert devices == ["cuda"]


def test_a_seed_starts_when_the_stage_gets_another_core(execution, monkeypatch, tmp_path):
    start = time.monotonic()
    monkeypatch.setattr(
        seeds, "available_cores", lambda: [0, 1, 2][: 2 + (time.monotonic() > start + 0.5)]
    )

    def wait_for_the_last(seed: int) -> bool:
        (tmp_path / str(seed)).touch()
        return wait_for((tmp_path / "2").exists)

    assert list(for_each_seed([0, 1, 2], wait_for_the_last, execution)) == [True, True, True]


def train_a_little(seed: int) -> dict[str, np.ndarray]:
    """Convolutions, matrix products and their gradients, on as many threads as torch has."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(40)
    )
    images = torch.randn(128, 3, 16, 16)
    for _ in range(3):
        net.zero_grad()
        net(images).square().mean().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.1 * parameter.grad
    return {name: value.numpy() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("threads", [1, 2])
def test_children_compute_the_same_bits_even_after_this_process_used_threads(
    threads, execution, monkeypatch
):
    torch.set_num_threads(threads)
    expected = [train_a_little(seed) for seed in (0, 1, 2)]  # starts the threads of OpenMP

    use_cores(monkeypatch, 2 * threads)
    side_by_side = list(for_each_seed([0, 1, 2], train_a_little, execution))

    for weights, expected_weights in zip(side_by_side, expected, strict=True):
        for name, value in expected_weights.items():
            assert weights[name].tobytes() == value.tobytes()


def test_children_use_the_threads_that_torch_was_given(execution, monkeypatch):
    torch.set_num_threads(2)
    use_cores(monkeypatch, 4)

    counts = for_each_seed([0, 1], lambda seed: torch.get_num_threads(), execution)

    assert list(counts) == [2, 2]


def test_data_streamed_by_workers_reaches_a_child(execution, tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    streamed = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), random.integers(0, 5, 50))
    normalise = Normalise(mean=[0.5] * 3, std=[0.25] * 3)

    def batches(seed: int, workers: int = 2) -> list[np.ndarray]:
        loader = BatchLoader(streamed, normalise, execution, workers=workers)
        shuffled = loader.shuffled(16, Augmentation(crop_padding=1), seed=seed, epoch=0)
        return [inputs.numpy() for inputs, _ in shuffled]

    for seed, received in zip((0, 1), for_each_seed([0, 1], batches, execution), strict=True):
        for batch, expected in zip(received, batches(seed, workers=0), strict=True):
            assert batch.tobytes() == expected.tobytes()


def test_a_refusal_in_one_seed_arrives_unchanged_and_ends_the_others(execution):
    def refuse(seed: int) -> None:
        if seed == 0:
            time.sleep(600)
        raise InputError(["the first problem", "the second problem"])

    with pytest.raises(InputError) as refused:
        list(for_each_seed([0, 1, 2], refuse, execution))

    assert refused.value.problems == ["the first problem", "the second problem"]
    assert active_children() == []


def test_what_the_machine_lacks_is_told_as_in_one_process(execution):
    def fill_disk(seed: int) -> None:
        raise OSError(28, "No space left on device", "models/0.safetensors")

    with pytest.raises(OSError, match="No space") as failed:
        list(for_each_seed([0, 1], fill_disk, execution))

    assert failed.value.filename == "models/0.safetensors"


def test_a_child_that_is_killed_is_named_with_its_seed(execution):
    def die(seed: int) -> None:
        if seed == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)

    with pytest.raises(ChildProcessError, match="seed 3 was killed by SIGKILL.*memory"):
        list(for_each_seed([2, 3], die, execution))

    assert active_children() == []


class UntransportableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (AssertionError("a defect"), AssertionError),
        (UntransportableError("a defect", ""), RuntimeError),
    ],
)
def test_a_defect_keeps_the_traceback_of_its_process(error, raised, execution):
    def line_with_a_defect(seed: int) -> None:
        raise error

    with pytest.raises(raised) as failed:
        list(for_each_seed([0, 1], line_with_a_defect, execution))

    text = "".join([str(failed.value), *getattr(failed.value, "__notes__", [])])
    assert "in the process of seed 0" in text
    assert "line_with_a_defect" in text


def test_a_result_that_cannot_be_sent_is_an_error(execution):
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        list(for_each_seed([0, 1], lambda seed: lambda: seed, execution))


def test_children_end_if_the_caller_gives_up(execution):
    results = for_each_seed([0, 1], lambda seed: time.sleep(600 * seed), execution)
    next(results)
    assert len(active_children()) == 1

    results.close()

    assert active_children() == []


def test_lines_of_children_arrive_whole_and_in_their_order(execution, capfd):
    def print_in_pieces(seed: int) -> None:
        for line in range(50):
            for piece in (f"seed {seed}, ", "line ", str(line), "\n"):
                print(piece, end="", flush=True)

    for seed, _ in enumerate(for_each_seed([0, 1], print_in_pieces, execution)):
        print(f"seed {seed} has ended")

    lines = capfd.readouterr().out.splitlines()
    for seed in (0, 1):
        printed = [line for line in lines if line.startswith(f"seed {seed}, ")]
        assert printed == [f"seed {seed}, line {line}" for line in range(50)]
    assert [line for line in lines if "ended" in line] == ["seed 0 has ended", "seed 1 has ended"]
    assert len(lines) == 102


def test_a_terminal_shows_a_bar_for_every_seed(execution, monkeypatch, capfd):
    def work(seed: int) -> None:
        bar = bars.open_bar(f"training, seed {seed}", total=10)
        for step in range(10):
            bar.update()
            bar.set_postfix_str(f"loss {step}")
        print(f"seed {seed} prints")
        bar.close()

    monkeypatch.setattr(bars, "on_terminal", lambda: True)
    list(for_each_seed([0, 1], work, execution))

    output = capfd.readouterr()
    for seed in (0, 1):
        assert f"training, seed {seed}: 100%" in output.err
        assert f"seed {seed} prints\n" in output.out
    assert "loss 9" in output.err


STAGE = """
import os, sys, time
from pathlib import Path
import numpy as np, torch
from torch.utils.data import DataLoader
from prunelab.core.lifecycle import setup_process
from prunelab.data.storage import OnDisk
from prunelab.runtime import seeds
from prunelab.runtime.device import Execution

def work(seed):
    stream = OnDisk(np.load("images.npy", mmap_mode="r"), torch.device("cpu"), workers=1)
    for batch in stream.ordered(2):
        Path(f"{seed}.started").touch()
        time.sleep(600)

setup_process()
seeds.available_cores = lambda: [0, 1]
torch.set_num_threads(1)
cpu = Execution(torch.device("cpu"), None, torch.contiguous_format)
list(seeds.for_each_seed([0, 1], work, cpu))
"""


@pytest.mark.parametrize(
    ("number", "whole_group", "line"),
    [
        (signal.SIGKILL, False, None),
        (signal.SIGTERM, False, "stopped by SIGTERM"),
        (signal.SIGTERM, True, "stopped by SIGTERM"),
        (signal.SIGINT, False, "interrupted"),
        (signal.SIGINT, True, "interrupted"),
    ],
)
def test_a_signal_ends_a_stage_with_all_its_processes(number, whole_group, line, tmp_path):
    """As by a terminal, which sends Ctrl-C to the whole group, or as by `kill`."""
    np.save(tmp_path / "images.npy", np.zeros((8, 3, 4, 4), np.uint8))
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    environment.pop("DVC_STAGE", None)
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert wait_for(lambda: len(list(tmp_path.glob("*.started"))) == 2, seconds=100)
    family = psutil.Process(stage.pid).children(recursive=True)
    assert len(family) == 4  # two seeds with a worker each that streams data

    if whole_group:
        os.killpg(stage.pid, number)
    else:
        stage.send_signal(number)
    _, stderr = stage.communicate(timeout=20)

    _, alive = psutil.wait_procs(family, timeout=2)  # torch's workers look after 5 s by themselves
    assert alive == []
    assert stage.returncode == (-number if line is None else 128 + number)
    lines = [text for text in stderr.splitlines() if text]
    if line is None:
        assert lines == []
    else:
        assert lines == [f"{line}; {RESUME_HINT}"]
