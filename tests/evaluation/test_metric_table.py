"""Metrics by name: one number for each network, then their mean and interval over seeds."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from prunelab.core.errors import InputError
from prunelab.core.metrics_files import split_metrics
from prunelab.evaluation.metric_table import METRICS, cohen_kappa, matthews, measure
from prunelab.evaluation.predict import Predictions
from prunelab.statistics.intervals import student_t

CLASSES = 5


def predicted(right: float, seed: int = 0, seeds: int = 1) -> tuple[np.ndarray, Predictions]:
    """Labels, and predictions [seeds, 200] of which about so many are right."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=200)
    guesses = random.integers(CLASSES, size=(seeds, 200))
    classes = np.where(random.random((seeds, 200)) < right, labels, guesses)
    confidences = random.uniform(0.2, 1, (seeds, 200))
    predictions = Predictions(classes, -np.log(confidences), confidences, classes == labels)
    return labels, predictions


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (cohen_kappa, sklearn_metrics.cohen_kappa_score),
        (matthews, sklearn_metrics.matthews_corrcoef),
    ],
)
@pytest.mark.parametrize("right", [0.0, 0.6, 1.0])
def test_metrics_are_those_of_scikit_learn(metric, expected, right):
    labels, predictions = predicted(right)
    (one,) = predictions.by_seed()

    assert metric(labels, one) == pytest.approx(expected(labels, one.classes))


@pytest.mark.parametrize("metric", [cohen_kappa, matthews])
def test_a_network_that_always_names_one_class_is_at_chance(metric):
    labels, predictions = predicted(1.0)
    predictions.classes[:] = 2
    (one,) = predictions.by_seed()

    assert metric(labels, one) == pytest.approx(0)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_a_mean_over_seeds_with_an_interval(name):
    labels, predictions = predicted(0.7, seeds=3)
    values = np.array([METRICS[name](labels, one) for one in predictions.by_seed()])

    measured = measure([name], labels, predictions)

    assert measured == {
        name: pytest.approx(values.mean()),
        f"{name}_ci95": pytest.approx(student_t(values)),
    }
    assert set(measure([name], *predicted(0.7))) == {name}


@pytest.mark.parametrize("name", METRICS)
def test_more_right_predictions_give_a_higher_value(name):
    values = [measure([name], *predicted(right))[name] for right in (0.2, 0.8, 1.0)]

    assert values == sorted(values)
    assert len(set(values)) == 3


@pytest.mark.parametrize("value", [None, float("nan"), "high", np.zeros(2)])
def test_a_metric_that_is_no_number_is_refused(monkeypatch, value):
    monkeypatch.setitem(METRICS._own, "matthews", lambda labels, predictions: value)

    with pytest.raises(InputError, match=r"metric matthews returns .*; return one finite number"):
        measure(["matthews"], *predicted(0.5))


def test_metrics_asked_for_by_name_stand_in_the_headline():
    metrics = {"accuracy": 0.9, "loss": 0.1, "matthews": 0.8, "matthews_ci95": 0.01}

    headline, others = split_metrics(metrics, ["matthews"])

    assert headline == {"accuracy": 0.9, "matthews": 0.8, "matthews_ci95": 0.01}
    assert others == {"loss": 0.1}
