"""Drawn YAML, JSON and results of other programs are read, or refused in clear lines.

`--fuzz N` draws N inputs per test, other ones each time.
"""

import json
from datetime import date
from typing import Any

import pytest
from helpers.fuzzing import (
    PIECES,
    SCALARS,
    TEXTS,
    VALUES,
    WORDS,
    places,
    refused,
    with_value_at,
)
from helpers.params import PROJECT
from hypothesis import given
from hypothesis import strategies as st

from prunelab.commands.studies.study_file import parse_study, read_overrides
from prunelab.commands.sweep.axes import read_axes
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.files import parse_json
from prunelab.core.metrics_files import HEADLINE, OTHERS, split_metrics
from prunelab.project.dvc_lock import HEADER, join_entries, split_entries
from prunelab.project.experiments import environment_of
from prunelab.project.revisions import RevisionResult
from prunelab.report.pareto import NEEDED, compare, comparison_table, lacking
from prunelab.report.read_results import METRICS, read_confusion, read_metrics, read_rows

STUDY = parse_yaml(PROJECT / "studies/resnet18_cifar100.yaml")


@given(TEXTS | PIECES | st.binary(max_size=20), st.booleans())
def test_text_is_read_as_yaml_and_json_or_refused(text, fast):
    refused(parse_yaml, text, fast=fast)
    refused(parse_json, text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
    max_leaves=5,
)


@given(JSON_VALUES)
def test_json_is_read_back_as_it_was(content):
    assert parse_json(json.dumps(content)) == content


def billion_laughs(levels: int, kind: str) -> str:
    """YAML in which each level holds nine aliases of the level before."""
    template = {"list": "[{}]", "mapping": "{{{}}}", "merge": "{{<<: [{}]}}"}[kind]
    lines = ["l0: &l0 {k: 1}"]
    for level in range(1, levels):
        aliases = [f"*l{level - 1}"] * 9
        if kind == "mapping":
            aliases = [f"k{number}: {alias}" for number, alias in enumerate(aliases)]
        lines.append(f"l{level}: &l{level} {template.format(', '.join(aliases))}")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", ["list", "mapping", "merge"])
@pytest.mark.parametrize("fast", [True, False])
def test_aliases_that_expand_to_too_much_are_refused(kind, fast):
    assert not refused(parse_yaml, billion_laughs(3, kind), fast=fast)

    (line,) = refused(parse_yaml, billion_laughs(40, kind), fast=fast)  # 9 to the 39th

    assert "more than" in line


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "[" * 1000, "{a: " * 1000])
def test_endless_yaml_is_refused(text):
    assert refused(parse_yaml, text)


ASSIGNMENTS = st.builds(
    "{}={}".format, st.sampled_from(["ratio", "seeds", "train.epochs", "a b"]), TEXTS | PIECES
)


@given(st.lists(TEXTS | ASSIGNMENTS, max_size=3))
def test_assignments_are_accepted_or_refused(assignments):
    refused(read_overrides, assignments)
    refused(read_axes, assignments)


@given(place=st.sampled_from(list(places(STUDY))), value=VALUES)
def test_a_study_file_is_accepted_or_refused(place, value):
    refused(parse_study, with_value_at(STUDY, place, value))


ENTRIES = st.dictionaries(
    st.text("az_@.09-", min_size=1, max_size=5),
    st.lists(WORDS.map(ascii), min_size=1, max_size=3),
    max_size=4,
)


@given(TEXTS | PIECES)
def test_a_lock_file_is_split_without_loss_or_not_at_all(text):
    for lock in (text, HEADER + text):
        entries = split_entries(lock)
        assert entries is None or join_entries(entries, []) == lock


@given(ENTRIES)
def test_a_lock_file_is_split_into_its_entries(lines_by_name):
    entries = {}
    for name, lines in lines_by_name.items():
        entries[name] = f"  {name}:\n" + "".join(f"    {line}\n" for line in lines)

    assert split_entries(HEADER + "".join(entries.values())) == entries


@given(
    TEXTS
    | VALUES.filter(lambda value: isinstance(value, dict)).map(repr)
    | st.just('{"metrics_sha256": 3}')
    | st.just("[" * 9999)
)
def test_a_record_of_the_environment_is_accepted_or_refused(text):
    refused(environment_of, text, b"")


@given(st.dictionaries(st.sampled_from([*NEEDED, "other"]), SCALARS))
def test_complete_metrics_can_be_compared(changes):
    dense = dict.fromkeys(NEEDED, 1)
    result = RevisionResult("name", None, {}, dense | changes, dense, [])

    if not lacking(result):
        comparison_table(compare([result], "macs"), "macs")


def is_metric(value: Any) -> bool:
    """Whether a value is a finite number that is not too large."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 2**63  # false for NaN too


@given(
    key=st.sampled_from(METRICS),
    value=SCALARS.filter(lambda value: not isinstance(value, bytes | date)),
    missing=st.booleans(),
)
def test_damaged_metrics_are_refused_by_file_and_key(key, value, missing, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "metrics"
    path, details_path = folder / "base.json", folder / "details/base.json"
    details_path.parent.mkdir(parents=True, exist_ok=True)

    metrics = dict.fromkeys(METRICS, 0.5) | {key: value}
    if missing:
        del metrics[key]
    headline, others = split_metrics(metrics)
    path.write_text(json.dumps(headline))
    details_path.write_text(json.dumps({OTHERS: others}))

    lines = refused(read_metrics, folder, "base")

    assert bool(lines) == (missing or not is_metric(value))
    damaged = details_path
    if key in HEADLINE:
        damaged = path
    assert all(str(damaged) in line and key in line for line in lines)


def test_metrics_in_one_file_are_read_too_and_missing_details_are_named(tmp_path):
    (tmp_path / "details").mkdir()
    everything = dict.fromkeys(METRICS, 0.5)
    (tmp_path / "base.json").write_text(json.dumps(everything))
    (tmp_path / "details/base.json").write_text('{"layers": []}')

    assert read_metrics(tmp_path, "base") == everything

    (tmp_path / "details/base.json").unlink()
    with pytest.raises(InputError, match="details/base.json is missing"):
        read_metrics(tmp_path, "base")


ROWS = st.recursive(
    st.none() | st.integers(-2, 4) | WORDS,
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["actual", "predicted", "count"]), inner)
    ),
)


@given(content=ROWS)
def test_damaged_rows_are_refused_by_file(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "rows.json"
    path.write_text(json.dumps(content))

    for line in refused(read_confusion, path, 3) + refused(read_rows, path, ["count"]):
        assert str(path) in line
