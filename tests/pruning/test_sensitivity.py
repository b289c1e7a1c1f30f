"""Sensitivity curves and the layer ratios allocated from them.

Curves are compared with networks that are really pruned, and allocations with other ways to find
them.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from helpers.networks import DIGITS_SHAPE
from helpers.params import PROJECT, edit_params, prune_spec
from ruamel.yaml import YAML
from torch import nn
from typer.testing import CliRunner

from prunelab.artifacts.networks import ModelCard, Network, save_network, seed_file
from prunelab.benchmarking.latency import Speedup
from prunelab.cli import app
from prunelab.commands.allocate.latency_budget import allocate_latency
from prunelab.commands.allocate.layer_costs import AllocationTarget
from prunelab.config.params import load_params
from prunelab.core.errors import InputError
from prunelab.data.loader import BatchLoader
from prunelab.evaluation.predict import predict
from prunelab.figures.sensitivity_figures import sensitivity
from prunelab.models.cost import macs, parameters
from prunelab.models.networks import build
from prunelab.pruning.allocation import Curve, allocate
from prunelab.pruning.prune import infeasible_specs, prune
from prunelab.pruning.sensitivity import (
    ALL,
    METHODS,
    PrunableUnit,
    curves,
    load_pruned,
    mean_curves,
    prunable_units,
    units_kept,
)
from prunelab.stages.sensitivity import main as measure_sensitivity


def dense_network(name: str = "resnet8", seed: int = 0) -> nn.Module:
    """A network whose norms have random scales and shifts, unlike fresh ones."""
    model = build(name, 10, DIGITS_SHAPE, seed).eval()
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=random)
            module.bias.data.uniform_(-0.5, 0.5, generator=random)
    return model


def really_pruned(
    model: nn.Module, architecture: str, kind: str, layer_ratios: dict[str, float]
) -> nn.Module:
    pruned = deepcopy(model)
    spec = prune_spec(METHODS[kind], 0, layer_ratios=layer_ratios)
    result = prune(pruned, architecture, spec, shape=DIGITS_SHAPE, seed=0)
    assert result.ratio_achieved == 0  # of the layers without a ratio of their own
    return pruned


def changed_tensors(before: nn.Module, after: nn.Module) -> set[str]:
    state = before.state_dict()
    return {name for name, value in after.state_dict().items() if not value.equal(state[name])}


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("resnet8", "weight"), ("resnet8", "channel"), ("resnet20_b", "channel")],
)
def test_zeroing_one_part_equals_pruning_it_and_nothing_else(architecture, kind, place):
    model = dense_network(architecture)
    untouched_model = deepcopy(model)
    parts = prunable_units(model, architecture, kind, DIGITS_SHAPE)
    part = parts[place]
    inputs = torch.randn(4, *DIGITS_SHAPE, generator=torch.Generator().manual_seed(1))

    zeroed = pruned_copy(model, parts, {part.name: units_kept(part.units, 0.5)})
    pruned = really_pruned(model, architecture, kind, {part.name: 0.5})

    torch.testing.assert_close(zeroed(inputs), pruned(inputs), rtol=1e-4, atol=1e-4)
    changed = changed_tensors(model, zeroed)
    assert {f"{layer}.weight" for layer in part.layers} <= changed
    if kind == "weight":
        assert changed == {f"{part.name}.weight"}
    other_weights = {f"{other.name}.weight" for other in parts if other is not part}
    assert not changed & other_weights
    assert not changed_tensors(untouched_model, model)


def pruned_copy(model: nn.Module, parts: list[PrunableUnit], kept: dict[str, int]) -> nn.Module:
    copy = deepcopy(model)
    with torch.no_grad():
        for tensor in copy.state_dict().values():
            tensor.fill_(7)  # what an earlier use left behind
    load_pruned(copy, model, parts, kept)
    return copy


def test_layers_that_share_channels_have_one_curve():
    model = dense_network("resnet20_b")

    parts = prunable_units(model, "resnet20_b", "channel", DIGITS_SHAPE)

    layers = [layer for part in parts for layer in part.layers]
    assert len(layers) == len(set(layers))
    stem = next(part for part in parts if "conv1" in part.layers)
    assert {"layer1.0.conv2", "layer1.1.conv2"} <= set(stem.layers)


@pytest.mark.parametrize("architecture", ["resnet20_b", "vit_tiny"])
def test_parts_come_in_the_order_of_the_layers(architecture):
    model = build(architecture, 10, (3, 32, 32))
    order = [name for name, _ in model.named_modules()]

    parts = prunable_units(model, architecture, "channel", (3, 32, 32))

    first_layers = [min(order.index(layer) for layer in part.layers) for part in parts]
    assert len(first_layers) > 5
    assert first_layers == sorted(first_layers)


def test_a_network_without_such_units_is_an_error():
    with pytest.raises(InputError, match="resnet8 has no heads"):
        prunable_units(dense_network(), "resnet8", "head", DIGITS_SHAPE)


Networks = list[tuple[nn.Module, list[PrunableUnit]]]


@pytest.fixture
def networks() -> Networks:
    """Two networks, with the weights of each layer as parts."""
    models = [dense_network(seed=seed) for seed in (0, 1)]
    return [(model, prunable_units(model, "resnet8", "weight", DIGITS_SHAPE)) for model in models]


@pytest.fixture
def accuracy(digits, normalise, execution) -> Callable[[nn.Module], float]:
    labels = digits.labels[:64]
    batches = BatchLoader(digits.at(np.arange(64)), normalise, execution)

    def measure(model: nn.Module) -> float:
        return float((predict(model, batches, 32, execution).classes == labels).mean())

    return measure


def test_every_part_has_a_row_and_the_last_row_is_of_all_parts(networks, accuracy):
    finished = []

    # The first ratio is too small to remove anything, so it has no rows.
    model, parts = networks[0]
    rows = list(curves(model, parts, (1e-9, 0.5), accuracy, lambda: finished.append(1)))

    names = [part.name for part in parts]
    assert [row["layer"] for row in rows] == [*names, ALL]
    assert len(finished) == len(names) + 1
    assert rows[-1]["units"] == sum(row["units"] for row in rows[:-1])


def test_the_row_of_all_parts_has_the_accuracy_of_a_pruned_network(networks, accuracy):
    model, parts = networks[1]
    layer_ratios = {part.name: 0.5 for part in parts}

    before, untouched_model = accuracy(model), deepcopy(model)

    *_, row = curves(model, parts, (0.5,), accuracy)

    pruned = really_pruned(model, "resnet8", "weight", layer_ratios)
    assert row["accuracy"] == accuracy(pruned)
    assert not changed_tensors(untouched_model, model)
    assert accuracy(model) == before


def test_the_curves_of_several_networks_become_one_with_their_mean(networks, accuracy):
    rows_by_network = [list(curves(*network, (0.5, 0.8), accuracy)) for network in networks]

    means = mean_curves(rows_by_network)

    for row, *rows in zip(means, *rows_by_network, strict=True):
        accuracies = [each["accuracy"] for each in rows]
        assert row["accuracies"] == accuracies
        assert row["accuracy"] == pytest.approx(np.mean(accuracies))
        assert row | {"accuracies": 0, "accuracy": 0} == rows[0] | {"accuracies": 0, "accuracy": 0}
    assert len({row["layer"] for row in means}) == len(networks[0][1]) + 1


def test_a_copy_that_keeps_every_unit_has_the_dense_accuracy(networks, accuracy):
    for model, parts in networks:
        all_units = {part.name: part.units for part in parts}
        assert accuracy(pruned_copy(model, parts, {})) == accuracy(model)
        assert accuracy(pruned_copy(model, parts, all_units)) == accuracy(model)


# --- the stage ---


def run_stage(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"prunelab.stages.{name}", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


RECORD = Path("metrics/sensitivity.json")
STAGE_ARGS = ("data/prepared", "models/base/final", str(RECORD))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A folder with two dense networks and the curves of their layers."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(PROJECT / "src"))
        patch.delenv("DVC_STAGE", raising=False)

        Path("params.yaml").write_text((PROJECT / "params.yaml").read_text())
        settings = {"ratios": [0.4, 0.9], "samples": 50}
        edit_params(Path("params.yaml"), seeds=[0, 1], sensitivity=settings)
        assert run_stage("prepare", "data/raw", "data/prepared").returncode == 0
        save_dense_networks(json.loads(Path("data/prepared/dataset.json").read_text()))

        # The stage must not need the other splits.
        for split in ("test", "train"):
            for file in Path("data/prepared", split).iterdir():
                file.unlink()

        finished = run_stage("sensitivity", *STAGE_ARGS)
        assert finished.returncode == 0, finished.stderr
    return folder


def save_dense_networks(data_info: dict) -> None:
    for seed in (0, 1):
        card = ModelCard(
            model="resnet8",
            classes=10,
            input_shape=DIGITS_SHAPE,
            seed=seed,
            imported=None,
            normalise={"mean": data_info["mean"], "std": data_info["std"]},
        )
        network = Network(model=dense_network(seed=seed), card=card)
        save_network(seed_file(Path("models/base/final"), seed), network)


@pytest.fixture
def workspace(measured, tmp_path, monkeypatch) -> Path:
    """The measured networks, with curves that fall, so that budgets can be allocated."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "models"):
        (tmp_path / name).symlink_to(measured / name)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    edit_params(tmp_path / "params.yaml", seeds=[0, 1])

    record = json.loads((measured / RECORD).read_text())
    layers = dict.fromkeys(row["layer"] for row in record["rows"])
    depth = {name: index for index, name in enumerate(layers)}
    record["accuracy"] = 1.0
    for row in record["rows"]:
        row["accuracy"] = 1 - row["removed"] ** (1 + depth[row["layer"]])
    (tmp_path / "metrics").mkdir()
    (tmp_path / RECORD).write_text(json.dumps(record))
    return tmp_path


def test_ratios_that_remove_nothing_are_an_error_and_keep_the_old_record(workspace):
    edit_params(workspace / "params.yaml", sensitivity={"ratios": [1e-6], "samples": 50})
    before = RECORD.read_bytes()

    message = r"sensitivity\.ratios: no layer loses some of its weights"
    with pytest.raises(InputError, match=message):
        measure_sensitivity(*(Path(arg) for arg in STAGE_ARGS))

    assert RECORD.read_bytes() == before


def test_units_that_no_ratio_removes_are_skipped_with_the_reason(workspace):
    settings = {"ratios": [0.001], "samples": 10}
    edit_params(workspace / "params.yaml", seeds=[0], sensitivity=settings)

    measure_sensitivity(*(Path(arg) for arg in STAGE_ARGS))

    record = json.loads(RECORD.read_text())
    assert {row["granularity"] for row in record["rows"]} == {"weight"}
    assert "[0.001]" in record["skipped"]["channel"]


def test_the_stage_writes_the_same_bytes_again(measured, monkeypatch):
    monkeypatch.chdir(measured)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    first = RECORD.read_bytes()

    assert run_stage("sensitivity", *STAGE_ARGS).returncode == 0

    assert RECORD.read_bytes() == first


def test_the_record_has_a_row_for_every_ratio_and_names_skipped_units(measured):
    record = json.loads((measured / RECORD).read_text())

    assert record["examples"] == 50
    assert record["skipped"].keys() == {"head", "hidden"}
    assert {row["granularity"] for row in record["rows"]} == {"weight", "channel"}
    assert {row["ratio"] for row in record["rows"]} == {0.4, 0.9}
    for row in record["rows"]:
        assert len(row["accuracies"]) == 2
        assert row["removed"] == pytest.approx(row["ratio"], abs=0.5 / 16)  # the narrowest has 16


def test_the_figure_has_a_curve_and_a_row_of_the_map_for_every_layer(measured):
    record = json.loads((measured / RECORD).read_text())

    figure = sensitivity(record, "title")

    names = {row["layer"] for row in record["rows"] if row["granularity"] == "weight"}
    lines = next(axis for axis in figure.axes if axis.get_xlabel().startswith("ratio (weights"))
    assert len(lines.lines) == len(names) + 1  # one for the dense network
    assert lines.lines[0].get_ydata()[0] == pytest.approx(record["accuracy"])
    heat_map = next(axis for axis in figure.axes if axis.images)
    assert {label.get_text() for label in heat_map.get_yticklabels()} == names


# --- allocation ---


def power_curve(name: str, units: int, power: float, round_to: int = 1) -> Curve:
    """1 - share^power, measured up to 0.95: the higher the power, the less sensitive the layer."""
    shares = np.linspace(0.05, 0.95, 19)
    points = list(zip(shares, 1 - shares**power, strict=True))
    return Curve.through(name, units, 1.0, points, round_to)


def power_curves(units: int, powers: Sequence[float], round_to: int = 1) -> list[Curve]:
    return [power_curve(str(power), units, power, round_to) for power in powers]


def share_of_units(layer_curves: Sequence[Curve]) -> Callable[[Sequence[int]], float]:
    total = sum(curve.units for curve in layer_curves)
    return lambda widths: sum(widths) / total


def removed_shares(layer_curves: Sequence[Curve], widths: Sequence[int]) -> list[float]:
    return [1 - width / curve.units for curve, width in zip(layer_curves, widths, strict=True)]


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_allocation_meets_the_budget_with_one_threshold_for_all_layers(target, seed):
    random = np.random.default_rng(seed)
    layer_curves = []
    for index in range(9):
        units, power = int(random.integers(50, 3000)), float(random.uniform(0.7, 6))
        layer_curves.append(power_curve(str(index), units, power))
    prices = random.uniform(0.1, 3, 9)
    dense_cost = float(np.dot(prices, [curve.units for curve in layer_curves]))

    def share_kept(widths: Sequence[int]) -> float:
        return float(np.dot(prices, widths)) / dense_cost

    widths = allocate(layer_curves, share_kept, target)

    cost = np.dot(prices, widths) / dense_cost
    assert cost == pytest.approx(target, abs=prices.max() / dense_cost)

    # The threshold lies between the accuracies at one unit more and one unit less of every layer.
    with_one_more, with_one_less = [], []
    for curve, share in zip(layer_curves, removed_shares(layer_curves, widths), strict=True):
        with_one_more.append(curve.accuracy(share - 1 / curve.units))
        with_one_less.append(curve.accuracy(share + 1 / curve.units))
    assert max(with_one_less) <= min(with_one_more) + 1e-9


def test_less_sensitive_layers_lose_more():
    layer_curves = power_curves(1000, powers=(1, 2, 3, 4))

    widths = allocate(layer_curves, share_of_units(layer_curves), 0.5)

    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4


@pytest.mark.parametrize("target", [0.8, 0.6, 0.3])
@pytest.mark.parametrize("accuracies", [(0.9, 0.5), (1.0, 1.0), (1.0, 0.2), (0.7, 0.7)])
def test_layers_with_equal_curves_lose_equal_shares_even_if_flat(accuracies, target):
    points = list(zip((0.5, 0.9), accuracies, strict=True))
    layer_curves = [Curve.through(str(units), units, 1.0, points) for units in (100, 400, 1000)]

    widths = allocate(layer_curves, share_of_units(layer_curves), target)

    shares = removed_shares(layer_curves, widths)
    assert shares == pytest.approx([1 - target] * 3, abs=0.01)


def test_curves_do_not_rise_and_end_where_measurements_end():
    curve = Curve.through("noisy", 100, 0.9, [(0.6, 0.5), (0.2, 0.88), (0.4, 0.92)])

    assert (np.diff(curve.accuracies) <= 0).all()
    assert curve.accuracy(0.3) == pytest.approx(0.9)  # (0.9 + 0.88 + 0.92) / 3
    assert curve.largest_share_at(1.0) == 0
    assert curve.largest_share_at(0.0) == 0.6
    assert allocate([curve], share_of_units([curve]), 0.1) == [40]


def test_allocated_widths_are_multiples_of_round_to():
    layer_curves = power_curves(64, powers=(1, 2, 4), round_to=8)

    widths = allocate(layer_curves, share_of_units(layer_curves), 0.5)

    assert all(width % 8 == 0 for width in widths)


def prune_to_widths(
    target: AllocationTarget, names: Sequence[str], widths: Sequence[int]
) -> nn.Module:
    layer_ratios = {}
    for name, width in zip(names, widths, strict=True):
        layer_ratios[name] = 1 - width / target.units[name]
    return really_pruned(target.model, "resnet8", target.kind, layer_ratios)


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_predicted_cost_of_channels_is_that_of_a_pruned_network(budget):
    target = AllocationTarget.of(dense_network(), "resnet8", DIGITS_SHAPE, "channel")
    names = list(target.units)[1:]  # the first stays whole
    widths = [units_kept(target.units[name], 0.4) for name in names]

    share = target.remaining_share(names, budget)(widths)

    pruned = prune_to_widths(target, names, widths)
    if budget == "params":
        expected = parameters(pruned) / parameters(target.model)
    else:
        expected = macs(pruned, DIGITS_SHAPE) / macs(target.model, DIGITS_SHAPE)
    assert share == pytest.approx(expected)


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_predicted_cost_of_weights_is_that_of_a_pruned_network(budget):
    target = AllocationTarget.of(dense_network(), "resnet8", DIGITS_SHAPE, "weight")
    names = list(target.units)[1:]  # the first stays whole
    widths = [units_kept(target.units[name], 0.4) for name in names]

    share = target.remaining_share(names, budget)(widths)

    pruned = prune_to_widths(target, names, widths)
    zeros = {name: int((pruned.get_submodule(name).weight == 0).sum()) for name in names}
    if budget == "params":
        removed, total = sum(zeros.values()), parameters(target.model)
    else:  # inputs have 8 x 8 pixels, halved twice
        pixels = {"conv1": 64, "layer1": 64, "layer2": 16, "layer3": 4, "linear": 1}
        removed = sum(count * pixels[name.split(".")[0]] for name, count in zeros.items())
        total = macs(target.model, DIGITS_SHAPE)
    assert share == pytest.approx(1 - removed / total)


# --- the command ---


def run_allocate(*args: str) -> Result:
    return CliRunner().invoke(app, ["allocate", *args])


@pytest.mark.parametrize("kind", ["weight", "channel"])
def test_allocate_changes_only_layer_ratios_and_says_how_to_go_on(workspace, kind):
    before = YAML(typ="safe").load(Path("params.yaml"))

    result = run_allocate("--ratio", "0.5", "--granularity", kind)

    assert result.exit_code == 0, result.stderr
    after = YAML(typ="safe").load(Path("params.yaml"))
    written = after["prune"].pop("layer_ratios")
    assert before["prune"].pop("layer_ratios") == {}
    assert after == before
    assert len(set(written.values())) > 1
    assert "dvc exp run" in result.stdout
    assert "grid" in result.stdout


@pytest.mark.parametrize("kind", ["weight", "channel"])
def test_allocated_ratios_are_feasible_and_meet_the_budget(workspace, kind):
    assert run_allocate("--ratio", "0.5", "--granularity", kind).exit_code == 0
    params = load_params()
    layer_ratios = params.prune.layer_ratios
    spec = params.spec(METHODS[kind], 0)
    model = dense_network()

    problems = infeasible_specs(model, params.model, [spec], shape=DIGITS_SHAPE, train=params.train)
    pruned = really_pruned(model, "resnet8", kind, layer_ratios)

    assert problems == []
    parts = prunable_units(model, "resnet8", kind, DIGITS_SHAPE)
    assert list(layer_ratios) == [part.name for part in parts]
    removed = 0
    for part in parts:
        weight = pruned.get_submodule(part.name).weight
        if kind == "weight":
            removed += int((weight == 0).sum())
        else:
            removed += part.units - weight.shape[0]
    assert removed / sum(part.units for part in parts) == pytest.approx(0.5, abs=0.01)


def test_a_dry_run_prints_ratios_and_writes_nothing(workspace):
    before = Path("params.yaml").read_bytes()

    result = run_allocate("--ratio", "0.5", "--dry-run")

    assert result.exit_code == 0
    assert "layer1.0.conv1" in result.stdout
    assert Path("params.yaml").read_bytes() == before


def test_protected_layers_get_no_ratio(workspace):
    edit_params(Path("params.yaml"), prune__protect=["layer1.*"])

    assert run_allocate("--ratio", "0.5").exit_code == 0

    assert "layer1.0.conv1" not in load_params().prune.layer_ratios


@pytest.mark.parametrize(
    ("args", "changes", "words"),
    [
        ([], {}, ["--ratio", "--latency"]),
        (["--ratio", "0.5", "--latency", "0.5"], {}, ["one of"]),
        (["--ratio", "1"], {}, ["below 1", "1.0"]),
        (["--latency", "0.5", "--granularity", "weight"], {}, ["--granularity channel"]),
        (["--ratio", "0.97"], {}, ["0.97", "cannot be met", "sensitivity.ratios"]),
        (["--ratio", "0.5", "--granularity", "head"], {}, ["resnet8 has no heads"]),
        (
            ["--ratio", "0.5"],
            {"model": "resnet20"},
            ["model resnet8", "resnet20", "dvc repro sensitivity"],
        ),
        (["--ratio", "0.5"], {"seeds": [0]}, ["seeds [0, 1]"]),
        (["--ratio", "0.5"], {"prune__protect": ["*"]}, ["prune.protect"]),
    ],
)
def test_an_impossible_allocation_is_one_line_and_writes_nothing(workspace, args, changes, words):
    edit_params(Path("params.yaml"), **changes)
    before = Path("params.yaml").read_bytes()

    result = run_allocate(*args)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in words), line
    assert Path("params.yaml").read_bytes() == before


def test_curves_of_other_networks_or_sizes_are_an_error(workspace):
    record = json.loads(RECORD.read_text())

    RECORD.write_text(json.dumps(record | {"networks": ["0", "1"]}))
    assert "other networks" in run_allocate("--ratio", "0.5").stderr

    rows = [row | {"units": row["units"] + 1} for row in record["rows"]]
    RECORD.write_text(json.dumps(record | {"rows": rows}))
    assert "lacks or has in another size" in run_allocate("--ratio", "0.5").stderr


def test_missing_curves_are_an_error(workspace):
    RECORD.unlink()

    assert "is missing" in run_allocate("--ratio", "0.5").stderr


# --- latency, on simulated machines ---


def simulated_latency(layer_curves: Sequence[Curve], noise: float = 1.0) -> Callable[..., Speedup]:
    """A machine on which a fifth of the time is fixed and the rest is the share of units.

    A measurement's interval is its value divided and multiplied by `noise`.
    """
    share_kept = share_of_units(layer_curves)

    def measure(widths: Sequence[int]) -> Speedup:
        speedup = 1 / (0.2 + 0.8 * share_kept(widths))
        return Speedup(speedup, speedup / noise, speedup * noise)

    return measure


@pytest.mark.parametrize("removed_share", [0.1, 0.4, 0.6])
def test_a_latency_budget_is_met_within_the_tolerance(removed_share):
    layer_curves = power_curves(400, powers=(1, 2, 3))
    measure = simulated_latency(layer_curves)
    lines: list[str] = []

    widths = allocate_latency(layer_curves, measure, removed_share, lines.append)

    assert 1 / measure(widths).value == pytest.approx(1 - removed_share, rel=0.05)
    assert len(lines) >= 2


@pytest.mark.parametrize(
    ("removed_share", "noise", "message"),
    [(0.9, 1.0, "at most 0.7"), (0.4, 1.2, "quieter machine")],
)
def test_a_latency_budget_out_of_reach_or_lost_in_noise_is_an_error(removed_share, noise, message):
    layer_curves = power_curves(400, powers=(1, 2, 3))
    measure = simulated_latency(layer_curves, noise)

    with pytest.raises(InputError, match=message):
        allocate_latency(layer_curves, measure, removed_share, lambda line: None)


def test_a_latency_that_falls_in_steps_is_an_error():
    def measure(widths: Sequence[int]) -> Speedup:
        speedup = 1.0 if widths[0] > 150 else 4.0
        return Speedup(speedup, speedup, speedup)

    with pytest.raises(InputError, match="the nearest is"):
        allocate_latency([power_curve("one", 400, 2)], measure, 0.4, lambda line: None)


def test_measuring_a_speedup_leaves_the_dense_network_whole(workspace, execution):
    target = AllocationTarget.of(dense_network(), "resnet8", DIGITS_SHAPE, "channel")
    spec = prune_spec("l1_channel", 0, layer_ratios={"layer1.0.conv1": 0.5})

    speedup = target.measure_speedup(spec, execution, batch_size=2, rounds=2)

    assert 0 < speedup.low <= speedup.value <= speedup.high
    assert target.model.get_submodule("layer1.0.conv1").weight.shape[0] == 16
