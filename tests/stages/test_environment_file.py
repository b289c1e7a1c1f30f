"""What a repetition does to the committed file that says what metrics were measured on."""

import json
from pathlib import Path

import pytest

from prunelab.core.files import sha256
from prunelab.core.metrics_files import LAST_ENVIRONMENTS
from prunelab.stages.evaluate import note_environment

HERE = {"bits": "portable", "cuda": None, "device": "This CPU", "precision": "fp32"}
ELSEWHERE = HERE | {"device": "Another CPU", "cpu_capability": "AVX512", "python": "3.99"}


@pytest.fixture
def metrics(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "focus.json"
    path.write_text('{"accuracy": 0.5}')
    return path


@pytest.fixture
def noted(tmp_path, metrics) -> Path:
    """A file that was written elsewhere, in a layout of its own."""
    path = tmp_path / "environment.json"
    path.write_text(json.dumps(ELSEWHERE | {"metrics_sha256": sha256(metrics)}))
    return path


def test_same_portable_metrics_leave_the_file_of_another_processor_untouched(noted, metrics):
    before = noted.read_bytes()
    note_environment(noted, HERE, metrics)
    assert noted.read_bytes() == before

    last = json.loads((LAST_ENVIRONMENTS / noted.name).read_text())
    assert last == HERE | {"metrics_sha256": sha256(metrics)}


@pytest.mark.parametrize(
    "change", [{"bits": "native"}, {"precision": "bf16"}, {"cuda": "13.0"}, {"packages": {}}]
)
def test_environment_of_other_bits_is_written(noted, metrics, change):
    note_environment(noted, HERE | change, metrics)
    assert json.loads(noted.read_text())["device"] == "This CPU"


def test_environment_of_other_metrics_is_written(noted, metrics):
    metrics.write_text('{"accuracy": 0.6}')
    note_environment(noted, HERE, metrics)
    assert json.loads(noted.read_text()) == HERE | {"metrics_sha256": sha256(metrics)}


@pytest.mark.parametrize("damage", [None, b"", b"[]", b"{"])
def test_missing_or_damaged_file_is_written(noted, metrics, damage):
    noted.unlink()
    if damage is not None:
        noted.write_bytes(damage)
    note_environment(noted, HERE, metrics)
    assert json.loads(noted.read_text())["bits"] == "portable"
