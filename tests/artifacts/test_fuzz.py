"""Drawn parameters are accepted, or refused in clear lines.

`--fuzz N` draws N inputs per test, other ones each time.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from helpers.fuzzing import (
    MAX_LINE,
    NUMBERS,
    VALUES,
    WORDS,
    Place,
    places,
    refused,
    values_of,
    with_value_at,
)
from helpers.networks import KINDS
from helpers.params import PROJECT
from hypothesis import assume, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from prunelab.commands.check.check import find_problems
from prunelab.config.params import Params, load_params, parse_params, read_params
from prunelab.core.text import abbreviate, truncate
from prunelab.datasets.datasets import DATASETS
from prunelab.pruning.methods import METHODS

SHIPPED = read_params(PROJECT / "params.yaml")
PLACES = list(places(SHIPPED))
# The keys of model_options are the network's own.
SECTION_NAMES = [
    key for key, value in SHIPPED.items() if isinstance(value, dict) and key != "model_options"
]


def nested_values(value: Any) -> Iterator[Any]:
    """A value, and every key and value within it."""
    yield value
    inner_values: list[Any] = []
    if isinstance(value, dict):
        inner_values = [*value, *value.values()]
    elif isinstance(value, list):
        inner_values = value
    for inner in inner_values:
        yield from nested_values(inner)


def names_value(line: str, value: Any) -> bool:
    """Whether a line shows a value or something within it."""
    for inner in nested_values(value):
        if abbreviate(inner) in line:
            return True
        if isinstance(inner, str) and inner and truncate(inner) in line:
            return True
    return False


# Lines about a key that is missing or unknown, or about an empty list, show no wrong value.
WITHOUT_VALUE = r": (missing|unknown key|empty; at least)|appears more than once"
WITH_ADVICE = r"must |should |can |valid[: ]|is not a list; write|milestones|only \d+ epochs|cyclic"


@given(place=st.sampled_from(PLACES), value=VALUES)
def test_a_line_about_a_wrong_value_has_its_key_the_value_and_advice(place, value):
    key = ".".join(map(str, place))
    section = key.partition(".")[0]
    for line in refused(parse_params, with_value_at(SHIPPED, place, value)):
        starts = [f"{key}:", f"{key}.", f"{section}: "]
        if "more than once" in line:  # a list's entries are wrong together
            starts.append(f"{'.'.join(map(str, place[:-1]))}: ")

        assert line.startswith(tuple(starts)), line
        if names_value(line, value):
            assert re.search(WITH_ADVICE, line), line
        else:
            assert re.search(WITHOUT_VALUE, line), line


def first_key(change: tuple[Place, Any]) -> Any:
    place, _ = change
    return place[0]


CHANGES = st.lists(
    st.tuples(st.sampled_from(PLACES), VALUES), min_size=2, max_size=4, unique_by=first_key
)


@given(CHANGES)
def test_every_one_of_several_wrong_values_is_reported(changes):
    content = deepcopy(SHIPPED)
    wrong_alone = 0
    for place, value in changes:
        changed = with_value_at(SHIPPED, place, value)
        content[place[0]] = changed[place[0]]
        wrong_alone += bool(refused(parse_params, changed))

    lines = refused(parse_params, content)

    keys = {line.partition(":")[0].partition(".")[0] for line in lines}
    assert len(keys) == wrong_alone


@given(VALUES)
def test_any_content_of_a_file_is_refused_in_lines(content):
    assert refused(parse_params, content)


@given(key=WORDS | NUMBERS, section=st.sampled_from([None, *SECTION_NAMES]))
def test_an_unknown_key_is_refused_with_the_valid_ones(key, section):
    content = deepcopy(SHIPPED)
    inner = content[section] if section else content
    valid_keys = list(inner)
    assume(key not in inner and "\\ud" not in ascii(key))  # half a character is no text
    inner[key] = 1

    (line,) = refused(parse_params, content)

    assert ": unknown key" in line
    assert all(valid in line for valid in valid_keys)


@given(values_of(Params))
def test_accepted_parameters_keep_their_values(content):
    problems = refused(parse_params, content)
    if problems:
        # Some keys depend on each other: epochs and rewind_epoch, schedule and milestones.
        for line in problems:
            assert re.match(r"(train|finetune|prune\.recalibrate|search[\w.]*): ", line), line
        return

    params = parse_params(content)
    assert params.model_dump() == content
    assert parse_params(params.model_dump()) == params


NAMES = {
    "dataset": st.sampled_from(list(DATASETS)),
    "model": st.sampled_from([*KINDS, "bert"]),
    "method": st.sampled_from(list(METHODS)),
    "weights": st.sampled_from(["none", "imagenet", "minilm", "params.yaml", "nowhere/w.pt"]),
}
SECTIONS = {
    key: values_of(field.annotation, tuple(field.metadata))
    for key, field in Params.model_fields.items()
    if key != "runtime" and field.annotation is not str
}


@given(
    names=st.fixed_dictionaries({}, optional=NAMES),
    section=st.sampled_from(list(SECTIONS)).flatmap(
        lambda key: st.fixed_dictionaries({key: SECTIONS[key]})
    ),
    methods=st.lists(NAMES["method"], min_size=1, max_size=3, unique=True),
)
def test_check_answers_for_all_parameters_within_the_schema(
    names, section, methods, tmp_path_factory
):
    folder = tmp_path_factory.getbasetemp() / "parse_params"
    folder.mkdir(exist_ok=True)
    content = deepcopy(SHIPPED) | names | section
    content["grid"]["methods"] = methods
    if content["data"]["resize"]:
        content["data"]["resize"] = min(64, content["data"]["resize"])  # large images are slow
    YAML().dump(content, folder / "params.yaml")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lines = find_problems()

    assert {path.name for path in folder.iterdir()} <= {"params.yaml", ".prunelab"}
    for line in lines:
        assert line.isprintable()
        assert 0 < len(line) <= MAX_LINE


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "imagefolder", "data": {"source": "~nobody-of-this-name/x"}},
        {"dataset": "text_tsv", "model": "bert", "data": {"source": "~nobody-of-this-name/x"}},
        {"dataset": "imagefolder", "data": {"source": "x" * 300}},
        {"weights": "x" * 300},
    ],
)
def test_paths_that_no_system_accepts_are_reported(changes, tmp_path, monkeypatch):
    data = SHIPPED["data"] | changes.get("data", {})
    YAML().dump(SHIPPED | changes | {"data": data}, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)

    lines = find_problems()
    assert any("nobody-of-this-name" in line or "x" * 300 in line for line in lines)

    (tmp_path / "data/prepared/dataset.json").mkdir(parents=True)
    assert find_problems()


def test_a_huge_number_is_reported_by_its_size(tmp_path):
    path = tmp_path / "params.yaml"
    text = (PROJECT / "params.yaml").read_text()
    path.write_text(text.replace("ratio: 0.6 ", f"ratio: 0x{'f' * 9000} "))

    (line,) = refused(load_params, path)

    assert line == f"{path}: ratio: must be less than 1, not an integer of 36,000 bits"


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"ratio: \x1b[31m", b"a: 2001-13-45", b"\tratio: 1", None]
)
def test_a_file_that_is_no_yaml_is_refused_by_its_name(content, tmp_path):
    path = tmp_path / "params.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    (line,) = refused(load_params, path)

    assert line.startswith(f"{path} cannot be read")
