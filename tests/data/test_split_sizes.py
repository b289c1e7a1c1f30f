"""Splits that would lack a class are found from the counts, with advice that works."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from prunelab.core.errors import InputError
from prunelab.data.dataset import ClassCounts, SplitData
from prunelab.data.split_sizes import split_problems
from prunelab.data.splits import Split, three_way_split

FRACTIONS = st.floats(0.01, 0.99) | st.sampled_from([0.1, 0.25, 0.5])


def published(counts: dict[str, int], official: Sequence[str] = ()) -> SplitData:
    """A data set with so many examples of every class; `official` are the splits beside train."""
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    examples = Split(np.arange(len(labels))[:, None], labels)
    others = {"test": None} | dict.fromkeys(official, examples)
    return SplitData(train=examples, class_names=list(counts), **others)


def scikit_learn_splits(labels: np.ndarray, test: float, validation: float, seed: int) -> list:
    """The labels of train, validation and test; a ValueError says that a class is too small."""
    rest, test_labels = train_test_split(labels, test_size=test, random_state=seed, stratify=labels)
    train, validation_labels = train_test_split(
        rest, test_size=validation, random_state=seed, stratify=rest
    )
    return [train, validation_labels, test_labels]


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    test=FRACTIONS,
    validation=FRACTIONS,
    seed=st.integers(0, 2**32 - 1),
)
def test_problems_are_found_exactly_where_a_split_of_scikit_learn_lacks_a_class(
    counts, test, validation, seed
):
    data = published({f"class {index}": count for index, count in enumerate(counts)})
    try:
        splits = scikit_learn_splits(data.train.labels, test, validation, seed)
        is_complete = all(len(set(labels)) == len(counts) for labels in splits)
    except ValueError:
        is_complete = False

    problems = split_problems(data.class_counts(), test, validation, seed)

    assert (problems == []) == is_complete
    if problems:
        with pytest.raises(InputError) as error:
            three_way_split(data, test, validation, seed)
        assert error.value.problems == problems


@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=8),
    test=FRACTIONS,
    validation=FRACTIONS,
    seed=st.integers(0, 100),
)
def test_what_would_fit_fits(counts, test, validation, seed):
    def problems(counts: list[int], test: float, validation: float) -> list[str]:
        names = map(str, range(len(counts)))
        class_counts = ClassCounts(dict(zip(names, counts, strict=True)))
        return split_problems(class_counts, test, validation, seed)

    lines = problems(counts, test, validation)
    if not lines:
        return

    advice = lines[0].partition("; what would fit: ")[2]
    fractions = {"test": test, "validation": validation}
    fractions |= {
        name: float(value) for name, value in re.findall(r"data\.(\w+)_fraction: ([\d.]+)", advice)
    }
    if fractions != {"test": test, "validation": validation}:
        assert problems(counts, fractions["test"], fractions["validation"]) == []

    enough = re.search(r"(\d+) examples of every class that has fewer", advice)
    if enough:
        count = int(enough[1])
        assert problems([max(old, count) for old in counts], test, validation) == []
        assert problems([max(old, count - 1) for old in counts], test, validation) != []


def test_a_rare_class_is_named_with_both_ways_on():
    rare = ClassCounts({"a": 150, "b": 150, "c": 3})

    (line,) = split_problems(rare, 0.25, 0.1, seed=0)

    assert line == (
        "data.validation_fraction: 0.1 of 227 examples leaves validation without 1 of 3 classes: "
        "c (3); what would fit: data.validation_fraction: 0.23, "
        "or 5 examples of every class that has fewer"
    )


def test_both_fractions_change_if_one_is_not_enough():
    (line,) = split_problems(ClassCounts({"a": 3, "b": 3}), 0.8, 0.01, seed=0)

    fractions = re.search(r"test_fraction: ([\d.]+) with data\.validation_fraction: ([\d.]+)", line)
    assert fractions is not None
    test, validation = map(float, fractions.groups())
    splits = three_way_split(published({"a": 3, "b": 3}), test, validation, 0)
    for split in splits.values():
        assert sorted(split.labels) == [0, 1]


def test_a_class_that_is_smaller_than_the_number_of_splits_fits_no_fraction():
    (line,) = split_problems(ClassCounts({"a": 30, "b": 2}), 0.25, 0.1, seed=0)

    assert "b (2); what would fit: " in line
    assert "_fraction" not in line.partition("what would fit")[2]


@pytest.mark.parametrize(
    ("official", "named"),
    [
        ((), "data.test_fraction: 0.01 of 40 examples leaves test without 1 of 2"),
        (("test",), "data.validation_fraction: 0.01 of 40 examples leaves validation without"),
        (("validation",), "data.test_fraction: 0.01 of 40 examples leaves test without"),
        (("test", "validation"), None),
    ],
)
def test_official_splits_need_no_fraction(official, named):
    data = published({"a": 20, "b": 20}, official)

    lines = split_problems(data.class_counts(), 0.01, 0.01, seed=0)

    if named is None:
        assert lines == []
    else:
        assert named in lines[0]
