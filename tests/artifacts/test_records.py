"""Records that were damaged by hand are drawn, or refused with the file and the place."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from helpers.fuzzing import VALUES, refused
from helpers.params import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.stages.plot_sensitivity import main as plot_sensitivity
from prunelab.stages.report import main as report

RECORDS = {
    name: json.loads((PROJECT / name).read_text())
    for name in (
        "metrics/sensitivity.json",
        "metrics/speed/benchmark.json",
        "metrics/details/base.json",
        "metrics/details/grid/l1_channel-0.5.json",
        "metrics/base.json",
        "plots/tradeoff.json",
        "plots/training.json",
        "plots/dense_confusion.json",
    )
}
DATA_INFO = {
    "dataset": "digits",
    "classes": list("0123456789"),
    "shape": [1, 8, 8],
    "mean": [0.5],
    "std": [0.2],
    "counts": {"train": 1},
    "sha256": {"train": {"inputs": "0", "labels": "0"}},
}
MISSING = "missing"


def is_json(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, list[Any], Any]:
    """A record, a place in it, and the value to put there; `MISSING` deletes the place.

    Of a list, only the first and the last entry are drawn.
    """
    name = draw(st.sampled_from(list(RECORDS)))

    place, inner = [], RECORDS[name]
    while isinstance(inner, dict | list) and inner:
        keys = list(inner) if isinstance(inner, dict) else [0, len(inner) - 1]
        place.append(draw(st.sampled_from(keys)))
        inner = inner[place[-1]]
        if draw(st.integers(0, 3)) == 0:
            break

    return name, place, draw(st.just(MISSING) | VALUES.filter(is_json))


def with_damage(record: Any, place: list[Any], value: Any) -> Any:
    content = deepcopy(record)
    inner = content
    for key in place[:-1]:
        inner = inner[key]

    if value is MISSING:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The committed results, and a dataset.json that fits them."""
    folder = tmp_path_factory.mktemp("study")
    for part in ("metrics", "plots"):
        shutil.copytree(PROJECT / part, folder / part)
    shutil.copy(PROJECT / "params.yaml", folder)
    (folder / "dataset.json").write_text(json.dumps(DATA_INFO))
    return folder


def draw_record(folder: Path, name: str) -> None:
    """Run the stages that show a record."""
    report(folder, folder / "metrics", folder / "plots", folder / "report.html")
    if "sensitivity" in name:
        plot_sensitivity(folder / name, folder / "sensitivity")


def test_the_committed_results_are_drawn(study, monkeypatch):
    monkeypatch.chdir(study)

    draw_record(study, "metrics/sensitivity.json")

    assert (study / "report.html").stat().st_size > 10**6
    assert (study / "sensitivity.svg").exists()


@settings(max_examples=settings.default.max_examples // 2)  # each draws the whole report
@given(damages())
def test_a_damaged_record_is_drawn_or_refused_by_its_file(study, damage):
    name, place, value = damage
    original = (study / name).read_bytes()
    (study / name).write_text(json.dumps(with_damage(RECORDS[name], place, value)))

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(study)
            lines = refused(draw_record, study, name)
    finally:
        (study / name).write_bytes(original)

    assert all(f"{Path(name).parent}" in line for line in lines)
