"""Metrics are divided between a headline and the details, and joined again without loss."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from prunelab.core.metrics_files import (
    HEADLINE,
    OTHERS,
    details_file,
    join_metrics,
    split_metrics,
)

METRICS = st.dictionaries(st.sampled_from([*HEADLINE, "loss", "seeds", "imported"]), st.integers())


@given(METRICS)
def test_joined_metrics_are_those_that_were_split(metrics):
    headline, others = split_metrics(metrics)

    assert set(headline) <= set(HEADLINE)
    assert not set(others) & set(HEADLINE)
    assert join_metrics(headline, {OTHERS: others, "seeds": []}) == metrics


def test_a_file_that_holds_all_metrics_needs_no_details_and_comes_first():
    everything = {"accuracy": 0.9, "loss": 0.1}

    for details in ({}, {"layers": []}, {OTHERS: None}, None, [1]):
        assert join_metrics(everything, details) == everything
    assert join_metrics(everything, {OTHERS: {"loss": 5, "f1": 0.8}}) == everything | {"f1": 0.8}


def test_details_have_the_name_of_their_metrics():
    assert details_file(Path("metrics/base.json")) == Path("metrics/details/base.json")
    assert details_file(Path("metrics/grid/a-0.5.json")) == Path("metrics/details/grid/a-0.5.json")
