"""What layers bear, and the ratios made of it: against real cuts, and against allocations found in other ways."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from helpers.params import PROJECT, edit_params, prune_spec
from ruamel.yaml import YAML
from typer.testing import CliRunner

from prunelab.artifacts.networks import ModelCard, Network, save_network, seed_file
from prunelab.benchmark.latency import Speedup
from prunelab.cli import app
from prunelab.commands.allocate.latency_budget import allocate_latency
from prunelab.commands.allocate.layer_costs import AllocationTarget
from prunelab.commands.allocate.write_params import write_layer_ratios
from prunelab.config.params import load_params
from prunelab.core.errors import InputError
from prunelab.data.loader import BatchLoader
from prunelab.evaluation.predict import predict
from prunelab.figures.sensitivity_figures import sensitivity
from prunelab.models.catalogue import build
from prunelab.models.cost import macs, parameters
from prunelab.pruning.allocation import Curve, allocate
from prunelab.pruning.prune import infeasible_specs, prune
from prunelab.pruning.sensitivity import ALL, METHODS, curves, left, parts, without
from prunelab.stages.sensitivity import main as measure_sensitivity

RATIOS = (0.3, 0.6)


def dense(name: str = "resnet8", seed: int = 0):
    """A network whose norms have something to say, unlike fresh ones."""
    model = build(name, 10, DIGITS_SHAPE, seed).eval()
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=random)
            module.bias.data.uniform_(-0.5, 0.5, generator=random)
    return model


def really_cut(model, architecture: str, what: str, ratios: dict[str, float]):
    copy = deepcopy(model)
    spec = prune_spec(METHODS[what], 0, layer_ratios=ratios)
    pruned = prune(copy, architecture, spec, shape=DIGITS_SHAPE, seed=0)
    assert pruned.ratio_achieved == 0  # of the layers without a ratio of their own
    return copy


@pytest.mark.parametrize(
    ("architecture", "what"),
    [("resnet8", "weight"), ("resnet8", "channel"), ("resnet20_b", "channel")],
)
def test_a_part_by_itself_is_what_its_method_cuts_and_nothing_else(architecture, what):
    model = dense(architecture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = parts(model, architecture, what, DIGITS_SHAPE)
    inputs = torch.randn(4, *DIGITS_SHAPE, generator=torch.Generator().manual_seed(1))
    for part in [found[0], found[-1]]:
        copy = without(model, found, {part.name: left(part.units, 0.5)})
        thin = really_cut(model, architecture, what, {part.name: 0.5})
        torch.testing.assert_close(copy(inputs), thin(inputs), rtol=1e-4, atol=1e-4)
        changed = {
            name for name, value in copy.state_dict().items() if not value.equal(before[name])
        }
        assert {f"{layer}.weight" for layer in part.layers} <= changed
        if what == "weight":
            assert changed == {f"{part.name}.weight"}
        untouched = {f"{other.name}.weight" for other in found if other is not part}
        assert not changed & untouched
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_layers_that_share_channels_have_one_curve():
    found = parts(dense("resnet20_b"), "resnet20_b", "channel", DIGITS_SHAPE)
    layers = [layer for part in found for layer in part.layers]
    assert len(layers) == len(set(layers))
    shared = next(part for part in found if "conv1" in part.layers)
    assert {"layer1.0.conv2", "layer1.1.conv2"} <= set(shared.layers)


@pytest.mark.parametrize("architecture", ["resnet20_b", "vit_tiny"])
def test_parts_come_by_depth(architecture):
    model = build(architecture, 10, (3, 32, 32))
    order = [name for name, _ in model.named_modules()]
    firsts = [
        min(map(order.index, part.layers))
        for part in parts(model, architecture, "channel", (3, 32, 32))
    ]
    assert len(firsts) > 5
    assert firsts == sorted(firsts)


def test_a_network_without_such_units_is_refused():
    with pytest.raises(InputError, match="resnet8 has no heads"):
        parts(dense(), "resnet8", "head", DIGITS_SHAPE)


def test_curves_begin_at_the_dense_network_and_end_with_all_layers(digits, normalise, execution):
    labels = digits.labels[:64]
    batches = BatchLoader(digits.at(np.arange(64)), normalise, execution)

    def accuracy(model) -> float:
        return float((predict(model, batches, 32, execution).classes == labels).mean())

    models = [dense(seed=seed) for seed in (0, 1)]
    networks = [(model, parts(model, "resnet8", "weight", DIGITS_SHAPE)) for model in models]
    heard = []
    rows = list(curves(networks, (1e-9, 0.5), accuracy, lambda: heard.append(1)))
    names = [part.name for part in networks[0][1]]
    assert [row["layer"] for row in rows] == [
        *names,
        ALL,
    ]  # at next to nothing, there is nothing to measure
    assert len(heard) == len(names) + 1
    for model, found in networks:
        assert accuracy(without(model, found, {})) == accuracy(model)
        assert accuracy(
            without(model, found, {part.name: part.units for part in found})
        ) == accuracy(model)
    everything = really_cut(models[1], "resnet8", "weight", dict.fromkeys(names, 0.5))
    assert rows[-1]["accuracies"][1] == accuracy(everything)
    assert rows[-1]["accuracy"] == pytest.approx(np.mean(rows[-1]["accuracies"]))
    assert rows[-1]["units"] == sum(row["units"] for row in rows[:-1])


# --- the stage ---


def stage(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"prunelab.stages.{name}", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


MEASURE = ("sensitivity", "data/prepared", "models/base/final", "metrics/sensitivity.json")


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A folder with two dense networks and the curves of their layers."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(PROJECT / "src"))
        patch.delenv("DVC_STAGE", raising=False)
        Path("params.yaml").write_text((PROJECT / "params.yaml").read_text())
        edit_params(
            Path("params.yaml"), seeds=[0, 1], sensitivity={"ratios": [0.4, 0.9], "samples": 50}
        )
        assert stage("prepare", "data/raw", "data/prepared").returncode == 0
        facts = json.loads(Path("data/prepared/dataset.json").read_text())
        for seed in (0, 1):
            card = ModelCard(
                model="resnet8", classes=10, input_shape=DIGITS_SHAPE, seed=seed, imported=None,
                normalise={"mean": facts["mean"], "std": facts["std"]},
            )  # fmt: skip
            save_network(
                seed_file(Path("models/base/final"), seed),
                Network(model=dense(seed=seed), card=card),
            )
        for split in ("test", "train"):  # which the stage has no business with
            for file in Path("data/prepared", split).iterdir():
                file.unlink()
        done = stage(*MEASURE)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def workspace(measured, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "models"):
        (tmp_path / name).symlink_to(measured / name)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    edit_params(tmp_path / "params.yaml", seeds=[0, 1])
    (tmp_path / "metrics").mkdir()
    # What these random networks do says nothing; so that allocations can be met, curves are made to fall.
    record = json.loads((measured / "metrics/sensitivity.json").read_text())
    record["accuracy"] = 1.0
    depth = {
        name: place
        for place, name in enumerate(dict.fromkeys(row["layer"] for row in record["rows"]))
    }
    for row in record["rows"]:
        row["accuracy"] = 1 - row["removed"] ** (1 + depth[row["layer"]])
    (tmp_path / "metrics/sensitivity.json").write_text(json.dumps(record))
    return tmp_path


def test_ratios_that_take_nothing_are_refused_and_leave_the_curves_alone(workspace):
    edit_params(workspace / "params.yaml", sensitivity={"ratios": [1e-6], "samples": 50})
    before = (workspace / "metrics/sensitivity.json").read_bytes()
    with pytest.raises(
        InputError, match=r"sensitivity\.ratios: no layer loses some of its weights"
    ):
        measure_sensitivity(*(Path(part) for part in MEASURE[1:]))
    assert (workspace / "metrics/sensitivity.json").read_bytes() == before


def test_units_of_which_no_ratio_takes_any_are_left_out_with_the_reason(workspace):
    edit_params(
        workspace / "params.yaml", seeds=[0], sensitivity={"ratios": [0.001], "samples": 10}
    )
    measure_sensitivity(*(Path(part) for part in MEASURE[1:]))
    record = json.loads((workspace / "metrics/sensitivity.json").read_text())
    assert {row["granularity"] for row in record["rows"]} == {"weight"}
    assert "[0.001]" in record["skipped"]["channel"]


def test_the_stage_repeats_to_the_byte_and_says_what_it_leaves_out(measured, monkeypatch):
    monkeypatch.chdir(measured)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    first = Path("metrics/sensitivity.json").read_bytes()
    assert stage(*MEASURE).returncode == 0
    assert Path("metrics/sensitivity.json").read_bytes() == first
    record = json.loads(first)
    assert record["examples"] == 50
    assert record["skipped"].keys() == {"head", "hidden"}
    assert {row["granularity"] for row in record["rows"]} == {"weight", "channel"}
    assert all(len(row["accuracies"]) == 2 for row in record["rows"])
    assert {row["ratio"] for row in record["rows"]} == {0.4, 0.9}
    for row in record["rows"]:
        assert row["removed"] == pytest.approx(row["ratio"], abs=0.5 / 16)  # of the narrowest layer


def test_the_picture_has_a_curve_and_a_line_of_the_map_for_every_layer(measured):
    record = json.loads((measured / "metrics/sensitivity.json").read_text())
    figure = sensitivity(record, "title")
    lines = next(axis for axis in figure.axes if axis.get_xlabel().startswith("ratio (weights"))
    names = {row["layer"] for row in record["rows"] if row["granularity"] == "weight"}
    assert len(lines.lines) == len(names) + 1  # and the dense network
    assert lines.lines[0].get_ydata()[0] == pytest.approx(record["accuracy"])
    heat = next(axis for axis in figure.axes if axis.images)
    assert {label.get_text() for label in heat.get_yticklabels()} == names


# --- allocation ---


def made(name: str, units: int, power: float, round_to: int = 1) -> Curve:
    """1 - share ** power, measured up to 0.95: the higher the power, the more it bears."""
    shares = np.linspace(0.05, 0.95, 19)
    return Curve.through(
        name, units, 1.0, list(zip(shares, 1 - shares**power, strict=True)), round_to
    )


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_the_budget_is_met_and_no_part_is_cut_deeper_than_one_threshold_allows(target, seed):
    random = np.random.default_rng(seed)
    found = [
        made(str(i), int(random.integers(50, 3000)), float(random.uniform(0.7, 6)))
        for i in range(9)
    ]
    prices = random.uniform(0.1, 3, 9)
    full = float(np.dot(prices, [curve.units for curve in found]))
    widths = allocate(found, lambda widths: float(np.dot(prices, widths)) / full, target)
    assert np.dot(prices, widths) / full == pytest.approx(target, abs=prices.max() / full)
    shares = [1 - width / curve.units for curve, width in zip(found, widths, strict=True)]
    # An accuracy between these two bounds is the threshold: one unit less of any part, or one more, is beyond it.
    less = [
        curve.accuracy(share - 1 / curve.units) for curve, share in zip(found, shares, strict=True)
    ]
    more = [
        curve.accuracy(share + 1 / curve.units) for curve, share in zip(found, shares, strict=True)
    ]
    assert max(more) <= min(less) + 1e-9


def native(found):
    return lambda widths: sum(widths) / sum(curve.units for curve in found)


def test_parts_that_bear_more_lose_more():
    found = [made(str(power), 1000, power) for power in (1, 2, 3, 4)]
    widths = allocate(found, native(found), 0.5)
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4


@pytest.mark.parametrize("accuracies", [(0.9, 0.5), (1.0, 1.0), (1.0, 0.2), (0.7, 0.7)])
def test_equal_curves_make_equal_shares_even_where_they_are_flat(accuracies):
    points = list(zip((0.5, 0.9), accuracies, strict=True))
    found = [Curve.through(str(units), units, 1.0, points) for units in (100, 400, 1000)]
    for target in (0.8, 0.6, 0.3):
        widths = allocate(found, native(found), target)
        assert [
            width / curve.units for curve, width in zip(found, widths, strict=True)
        ] == pytest.approx([target] * 3, abs=0.01)


def test_curves_do_not_rise_and_nothing_is_taken_beyond_their_ends():
    curve = Curve.through("noisy", 100, 0.9, [(0.6, 0.5), (0.2, 0.88), (0.4, 0.92)])
    assert (np.diff(curve.accuracies) <= 0).all()
    assert curve.accuracy(0.3) == pytest.approx(0.9)  # (0.9 + 0.88 + 0.92) / 3
    assert curve.most(1.0) == 0
    assert curve.most(0.0) == 0.6
    assert allocate([curve], native([curve]), 0.1) == [40]


def test_widths_are_multiples_where_they_must_be():
    found = [made(str(power), 64, power, round_to=8) for power in (1, 2, 4)]
    assert all(width % 8 == 0 for width in allocate(found, native(found), 0.5))


@pytest.mark.parametrize("budget", ["params", "macs"])
@pytest.mark.parametrize("what", ["weight", "channel"])
def test_costs_are_those_of_a_network_really_cut(what, budget):
    model = dense()
    subject = AllocationTarget.of(model, "resnet8", DIGITS_SHAPE, what)
    names = list(subject.units)[1:]  # the first stays whole
    widths = [left(subject.units[name], 0.4) for name in names]
    thin = really_cut(
        model,
        "resnet8",
        what,
        {n: 1 - width / subject.units[n] for n, width in zip(names, widths, strict=True)},
    )
    kept = subject.remaining_share(names, budget)(widths)
    if what == "channel":
        count = parameters if budget == "params" else lambda network: macs(network, DIGITS_SHAPE)
        assert kept == pytest.approx(count(thin) / count(model))
        return
    pixels = {
        "conv1": 64,
        "layer1": 64,
        "layer2": 16,
        "layer3": 4,
        "linear": 1,
    }  # of 8x8, halved twice
    gone = sum(
        int((thin.get_submodule(name).weight == 0).sum())
        * (pixels[name.split(".")[0]] if budget == "macs" else 1)
        for name in names
    )
    total = (
        macs(model, DIGITS_SHAPE)
        if budget == "macs"
        else sum(p.numel() for p in model.parameters())
    )
    assert kept == pytest.approx(1 - gone / total)


# --- the command ---


def run(*args: str):
    return CliRunner().invoke(app, ["allocate", *args])


@pytest.mark.parametrize("what", ["weight", "channel"])
def test_the_written_ratios_are_valid_and_nothing_else_changes(workspace, what):
    before = Path("params.yaml").read_text()
    result = run("--ratio", "0.5", "--granularity", what)
    assert result.exit_code == 0, result.stderr
    params = load_params()
    old, new = (YAML(typ="safe").load(text) for text in (before, Path("params.yaml").read_text()))
    written = new["prune"].pop("layer_ratios")
    assert old["prune"].pop("layer_ratios") == {}
    assert new == old
    assert len(set(written.values())) > 1
    spec = params.spec(METHODS[what], 0)
    assert (
        infeasible_specs(dense(), params.model, [spec], shape=DIGITS_SHAPE, train=params.train)
        == []
    )
    thin = really_cut(dense(), "resnet8", what, written)
    found = parts(dense(), "resnet8", what, DIGITS_SHAPE)
    assert list(written) == [part.name for part in found]
    gone = {
        part.name: int((thin.get_submodule(part.name).weight == 0).sum())
        if what == "weight"
        else part.units - thin.get_submodule(part.name).weight.shape[0]
        for part in found
    }
    assert sum(gone.values()) / sum(part.units for part in found) == pytest.approx(0.5, abs=0.01)
    assert "dvc exp run" in result.stdout
    assert "grid" in result.stdout


def test_comments_and_layout_stay(workspace):
    shipped = (PROJECT / "params.yaml").read_text()
    Path("params.yaml").write_text(shipped)
    write_layer_ratios(Path("params.yaml"), {"conv1": 0.25, "layer1.0.conv1": 0.5})
    lines = Path("params.yaml").read_text().splitlines()
    added = ["    conv1: 0.25", "    layer1.0.conv1: 0.5"]
    place = lines.index(added[0])
    assert lines[place : place + 2] == added
    rest = lines[:place] + lines[place + 2 :]
    changed = [
        (old, new) for old, new in zip(shipped.splitlines(), rest, strict=True) if old != new
    ]
    ((old, new),) = changed
    assert old.startswith("  layer_ratios: {}")
    assert old.split("#")[1] == new.split("#")[1]
    write_layer_ratios(Path("params.yaml"), {})
    assert Path("params.yaml").read_text() == shipped


def test_a_dry_run_writes_nothing(workspace):
    before = Path("params.yaml").read_bytes()
    result = run("--ratio", "0.5", "--dry-run")
    assert result.exit_code == 0
    assert "layer1.0.conv1" in result.stdout
    assert Path("params.yaml").read_bytes() == before


def test_protected_layers_get_nothing(workspace):
    edit_params(Path("params.yaml"), prune__protect=["layer1.*"])
    assert run("--ratio", "0.5").exit_code == 0
    assert "layer1.0.conv1" not in load_params().prune.layer_ratios


@pytest.mark.parametrize(
    ("args", "changes", "named"),
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
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(
    workspace, args, changes, named
):
    edit_params(Path("params.yaml"), **changes)
    before = Path("params.yaml").read_bytes()
    result = run(*args)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    for part in named:
        assert part in line
    assert Path("params.yaml").read_bytes() == before


def test_curves_that_are_missing_or_of_other_networks_are_refused(workspace):
    path = Path("metrics/sensitivity.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"networks": ["0", "1"]}))
    assert "other networks" in run("--ratio", "0.5").stderr
    rows = [row | {"units": row["units"] + 1} for row in record["rows"]]
    path.write_text(json.dumps(record | {"rows": rows}))
    assert "lacks or has in another size" in run("--ratio", "0.5").stderr
    path.unlink()
    assert "is missing" in run("--ratio", "0.5").stderr


# --- latency, on machines that are made up ---


def exact(found, noise: float = 1.0, fixed: float = 0.2):
    """A network of which the share `fixed` of the time does not go, and a measurement with this interval."""

    def measure(widths) -> Speedup:
        value = 1 / (fixed + (1 - fixed) * sum(widths) / sum(curve.units for curve in found))
        return Speedup(value, value / noise, value * noise)

    return measure


@pytest.mark.parametrize("wanted", [0.1, 0.4, 0.6])
def test_a_latency_is_met_within_the_tolerance(wanted):
    found, told = [made(str(power), 400, power) for power in (1, 2, 3)], []
    measure = exact(found)
    widths = allocate_latency(found, measure, wanted, told.append)
    assert 1 / measure(widths).value == pytest.approx(1 - wanted, rel=0.05)
    assert len(told) >= 2


@pytest.mark.parametrize(
    ("wanted", "noise", "named"),
    [(0.9, 1.0, "at most 0.7"), (0.4, 1.2, "quieter machine")],
)
def test_a_latency_that_cannot_be_met_or_told_is_refused(wanted, noise, named):
    found = [made(str(power), 400, power) for power in (1, 2, 3)]
    with pytest.raises(InputError, match=named):
        allocate_latency(found, exact(found, noise), wanted, lambda line: None)


def test_a_network_whose_latency_goes_by_steps_is_refused():
    found = [made("one", 400, 2)]
    step = lambda widths: Speedup(*[1.0 if widths[0] > 150 else 4.0] * 3)  # noqa: E731
    with pytest.raises(InputError, match="the nearest is"):
        allocate_latency(found, step, 0.4, lambda line: None)


def test_a_thinner_network_is_measured(workspace, execution):
    subject = AllocationTarget.of(dense(), "resnet8", DIGITS_SHAPE, "channel")
    spec = prune_spec("l1_channel", 0, layer_ratios={"layer1.0.conv1": 0.5})
    found = subject.measure_speedup(spec, execution, batch_size=2, rounds=2)
    assert 0 < found.low <= found.value <= found.high
    assert subject.model.get_submodule("layer1.0.conv1").weight.shape[0] == 16
