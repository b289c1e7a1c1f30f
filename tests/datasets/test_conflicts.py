"""Equal examples with different labels: how they are found, counted and named."""

from pathlib import Path

import numpy as np
import pytest

from prunelab.core.errors import InputError
from prunelab.data.splits import Split
from prunelab.datasets import conflicts, manifest
from prunelab.datasets.conflicts import Conflicts, Example, conflicting_files, find_conflicts

NAMES = ["ant", "bee", "cat"]


def splits_of(train: list[tuple[int, int]], test: list[tuple[int, int]]) -> dict[str, Split]:
    """Two splits of one-pixel images, each given by its grey value and its class."""
    splits = {}
    for name, pairs in (("train", train), ("test", test)):
        values, labels = np.array(pairs).T
        images = values.astype(np.uint8).reshape(-1, 1, 1, 1)
        splits[name] = Split(images, labels.astype(np.int64))
    return splits


def found(splits: dict[str, Split]) -> Conflicts:
    return find_conflicts(splits, manifest.hash_inputs(splits), splits, NAMES)


def test_contradictions_are_found_within_and_across_splits():
    splits = splits_of(
        train=[(1, 0), (2, 0), (1, 1), (3, 2), (3, 2)], test=[(2, 2), (1, 0), (9, 1)]
    )

    result = found(splits)

    groups = []
    for group in result.groups:
        groups.append({(example.name, example.label) for example in group})
    assert groups == [
        {("example 0", "ant"), ("example 2", "bee"), ("example 1", "ant")},
        {("example 1", "ant"), ("example 0", "cat")},
    ]
    assert (result.examples, result.total) == (5, 8)


def test_equal_examples_with_one_label_are_no_contradiction():
    assert found(splits_of(train=[(1, 0), (1, 0), (2, 1)], test=[(1, 0), (2, 1)])).groups == []


def test_a_group_with_three_labels_counts_for_each_pair():
    result = found(splits_of(train=[(1, 0), (1, 1), (2, 0)], test=[(1, 2), (2, 1)]))

    assert result.record()["conflicts"]["pairs"] == {"ant, bee": 2, "ant, cat": 1, "bee, cat": 1}
    assert result.report()[0].startswith("2 equal inputs are labelled both ant and bee: ")


def test_equal_hashes_of_different_examples_are_no_contradiction():
    splits = splits_of(train=[(1, 0), (2, 1)], test=[(3, 2), (4, 0)])
    hashes = {name: np.zeros(len(split), np.uint64) for name, split in splits.items()}

    assert find_conflicts(splits, hashes, splits, NAMES).groups == []


@pytest.mark.parametrize(("total", "refused"), [(199, True), (200, False)])
def test_more_than_one_in_a_hundred_is_refused(total, refused):
    result = Conflicts([[Example("a", "ant"), Example("b", "bee")]], total)

    assert result.are_many == refused
    if refused:
        with pytest.raises(InputError, match=r"data.conflicts: 2 of 199 examples \(1.0%\)"):
            result.require_few()
    else:
        result.require_few()


def test_many_pairs_of_labels_are_named_in_a_few_lines():
    groups = [[Example("x", "a"), Example("y", str(number))] for number in range(9)]

    lines = Conflicts(groups, 18).report()

    assert len(lines) == conflicts.MAX_PAIRS_NAMED + 1
    assert lines[-1] == "4 more pairs of labels share equal inputs"


def test_files_of_the_same_bytes_are_found_without_decoding(tmp_path, monkeypatch):
    contents = {
        "a.png": b"same",
        "b.png": b"same",
        "c.png": b"diff",
        "d.png": b"longer",
        "e.png": b"same",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    labels = ["ant", "bee", "bee", "ant", "ant"]
    files = [(str(tmp_path / name), label) for name, label in zip(contents, labels, strict=True)]

    result = conflicting_files([*files, (str(tmp_path / "missing.png"), "ant")])

    assert result is not None
    (group,) = result.groups
    assert [Path(example.name).name for example in group] == ["a.png", "b.png", "e.png"]
    monkeypatch.setattr(conflicts, "MAX_COMPARED_FILES", 4)
    assert conflicting_files(files) is None


def test_files_are_read_once_while_they_stay_as_they_are(tmp_path, monkeypatch):
    files = [(str(tmp_path / "a.png"), "ant"), (str(tmp_path / "b.png"), "bee")]
    for path, _ in files:
        Path(path).write_bytes(b"equal")
    compared = []
    same_bytes = conflicts._same_bytes

    def counted(examples):
        compared.append(examples)
        return same_bytes(examples)

    monkeypatch.setattr(conflicts, "_same_bytes", counted)

    first, again = conflicting_files(files), conflicting_files(files)
    assert first == again
    assert len(first.groups) == len(compared) == 1

    Path(files[1][0]).write_bytes(b"other")
    assert conflicting_files(files).groups == []
