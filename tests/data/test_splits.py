"""Stratified splits, and the moments of images."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from prunelab.core.errors import InputError
from prunelab.data import splits
from prunelab.data.splits import Split, channel_moments, split_off


def fingerprints(split: Split) -> set[str]:
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in split.inputs}


def test_splits_are_disjoint_and_depend_on_the_seed_alone(digits):
    rest, taken = split_off(digits, 0.25, seed=3)
    _, taken_again = split_off(digits, 0.25, seed=3)
    _, taken_otherwise = split_off(digits, 0.25, seed=4)

    assert len(rest) + len(taken) == len(digits)
    assert fingerprints(rest) | fingerprints(taken) == fingerprints(digits)
    np.testing.assert_array_equal(taken.inputs, taken_again.inputs)
    assert fingerprints(taken) != fingerprints(taken_otherwise)


@given(
    labels=st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 7]), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.99) | st.sampled_from([0.1, 0.25, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_are_those_of_scikit_learn_or_refused_as_there(labels, fraction, seed):
    rows = np.arange(len(labels))
    split = Split(rows[:, None], np.array(labels))
    try:
        expected = train_test_split(rows, test_size=fraction, random_state=seed, stratify=labels)
    except ValueError:
        expected = []
    all_classes = [set(split.labels[part]) == set(labels) for part in expected]

    if not expected or not all(all_classes):
        with pytest.raises(InputError, match="cannot split off"):
            split_off(split, fraction, seed)
        return

    parts = split_off(split, fraction, seed)
    for part, expected_rows in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part.inputs[:, 0], np.sort(expected_rows))
        np.testing.assert_array_equal(part.labels, split.labels[np.sort(expected_rows)])


def test_a_split_that_would_lose_a_class_is_an_error():
    tiny = Split(np.zeros((6, 1, 2, 2), np.uint8), np.array([0, 0, 0, 1, 1, 2]))

    with pytest.raises(InputError, match="cannot split off"):
        split_off(tiny, 0.5, seed=0)


def test_moments_are_those_of_the_pixels(digits):
    mean, std = channel_moments(digits.inputs)

    pixels = digits.inputs.astype(np.float64) / 255
    np.testing.assert_allclose(mean, [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(std, [pixels.std()], rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_moments_do_not_depend_on_the_chunks(digits, monkeypatch, rows):
    images = np.concatenate([digits.inputs[:50], 255 - digits.inputs[:50]], axis=1)
    monkeypatch.setattr(splits, "CHUNK_BYTES", rows * 2 * 64)

    mean, std = channel_moments(images)

    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12)
