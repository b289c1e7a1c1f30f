"""Counts with their nouns."""

import pytest

from prunelab.core.plurals import counted


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1000, "1,000 files")]
)
def test_one_alone_is_singular(count, text):
    assert counted(count, "file") == text
