"""Records that were damaged by hand: whatever stands in them, they are drawn or refused by file and place."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from helpers.fuzzing import VALUES, refused
from helpers.params import PROJECT
from hypothesis import given
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
DATA = {
    "dataset": "digits", "classes": list("0123456789"), "shape": [1, 8, 8], "mean": [0.5], "std": [0.2],
    "counts": {"train": 1}, "sha256": {"train": {"inputs": "0", "labels": "0"}},
}  # fmt: skip
GONE = "gone"


def is_json(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, list[Any], Any]:
    """A record, a place in it, and what shall stand there or that it is `GONE`; of lists, the ends."""
    name = draw(st.sampled_from(list(RECORDS)))
    place, inner = [], RECORDS[name]
    while isinstance(inner, dict | list) and inner:
        place.append(
            draw(st.sampled_from(list(inner) if isinstance(inner, dict) else [0, len(inner) - 1]))
        )
        inner = inner[place[-1]]
        if draw(st.integers(0, 3)) == 0:
            break
    return name, place, draw(st.just(GONE) | VALUES.filter(is_json))


def damaged(record: Any, place: list[Any], value: Any) -> Any:
    content = deepcopy(record)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The committed results, and a description of data to go with them."""
    folder = tmp_path_factory.mktemp("study")
    for part in ("metrics", "plots"):
        shutil.copytree(PROJECT / part, folder / part)
    shutil.copy(PROJECT / "params.yaml", folder)
    (folder / "dataset.json").write_text(json.dumps(DATA))
    return folder


def drawn(folder: Path, name: str) -> None:
    """Write what shows a record."""
    report(folder, folder / "metrics", folder / "plots", folder / "report.html")
    if "sensitivity" in name:
        plot_sensitivity(folder / name, folder / "sensitivity")


def test_the_committed_results_are_drawn(study, monkeypatch):
    monkeypatch.chdir(study)
    drawn(study, "metrics/sensitivity.json")
    assert (study / "report.html").stat().st_size > 10**6
    assert (study / "sensitivity.svg").exists()


@given(damages())
def test_a_damaged_record_is_drawn_or_refused_by_its_file(study, damage):
    name, place, value = damage
    whole = (study / name).read_bytes()
    (study / name).write_text(json.dumps(damaged(RECORDS[name], place, value)))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(study)
            lines = refused(drawn, study, name)
    finally:
        (study / name).write_bytes(whole)
    assert all(f"{Path(name).parent}" in line for line in lines)
