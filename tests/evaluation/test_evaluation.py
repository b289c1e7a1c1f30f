import statistics

import numpy as np
import pytest
import torch
from helpers.networks import DIGITS_SHAPE, IMAGE_MODELS, zeroed
from scipy import stats
from sklearn import metrics as sklearn_metrics
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from prunelab.artifacts.networks import sizes
from prunelab.evaluation.layers import by_layer, histogram
from prunelab.evaluation.metrics import by_class, by_seed, mean_over_seeds, over_seeds, quality
from prunelab.evaluation.predict import Predictions, calibration_error, predict
from prunelab.models.catalogue import build, prunable_weights
from prunelab.models.cost import cost, macs, output_positions, training_macs
from prunelab.statistics.intervals import half_width
from prunelab.statistics.scores import confusion_matrix, macro_scores
from prunelab.statistics.similarity import indistinguishable


@pytest.fixture
def said() -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of 500 images, right four times in five; class 4 is never predicted."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 500)
    predicted = np.where(rng.random(500) < 0.8, labels, rng.integers(0, 5, 500))
    return labels, np.where(predicted == 4, 0, predicted)


def test_scores_are_those_of_scikit_learn(said):
    labels, predicted = said
    confusion = confusion_matrix(labels, predicted, 5)
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(labels, predicted))
    scores = macro_scores(confusion)
    for name, function in (
        ("precision", sklearn_metrics.precision_score),
        ("recall", sklearn_metrics.recall_score),
        ("f1", sklearn_metrics.f1_score),
    ):
        expected = function(labels, predicted, average="macro", zero_division=0)
        assert scores[f"{name}_macro"] == pytest.approx(expected)
    others = [sklearn_metrics.recall_score(labels != c, predicted != c) for c in range(5)]
    assert scores["specificity_macro"] == pytest.approx(np.mean(others))


def test_the_interval_of_several_seeds_covers_seeds_and_images():
    rng = np.random.default_rng(1)
    values = (rng.random((4, 300)) < [[0.9], [0.8], [0.85], [0.95]]).astype(float)
    seeds = stats.t.interval(0.95, 3, values.mean(), stats.sem(values.mean(axis=1)))
    images = stats.norm.interval(0.95, values.mean(), stats.sem(values.mean(axis=0)))
    expected = np.hypot((seeds[1] - seeds[0]) / 2, (images[1] - images[0]) / 2)
    assert half_width(values, resamples=100) == pytest.approx(expected)


def test_the_interval_of_one_seed_is_a_bootstrap_over_images():
    values = (np.random.default_rng(2).random((1, 400)) < 0.9).astype(float)
    half = half_width(values, resamples=20_000)
    expected = stats.bootstrap((values[0],), np.mean, method="percentile", n_resamples=5000, rng=3)
    low, high = expected.confidence_interval
    assert half == pytest.approx((high - low) / 2, rel=0.1)
    assert half == half_width(values, resamples=20_000)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Networks of different seeds, images of different difficulty: 95 % intervals should miss about 1 in 20."""
    rng, covered = np.random.default_rng(4), 0
    for _ in range(400):
        chance = 0.85 + rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.08, (1, 400))
        values = (rng.random((3, 400)) < chance).astype(float)
        covered += abs(values.mean() - 0.85) <= half_width(values, resamples=100)
    assert 0.93 < covered / 400 < 0.998


def sure(predicted: np.ndarray) -> Predictions:
    """Predictions [seeds, images] made with full confidence, the label among the likeliest wherever it was not 4."""
    return Predictions(
        predicted, np.zeros(predicted.shape), np.ones(predicted.shape), predicted != 4
    )


def judged(labels: np.ndarray, after: np.ndarray, dense: np.ndarray) -> dict[str, float]:
    return quality(labels, after=sure(after), before=dense, dense=dense, classes=5, resamples=100)


def test_drops_are_paired_by_seed_and_image(said):
    labels, predicted = said
    dense, after = np.stack([labels, predicted]), np.stack([predicted, labels])
    measured = judged(labels, after, dense)
    wrong = (predicted != labels).mean()
    assert measured["accuracy"] == pytest.approx(1 - wrong / 2)
    assert measured["accuracy_drop"] == pytest.approx(0)
    assert (
        measured["accuracy_drop_ci95"] > wrong
    )  # one seed gains what the other loses: nothing is certain
    same = judged(labels, dense, dense)
    assert same["accuracy_drop"] == same["accuracy_drop_ci95"] == same["worst_class_drop"] == 0


def test_the_worst_class_is_the_one_that_loses_most_recall(said):
    labels, predicted = said
    dense, after = labels[np.newaxis], predicted[np.newaxis]
    measured = judged(labels, after, dense)
    assert measured["worst_class_drop"] == 1  # class 4 is never predicted
    rows = by_class(labels, after=after, dense=dense, classes=5)
    assert [row["support"] for row in rows] == [int((labels == c).sum()) for c in range(5)]
    for row in rows:
        expected = sklearn_metrics.recall_score(labels == row["class"], predicted == row["class"])
        assert row["recall"] == pytest.approx(expected) == pytest.approx(1 - row["recall_drop"])
    assert np.mean([row["f1"] for row in rows]) == pytest.approx(measured["f1_macro"])


def test_rows_of_seeds_have_the_means_of_the_metrics(said):
    labels, predicted = said
    after, dense = np.stack([predicted, labels]), np.stack([labels, labels])
    rows = by_seed(labels, after=sure(after), before=dense, dense=dense, classes=5)
    measured = judged(labels, after, dense)
    assert [row["accuracy"] for row in rows] == [pytest.approx((predicted == labels).mean()), 1]
    told = {row["measure"]: row for row in over_seeds(rows)}
    assert (
        told.keys()
        == rows[0].keys()
        == measured.keys() - {key for key in measured if "ci95" in key or "worst" in key}
    )
    for key, spread in told.items():
        one, other = (row[key] for row in rows)
        assert spread["mean"] == pytest.approx(measured[key])
        assert spread["sd"] == pytest.approx(statistics.stdev((one, other)))
        assert spread["ci95"] == pytest.approx(stats.t.ppf(0.975, df=1) * abs(one - other) / 2)
        assert spread["n"] == 2
    assert "sd" not in over_seeds(rows[:1])[0]


def test_the_calibration_error_is_the_gap_between_how_sure_and_how_often_right():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.2, 1, 200_000)
    right = rng.random(200_000) < confidences
    assert calibration_error(confidences, right) < 0.01  # as often right as it says
    assert calibration_error(np.full(100, 0.9), np.arange(100) < 60) == pytest.approx(0.3)
    assert calibration_error(
        np.array([1.0, 1.0, 0.1, 0.1]), np.array([True, False, True, False])
    ) == pytest.approx((2 * 0.5 + 2 * 0.4) / 4)


def test_configurations_are_alike_unless_their_paired_difference_leaves_out_zero():
    rng = np.random.default_rng(0)
    base = rng.random((3, 400)) < 0.8
    worse = base & (rng.random((3, 400)) < 0.9)
    other = rng.random((3, 400)) < 0.8  # as good as base, on other images
    found = indistinguishable({"base": base, "worse": worse, "other": other}, resamples=100)
    assert found["base"] == [
        "other"
    ]  # from the one that errs on its own images and some more, it can be told
    assert "base" not in found["worse"]
    gap = base.astype(float) - worse
    assert gap.mean() > half_width(gap, resamples=100)


def test_counts_stay_integers_in_the_mean():
    assert mean_over_seeds([{"n": 1, "x": 1.0}, {"n": 2, "x": 2.0}, {"n": 3, "x": 2.0}]) == {
        "n": 2,
        "x": 5 / 3,
    }


def counted_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions, linear layers and attention, by textbook formulas on recorded shapes."""
    total = 0

    def record(layer, args, output):
        nonlocal total
        if isinstance(layer, nn.MultiheadAttention):
            _, tokens, width = args[0].shape
            total += (
                4 * tokens * width**2 + 2 * tokens**2 * width
            )  # its four projections, and its two products
        elif isinstance(layer, nn.Conv2d):
            total += (
                output.numel()
                * layer.in_channels
                // layer.groups
                * layer.kernel_size[0]
                * layer.kernel_size[1]
            )
        else:
            total += output.numel() * layer.in_features

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            module.register_forward_hook(record)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return total


def torchs_macs(model: nn.Module, shape: tuple[int, int, int]) -> float:
    """Multiply-accumulates as torch's own counter finds them; attention that is fused would hide its work from it."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
            torch.no_grad(),
        ):
            model.eval()(torch.zeros(1, *shape))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_macs_agree_with_the_textbook_formula_and_with_a_second_counter(name, shape):
    model = zeroed(name, 10, shape)
    found, textbook = macs(model, shape), counted_macs(model, shape)
    assert found == pytest.approx(
        textbook, rel=0.03
    )  # torchprofile counts norms too, neither of the others does
    assert textbook == pytest.approx(torchs_macs(model, shape), rel=0.03)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_prunable_weight_has_the_places_at_which_it_is_used(name):
    model = zeroed(name, 10, DIGITS_SHAPE)
    places = output_positions(model, torch.zeros(1, *DIGITS_SHAPE))
    weights = prunable_weights(model)
    spent = sum(
        weight[0].numel() * len(weight) * places[key.rpartition(".")[0]]
        for key, weight in weights.items()
    )
    assert spent == pytest.approx(
        counted_macs(model, DIGITS_SHAPE), rel=0.02
    )  # all but attention's two products


def test_cost_counts_zeros_and_not_macs_of_masks():
    dense, model = (build("resnet8", 10, DIGITS_SHAPE) for _ in range(2))
    with torch.no_grad():
        model.layer3[0].conv2.weight.zero_()
    measured = cost(model, dense, DIGITS_SHAPE)
    weights = sum(weight.numel() for weight in prunable_weights(dense).values())
    assert measured["sparsity"] == pytest.approx(64 * 64 * 9 / weights)
    assert measured["params"] == sum(p.numel() for p in dense.parameters())
    assert measured["params_nonzero"] == sum(int((p != 0).sum()) for p in model.parameters())
    assert measured["macs_ratio"] == measured["params_ratio"] == 1
    assert training_macs(model, DIGITS_SHAPE, 10) == 30 * macs(model, DIGITS_SHAPE)


def test_macs_of_zeros_are_those_that_a_thinner_network_lacks():
    dense, model = (build("resnet8", 10, DIGITS_SHAPE) for _ in range(2))
    assert cost(dense, dense, DIGITS_SHAPE)["macs_nonzero"] == macs(dense, DIGITS_SHAPE)
    with torch.no_grad():
        model.layer3[0].conv2.weight[:16].zero_()
    gone = 16 * 64 * 9 * 2 * 2  # 8x8 images, halved twice on the way there
    assert cost(model, dense, DIGITS_SHAPE)["macs_nonzero"] == macs(dense, DIGITS_SHAPE) - gone


def test_rows_of_layers_add_up_to_the_network():
    dense, model = (build("resnet8", 10, DIGITS_SHAPE) for _ in range(2))
    with torch.no_grad():
        model.layer1[0].conv1.weight[:4].zero_()
    rows = by_layer(model, dense)
    assert rows["layer1.0.conv1"]["sparsity"] == pytest.approx(4 / 16)
    assert sum(row["weights_nonzero"] for row in rows.values()) == sum(
        int(weight.count_nonzero()) for weight in prunable_weights(model).values()
    )
    spread = histogram([model, dense])
    weights = [
        weight for network in (model, dense) for weight in prunable_weights(network).values()
    ]
    assert sum(spread["counts"]) + spread["zeros"] == sum(weight.numel() for weight in weights)
    assert spread["zeros"] == 4 * 16 * 9
    assert spread["limit"] == pytest.approx(
        max(float(weight.detach().abs().max()) for weight in weights)
    )


def test_sizes_are_those_of_files_and_zeros_compress(tmp_path):
    from safetensors.torch import save_file

    model = build("resnet8", 10, DIGITS_SHAPE)
    dense = sizes(model)
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    assert dense["size_bytes"] == (tmp_path / "plain.safetensors").stat().st_size
    with torch.no_grad():
        for weight in prunable_weights(model).values():
            weight.zero_()
    masked = sizes(model)
    assert masked["size_bytes"] == dense["size_bytes"]
    assert masked["size_compressed_bytes"] < 0.1 * dense["size_compressed_bytes"]
    assert dense["size_sparse_bytes"] == dense["size_bytes"]
    left = sum(
        4 * value.numel()
        for name, value in model.state_dict().items()
        if name not in prunable_weights(model)
    )
    ends = sum(4 * (len(weight) + 1) for weight in prunable_weights(model).values())
    assert left + ends < masked["size_sparse_bytes"] < left + ends + 8192  # and a header


def test_predictions_are_those_of_the_network_image_by_image(trainer, execution):
    model = build("resnet8", 10, DIGITS_SHAPE)
    predictions = predict(model, trainer.validation_loader, 10, execution)
    ((images, labels),) = trainer.validation_loader.ordered(len(trainer.validation_loader))
    with torch.no_grad():
        logits = model(images)
    np.testing.assert_array_equal(predictions.classes, logits.argmax(1).numpy())
    expected = nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    np.testing.assert_allclose(predictions.losses, expected, rtol=1e-4, atol=1e-5)
    shares = logits.double().softmax(1).numpy()
    np.testing.assert_allclose(predictions.confidences, shares.max(axis=1), rtol=1e-4)
    places = (shares > shares[np.arange(len(labels)), labels.numpy()][:, np.newaxis]).sum(axis=1)
    np.testing.assert_array_equal(predictions.among_top, places < 5)
