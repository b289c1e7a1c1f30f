"""What the benchmark measures besides time, and what it writes.

No test here depends on the speed of the machine.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.networks import DIGITS_SHAPE, UNSCALED_CARD
from helpers.params import PROJECT
from torch import nn
from torch.autograd.profiler import profile

from prunelab.artifacts.networks import Network, load_model, save_network
from prunelab.benchmarking import energy, memory
from prunelab.benchmarking import machine_load as machines
from prunelab.benchmarking.backends import BACKENDS, NEEDS, inputs_of, precision
from prunelab.benchmarking.latency import by_clock
from prunelab.benchmarking.machine_load import machine_load, watch_machine
from prunelab.benchmarking.operators import cpu_operators, operators
from prunelab.benchmarking.speed_table import speed_table
from prunelab.benchmarking.suite import Benchmark
from prunelab.core.errors import InputError
from prunelab.models.networks import build, example_input

MIB = 2**20
TEXT_SHAPE = (12,)
# The others are slow, or need a GPU.
SLOW_OR_GPU = ("compiled", "cuda_graph", "semi_structured")
QUICK_BACKENDS = [name for name in BACKENDS if name not in SLOW_OR_GPU]

needs_peak_reset = pytest.mark.skipif(
    not memory.RESET.exists(), reason="the peak of a process can be reset on Linux only"
)


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Two stored networks."""
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("dense", "l1_channel-0.5")}
    for path in paths.values():
        save_network(path, Network(model=build("resnet8", 10, DIGITS_SHAPE), card=UNSCALED_CARD))
    return paths


@pytest.fixture
def benchmark(files, execution) -> Benchmark:
    return Benchmark(
        models={name: execution.place(load_model(file)) for name, file in files.items()},
        load={name: partial(load_model, file) for name, file in files.items()},
        example=example_input(DIGITS_SHAPE),
        execution=execution,
    )


def check_outputs(backend: str, execution) -> None:
    """Check that a backend computes what the network computes."""
    model = execution.place(build("resnet8", 10, DIGITS_SHAPE)).eval()
    inputs = inputs_of(DIGITS_SHAPE, 3, execution)

    with torch.no_grad():
        outputs = BACKENDS[backend](model, inputs, execution)()
        torch.testing.assert_close(outputs, model(inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", QUICK_BACKENDS)
def test_every_backend_computes_the_networks_outputs(backend, execution):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

    check_outputs(backend, execution)


@pytest.mark.slow
def test_compiled_computes_the_networks_outputs(execution):
    check_outputs("compiled", execution)


class ReportsCompilation(nn.Module):
    """Returns 1 if it runs compiled, else 0. Every width must be compiled by itself."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.sum() * self.weight.sum() * 0 + torch.compiler.is_compiling()


@pytest.mark.slow
def test_all_of_many_networks_run_compiled(execution, monkeypatch):
    # The backend "eager" traces networks in the same way and is faster.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    inputs = inputs_of(TEXT_SHAPE, 2, execution)

    calls = []
    for width in range(1, 11):
        calls.append(BACKENDS["compiled"](ReportsCompilation(width).eval(), inputs, execution))

    assert all(call() == 1 for call in calls)


def test_compiled_without_a_compiler_is_refused(execution, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler --fast")
    inputs = inputs_of(TEXT_SHAPE, 1, execution)

    with pytest.raises(InputError, match=r"compiled needs a C\+\+ compiler .*no-such-compiler"):
        NEEDS["compiled"](execution)
    with pytest.raises(InputError, match="no-such-compiler"):
        BACKENDS["compiled"](ReportsCompilation(1).eval(), inputs, execution)


@pytest.mark.parametrize(
    ("backend", "dtype", "name"),
    [("eager", torch.bfloat16, "bf16"), ("onnxruntime", torch.float32, "fp32")],
)
def test_precision_is_what_the_backend_really_uses(backend, dtype, name, benchmark):
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    bf16 = replace(benchmark.execution, autocast_dtype=torch.bfloat16)

    call = replace(benchmark, execution=bf16).runnables(backend, 2)["dense"]

    assert call().dtype is dtype
    assert precision(backend, bf16) == name


def test_rows_name_the_precision(benchmark):
    bf16 = replace(benchmark.execution, autocast_dtype=torch.bfloat16)

    rows = replace(benchmark, execution=bf16).latency("eager", 2, rounds=2, seconds=1e-3)

    assert [row["precision"] for row in rows] == ["bf16", "bf16"]


def test_texts_are_measured_at_full_length(execution):
    inputs = inputs_of(TEXT_SHAPE, 3, execution)

    assert inputs.shape == (3, 12)
    assert (inputs != 0).all()


class MemoryHungry(nn.Module):
    """Needs so many MiB for every input, for a moment."""

    def __init__(self, mib: int):
        super().__init__()
        self.mib = mib

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(inputs) * self.mib, MIB // 4).sum()  # of 4 bytes each


def load_hungry(mib: int) -> nn.Module:
    return MemoryHungry(mib).eval()


@needs_peak_reset
def test_peak_memory_does_not_depend_on_what_ran_before(execution):
    loads = [partial(load_hungry, mib) for mib in (40, 10, 5)]

    large, small, smallest = memory.peaks(execution, loads, (1, 2, 2), 2)

    assert smallest < small < large
    assert large == pytest.approx(80 * MIB, rel=0.1)
    assert small == pytest.approx(20 * MIB, rel=0.2)


def load_that_fails() -> nn.Module:
    raise InputError("no such network")


def load_that_is_killed() -> nn.Module:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@needs_peak_reset
def test_errors_of_the_measuring_process_are_raised_and_its_death_is_named(execution):
    hungry = partial(load_hungry, 10)

    with pytest.raises(InputError, match="no such network"):
        memory.peaks(execution, [load_that_fails, hungry], (1, 2, 2), 2)
    with pytest.raises(ChildProcessError, match="peak memory was killed by SIGKILL"):
        memory.peaks(execution, [load_that_is_killed, hungry], (1, 2, 2), 2)
    assert multiprocessing.active_children() == []


IN_ONE_THREAD = """
import torch
from torch import nn
from torch.autograd.profiler import profile
from helpers.params import runtime_params
from prunelab.benchmarking import memory
from prunelab.runtime.device import configure

class Hungry(nn.Module):
    def forward(self, inputs):
        return torch.ones(len(inputs) * 40, 2**18).sum()

execution = configure(runtime_params(threads=1))
load = lambda: Hungry().eval()  # a lambda cannot reach a server
print(*memory.peaks(execution, [load], (1, 2, 2), 2))
"""


@needs_peak_reset
def test_peak_memory_of_a_process_with_one_thread_is_measured_in_forks_of_it():
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT / "tests")]),
    }
    process = subprocess.run(
        [sys.executable, "-c", IN_ONE_THREAD],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.returncode == 0, process.stderr
    assert int(process.stdout) == pytest.approx(80 * MIB, rel=0.1)


@needs_peak_reset
def test_peak_memory_is_that_of_activations_alone(files, execution):
    batch_size, channels, pixels = 64, 16, 8 * 8
    # The input, the last activation, and the outputs of the convolution and the norm.
    block = 4 * batch_size * channels * pixels * 4

    load = partial(load_model, files["dense"])

    (peak,) = memory.peaks(execution, [load], DIGITS_SHAPE, batch_size)

    assert 0.5 * block < peak < 4 * block


def write_rapl_zone(folder: Path, name: str, microjoules: int, counts: str = "package-0") -> Path:
    """Write a zone that counts up to 10**9 microjoules. Returns its counter."""
    zone = folder / name
    zone.mkdir()
    (zone / "name").write_text(f"{counts}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text("1000000000\n")
    return zone / "energy_uj"


def test_joules_of_all_packages_survive_an_overflow(tmp_path):
    first = write_rapl_zone(tmp_path, "intel-rapl:0", 1_000_000)
    second = write_rapl_zone(tmp_path, "intel-rapl:1", 999_000_000)
    # The cores of the first package, which counts them already.
    write_rapl_zone(tmp_path, "intel-rapl:0:0", 5_000_000)
    joules = energy.counter(torch.device("cpu"), tmp_path)
    before = joules()

    first.write_text("3000000")
    second.write_text("1000000")  # past the end of its range

    assert joules() - before == pytest.approx(2 + 2)


def test_joules_of_a_whole_laptop_are_not_added_to_those_of_its_package(tmp_path):
    package = write_rapl_zone(tmp_path, "intel-rapl:0", 1_000_000)
    platform = write_rapl_zone(tmp_path, "intel-rapl:1", 1_000_000, counts="psys")
    joules = energy.counter(torch.device("cpu"), tmp_path)
    before = joules()

    package.write_text("3000000")
    platform.write_text("5000000")

    assert joules() - before == pytest.approx(2)


def test_energy_of_a_machine_that_counts_no_package_is_not_available(tmp_path):
    write_rapl_zone(tmp_path, "intel-rapl:0", 1_000_000, counts="psys")

    assert energy.counter(torch.device("cpu"), tmp_path).startswith("not available")


def test_energy_without_a_counter_is_not_available(tmp_path):
    assert energy.counter(torch.device("cpu"), tmp_path).startswith("not available")


@pytest.mark.skipif(sys.platform != "linux", reason="RAPL is read on Linux")
def test_incomplete_counter_names_the_missing_file(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()

    assert "No such file" in energy.counter(torch.device("cpu"), tmp_path)


def test_energy_per_call_is_the_total_divided_by_the_calls():
    spent, clock = [0.0], [0.0]

    def call() -> None:
        spent[0] += 3
        clock[0] += 0.3

    joules = energy.per_call(call, lambda: spent[0], by_clock(lambda: clock[0]), seconds=2)

    assert joules == pytest.approx(3)


@pytest.fixture
def convolutions(execution):
    """One call of a network of two convolutions and a linear layer."""
    model = nn.Sequential(
        nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(1024, 10)
    )
    return BACKENDS["eager"](model.eval(), inputs_of(DIGITS_SHAPE, 16, execution), execution)


def test_operators_are_counted_and_sorted_by_time(convolutions, execution):
    rows = operators(convolutions, execution.device, top=1000)

    calls = {row["operator"]: row["calls"] for row in rows}
    times = [row["cpu_ms"] for row in rows]
    assert calls["aten::conv2d"] == 2
    assert calls["aten::addmm"] == 1
    assert times == sorted(times, reverse=True)


def test_operators_are_those_that_torch_makes_of_the_same_profile(convolutions):
    with profile(use_kineto=True) as profiler:
        for _ in range(3):
            convolutions()
            torch.ones(3).contiguous().view(3).sum().item()

    found = {row["operator"]: row for row in cpu_operators(profiler, 3)}
    expected = {event.key: event for event in profiler.key_averages()}

    assert found.keys() == expected.keys()
    for name, event in expected.items():
        assert found[name]["calls"] == event.count / 3, name
        cpu_ms = event.self_cpu_time_total / 1000 / 3
        assert found[name]["cpu_ms"] == pytest.approx(cpu_ms, abs=1e-5), name


def test_operators_beyond_the_top_are_summed_up(convolutions, execution):
    all_rows = operators(convolutions, execution.device, top=1000)
    top_rows = operators(convolutions, execution.device, top=2)

    assert [row["operator"] for row in top_rows][2:] == ["others"]
    assert sum(row["calls"] for row in top_rows) == sum(row["calls"] for row in all_rows)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"a": 0.2, "b": 0.3, "c": 0.2, "d": 0.05}, ["b 30%", "a 20%", "c 20%"]),
        ({"a": 0.9}, ["a 90%"]),
        ({"a": 0.2, "b": 0.2}, []),
        (dict.fromkeys("abcdefghij", 0.08) | {"idle": 0.0}, ["10 processes together 80%"]),
        ({}, []),
    ],
)
def test_machine_is_busy_by_what_others_use_together(monkeypatch, shares, expected):
    class Other:
        def __init__(self, name: str) -> None:
            self.name = name

    others = {Other(name): share for name, share in shares.items()}
    clock = iter((0.0, 0.9, 1.0))
    used = iter((dict.fromkeys(others, 5.0), {each: 5.0 + others[each] for each in others}))
    time = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None)
    monkeypatch.setattr(machines, "time", time)
    monkeypatch.setattr(machines, "_cpu_seconds", lambda: next(used))
    monkeypatch.setattr(machines, "_name", lambda process: process.name)

    assert machine_load()["busy"] == expected


def test_a_machine_is_watched_until_it_is_asked_for_and_no_shorter_than_the_window(monkeypatch):
    now, slept = [10.0], []
    time = SimpleNamespace(monotonic=lambda: now[0], sleep=slept.append)
    monkeypatch.setattr(machines, "time", time)

    load = watch_machine(window_s=0.5)
    now[0] += 0.2
    load()
    now[0] += 5.0
    load()

    assert slept == [pytest.approx(0.3), 0.0]


def test_machine_load_has_cores_load_and_busy_processes():
    load = machine_load(window_s=0.1)

    assert load["cores"] >= 1
    assert load["load_1min"] >= 0
    assert isinstance(load["busy"], list)


def test_latency_rows_compare_with_the_dense_network(benchmark):
    rows = benchmark.latency("eager", 2, rounds=3, seconds=0.03)

    dense, pruned = rows
    assert [row["name"] for row in rows] == list(benchmark.models)
    assert "faster" not in dense
    assert pruned["faster_low"] <= pruned["faster"] <= pruned["faster_high"]
    for row in rows:
        assert row["latency_ms_quantiles"] == sorted(row["latency_ms_quantiles"])
        assert row["latency_ms_quantiles"][10] == pytest.approx(row["latency_ms_p50"])
        assert row["throughput_per_s"] == pytest.approx(2000 / row["latency_ms_p50"])


def test_operators_are_measured_at_the_largest_batch_up_to_64(benchmark):
    rows = benchmark.operators([1, 2, 500])

    assert {row["name"] for row in rows} == set(benchmark.models)
    assert {row["batch_size"] for row in rows} == {2}


def test_speed_table_shows_latency_load_and_missing_energy(benchmark):
    rows = benchmark.latency("eager", 2, rounds=3, seconds=0.03)
    record = {
        "environment": {
            "device": "a machine",
            "cuda": None,
            "threads": 2,
            "precision": "fp32",
            "packages": {"torch": "2"},
            "memory_format": "torch.channels_last",
        },
        "load": {"load_1min": 0.0, "cores": 2, "busy": ["compiler 99%", "<b>|@you 60%"]},
        "seed": 0,
        "rounds": 3,
        "latency": rows,
        "memory": [{"name": "dense", "batch_size": 2, "peak_bytes": 10**6}],
        "energy": "not available: no counter",
    }

    table = speed_table(json.loads(json.dumps(record)), "title")

    escaped = "<code>&#60;b&#62;&#124;&#64;you 60&#37;</code>"
    assert f"| l1_channel-0.5 | {rows[1]['latency_ms_p50']:.3g} ms" in table
    assert rows[1]["told"] in table
    assert f"busy beside this: compiler 99%, {escaped}." in table
    assert "Energy: not available" in table
