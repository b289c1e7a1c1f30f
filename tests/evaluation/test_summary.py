"""The line that a stage prints about what it measured."""

import pytest

from prunelab.evaluation.summary import describe

MEASURED = {
    "accuracy": 0.9812,
    "accuracy_ci95": 0.0123,
    "accuracy_drop": 0.01,
    "accuracy_drop_ci95": 0.004,
    "macs_ratio": 2.5,
    "sparsity": 0.6,
    "size_compressed_bytes": 1234567,
    "ratio_asked": 0.6,
}


def test_line_names_accuracy_drop_and_costs_with_their_units():
    line = describe(MEASURED, "test")

    assert line == (
        "test accuracy 98.12 ± 1.23 %; drop 1.00 ± 0.40 points: a drop that is shown; "
        "2.50x fewer MACs; 60.0% of the weights gone; 1,234.6 kB compressed"
    )


@pytest.mark.parametrize(
    ("drop", "verdict"),
    [
        (0.0041, "a drop that is shown"),
        (0.004, "not shown to differ from dense"),
        (-0.004, "not shown to differ from dense"),
        (-0.0041, "a gain that is shown"),
    ],
)
def test_a_difference_is_shown_only_outside_the_interval(drop, verdict):
    assert f"points: {verdict};" in describe(MEASURED | {"accuracy_drop": drop}, "test")


def test_line_of_a_dense_network_has_no_drop():
    assert describe(MEASURED | {"ratio_asked": 0}, "test") == (
        "test accuracy 98.12 ± 1.23 %; 1,234.6 kB compressed"
    )
