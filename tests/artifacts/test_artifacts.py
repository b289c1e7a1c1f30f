"""Files that stages write: whole or not at all, the same to the byte, checked when read."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.damage import flipped
from helpers.networks import CARD, DIGITS_SHAPE
from safetensors import safe_open

from prunelab.artifacts.arrays import save_arrays
from prunelab.artifacts.networks import Network, save_network
from prunelab.artifacts.predictions import load_predictions, save_predictions
from prunelab.artifacts.prepared import load_split, save_prepared
from prunelab.artifacts.tensors import save_tensors
from prunelab.core.errors import InputError
from prunelab.core.files import read_json, replacing, write_json
from prunelab.core.model_files import METADATA_KEY
from prunelab.data.splits import Split
from prunelab.models.networks import build
from prunelab.training import checkpoints
from prunelab.training.checkpoints import checkpoints_for


@pytest.fixture
def network() -> Network:
    return Network(model=build("resnet8", 10, DIGITS_SHAPE), card=CARD)


def test_a_reader_of_a_replaced_file_reads_the_old_content(tmp_path):
    path = tmp_path / "m.json"
    write_json(path, "old")

    with path.open() as reader:
        write_json(path, "new")
        assert reader.read() == '"old"\n'

    assert read_json(path) == "new"


def test_a_failed_write_leaves_the_old_file(tmp_path):
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
    with pytest.raises(InputError, match="not finite"):
        write_json(path, {"a": float("nan")})

    assert path.read_text() == '{\n "a": [\n  1,\n  0.0\n ],\n "b": 0.333333\n}\n'
    assert read_json(path)["b"] == 0.333333


@pytest.mark.parametrize("text", ["{", "\x00"])
def test_damaged_or_missing_json_is_refused_with_a_recovery_hint(tmp_path, text):
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


def describe_digits(splits: dict[str, Split]) -> dict[str, Any]:
    """The content of dataset.json without hashes."""
    return {
        "dataset": "digits",
        "classes": [str(digit) for digit in range(10)],
        "shape": [1, 8, 8],
        "mean": [0.3],
        "std": [0.4],
        "counts": {name: len(split) for name, split in splits.items()},
    }


def test_prepared_splits_are_checked_against_their_hashes(digits, tmp_path):
    save_prepared(tmp_path, {"train": digits}, describe_digits)
    np.testing.assert_array_equal(load_split(tmp_path, "train").inputs, digits.inputs)

    path = tmp_path / "train/inputs.npy"
    content = path.read_bytes()
    path.write_bytes(flipped(content, len(content) // 2, bit=0))
    with pytest.raises(InputError, match="train/inputs.npy is damaged: SHA-256"):
        load_split(tmp_path, "train")

    path.unlink()
    with pytest.raises(InputError, match="is missing; `dvc repro prepare`"):
        load_split(tmp_path, "train")


def test_prepared_files_are_the_same_to_the_byte(digits, tmp_path):
    for name in ("a", "b"):
        save_prepared(tmp_path / name, {"train": digits}, describe_digits)

    for file in ("train/inputs.npy", "train/labels.npy", "dataset.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.fixture
def predictions() -> dict[str, np.ndarray]:
    arrays = {name: np.arange(6).reshape(2, 3) for name in ("before", "after", "losses")}
    return arrays | {"labels": np.arange(3)}


def test_predictions_come_back(predictions, tmp_path):
    save_predictions(tmp_path / "p.safetensors", **predictions)

    loaded = load_predictions(tmp_path / "p.safetensors")

    np.testing.assert_array_equal(loaded["after"], [[0, 1, 2], [3, 4, 5]])


def test_predictions_that_share_memory_give_the_same_bytes(predictions, tmp_path):
    """The `before` of a dense network is its `after`."""
    save_predictions(tmp_path / "copies", **predictions)
    save_predictions(tmp_path / "shared", **predictions | {"before": predictions["after"]})

    assert (tmp_path / "shared").read_bytes() == (tmp_path / "copies").read_bytes()


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64, np.bool_, np.uint8])
def test_arrays_and_tensors_of_equal_values_give_the_same_bytes(tmp_path, dtype):
    arrays = {"b": np.arange(6).reshape(2, 3).astype(dtype), "a": np.arange(3).astype(dtype)}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}

    save_arrays(tmp_path / "arrays", arrays, {"made": "here"})
    save_tensors(tmp_path / "tensors", tensors, {"made": "here"})

    assert (tmp_path / "arrays").read_bytes() == (tmp_path / "tensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_predictions_of_a_type_that_numpy_lacks_are_refused(tmp_path, dtype):
    metadata = {METADATA_KEY: json.dumps({"sha256": "0"})}
    safetensors.torch.save_file({"labels": torch.zeros(3).to(dtype)}, tmp_path / "p", metadata)

    with pytest.raises(InputError, match="is damaged"):
        load_predictions(tmp_path / "p")


@pytest.mark.parametrize("length", [50, 0])
def test_truncated_predictions_are_refused(predictions, tmp_path, length):
    path = tmp_path / "p.safetensors"
    save_predictions(path, **predictions)
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(InputError, match="is damaged"):
        load_predictions(path)


def test_checkpoints_are_found_by_the_same_work_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").write_text("1")
    out = tmp_path / "models" / "focus"

    def state_after_a_kill(parameter: str) -> dict | None:
        """What a run finds; it saves a state and is killed."""
        with (
            pytest.raises(KeyboardInterrupt),
            checkpoints_for(out, inputs=[tmp_path / "input"], parameters=[parameter]) as folder,
        ):
            checkpoint = folder.for_seed(0)("")
            state = checkpoint.load()
            checkpoint.save({"epoch": 1})
            raise KeyboardInterrupt
        return state

    assert state_after_a_kill("a") is None
    assert state_after_a_kill("a") == {"epoch": 1}
    assert state_after_a_kill("b") is None  # another parameter
    assert state_after_a_kill("b") == {"epoch": 1}
    (tmp_path / "input").write_text("2")
    assert state_after_a_kill("b") is None  # another input
    monkeypatch.setattr("sys.argv", ["stage", "--other"])
    assert state_after_a_kill("b") is None  # another command
    monkeypatch.setattr(checkpoints, "code_digest", lambda: "other code")
    assert state_after_a_kill("b") is None  # other code
    assert state_after_a_kill("b") == {"epoch": 1}


def test_checkpoints_are_deleted_after_success(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with checkpoints_for(tmp_path / "models/focus", inputs=[], parameters=[]) as folder:
        folder.for_seed(0)("").save({"epoch": 1})
        assert folder.for_seed(0)("").load() == {"epoch": 1}

    assert not list((tmp_path / ".prunelab/checkpoints").iterdir())


def test_every_seed_and_training_has_its_own_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with checkpoints_for(tmp_path / "models/focus", inputs=[], parameters=[]) as folder:
        folder.for_seed(0)("").save({"epoch": 1})
        folder.for_seed(0)("round-1").save({"epoch": 2})

        assert folder.for_seed(0)("").load() == {"epoch": 1}
        assert folder.for_seed(0)("round-1").load() == {"epoch": 2}
        assert folder.for_seed(1)("").load() is None


def test_under_dvc_checkpoints_are_kept_until_dvc_lock_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train_base")
    lock = tmp_path / "dvc.lock"
    lock.write_text("an earlier stage")

    def state_of_a_finished_run(out: str) -> dict | None:
        """What a run finds; it saves a state and succeeds."""
        with checkpoints_for(Path("models") / out, inputs=[], parameters=[]) as folder:
            checkpoint = folder.for_seed(0)("")
            state = checkpoint.load()
            checkpoint.save({"epoch": 1})
        return state

    assert state_of_a_finished_run("base") is None
    assert state_of_a_finished_run("focus") is None
    assert state_of_a_finished_run("base") == {"epoch": 1}  # DVC was killed before it recorded it

    marker = tmp_path / ".prunelab/checkpoints/models-base/ended"
    ended = marker.stat().st_mtime_ns
    os.utime(lock, ns=(ended, ended))
    assert state_of_a_finished_run("base") is None  # recorded, and run again on purpose

    os.utime(lock, ns=(ended + 10**12, ended + 10**12))
    assert state_of_a_finished_run("other") is None
    folders = [path.name for path in (tmp_path / ".prunelab/checkpoints").iterdir()]
    assert folders == ["models-other"]
