"""Quality, intervals, costs and predictions, each against another way to compute it."""

import hashlib
import statistics

import numpy as np
import pytest
import torch
from helpers.networks import DIGITS_SHAPE, IMAGE_MODELS, zeroed
from safetensors.torch import save_file
from scipy import stats
from sklearn import metrics as sklearn_metrics
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from prunelab.artifacts.networks import compressed_size, sizes
from prunelab.core.errors import InputError
from prunelab.evaluation.layers import by_layer, histogram
from prunelab.evaluation.metrics import by_class, by_seed, mean_over_seeds, over_seeds, quality
from prunelab.evaluation.predict import Predictions, calibration_error, predict, predict_batches
from prunelab.models.cost import cost, macs, output_positions, training_macs
from prunelab.models.networks import build, example_input, prunable_weights
from prunelab.statistics.intervals import half_width, student_t, trimmed_mean
from prunelab.statistics.scores import confusion_matrix, macro_scores
from prunelab.statistics.similarity import indistinguishable

CLASSES = 5


@pytest.fixture
def predicted_labels() -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of 500 images, right four times in five; never class 4."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 500)
    is_right = rng.random(500) < 0.8
    predicted = np.where(is_right, labels, rng.integers(0, CLASSES, 500))
    return labels, np.where(predicted == 4, 0, predicted)


def build_twice() -> tuple[nn.Module, nn.Module]:
    return build("resnet8", 10, DIGITS_SHAPE), build("resnet8", 10, DIGITS_SHAPE)


def test_scores_agree_with_scikit_learn(predicted_labels):
    labels, predicted = predicted_labels

    confusion = confusion_matrix(labels, predicted, CLASSES)
    scores = macro_scores(confusion)

    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(labels, predicted))
    for name, function in (
        ("precision", sklearn_metrics.precision_score),
        ("recall", sklearn_metrics.recall_score),
        ("f1", sklearn_metrics.f1_score),
    ):
        expected = function(labels, predicted, average="macro", zero_division=0)
        assert scores[f"{name}_macro"] == pytest.approx(expected)

    # Specificity is the recall of "any other class".
    others = [sklearn_metrics.recall_score(labels != c, predicted != c) for c in range(CLASSES)]
    assert scores["specificity_macro"] == pytest.approx(np.mean(others))


def test_interval_of_several_seeds_covers_seeds_and_images():
    rng = np.random.default_rng(1)
    values = (rng.random((4, 300)) < [[0.9], [0.8], [0.85], [0.95]]).astype(float)
    seeds = stats.t.interval(0.95, 3, values.mean(), stats.sem(values.mean(axis=1)))
    images = stats.norm.interval(0.95, values.mean(), stats.sem(values.mean(axis=0)))

    expected = np.hypot((seeds[1] - seeds[0]) / 2, (images[1] - images[0]) / 2)

    assert half_width(values, resamples=100) == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 3, 5, 12, 21, 22, 40])
def test_student_t_is_the_interval_of_the_mean_of_any_number_of_seeds(count):
    means = np.random.default_rng(count).normal(0.9, 0.02, count)
    low, high = stats.t.interval(0.95, count - 1, means.mean(), stats.sem(means))

    assert student_t(means) == pytest.approx((high - low) / 2, rel=1e-13)


@pytest.mark.parametrize("count", [5, 9, 10, 30, 60])
def test_trimmed_mean_and_its_interval_agree_with_scipys_test_of_yuen(count):
    values = np.random.default_rng(count).standard_t(2, count) + 0.5
    kept = count - 2 * (count // 5)

    mean, half = trimmed_mean(values)

    # Against the values' mirror image, the statistic is twice the mean by the root of twice its
    # variance.
    statistic = stats.ttest_ind(values, -values, trim=0.2, equal_var=False).statistic
    error = np.sqrt(2) * mean / statistic
    assert mean == pytest.approx(stats.trim_mean(values, 0.2))
    assert half == pytest.approx(stats.t.ppf(0.975, kept - 1) * error)


def test_trimmed_mean_of_few_values_is_students():
    values = np.array([0.1, 0.4, 0.3, 0.9])
    assert trimmed_mean(values) == pytest.approx((values.mean(), student_t(values)))


def test_interval_of_one_seed_is_a_bootstrap_over_images():
    values = (np.random.default_rng(2).random((1, 400)) < 0.9).astype(float)
    expected = stats.bootstrap((values[0],), np.mean, method="percentile", n_resamples=5000, rng=3)
    low, high = expected.confidence_interval

    half = half_width(values, resamples=20_000)

    assert half == pytest.approx((high - low) / 2, rel=0.1)
    assert half == half_width(values, resamples=20_000)


def test_intervals_cover_the_true_accuracy_about_19_times_in_20():
    """Networks of different seeds classify images of different difficulty."""
    rng, covered = np.random.default_rng(4), 0

    for _ in range(400):
        chance = 0.85 + rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.08, (1, 400))
        values = (rng.random((3, 400)) < chance).astype(float)
        covered += abs(values.mean() - 0.85) <= half_width(values, resamples=100)

    assert 0.93 < covered / 400 < 0.998


def confident(predicted: np.ndarray) -> Predictions:
    """Predictions [seeds, images] of full confidence; the label is in the top 5 unless it is 4."""
    zeros, ones = np.zeros(predicted.shape), np.ones(predicted.shape)
    return Predictions(predicted, zeros, ones, predicted != 4)


def quality_of(labels: np.ndarray, after: np.ndarray, dense: np.ndarray) -> dict[str, float]:
    predictions = confident(after)
    return quality(
        labels, after=predictions, before=dense, dense=dense, classes=CLASSES, resamples=100
    )


def test_drops_are_paired_by_seed_and_image(predicted_labels):
    labels, predicted = predicted_labels
    wrong = (predicted != labels).mean()
    dense, after = np.stack([labels, predicted]), np.stack([predicted, labels])

    metrics = quality_of(labels, after, dense)

    assert metrics["accuracy"] == pytest.approx(1 - wrong / 2)
    assert metrics["accuracy_drop"] == pytest.approx(0)
    # One seed gains what the other loses, so nothing is certain.
    assert metrics["accuracy_drop_ci95"] > wrong


def test_dense_network_has_no_drop_from_itself(predicted_labels):
    labels, predicted = predicted_labels
    dense = np.stack([labels, predicted])

    metrics = quality_of(labels, dense, dense)

    assert metrics["accuracy_drop"] == 0
    assert metrics["accuracy_drop_ci95"] == 0
    assert metrics["worst_class_drop"] == 0


def test_worst_class_is_the_one_that_loses_most_recall(predicted_labels):
    labels, predicted = predicted_labels
    dense, after = labels[np.newaxis], predicted[np.newaxis]

    metrics = quality_of(labels, after, dense)
    rows = by_class(labels, after=after, dense=dense, classes=CLASSES)

    assert metrics["worst_class_drop"] == 1  # class 4 is never predicted
    assert [row["support"] for row in rows] == [int((labels == c).sum()) for c in range(CLASSES)]
    assert np.mean([row["f1"] for row in rows]) == pytest.approx(metrics["f1_macro"])
    for row in rows:
        expected = sklearn_metrics.recall_score(labels == row["class"], predicted == row["class"])
        assert row["recall"] == pytest.approx(expected)
        assert row["recall"] == pytest.approx(1 - row["recall_drop"])


def test_rows_by_seed_average_to_the_metrics(predicted_labels):
    labels, predicted = predicted_labels
    after, dense = np.stack([predicted, labels]), np.stack([labels, labels])

    metrics = quality_of(labels, after, dense)
    rows = by_seed(labels, after=confident(after), before=dense, dense=dense, classes=CLASSES)
    described = {row["measure"]: row for row in over_seeds(rows)}

    averaged = {key for key in metrics if "ci95" not in key and "worst" not in key}
    assert described.keys() == rows[0].keys() == averaged
    assert [row["accuracy"] for row in rows] == [pytest.approx((predicted == labels).mean()), 1]
    for measure, row in described.items():
        first, second = (seed_row[measure] for seed_row in rows)
        assert row["n"] == 2
        assert row["mean"] == pytest.approx(metrics[measure])
        assert row["sd"] == pytest.approx(statistics.stdev((first, second)))
        assert row["ci95"] == pytest.approx(stats.t.ppf(0.975, df=1) * abs(first - second) / 2)


def test_one_seed_has_no_deviation():
    (row,) = over_seeds([{"accuracy": 0.5}])

    assert row == {"measure": "accuracy", "n": 1, "mean": 0.5}


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.2, 1, 200_000)
    right = rng.random(200_000) < confidences

    assert calibration_error(confidences, right) < 0.01
    assert calibration_error(np.full(100, 0.9), np.arange(100) < 60) == pytest.approx(0.3)


def test_calibration_error_weighs_bins_by_their_images():
    confidences = np.array([1.0, 1.0, 0.1, 0.1])
    right = np.array([True, False, True, False])

    assert calibration_error(confidences, right) == pytest.approx((2 * 0.5 + 2 * 0.4) / 4)


def test_configurations_differ_if_their_paired_difference_excludes_zero():
    rng = np.random.default_rng(0)
    base = rng.random((3, 400)) < 0.8
    worse = base & (rng.random((3, 400)) < 0.9)  # wrong on the same images, and on some more
    equal = rng.random((3, 400)) < 0.8  # as good as base, on other images

    similar = indistinguishable({"base": base, "worse": worse, "equal": equal}, resamples=100)

    assert similar["base"] == ["equal"]
    assert "base" not in similar["worse"]
    gap = base.astype(float) - worse
    assert gap.mean() > half_width(gap, resamples=100)


def test_counts_stay_integers_in_the_mean():
    per_seed = [{"n": 1, "x": 1.0}, {"n": 2, "x": 2.0}, {"n": 3, "x": 2.0}]

    assert mean_over_seeds(per_seed) == {"n": 2, "x": 5 / 3}


def test_mean_over_seeds_is_the_nearest_number_to_the_mean():
    # Adding one after the other gives less, but not in Python 3.12.
    assert mean_over_seeds([{"x": 0.1}] * 10) == {"x": 0.1}


def counted_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates by textbook formulas on recorded shapes.

    They count convolutions, linear layers and attention.
    """
    total = 0

    def record(layer, args, output):
        nonlocal total
        if isinstance(layer, nn.MultiheadAttention):
            _, tokens, width = args[0].shape
            projections, products = 4 * tokens * width**2, 2 * tokens**2 * width
            total += projections + products
        elif isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            total += output.numel() * layer.in_channels // layer.groups * kernel
        else:
            total += output.numel() * layer.in_features

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            module.register_forward_hook(record)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return total


def torchs_macs(model: nn.Module, shape: tuple[int, int, int]) -> float:
    """Multiply-accumulates by torch's own counter, from which fused attention would hide."""
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
def test_macs_agree_with_textbook_formulas_and_torchs_counter(name, shape):
    model = zeroed(name, 10, shape)

    textbook = counted_macs(model, shape)

    assert textbook == pytest.approx(torchs_macs(model, shape), rel=0.03)
    # `macs` counts norms too, which the others do not.
    assert macs(model, shape) == pytest.approx(textbook, rel=0.03)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_weights_times_their_output_positions_are_the_macs(name):
    model = zeroed(name, 10, DIGITS_SHAPE)
    positions = output_positions(model, torch.zeros(1, *DIGITS_SHAPE))

    total = 0
    for key, weight in prunable_weights(model).items():
        layer = key.rpartition(".")[0]
        total += weight.numel() * positions[layer]

    # All but the two products of attention.
    assert total == pytest.approx(counted_macs(model, DIGITS_SHAPE), rel=0.02)


def test_masks_change_the_sparsity_but_not_the_macs():
    dense, model = build_twice()
    with torch.no_grad():
        model.layer3[0].conv2.weight.zero_()

    measured = cost(model, dense, DIGITS_SHAPE)

    weights = sum(weight.numel() for weight in prunable_weights(dense).values())
    assert measured["sparsity"] == pytest.approx(64 * 64 * 9 / weights)
    assert measured["params"] == sum(p.numel() for p in dense.parameters())
    assert measured["params_nonzero"] == sum(int((p != 0).sum()) for p in model.parameters())
    assert measured["macs_ratio"] == measured["params_ratio"] == 1


def test_training_costs_three_forward_passes_per_image():
    model = build("resnet8", 10, DIGITS_SHAPE)

    assert training_macs(model, example_input(DIGITS_SHAPE), 10) == 30 * macs(model, DIGITS_SHAPE)


def test_zero_weights_lower_the_nonzero_macs():
    dense, model = build_twice()
    with torch.no_grad():
        model.layer3[0].conv2.weight[:16].zero_()

    pixels = 2 * 2  # of images of 8x8, halved twice on the way there
    removed = 16 * 64 * 9 * pixels

    assert cost(dense, dense, DIGITS_SHAPE)["macs_nonzero"] == macs(dense, DIGITS_SHAPE)
    assert cost(model, dense, DIGITS_SHAPE)["macs_nonzero"] == macs(dense, DIGITS_SHAPE) - removed


def test_rows_of_layers_add_up_to_the_network():
    dense, model = build_twice()
    with torch.no_grad():
        model.layer1[0].conv1.weight[:4].zero_()

    rows = by_layer(model, dense)

    nonzero = sum(int(weight.count_nonzero()) for weight in prunable_weights(model).values())
    assert rows["layer1.0.conv1"]["sparsity"] == pytest.approx(4 / 16)
    assert sum(row["weights_nonzero"] for row in rows.values()) == nonzero


def test_histogram_counts_every_weight_once():
    dense, model = build_twice()
    with torch.no_grad():
        model.layer1[0].conv1.weight[:4].zero_()

    distribution = histogram([model, dense])

    weights = [*prunable_weights(model).values(), *prunable_weights(dense).values()]
    total = sum(weight.numel() for weight in weights)
    largest = max(float(weight.detach().abs().max()) for weight in weights)
    assert sum(distribution["counts"]) + distribution["zeros"] == total
    assert distribution["zeros"] == 4 * 16 * 9
    assert distribution["limit"] == pytest.approx(largest)


def test_sizes_are_those_of_files_and_zeros_compress(tmp_path):
    model = build("resnet8", 10, DIGITS_SHAPE)
    file = tmp_path / "plain.safetensors"
    save_file(model.state_dict(), file)

    dense = sizes(model)
    with torch.no_grad():
        for weight in prunable_weights(model).values():
            weight.zero_()
    masked = sizes(model)

    assert dense["size_bytes"] == file.stat().st_size
    assert dense["size_sparse_bytes"] == dense["size_bytes"]
    assert masked["size_bytes"] == dense["size_bytes"]
    assert masked["size_compressed_bytes"] < 0.1 * dense["size_compressed_bytes"]


def test_compressed_size_is_what_bzip2_has_made_of_it_since_2000():
    # A library that compresses otherwise would give other metrics. The size is the program's.
    blocks = [hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(1000)]
    assert compressed_size(b"".join(blocks) + bytes(50_000)) == 32_536


def test_sparse_size_of_zeros_is_that_of_everything_else():
    model = build("resnet8", 10, DIGITS_SHAPE)
    weights = prunable_weights(model)
    with torch.no_grad():
        for weight in weights.values():
            weight.zero_()

    size = sizes(model)["size_sparse_bytes"]

    others = sum(v.nbytes for name, v in model.state_dict().items() if name not in weights)
    row_ends = sum(4 * (len(weight) + 1) for weight in weights.values())
    header = 8192
    assert others + row_ends < size < others + row_ends + header


def test_predictions_are_those_of_the_network_image_by_image(trainer, execution):
    model = build("resnet8", 10, DIGITS_SHAPE)
    loader = trainer.validation_loader
    ((images, labels),) = loader.ordered(len(loader))

    predictions = predict(model, loader, 10, execution)

    with torch.no_grad():
        logits = model(images)
    losses = nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    probabilities = logits.double().softmax(1).numpy()
    of_label = probabilities[np.arange(len(labels)), labels.numpy()]
    rank = (probabilities > of_label[:, np.newaxis]).sum(axis=1)
    np.testing.assert_array_equal(predictions.classes, logits.argmax(1).numpy())
    np.testing.assert_allclose(predictions.losses, losses, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predictions.confidences, probabilities.max(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(predictions.among_top, rank < 5)
    predictions.require_numbers()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_of_outputs_that_are_no_numbers_are_refused(value):
    logits = torch.zeros(3, 2)
    logits[1, 0] = value
    labels = torch.tensor([0, 1, 0])

    (predictions,) = predict_batches([nn.Identity()], [(logits, labels)])

    with pytest.raises(InputError, match="outputs for 1 of 3 examples are NaN or infinite"):
        predictions.require_numbers()
