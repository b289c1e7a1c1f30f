import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import CARD, DIGITS_SHAPE
from safetensors import safe_open

from prunelab.artifacts.networks import Network, save_network
from prunelab.artifacts.predictions import load_predictions, save_predictions
from prunelab.artifacts.prepared import load_split, save_prepared
from prunelab.artifacts.tensors import METADATA_KEY
from prunelab.core.errors import InputError
from prunelab.core.files import read_json, replacing, write_json
from prunelab.models.catalogue import build
from prunelab.training import checkpoints
from prunelab.training.checkpoints import checkpoints_for


@pytest.fixture
def network() -> Network:
    return Network(model=build("resnet8", 10, DIGITS_SHAPE), card=CARD)


def test_whoever_reads_a_file_while_it_is_written_anew_reads_the_old_one_to_its_end(tmp_path):
    write_json(tmp_path / "it.json", "old")
    with (tmp_path / "it.json").open() as reader:
        write_json(tmp_path / "it.json", "new")
        assert reader.read() == '"old"\n'
    assert read_json(tmp_path / "it.json") == "new"


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("whole")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_canonical_rounded_and_never_nan(tmp_path):
    path = tmp_path / "deep" / "m.json"
    write_json(path, {"b": 1 / 3, "a": [1, -1e-9]})
    assert path.read_text() == '{\n "a": [\n  1,\n  0.0\n ],\n "b": 0.333333\n}\n'
    with pytest.raises(InputError, match="not finite"):
        write_json(path, {"a": float("nan")})
    assert read_json(path)["b"] == 0.333333


@pytest.mark.parametrize("text", ["{", "\x00"])
def test_damaged_json_is_refused_with_the_way_back(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match="is damaged.*dvc"):
        read_json(tmp_path / "m.json")
    with pytest.raises(InputError, match="is missing.*dvc"):
        read_json(tmp_path / "no.json")


def test_a_model_file_has_one_metadata_key_of_canonical_json(network, tmp_path):
    save_network(tmp_path / "n.safetensors", network)
    with safe_open(tmp_path / "n.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == [METADATA_KEY]
    card = metadata[METADATA_KEY]
    assert card == json.dumps(json.loads(card), sort_keys=True, separators=(",", ":"))


def facts(splits: dict) -> dict:
    counts = {name: len(part) for name, part in splits.items()}
    classes = [str(digit) for digit in range(10)]
    return {
        "dataset": "digits",
        "classes": classes,
        "shape": [1, 8, 8],
        "mean": [0.3],
        "std": [0.4],
        "counts": counts,
    }


def test_prepared_splits_are_checked_against_their_hashes(digits, tmp_path):
    save_prepared(tmp_path, {"train": digits}, facts)
    loaded, inputs = load_split(tmp_path, "train"), tmp_path / "train/inputs.npy"
    np.testing.assert_array_equal(loaded.inputs, digits.inputs)
    content = bytearray(inputs.read_bytes())
    content[len(content) // 2] ^= 1
    inputs.write_bytes(content)
    with pytest.raises(InputError, match="train/inputs.npy is damaged: SHA-256"):
        load_split(tmp_path, "train")
    inputs.unlink()
    with pytest.raises(InputError, match="is missing; `dvc repro prepare`"):
        load_split(tmp_path, "train")


def test_prepared_files_are_the_same_to_the_byte(digits, tmp_path):
    for name in ("a", "b"):
        save_prepared(tmp_path / name, {"train": digits}, facts)
    for file in ("train/inputs.npy", "train/labels.npy", "dataset.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_predictions_come_back_and_damage_is_refused(tmp_path):
    arrays = {name: np.arange(6).reshape(2, 3) for name in ("before", "after", "losses")} | {
        "labels": np.arange(3)
    }
    save_predictions(tmp_path / "p.safetensors", **arrays)
    np.testing.assert_array_equal(
        load_predictions(tmp_path / "p.safetensors")["after"], [[0, 1, 2], [3, 4, 5]]
    )
    save_predictions(
        tmp_path / "again", **arrays | {"before": arrays["after"]}
    )  # the dense network's are one array
    assert (tmp_path / "again").read_bytes() == (tmp_path / "p.safetensors").read_bytes()
    for length in (50, 0):
        (tmp_path / "p.safetensors").write_bytes((tmp_path / "p.safetensors").read_bytes()[:length])
        with pytest.raises(InputError, match="is damaged"):
            load_predictions(tmp_path / "p.safetensors")


def test_checkpoints_are_found_by_the_same_work_alone_and_dropped_after_success(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").write_text("1")
    out = tmp_path / "models" / "focus"

    def resumed(parameter: str) -> dict | None:
        with (
            pytest.raises(KeyboardInterrupt),
            checkpoints_for(out, inputs=[tmp_path / "input"], parameters=[parameter]) as at,
        ):
            found = at.for_seed(0)("").load()
            at.for_seed(0)("").save({"epoch": 1})
            raise KeyboardInterrupt
        return found

    assert resumed("a") is None
    assert resumed("a") == {"epoch": 1}
    assert resumed("b") is None  # another parameter
    assert resumed("b") == {"epoch": 1}
    (tmp_path / "input").write_text("2")
    assert resumed("b") is None  # another input
    monkeypatch.setattr("sys.argv", ["stage", "--other"])
    assert resumed("b") is None  # another command
    monkeypatch.setattr(checkpoints, "code_digest", lambda: "other code")
    assert resumed("b") is None
    assert resumed("b") == {"epoch": 1}
    with checkpoints_for(out, inputs=[tmp_path / "input"], parameters=["b"]) as at:
        assert at.for_seed(0)("").load() == {"epoch": 1}
    assert not list((tmp_path / ".prunelab/checkpoints").iterdir())


def test_under_dvc_checkpoints_are_kept_until_it_has_written_its_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train_base")
    lock = tmp_path / "dvc.lock"
    lock.write_text("an earlier stage")

    def found(out: str) -> dict | None:
        with checkpoints_for(Path("models") / out, inputs=[], parameters=[]) as at:
            known = at.for_seed(0)("").load()
            at.for_seed(0)("").save({"epoch": 1})
        return known

    assert found("base") is None
    assert found("focus") is None
    assert found("base") == {"epoch": 1}  # DVC was killed before it recorded what had ended
    ended = (tmp_path / ".prunelab/checkpoints/models-base/ended").stat().st_mtime_ns
    os.utime(lock, ns=(ended, ended))
    assert found("base") is None  # recorded, and run again since somebody wants it so
    os.utime(lock, ns=(ended + 10**12, ended + 10**12))
    assert found("other") is None
    assert [path.name for path in (tmp_path / ".prunelab/checkpoints").iterdir()] == [
        "models-other"
    ]
