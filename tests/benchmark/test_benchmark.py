"""What the benchmark measures beside time, and what it writes; nothing here depends on how fast the machine is."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from torch import nn

from prunelab.artifacts.networks import ModelCard, Network, load_model, save_network
from prunelab.benchmark import energy, memory
from prunelab.benchmark.backends import BACKENDS, NEEDS, inputs_of, precision
from prunelab.benchmark.latency import by_clock
from prunelab.benchmark.machine_load import machine_load
from prunelab.benchmark.operators import operators
from prunelab.benchmark.speed_table import speed_table
from prunelab.benchmark.suite import Benchmark
from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.models.catalogue import build


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    card = ModelCard(
        model="resnet8", classes=10, input_shape=DIGITS_SHAPE, normalise=Normalise(mean=[0.0], std=[1.0]), seed=0,
        imported=None,
    )  # fmt: skip
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("dense", "l1_channel-0.5")}
    for path in paths.values():
        save_network(path, Network(model=build("resnet8", 10, DIGITS_SHAPE), card=card))
    return paths


@pytest.mark.parametrize(
    "name", [name for name in BACKENDS if name not in ("compiled", "cuda_graph")]
)
def test_every_backend_gives_the_networks_own_outputs(name, execution):
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    model = execution.place(build("resnet8", 10, DIGITS_SHAPE)).eval()
    inputs = inputs_of(DIGITS_SHAPE, 3, execution)
    with torch.no_grad():
        said = BACKENDS[name](model, inputs, execution)()
        torch.testing.assert_close(said, model(inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_compiled_gives_the_networks_own_outputs(execution):
    test_every_backend_gives_the_networks_own_outputs("compiled", execution)


class Asked(nn.Module):
    """As wide as one likes; says whether it runs compiled."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.sum() * self.weight.sum() * 0 + torch.compiler.is_compiling()


@pytest.mark.slow
def test_compiled_runs_no_network_as_it_comes_however_many_there_are(execution, monkeypatch):
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="eager")
    )  # traced alike, and sooner done
    inputs = inputs_of((12,), 2, execution)
    calls = [BACKENDS["compiled"](Asked(width).eval(), inputs, execution) for width in range(1, 11)]
    assert all(call() == 1 for call in calls)


def test_compiled_is_refused_without_a_compiler(execution, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler --fast")
    with pytest.raises(InputError, match=r"compiled needs a C\+\+ compiler .*no-such-compiler"):
        NEEDS["compiled"](execution)
    with pytest.raises(InputError, match="no-such-compiler"):
        BACKENDS["compiled"](Asked(1).eval(), inputs_of((12,), 1, execution), execution)


def test_a_backend_that_has_no_bf16_says_so(files, execution):
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    models = {"dense": load_model(files["dense"])}
    bench = Benchmark(
        models=models,
        load={},
        shape=DIGITS_SHAPE,
        execution=replace(execution, autocast_dtype=torch.bfloat16),
    )
    for backend, dtype, told in (
        ("eager", torch.bfloat16, "bf16"),
        ("onnxruntime", torch.float32, "fp32"),
    ):
        assert bench.arms(backend, 2)["dense"]().dtype is dtype
        assert precision(backend, bench.execution) == told
    (row,) = bench.latency("eager", 2, rounds=2, seconds=1e-3)
    assert row["precision"] == "bf16"


def test_texts_are_measured_at_full_length(execution):
    inputs = inputs_of((12,), 3, execution)
    assert inputs.shape == (3, 12)
    assert (inputs != 0).all()


class Hungry(nn.Module):
    """Takes so many MiB for every input, for a moment."""

    def __init__(self, mib: int):
        super().__init__()
        self.mib = mib

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(inputs) * self.mib, 2**18).sum()  # of 4 bytes


def hungry(mib: int) -> nn.Module:
    return Hungry(mib).eval()


@pytest.mark.skipif(
    not memory.RESET.exists(), reason="the peak of a process can be reset on Linux only"
)
def test_peak_memory_is_what_a_batch_takes_whatever_ran_before(execution):
    with memory.meter(execution) as measure:
        large = measure(partial(hungry, 40), (1, 2, 2), 2)
        small = measure(partial(hungry, 10), (1, 2, 2), 2)
    assert large == pytest.approx(80 * 2**20, rel=0.1)
    assert small == pytest.approx(20 * 2**20, rel=0.2)


@pytest.mark.skipif(
    not memory.RESET.exists(), reason="the peak of a process can be reset on Linux only"
)
def test_peak_memory_is_of_activations_and_not_of_what_a_library_loads_once(files, execution):
    batch, channels, pixels = 64, 16, 8 * 8
    block = (
        4 * batch * channels * pixels * 4
    )  # the input, the last activation, what the convolution and the norm say
    with memory.meter(execution) as measure:
        assert (
            0.5 * block
            < measure(partial(load_model, files["dense"]), DIGITS_SHAPE, batch)
            < 4 * block
        )


def rapl(folder: Path, name: str, microjoules: int, most: int = 10**9) -> Path:
    zone = folder / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{most}\n")
    return zone / "energy_uj"


def test_joules_are_those_of_all_packages_and_survive_a_counter_that_starts_again(tmp_path):
    first, second = (
        rapl(tmp_path, "intel-rapl:0", 10**6),
        rapl(tmp_path, "intel-rapl:1", 999_000_000),
    )
    rapl(tmp_path, "intel-rapl:0:0", 5 * 10**6)  # the cores of the first: counted there already
    joules = energy.counter(torch.device("cpu"), tmp_path)
    before = joules()
    first.write_text(str(3 * 10**6))
    second.write_text("1000000")  # past its range of 10**9
    assert joules() - before == pytest.approx(2 + 2)


def test_energy_is_not_available_without_a_counter(tmp_path):
    assert energy.counter(torch.device("cpu"), tmp_path).startswith("not available")
    if sys.platform == "linux":
        (tmp_path / "intel-rapl:0").mkdir()
        assert "No such file" in energy.counter(torch.device("cpu"), tmp_path)


def test_energy_per_call_is_the_whole_over_the_calls():
    spent, time = [0.0], [0.0]

    def call() -> None:
        spent[0] += 3
        time[0] += 0.3

    assert energy.per_call(
        call, lambda: spent[0], by_clock(lambda: time[0]), seconds=2
    ) == pytest.approx(3)


def test_operators_are_those_that_ran_and_others_hold_the_rest(execution):
    model = nn.Sequential(
        nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(1024, 10)
    )
    call = BACKENDS["eager"](model.eval(), inputs_of(DIGITS_SHAPE, 16, execution), execution)
    every = operators(call, execution.device, top=1000)
    by_name = {row["operator"]: row for row in every}
    assert by_name["aten::conv2d"]["calls"] == 2
    assert by_name["aten::addmm"]["calls"] == 1
    assert [row["cpu_ms"] for row in every] == sorted(
        (row["cpu_ms"] for row in every), reverse=True
    )
    few = operators(call, execution.device, top=2)
    assert [row["operator"] for row in few][2:] == ["others"]
    assert sum(row["calls"] for row in few) == sum(row["calls"] for row in every)


def test_load_names_what_else_computes_and_not_ourselves():
    seen = machine_load(window_s=0.1)
    assert seen["cores"] >= 1
    assert seen["load_1min"] >= 0
    assert isinstance(seen["busy"], list)


def test_the_bench_measures_all_networks_and_the_table_tells(files, execution):
    bench = Benchmark(
        models={name: execution.place(load_model(file)) for name, file in files.items()},
        load={name: partial(load_model, file) for name, file in files.items()},
        shape=DIGITS_SHAPE,
        execution=execution,
    )
    rows = bench.latency("eager", 2, rounds=3, seconds=0.03)
    assert [row["name"] for row in rows] == list(files)
    assert "faster" not in rows[0]
    assert rows[1]["faster_low"] <= rows[1]["faster"] <= rows[1]["faster_high"]
    for row in rows:
        assert row["latency_ms_quantiles"] == sorted(row["latency_ms_quantiles"])
        assert row["latency_ms_quantiles"][10] == pytest.approx(row["latency_ms_p50"])
        assert row["throughput_per_s"] == pytest.approx(2000 / row["latency_ms_p50"])
    assert {row["name"] for row in bench.operators([1, 2, 500])} == set(files)
    assert {row["batch_size"] for row in bench.operators([1, 2, 500])} == {2}
    measured = {
        "environment": {
            "device": "a machine", "cuda": None, "threads": 2, "precision": "fp32", "packages": {"torch": "2"},
            "memory_format": "torch.channels_last",
        },
        "load": {"load_1min": 0.0, "cores": 2, "busy": ["compiler 99%", "<b>|@you 60%"]},
        "seed": 0, "rounds": 3, "latency": rows, "energy": "not available: no counter",
        "memory": [{"name": name, "batch_size": 2, "peak_bytes": 10**6} for name in files],
    }  # fmt: skip
    json.dumps(measured)
    table = speed_table(measured, "title")
    assert f"| l1_channel-0.5 | {rows[1]['latency_ms_p50']:.3g} ms" in table
    assert rows[1]["told"] in table
    assert (
        "busy beside this: compiler 99%, <code>&#60;b&#62;&#124;&#64;you 60&#37;</code>." in table
    )
    assert "Energy: not available" in table
    assert np.isfinite(rows[0]["throughput_per_s"])
