"""prunelab.evaluate, benchmark, sensitivity and export: on any network, checked by other means."""

from functools import partial
from importlib.util import find_spec
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from helpers.modules import IMAGES, image_batches, perceptron, residual_net
from helpers.networks import CARD, trained
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunelab
from prunelab.artifacts.networks import Network, save_network
from prunelab.benchmarking import checked_export
from prunelab.benchmarking.export_formats import FORMATS, get_format
from prunelab.benchmarking.latency import by_clock

DATA = image_batches(4)


def refusal(call, *arguments: object, **keywords: object) -> str:
    with pytest.raises(prunelab.InputError) as refused:
        call(*arguments, **keywords)
    message = str(refused.value)
    assert "\n" not in message
    return message


def right(model: nn.Module) -> torch.Tensor:
    return torch.cat([model.eval()(images).argmax(1) == labels for images, labels in DATA])


def test_an_evaluation_has_the_scores_of_plain_torch():
    model = residual_net()

    found = prunelab.evaluate(model, DATA)

    logits = torch.cat([model(images) for images, _ in DATA])
    labels = torch.cat([labels for _, labels in DATA])
    top5 = (logits.topk(5).indices == labels[:, None]).any(1)
    assert found.examples == 64
    assert found.accuracy == pytest.approx(right(model).double().mean().item())
    assert found.accuracy_top5 == pytest.approx(top5.double().mean().item())
    assert found.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert 0 < found.accuracy_ci95 < 0.2
    assert (found.accuracy_drop, found.accuracy_drop_ci95) == (0, 0)
    assert "on 64 examples" in str(found)


@pytest.mark.parametrize("integers", [torch.int32, torch.int16, torch.uint8])
def test_labels_may_be_any_integers(integers):
    model = residual_net()
    data = [(images, labels.to(integers)) for images, labels in DATA]

    assert prunelab.evaluate(model, data) == prunelab.evaluate(model, DATA)


def test_a_drop_is_paired_although_the_data_are_shuffled():
    dense, other = residual_net(), residual_net(seed=3)
    images, labels = (torch.cat(part) for part in zip(*DATA, strict=True))
    shuffled = DataLoader(TensorDataset(images, labels), batch_size=7, shuffle=True)

    same = prunelab.evaluate(dense, shuffled, against=residual_net())
    drop = prunelab.evaluate(other, shuffled, against=dense)

    assert (same.accuracy_drop, same.accuracy_drop_ci95) == (0, 0)
    expected = right(dense).double().mean() - right(other).double().mean()
    assert drop.accuracy_drop == pytest.approx(expected.item())
    assert drop.accuracy_drop_ci95 > 0
    assert "lower than dense" in str(drop)


def test_evaluation_leaves_modes_as_they_were():
    model = residual_net().train()
    statistics = model.bn1.running_mean.clone()

    prunelab.evaluate(model, DATA)

    assert model.training
    assert model.bn1.training
    assert torch.equal(model.bn1.running_mean, statistics)


def test_what_is_no_classification_is_refused():
    numbers = [(torch.randn(4, 4), torch.randn(4, 2))]

    assert "pass score=" in refusal(prunelab.evaluate, perceptron(), numbers)
    assert "labels 0 to 7, but the network has 2 classes" in refusal(
        prunelab.evaluate, perceptron(), [(torch.randn(2, 4), torch.tensor([0, 7]))]
    )
    assert "labels 0 to 4, but the network has 3 classes" in refusal(
        prunelab.evaluate,
        nn.Linear(4, 5),
        [(torch.randn(2, 4), torch.tensor([0, 4]))],
        against=nn.Linear(4, 3),
    )
    assert "yields no batch" in refusal(prunelab.evaluate, residual_net(), [])
    assert "must be an nn.Module" in refusal(prunelab.evaluate, None, DATA)


def test_outputs_that_overflow_are_refused():
    broken = residual_net()
    with torch.no_grad():
        broken.head.weight.fill_(3e38)
    examples = sum(len(labels) for _, labels in DATA)
    problem = f"outputs for {examples} of {examples} examples are NaN or infinite"

    assert problem in refusal(prunelab.evaluate, broken, DATA)
    assert problem in refusal(prunelab.evaluate, residual_net(), DATA, against=broken)


def test_sensitivity_is_the_accuracy_with_the_smallest_channels_zeroed():
    model = residual_net()

    found = prunelab.sensitivity(model, IMAGES, DATA, ratios=(0.5,))

    copy = residual_net()
    norms = copy.conv3.weight.abs().sum((1, 2, 3))
    smallest = norms.argsort()[:16]
    with torch.no_grad():
        copy.conv3.weight[smallest] = 0
        copy.conv3.bias[smallest] = 0
    (row,) = [row for row in found.rows if row["layer"] == "conv3"]
    assert row["accuracy"] == pytest.approx(right(copy).double().mean().item())
    assert (row["units"], row["removed"]) == (32, 0.5)
    assert found.dense == pytest.approx(right(model).double().mean().item())
    assert "all layers" in str(found)


def test_sensitivity_is_the_same_for_a_pruned_network_and_its_file(tmp_path):
    """The layers whose width must stay are those of the table, which a trace does not know."""
    dense = CARD.model_copy(update={"model": "resnet20"})
    save_network(tmp_path / "dense", Network(model=trained("resnet20"), card=dense))
    pruned = prunelab.prune(prunelab.load(tmp_path / "dense"), ratio=0.3)
    prunelab.save(pruned, tmp_path / "pruned")

    found = prunelab.sensitivity(pruned, IMAGES, DATA, ratios=(0.5,))

    again = prunelab.sensitivity(prunelab.load(tmp_path / "pruned"), IMAGES, DATA, ratios=(0.5,))
    assert found == again
    assert not {"conv1", "layer1.0.conv2"} & {row["layer"] for row in found.rows}


def test_sensitivity_takes_any_score():
    inputs = torch.randn(64, 4)
    model = perceptron()
    target = model(inputs).detach()

    found = prunelab.sensitivity(
        model,
        inputs,
        ratios=(0.25, 0.75),
        units="weight",
        score=lambda network: -F.mse_loss(network(inputs), target).item(),
    )

    assert found.dense == 0
    assert all(row["accuracy"] < 0 for row in found.rows)
    assert {row["layer"] for row in found.rows} >= {"0", "2", "4"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratios": (1.0,)}, "ratios must be above 0 and below 1"),
        ({"units": "row"}, "unknown units 'row'"),
        ({"units": "head"}, "no heads"),
        ({"samples": 0}, "samples must be 1 or more, not 0"),
        ({"samples": -2}, "samples must be 1 or more, not -2"),
        ({"data": None}, "needs data="),
        ({"ratios": (0.001,)}, "no layer loses some"),
    ],
    ids=str,
)
def test_wrong_arguments_of_sensitivity_are_refused(arguments, message):
    defaults = {"model": residual_net(), "example_inputs": IMAGES, "data": DATA}

    assert message in refusal(prunelab.sensitivity, **defaults | arguments)


def test_a_benchmark_has_both_networks_at_every_batch_size_and_an_interval(monkeypatch):
    # On a busy machine the table would say at length why it has no ratio.
    even = by_clock(partial(next, count(step=0.001)))
    monkeypatch.setattr("prunelab.benchmarking.suite.timer", lambda device: even)
    model = residual_net().train()
    pruned = prunelab.prune(model, IMAGES)

    speed = prunelab.benchmark(model, pruned, IMAGES, batch_sizes=(1, 3), rounds=3, seconds=0.03)

    names = [(row["name"], row["batch_size"]) for row in speed.rows]
    assert names == [("dense", 1), ("pruned", 1), ("dense", 3), ("pruned", 3)]
    for row in speed.rows[1::2]:
        assert row["faster_low"] <= row["faster"] <= row["faster_high"]
    assert len(str(speed).splitlines()) == 4
    assert model.training


def test_wrong_arguments_of_a_benchmark_are_refused():
    models = (residual_net(), residual_net(), IMAGES)

    assert "rounds must be 2" in refusal(prunelab.benchmark, *models, rounds=1)
    assert "unknown backend 'eager_mode'" in refusal(
        prunelab.benchmark, *models, backend="eager_mode"
    )
    assert "needs a GPU" in refusal(prunelab.benchmark, *models, backend="cuda_graph")
    assert "do not fit" in refusal(prunelab.benchmark, residual_net(), perceptron(), IMAGES)


needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, FORMATS["onnx"].packages)), reason="needs the extra [onnx]"
)


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=needs_onnx), "pt2"])
def test_an_exported_file_runs_and_has_the_outputs_of_the_network(tmp_path, form):
    result = prunelab.prune(residual_net(), IMAGES)
    path = tmp_path / f"thin.{form}"

    agreements = prunelab.export(result, path, IMAGES)

    assert [agreement.batch_size for agreement in agreements] == [1, 2, 7]
    run = get_format(form).load(path, 1)
    torch.testing.assert_close(run(DATA[0][0]), result.model(DATA[0][0]), rtol=1e-4, atol=1e-5)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs):
        outputs = self.layer(inputs)
        if outputs.sum() > 0:  # depends on the data
            return outputs
        return -outputs


def test_what_cannot_be_exported_is_refused_and_an_older_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "thin.pt2"
    path.write_text("older")

    assert "unknown format 'png'" in refusal(
        prunelab.export, residual_net(), tmp_path / "thin.png", IMAGES
    )
    assert "cannot be written as pt2" in refusal(
        prunelab.export, Branching(), path, torch.randn(2, 4)
    )
    monkeypatch.setattr(checked_export, "TOLERANCE", -1.0)
    with pytest.raises(prunelab.InputError, match="does not agree with the network"):
        prunelab.export(residual_net(), path, IMAGES)
    assert path.read_text() == "older"
