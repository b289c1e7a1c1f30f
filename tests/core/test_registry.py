"""Names are looked up in tables by `pick`; what entries refer to is imported by `resolve`."""

import subprocess
import sys

import pytest

from prunelab.core.errors import InputError
from prunelab.core.registry import pick, resolve


def test_pick_returns_the_entry():
    assert pick({"a": 1}, "a", "letter") == 1


def test_unknown_name_is_refused_with_the_choices_and_a_guess():
    with pytest.raises(InputError) as error:
        pick({"resnet20": 1, "vgg": 2}, "resnet2", "model")

    assert error.value.problems == [
        "unknown model 'resnet2' (did you mean 'resnet20'?); valid: resnet20, vgg"
    ]


def test_of_many_names_the_nearest_three_are_shown_and_the_command_that_lists_all():
    table = dict.fromkeys(["l1_channel", "l2_channel", "l1_block", *"abcdef"])

    with pytest.raises(InputError) as error:
        pick(table, "l1_chanel", "method")

    assert error.value.problems == [
        "unknown method 'l1_chanel' (did you mean 'l1_channel', 'l2_channel' or 'l1_block'?); "
        "`prunelab list methods` lists all"
    ]


def test_a_reference_gives_the_function_that_the_module_has():
    assert resolve("prunelab.core.registry:pick") is pick


def test_a_reference_imports_its_module_only_when_it_is_resolved():
    code = (
        "import sys; from prunelab.core.registry import resolve; "
        "before = 'graphlib' in sys.modules; resolve('graphlib:TopologicalSorter'); "
        "print(before, 'graphlib' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert result.stdout.split() == [b"False", b"True"]


@pytest.mark.parametrize("reference", ["prunelab.core.registry:nothing", "prunelab.nowhere:pick"])
def test_a_reference_to_nothing_is_an_error(reference):
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve(reference)
