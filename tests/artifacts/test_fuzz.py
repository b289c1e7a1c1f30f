"""Drawn input for everything that reads what others wrote: it is taken or refused in clear lines, and nothing else.

`--fuzz N` draws N inputs per test, other ones each time.
"""

import json
import math
import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as bounds
import pytest
from helpers.fuzzing import LETTERS, LONGEST, NUMBERS, SCALARS, VALUES, WORDS, refused
from helpers.networks import KINDS
from helpers.params import PROJECT
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from prunelab.commands.check import find_problems
from prunelab.commands.studies.study_file import parse_study, read_overrides
from prunelab.commands.sweep.axes import read_axes
from prunelab.config.params import Params, Section, load_params, parse_params, read_params
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.files import parse_json
from prunelab.core.text import abbreviate, truncate
from prunelab.datasets.datasets import DATASETS
from prunelab.project.dvc_lock import HEAD, blocks, ordered
from prunelab.project.experiments import environment_of
from prunelab.project.revisions import Revision
from prunelab.pruning.methods import METHODS
from prunelab.report.pareto import NEEDED, compare, comparison_table, lacking
from prunelab.report.read_results import METRICS, read_confusion, read_metrics, read_rows

SHIPPED = read_params(PROJECT / "params.yaml")
STUDY = parse_yaml(PROJECT / "studies/resnet18_cifar100.yaml")


def places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and every place in a list, from the outside in."""
    if place:
        yield place
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, dict | list):
            yield from places(value, (*place, key))
        else:
            yield (*place, key)


PLACES = list(places(SHIPPED))


def with_at(place: tuple[Any, ...], value: Any) -> Any:
    """The shipped parameters with one value replaced."""
    content = deepcopy(SHIPPED)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


def within(value: Any) -> Iterator[Any]:
    yield value
    inside = (
        [*value, *value.values()]
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else []
    )
    for inner in inside:
        yield from within(inner)


@given(place=st.sampled_from(PLACES), value=VALUES)
def test_a_line_about_a_wrong_value_has_its_key_the_value_and_what_is_valid(place, value):
    key = ".".join(map(str, place))
    for line in refused(parse_params, with_at(place, value)):
        # What several keys make wrong together is said of their section.
        whole = (
            f"{'.'.join(map(str, place[:-1]))}: " if "more than once" in line else f"{key}:"
        )  # of a list's entries
        assert line.startswith((whole, f"{key}:", f"{key}.", f"{key.partition('.')[0]}: ")), line
        told = [
            each
            for each in within(value)
            if abbreviate(each) in line or (isinstance(each, str) and each and truncate(each) in line)
        ]
        # A key that is missing or should not be there has no value that is wrong; an empty list is called so.
        assert (
            told
            or re.search(r": (missing|unknown key|empty; at least)", line)
            or "appears more than once" in line
        )
        if told:
            valid = r"must |should |can |valid[: ]|is not a list; write|milestones|only \d+ epochs|cyclic"
            assert re.search(valid, line), line


@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), VALUES),
        min_size=2,
        max_size=4,
        unique_by=lambda one: one[0][0],
    )
)
def test_every_one_of_several_wrong_values_is_told(changes):
    content = deepcopy(SHIPPED)
    alone = 0
    for place, value in changes:
        content[place[0]] = with_at(place, value)[place[0]]
        alone += bool(refused(parse_params, with_at(place, value)))
    lines = refused(parse_params, content)
    assert len({line.partition(":")[0].partition(".")[0] for line in lines}) == alone


@given(VALUES)
def test_whatever_a_file_holds_is_told_in_lines(content):
    assert refused(parse_params, content)


@given(
    key=WORDS | NUMBERS,
    section=st.sampled_from([None, *(k for k, v in SHIPPED.items() if isinstance(v, dict))]),
)
def test_an_unknown_key_is_told_with_those_that_are_known(key, section):
    content = deepcopy(SHIPPED)
    inner = content[section] if section else content
    assume(key not in inner and "\\ud" not in ascii(key))  # half of a letter is no word
    inner[key] = 1
    (line,) = refused(parse_params, content)
    assert ": unknown key" in line
    assert all(known in line for known in (SHIPPED[section] if section else SHIPPED))


def drawn(annotation: Any, limits: tuple[Any, ...] = ()) -> st.SearchStrategy:
    """What a part of the schema takes, read off the schema itself."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return drawn(inner, (*limits, *more))
    flat = [
        one
        for limit in limits
        for one in (limit.metadata if isinstance(limit, FieldInfo) else [limit])
    ]
    least = next((one.ge for one in flat if isinstance(one, bounds.Ge)), None)
    above = next((one.gt for one in flat if isinstance(one, bounds.Gt)), None)
    most = next((one.le for one in flat if isinstance(one, bounds.Le)), None)
    below = next((one.lt for one in flat if isinstance(one, bounds.Lt)), None)
    size = next((one.min_length for one in flat if isinstance(one, bounds.MinLen)), 0)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        fields = annotation.model_fields.items()
        return st.fixed_dictionaries(
            {key: drawn(field.annotation, tuple(field.metadata)) for key, field in fields}
        )
    if get_origin(annotation) in (Union, UnionType):
        return st.one_of([drawn(one, limits) for one in get_args(annotation)])
    if get_origin(annotation) is list:
        return st.lists(drawn(get_args(annotation)[0]), min_size=size, max_size=3, unique=True)
    if get_origin(annotation) is dict:
        return st.dictionaries(WORDS, drawn(get_args(annotation)[1]), max_size=2)
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if annotation is int:
        return st.integers(least, most if most is not None else below and math.ceil(below) - 1)
    if annotation is float:
        low, high = (
            one if other is None else other for one, other in ((above, least), (below, most))
        )
        outside = {"exclude_min": above is not None, "exclude_max": below is not None}
        return st.floats(low, high, allow_nan=False, allow_infinity=False, **outside)
    return {
        str: st.text(st.characters(exclude_categories=["Cs"]), min_size=size, max_size=8),
        bool: st.booleans(),
        NoneType: st.none(),
    }[annotation]


SOUND = drawn(Params)


@given(SOUND)
def test_what_is_accepted_stays_what_it_is(content):
    # Some keys hang together, and are told so: epochs and rewind_epoch, schedule and milestones.
    if problems := refused(parse_params, content):
        assert all(re.match(r"(train|finetune|prune\.recalibrate): ", line) for line in problems)
        return
    params = parse_params(content)
    assert params.model_dump() == content
    assert parse_params(params.model_dump()) == params


NAMED = {
    "dataset": st.sampled_from(list(DATASETS)),
    "model": st.sampled_from([*KINDS, "bert"]),
    "method": st.sampled_from(list(METHODS)),
    "weights": st.sampled_from(["none", "imagenet", "minilm", "params.yaml", "nowhere/w.pt"]),
}
SECTIONS = [
    key
    for key, field in Params.model_fields.items()
    if key != "runtime" and field.annotation is not str
]
FIELDS = {
    key: drawn(Params.model_fields[key].annotation, tuple(Params.model_fields[key].metadata))
    for key in SECTIONS
}


@given(
    named=st.fixed_dictionaries({}, optional=NAMED),
    whole=st.sampled_from(SECTIONS).flatmap(lambda key: st.fixed_dictionaries({key: FIELDS[key]})),
    methods=st.lists(NAMED["method"], min_size=1, max_size=3, unique=True),
)
def test_whatever_is_within_the_schema_can_start_or_the_check_says_why_not(
    named, whole, methods, tmp_path_factory
):
    folder = tmp_path_factory.getbasetemp() / "parse_params"
    folder.mkdir(exist_ok=True)
    content = deepcopy(SHIPPED) | named | whole
    content["grid"]["methods"] = methods
    content["data"]["resize"] = content["data"]["resize"] and min(
        64, content["data"]["resize"]
    )  # what is large is slow
    YAML().dump(content, folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lines = find_problems()
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]
    for line in lines:
        assert line.isprintable()
        assert 0 < len(line) <= LONGEST


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "imagefolder", "data": {"source": "~nobody-of-this-name/x"}},
        {"dataset": "text_tsv", "model": "bert", "data": {"source": "~nobody-of-this-name/x"}},
        {"dataset": "imagefolder", "data": {"source": "x" * 300}},
        {"weights": "x" * 300},
    ],
)
def test_paths_that_no_system_takes_are_told(changes, tmp_path, monkeypatch):
    data = SHIPPED["data"] | changes.get("data", {})
    YAML().dump(SHIPPED | changes | {"data": data}, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    lines = find_problems()
    assert any("nobody-of-this-name" in line or "x" * 300 in line for line in lines)
    (tmp_path / "data/prepared/dataset.json").mkdir(parents=True)
    assert find_problems()


TEXTS = st.text(LETTERS, max_size=40)
# Pieces of YAML and JSON in any order: tags of what they are not, anchors, half of everything.
PIECES = st.lists(
    st.sampled_from(
        ["a", "b", ": ", "- ", "? ", "&a ", "*a", "<<: ", "[", "]", "{", "}", ", ",
         "\n", "  ", "\t", "|\n", "'", '"', "#", "%YAML 1.1\n",
         "---\n", "!!bool ", "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!python/none ",
         "2001-13-45", "1:99", "0x", "0b2", "1e999", ".nan", "NaN", "Infinity", "9" * 4301, "\\ud800", "ratio",
         "0.5", "\x00", "\ufeff"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@given(TEXTS | PIECES | st.binary(max_size=20), st.booleans())
def test_text_is_yaml_or_json_or_is_refused(text, fast):
    refused(parse_yaml, text, fast=fast)
    refused(parse_json, text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | WORDS,
        lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
        max_leaves=5,
    )
)
def test_what_json_means_comes_back(content):
    assert parse_json(json.dumps(content)) == content


def laughs(levels: int, kind: str) -> str:
    """Each level is nine times the one before, named and not written."""
    forms = {"list": "[{}]", "mapping": "{{{}}}", "merge": "{{<<: [{}]}}"}
    lines = ["l0: &l0 {k: 1}"]
    for level in range(1, levels):
        each = ", ".join(
            f"k{n}: *l{level - 1}" if kind == "mapping" else f"*l{level - 1}" for n in range(9)
        )
        lines.append(f"l{level}: &l{level} {forms[kind].format(each)}")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", ["list", "mapping", "merge"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_page_that_means_a_library_is_refused(kind, fast):
    assert not refused(parse_yaml, laughs(3, kind), fast=fast)
    (line,) = refused(parse_yaml, laughs(40, kind), fast=fast)  # 9 to the 39th
    assert "more than" in line


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "[" * 1000, "{a: " * 1000])
def test_what_has_no_end_is_refused(text):
    assert refused(parse_yaml, text)


def test_a_number_that_nobody_can_read_is_called_by_its_size(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        (PROJECT / "params.yaml").read_text().replace("ratio: 0.6 ", f"ratio: 0x{'f' * 9000} ")
    )
    (line,) = refused(load_params, path)
    assert line == f"{path}: ratio: must be less than 1, not an integer of 36,000 bits"


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"ratio: \x1b[31m", b"a: 2001-13-45", b"\tratio: 1", None]
)
def test_a_file_that_is_none_is_refused_by_its_name(content, tmp_path):
    path = tmp_path / "params.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    (line,) = refused(load_params, path)
    assert line.startswith(f"{path} cannot be read")


ASSIGNMENTS = st.lists(
    TEXTS
    | st.builds(
        "{}={}".format, st.sampled_from(["ratio", "seeds", "train.epochs", "a b"]), TEXTS | PIECES
    ),
    max_size=3,
)


@given(ASSIGNMENTS)
def test_assignments_are_taken_or_refused(assignments):
    refused(read_overrides, assignments)
    refused(read_axes, assignments)


@given(place=st.sampled_from(list(places(STUDY))), value=VALUES)
def test_a_study_file_is_taken_or_refused(place, value):
    content = deepcopy(STUDY)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    refused(parse_study, content)


ENTRIES = st.dictionaries(
    st.text("az_@.09-", min_size=1, max_size=5),
    st.lists(WORDS.map(ascii), min_size=1, max_size=3),
    max_size=4,
)


@given(TEXTS | PIECES, ENTRIES)
def test_a_lock_file_is_taken_apart_whole_or_not_at_all(text, entries):
    for each in (text, HEAD + text):
        found = blocks(each)
        assert found is None or ordered(found, []) == each
    stages = {
        name: f"  {name}:\n" + "".join(f"    {line}\n" for line in lines)
        for name, lines in entries.items()
    }
    assert blocks(HEAD + "".join(stages.values())) == stages


@given(
    noted=TEXTS
    | VALUES.filter(lambda value: isinstance(value, dict)).map(repr)
    | st.just('{"metrics_sha256": 3}')
    | st.just("[" * 9999)
)
def test_a_note_on_the_environment_is_taken_or_refused(noted):
    refused(environment_of, noted, b"")


@given(st.dictionaries(st.sampled_from([*NEEDED, "other"]), SCALARS))
def test_metrics_that_lack_nothing_can_be_compared(metrics):
    one = Revision(
        "one", None, {}, {**dict.fromkeys(NEEDED, 1), **metrics}, dict.fromkeys(NEEDED, 1), []
    )
    if not lacking(one):
        comparison_table(compare([one], "macs"))


@given(
    key=st.sampled_from(METRICS),
    value=SCALARS.filter(lambda value: not isinstance(value, bytes | date)),
    gone=st.booleans(),
)
def test_damaged_metrics_are_refused_by_file_and_key(key, value, gone, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "metrics.json"
    whole = dict.fromkeys(METRICS, 0.5)
    path.write_text(
        json.dumps({k: v for k, v in (whole | {key: value}).items() if not (gone and k == key)})
    )
    lines = refused(read_metrics, path)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    sound = not gone and number and math.isfinite(float(value) if abs(value) < 2**63 else math.inf)
    assert bool(lines) != sound
    assert all(str(path) in line and key in line for line in lines)


@given(
    content=st.recursive(
        st.none() | st.integers(-2, 4) | WORDS,
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["actual", "predicted", "count"]), inner)
        ),
    )
)
def test_damaged_rows_are_refused_by_file(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "rows.json"
    path.write_text(json.dumps(content))
    for line in refused(read_confusion, path, 3) + refused(read_rows, path, ["count"]):
        assert str(path) in line
