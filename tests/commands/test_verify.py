"""`prunelab verify`: comparisons, what it names, and a whole tiny study repeated."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.params import PROJECT, edit_params
from helpers.repository import Clone, Repository
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.verify.diff import differences
from prunelab.commands.verify.outcome import compare_outputs
from prunelab.commands.verify.rerun import bare_clone, clock_dependent, outputs
from prunelab.config.params import load_params
from prunelab.core.errors import InputError
from prunelab.core.files import sha256
from prunelab.project.dvc_graph import Pipeline
from prunelab.runtime.device import configure, fingerprint

# DVC's own use of another package.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def saved(path: Path, **changes: torch.Tensor) -> Path:
    tensors = {"conv.weight": torch.arange(12.0).reshape(3, 4), "norm.bias": torch.zeros(3)}
    save_file(
        tensors | changes,
        path,
        metadata={"prunelab": json.dumps({"seed": 0, "pruning": {"ratio": 0.5}})},
    )
    return path


def told(one: Path, other: Path) -> str:
    return "\n".join(differences(one, other))


def test_differing_network_is_reported_by_tensor(tmp_path):
    one = saved(tmp_path / "one.safetensors")

    assert told(one, saved(tmp_path / "same.safetensors")) == ""

    moved = torch.arange(12.0).reshape(3, 4)
    moved[1, 2] += 0.25
    moved[2, 3] -= 0.125
    line = told(one, saved(tmp_path / "moved.safetensors", **{"conv.weight": moved}))

    assert line == "conv.weight: 2 of 12 values differ, by 0.25 at most"

    line = told(one, saved(tmp_path / "thin.safetensors", **{"norm.bias": torch.zeros(2)}))

    assert line == "norm.bias: float32 3 and float32 2"

    line = told(one, saved(tmp_path / "more.safetensors", extra=torch.ones(1)))

    assert line == "extra: only in the second"

    line = told(one, saved(tmp_path / "zero.safetensors", **{"norm.bias": -torch.zeros(3)}))

    assert line.startswith("norm.bias: 3 of 3 values differ")  # -0 is other bits


def test_differences_are_named_as_closely_as_the_format_allows(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, ratio, row, text in ((one, 0.5, 0.25, "alike"), (other, 0.8, 0.75, "alive")):
        (folder / "inner").mkdir(parents=True)
        about = json.dumps({"pruning": {"ratio": ratio}})
        save_file({"weight": torch.ones(1)}, folder / "0.safetensors", metadata={"prunelab": about})
        np.save(folder / "inputs.npy", np.array([[1, 2], [3, int(ratio * 10)]]))
        (folder / "inner/rows.json").write_text(json.dumps([{"loss": 0.5}, {"loss": row}]))
        (folder / "table.md").write_text(text)
    (other / "new").write_text("")

    assert list(differences(one, other)) == [
        "0.safetensors/prunelab.pruning.ratio: 0.5 and 0.8",
        "inner/rows.json/1.loss: 0.25 and 0.75",
        "inputs.npy/array: 1 of 4 values differ, by 3 at most",
        "new: only in the second",
        "table.md: byte 3 is the first that differs, of 5",
    ]


@pytest.mark.parametrize("path", ["{}/precious", "../precious", "link/precious"])
def test_outputs_outside_the_project_are_never_removed(tmp_path, path):
    project = tmp_path / "project"
    (project / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", "dvc.yaml", "params.yaml"):
        (project / name).touch()
    repository = Repository(project)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("all there is")
    outs = [{"path": each, "md5": "0"} for each in ("params.yaml", path.format(tmp_path))]
    (project / "dvc.lock").write_text(json.dumps({"stages": {"a": {"outs": outs}}}))
    (project / "link").symlink_to(tmp_path)
    repository.commit("a lock that leads astray")

    with pytest.raises(InputError, match="lies outside of the project"):
        bare_clone(project, tmp_path / "clone", "HEAD")
    assert (precious / "data").read_text() == "all there is"
    assert (tmp_path / "clone/params.yaml").exists()


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("flip")
    one = saved(folder / "one.safetensors")
    content = bytearray(one.read_bytes())
    content[place % len(content)] ^= 1 << bit
    other = folder / "other.safetensors"
    other.write_bytes(content)

    assert list(differences(one, other))

    shutil.rmtree(folder)


def test_a_lock_with_marks_of_a_merge_conflict_is_bad_input():
    with pytest.raises(InputError, match=r"^dvc.lock cannot be read as YAML"):
        outputs("<<<<<<< HEAD\nstages:\n=======\nstages: {}\n")

    assert outputs("") == outputs("schema: '2.0'\nstages:\n") == {}


hashes = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["1", "2"]))


@given(hashes, hashes)
def test_every_output_is_the_same_differs_or_is_missing(one, other):
    found = compare_outputs(one, other)

    assert sorted([*found.same, *found.differing, *found.missing]) == sorted(
        one.keys() | other.keys()
    )
    assert found.equal == (one == other)
    assert all(one[path] == other[path] for path in found.same)
    assert all(one[path] != other[path] for path in found.differing)


@dataclass
class Timed:
    meta: dict = field(default_factory=lambda: {"alone": True})


def test_stages_that_need_a_time_depend_on_the_clock_too():
    stages = {
        name: Timed() if name == "benchmark" else Timed(meta={})
        for name in ("base", "benchmark", "page", "web")
    }
    needs = {"base": set(), "benchmark": {"base"}, "page": {"benchmark"}, "web": {"page", "base"}}

    assert clock_dependent(Pipeline(stages, needs)) == {"benchmark", "page", "web"}


MAKE = """
import os, sys, json
import numpy as np
from pathlib import Path
from safetensors.numpy import save_file
Path("models").mkdir(exist_ok=True); Path("metrics/environment").mkdir(parents=True, exist_ok=True)
value = {value}
tensors = {{"conv.weight": np.full((2, 2), value, "float32"), "head.bias": np.zeros(2, "float32")}}
save_file(tensors, "models/net.safetensors")
Path("metrics/focus.json").write_text(json.dumps({{"accuracy": 0.5}}))
"""
PIPELINE = """
stages:
  make:
    cmd: python make.py
    deps: [make.py]
    params: [runtime]
    outs: [models/net.safetensors]
    metrics: [metrics/focus.json: {cache: false}]
  time:
    meta: {alone: true}
    cmd: date +%N > time.txt
    deps: [models/net.safetensors]
    outs: [time.txt: {cache: false}]
"""


class Study(Repository):
    """A pipeline of two stages, committed with its results, and with what they were made on."""

    def __init__(self, folder: Path, value: str):
        folder.mkdir()
        super().__init__(folder)
        (folder / ".dvc").mkdir()
        (folder / ".dvc/config").touch()
        (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (folder / ".gitignore").write_text("/models/\n/data/raw/\n/.prunelab/\n")
        shutil.copy(PROJECT / "params.yaml", folder)
        edit_params(folder / "params.yaml", runtime__device="cpu")
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / "make.py").write_text(MAKE.format(value=value))

    def finish(self) -> None:
        invoked = CliRunner().invoke(app, ["repro"])
        assert invoked.exit_code == 0, invoked.output
        self.note(fingerprint(configure(load_params(self.folder / "params.yaml").runtime)))

    def note(self, environment: dict) -> None:
        path = self.folder / "metrics/environment/focus.json"
        path.write_text(
            json.dumps(environment | {"metrics_sha256": sha256(self.folder / "metrics/focus.json")})
        )
        self.commit("Results")


@pytest.fixture
def study(tmp_path, monkeypatch, without_check):
    def make(value: str) -> Study:
        study = Study(tmp_path / "study", value)
        monkeypatch.chdir(study.folder)
        return study

    return make


def verify(*arguments: str) -> tuple[int, str]:
    invoked = CliRunner().invoke(app, ["verify", *arguments])
    return invoked.exit_code, invoked.output


@pytest.mark.slow
def test_repeatable_study_passes_and_the_project_is_untouched(study):
    study = study("1")
    study.finish()
    before = {
        path: path.read_bytes()
        for path in study.folder.rglob("*")
        if path.is_file() and ".git/" not in str(path)
    }
    code, output = verify()

    assert code == 0, output
    assert "left out, because they depend on a clock: time" in output
    assert "runs 1 and 2: 2 of 2 outputs are the same to the bit" in output
    assert "the commit and run 1: 2 of 2 outputs are the same to the bit" in output

    after = {
        path: path.read_bytes()
        for path in study.folder.rglob("*")
        if path.is_file() and ".git/" not in str(path)
    }

    assert {path for path in before if before[path] != after.get(path)} <= {
        study.folder / ".dvc/tmp/rwlock"
    }
    assert study.git("status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [
        "__import__('time').localtime(0).tm_hour",
        "hash('a') % 1000",
        "len(os.getcwd())",
        "os.stat('models').st_mode & 0o777",
        "__import__('time').time_ns() % 997",
    ],
)
def test_output_that_depends_on_the_surroundings_is_named(study, value):
    study = study(value)
    study.commit("Not run")
    code, output = verify("--stages", "make")

    assert code == 1, output
    assert "runs 1 and 2: 1 of 2 outputs are the same to the bit" in output
    assert "models/net.safetensors\n  conv.weight: 4 of 4 values differ" in output
    assert "head.bias" not in output
    assert "the commit has no results of its own" in output


@pytest.mark.slow
def test_committed_results_of_this_environment_must_be_the_same(study):
    study = study("1 if Path('../study').exists() else 2")  # true here, false in a clone
    study.finish()
    code, output = verify("--runs", "1")

    assert code == 1, output
    assert "the commit and run 1: 1 of 2 outputs are the same" in output
    assert "conv.weight: 4 of 4 values differ, by 1 at most" in output


@pytest.mark.slow
def test_committed_results_of_another_environment_are_reported_not_compared(study):
    study = study("1 if Path('../study').exists() else 2")
    study.finish()
    here = fingerprint(configure(load_params(study.folder / "params.yaml").runtime))
    study.note(here | {"threads": 64, "device": "Another CPU"})
    code, output = verify("--runs", "1")

    assert code == 0, output
    assert "the committed results were made on another environment" in output
    assert "1 of 2 outputs are the same" in output
    assert f"  device: Another CPU, here {here['device']}" in output
    assert "  threads: 64, here 1" in output


@pytest.mark.slow
def test_portable_results_of_another_processor_must_be_the_same(study):
    study = study("1 if Path('../study').exists() else 2")
    study.finish()
    here = fingerprint(configure(load_params(study.folder / "params.yaml").runtime))
    study.note(here | {"device": "Another CPU", "cpu_capability": "AVX512", "python": "3.99"})
    code, output = verify("--runs", "1")

    assert code == 1, output
    assert "the commit and run 1: 1 of 2 outputs are the same" in output


@pytest.mark.slow
def test_results_of_a_named_commit_count_on_any_machine(study):
    study = study("1")
    study.finish()
    study.note({"bits": "native", "device": "Another CPU"})
    first = study.git("rev-parse", "HEAD")
    code, output = verify("--runs", "1", "--against", first)
    assert code == 0, output
    assert f"same bits: 2 of 2 outputs are the same to the bit as those of {first}" in output

    (study.folder / "make.py").write_text(MAKE.format(value="2"))
    study.commit("Another value")
    code, output = verify("--runs", "1", "--against", first)
    assert code == 1, output
    assert f"{first} and run 1: 1 of 2 outputs are the same" in output
    assert "device: Another CPU" in output
    assert "conv.weight: 4 of 4 values differ, by 1 at most" in output


@pytest.mark.slow
def test_stale_lock_is_reported_and_not_compared(study):
    study = study("1")
    study.finish()
    edit_params(study.folder / "params.yaml", runtime__threads=2)
    study.commit("More threads")
    code, output = verify("--runs", "1")

    assert code == 0, output
    assert "dvc.lock does not belong to the commit's own code, parameters and data (make" in output


@pytest.mark.slow
def test_failing_stage_is_reported_with_the_end_of_its_log(study):
    study = study("sys.exit('no such thing as a free lunch')")
    study.commit("Not run")
    code, output = verify()

    assert code == 1
    assert "make failed" in output
    assert "no such thing as a free lunch" in output


def test_bad_arguments_are_refused_before_anything_runs(study, tmp_path):
    study = study("1")
    study.commit("Not run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for arguments, message in (
        (["--stages", "time"], "--stages: time measures time"),
        (["--stages", "mke"], "unknown stage 'mke' (did you mean 'make'?)"),
        (["nosuch"], "unknown revision 'nosuch'"),
        (["workspace"], "the workspace cannot be cloned"),
        (["--keep", str(tmp_path / "full")], "is not empty"),
    ):
        code, output = verify(*arguments)
        assert code == 1
        assert message in output
        assert "run 1" not in output


@pytest.mark.slow
def test_tiny_study_repeats_in_parallel_what_dvc_made_in_series(tmp_path, monkeypatch):
    clone = Clone(tmp_path / "study")
    quick = {"batch_sizes": [1], "backends": ["eager"], "rounds": 2, "seconds": 0.02}
    tiny = {
        "seeds": [0, 1],
        "grid__methods": ["l1_unstructured", "l1_channel_iterative"],
        "grid__ratios": [0.5],
    }
    edit_params(
        clone.folder / "params.yaml", train__epochs=2, finetune__epochs=1, benchmark=quick, **tiny
    )
    clone.run("dvc", "repro")
    clone.commit("Results")
    done = clone.run("prunelab", "verify", "--jobs", "2", "--keep", str(tmp_path / "kept"))
    total = (
        len(outputs((clone.folder / "dvc.lock").read_text())) - 3
    )  # metrics/speed and the report

    assert total > 30
    assert f"runs 1 and 2: {total} of {total} outputs are the same to the bit" in done.stdout
    assert (
        f"the commit and run 1: {total} of {total} outputs are the same to the bit" in done.stdout
    )
    assert (tmp_path / "kept/run 1/models/base/final/0.safetensors").exists()
