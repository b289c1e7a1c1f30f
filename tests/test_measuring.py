import numpy as np
import pytest
import torch
from conftest import DIGITS_SHAPE, IMAGE_MODELS, zeroed
from scipy import stats
from sklearn import metrics as sklearn_metrics
from torch import nn

from prunelab.artifacts.networks import sizes
from prunelab.measuring.cost import cost, macs, positions, training_macs
from prunelab.measuring.quality import confusion_matrix, macro_scores, predict
from prunelab.measuring.statistics import half_width
from prunelab.measuring.summary import mean_over_seeds, quality
from prunelab.models.catalogue import build, prunable_weights


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


def test_drops_are_paired_by_seed_and_image(said):
    labels, predicted = said
    dense = np.stack([labels, predicted])
    after = np.stack([predicted, labels])
    losses = np.zeros(dense.shape)
    measured = quality(labels, after=after, before=dense, dense=dense, losses=losses, classes=5, resamples=100)
    wrong = (predicted != labels).mean()
    assert measured["accuracy"] == pytest.approx(1 - wrong / 2)
    assert measured["accuracy_drop"] == pytest.approx(0)
    assert measured["accuracy_drop_ci95"] > wrong  # one seed gains what the other loses: nothing is certain
    same = quality(labels, after=dense, before=dense, dense=dense, losses=losses, classes=5, resamples=100)
    assert same["accuracy_drop"] == same["accuracy_drop_ci95"] == 0


def test_counts_stay_integers_in_the_mean():
    assert mean_over_seeds([{"n": 1, "x": 1.0}, {"n": 2, "x": 2.0}, {"n": 3, "x": 2.0}]) == {"n": 2, "x": 5 / 3}


def counted_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions, linear layers and attention, by textbook formulas on recorded shapes."""
    total = 0

    def record(layer, args, output):
        nonlocal total
        if isinstance(layer, nn.MultiheadAttention):
            _, tokens, width = args[0].shape
            total += 4 * tokens * width**2 + 2 * tokens**2 * width  # its four projections, and its two products
        elif isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        else:
            total += output.numel() * layer.in_features

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            module.register_forward_hook(record)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return total


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_macs_agree_with_the_textbook_formula(name, shape):
    model = zeroed(name, 10, shape)
    assert macs(model, shape) == pytest.approx(counted_macs(model, shape), rel=0.03)  # norms are counted too


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_prunable_weight_has_the_places_at_which_it_is_used(name):
    model = zeroed(name, 10, DIGITS_SHAPE)
    places = positions(model, torch.zeros(1, *DIGITS_SHAPE))
    weights = prunable_weights(model)
    spent = sum(weight[0].numel() * len(weight) * places[key.rpartition(".")[0]] for key, weight in weights.items())
    assert spent == pytest.approx(counted_macs(model, DIGITS_SHAPE), rel=0.02)  # all but attention's two products


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


def test_predictions_are_those_of_the_network_image_by_image(task, execution):
    model = build("resnet8", 10, DIGITS_SHAPE)
    predictions = predict(model, task.validation, 10, execution)
    ((images, labels),) = task.validation.ordered(len(task.validation))
    with torch.no_grad():
        logits = model(images)
    np.testing.assert_array_equal(predictions.classes, logits.argmax(1).numpy())
    expected = nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    np.testing.assert_allclose(predictions.losses, expected, rtol=1e-4, atol=1e-5)
