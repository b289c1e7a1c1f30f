"""The measuring programs in benchmarks/ that need a GPU run everywhere with --smoke."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.params import PROJECT
from ruamel.yaml import YAML

from prunelab.commands.studies.study_file import parse_study


def run_program(name: str, *arguments: object) -> str:
    command = [sys.executable, PROJECT / "benchmarks" / name, "--smoke", *arguments]
    finished = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_gpu_compares_the_ways_to_train(tmp_path):
    out = tmp_path / "gpu.json"

    lines = run_program("gpu.py", "--out", out).splitlines()

    (row,) = json.loads(out.read_text())["rows"]
    assert row["network"] == "resnet8"
    assert row["graph_bits"]
    assert row["seeds_bits"]
    for arm in ("usual_1_workers", "eager", "graph", "seeds"):
        assert row[arm] > 0
    assert "| same |" in lines[-1]


@pytest.mark.slow
def test_anchor_writes_a_study_and_repeats_nothing_that_is_done(tmp_path):
    origin = ("--commit", "0" * 40, "--code", "1" * 12)

    first = run_program("anchor.py", "--out", tmp_path, *origin)
    networks = _contents(tmp_path / "stages", "models/**/*.safetensors")
    # As if the first run had been killed before it had measured the last network.
    results = tmp_path / "studies/results/anchor_resnet8.json"
    content = json.loads(results.read_text())
    (last,) = [
        label for label in content["settings"] if label.startswith("l2") and "teach" in label
    ]
    experiment = content["settings"].pop(last)
    results.write_text(json.dumps(content))
    for done in (tmp_path / "stages").glob("evaluate_focus-*/stage.json"):
        metrics = json.loads((done.parent / "metrics/focus.json").read_text())
        if metrics["accuracy"] == experiment["metrics"]["accuracy"]:
            done.unlink()
    second = run_program("anchor.py", "--out", tmp_path, *origin)

    assert f"{last}: accuracy" in first
    assert f"{last}: evaluate_focus" in second
    assert "train_base" in first
    assert "train_base" not in second
    assert "finetune_focus" not in second
    assert _table(second) == _table(first)
    assert _contents(tmp_path / "stages", "models/**/*.safetensors") == networks

    file = tmp_path / "studies" / "anchor_resnet8.yaml"
    study = parse_study(YAML(typ="safe").load(file))
    results = json.loads((tmp_path / "studies/results/anchor_resnet8.json").read_text())
    assert list(results["settings"]) == sorted(setting.label for setting in study.settings)
    for result in results["settings"].values():
        assert result["code"] == "1" * 12
        assert result["environment"]["commit"] == "0" * 40
        assert result["environment"]["device"]
        assert result["metrics"]["seeds"] == 2
        assert 1.9 < 1 / (1 - result["metrics"]["ratio_achieved"]) < 2.3


def _contents(folder: Path, pattern: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


def _table(output: str) -> str:
    return output[output.index("# ") :]
