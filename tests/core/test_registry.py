"""Names are looked up in tables by `pick`."""

import pytest

from prunelab.core.errors import InputError
from prunelab.core.registry import pick


def test_pick_returns_the_entry():
    assert pick({"a": 1}, "a", "letter") == 1


def test_unknown_name_is_refused_with_the_choices_and_a_guess():
    with pytest.raises(InputError) as error:
        pick({"resnet20": 1, "vgg": 2}, "resnet2", "model")

    assert error.value.problems == [
        "unknown model 'resnet2' (did you mean 'resnet20'?); valid: resnet20, vgg"
    ]
