"""Prepared arrays that are damaged or contradict dataset.json are refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from helpers.damage import DAMAGES, Damage, outcome
from helpers.prepared_data import IMAGES, LABELS, npy_bytes, write_prepared
from hypothesis import given

from prunelab.artifacts.prepared import load_split
from prunelab.core.errors import InputError
from prunelab.data.splits import Split


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@given(DAMAGES)
def test_damaged_arrays_are_refused_even_if_their_hash_is_right(folder, damage: Damage):
    place = write_prepared(folder / "prepared", damage(IMAGES))

    split = outcome(load_split, place, "train")

    assert split is None or (split.inputs.shape == (4, 1, 2, 2) and split.dtype == np.uint8)


@given(DAMAGES)
def test_a_damaged_dataset_json_is_refused_or_still_valid(folder, damage: Damage):
    place = write_prepared(folder / "described", IMAGES)
    content = (place / "dataset.json").read_bytes()
    (place / "dataset.json").write_bytes(damage(content))

    assert isinstance(outcome(load_split, place, "train"), Split | None)


@pytest.mark.parametrize(
    ("inputs", "labels", "changes", "message"),
    [
        (npy_bytes(np.zeros((4, 1, 2, 2), np.float32)), LABELS, {}, "inputs are float32"),
        (
            npy_bytes(np.zeros((4, 3, 2, 2), np.uint8)),
            LABELS,
            {},
            r"inputs are uint8 \(4, 3, 2, 2\)",
        ),
        (IMAGES, LABELS[:3], {}, "one for each of the inputs"),
        (IMAGES, LABELS.astype(float), {}, "labels are float64"),
        (IMAGES, LABELS + 1, {}, "labels go from 1 to 2, but there are 2 classes"),
        (IMAGES, LABELS - 1, {}, "labels go from -1 to 0"),
        (npy_bytes(np.full((4, 3), -1)), LABELS, {"shape": [3]}, "negative token id"),
        (IMAGES, LABELS, {"shape": [1, 2]}, "is damaged: shape"),
        (IMAGES, LABELS, {"classes": []}, "is damaged: classes"),
        (IMAGES, LABELS, {"sha256": {"train": {"inputs": "0"}}}, "is damaged: sha256.train.labels"),
        (IMAGES, LABELS, {"sha256": {}}, "does not describe train"),
    ],
)
def test_arrays_that_contradict_dataset_json_are_refused(
    tmp_path, inputs, labels, changes, message
):
    write_prepared(tmp_path, inputs, labels, **changes)

    with pytest.raises(InputError, match=message):
        load_split(tmp_path, "train")


def test_an_array_that_declares_terabytes_is_refused(tmp_path):
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**13, 1, 2, 2)}
    np.lib.format.write_array_header_1_0(buffer, header)
    write_prepared(tmp_path, buffer.getvalue())

    with pytest.raises(InputError, match="no array that can be read: mmap length is greater"):
        load_split(tmp_path, "train")
