"""Checks that need the network are made once; their verdict holds while nothing changes."""

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.params import PROJECT, edit_params
from safetensors.torch import save_file

from prunelab.commands.check import network, verdicts
from prunelab.commands.check.check import find_problems
from prunelab.core import processor
from prunelab.models.networks import build

OUTPUT = "models/base/final/0.safetensors"
NETWORK_CHECKS = ("check_freeze", "check_sensitivity", "check_feasible")


@pytest.fixture
def made(tmp_path, monkeypatch) -> list[str]:
    """The names of the checks that were made on a network, in a study of the shipped parameters."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())

    names: list[str] = []

    def counted(name: str, check: Callable[..., None]) -> Callable[..., None]:
        def make(*arguments: object) -> None:
            names.append(name)
            check(*arguments)

        return make

    for name in NETWORK_CHECKS:
        monkeypatch.setattr(network, name, counted(name, getattr(network, name)))
    return names


def test_an_unchanged_study_is_checked_without_its_network(made):
    assert find_problems() == []
    assert made == list(NETWORK_CHECKS)

    assert find_problems() == []
    assert made == list(NETWORK_CHECKS)


@pytest.mark.parametrize(
    ("changes", "made_again"),
    [
        ({"ratio": 0.55}, ["check_feasible"]),
        ({"grid__methods": ["l2_channel"]}, ["check_feasible"]),
        ({"prune__floor": 0.3}, ["check_feasible"]),
        ({"sensitivity__ratios": [0.25]}, ["check_sensitivity"]),
        ({"train__freeze": ["conv1"]}, ["check_freeze", "check_feasible"]),
        ({"model": "resnet20"}, list(NETWORK_CHECKS)),
        ({"data__resize": 16}, list(NETWORK_CHECKS)),
        ({"seeds": [5]}, []),
        ({"runtime__threads": 2}, []),
    ],
)
def test_a_check_is_made_again_if_a_parameter_that_it_reads_changes(made, changes, made_again):
    assert find_problems() == []
    made.clear()

    edit_params(Path("params.yaml"), **changes)

    assert find_problems() == []
    assert made == made_again


def test_bf16_in_portable_bits_is_found_before_anything_runs(made):
    edit_params(Path("params.yaml"), runtime__device="cpu", runtime__precision="bf16")
    (problem,) = find_problems()
    assert "bf16 has no portable bits on a CPU" in problem

    edit_params(Path("params.yaml"), runtime__bits="native")
    assert find_problems() == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has portable bits")
def test_a_processor_without_avx2_is_found_before_anything_runs(made, monkeypatch, tmp_path):
    description = tmp_path / "cpuinfo"
    description.write_text("flags : fpu sse4_2 avx\n")
    monkeypatch.setattr(processor, "CPUINFO", description)
    (problem,) = find_problems()
    assert problem.startswith("runtime.bits: portable needs AVX2")
    assert "set runtime.bits to native" in problem

    edit_params(Path("params.yaml"), runtime__bits="native")
    assert find_problems() == []


def test_fewer_threads_than_asked_for_are_found_before_anything_runs(made, monkeypatch):
    edit_params(Path("params.yaml"), runtime__threads=2)
    for limit in ("2", "0", "many", ""):
        monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
        assert find_problems() == []

    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    (problem,) = find_problems()
    assert "runtime.threads: 2 threads cannot be had, as OMP_THREAD_LIMIT allows 1" in problem


@pytest.mark.parametrize("what", ["_code", "_versions"])
def test_checks_are_made_again_with_other_code_or_other_packages(made, monkeypatch, what):
    assert find_problems() == []
    made.clear()

    monkeypatch.setattr(verdicts, what, lambda: "others")

    assert find_problems() == []
    assert made == list(NETWORK_CHECKS)


def test_the_hash_of_the_code_depends_on_every_source_file(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    for name in ("__init__.py", "room/__init__.py", "room/work.py"):
        (package / name).write_text("A = 1\n")
    monkeypatch.setattr(verdicts.prunelab, "__file__", str(package / "__init__.py"))
    hash_of = verdicts._code.__wrapped__

    before = hash_of()
    assert hash_of() == before
    (package / "room/work.py").write_text("A = 2\n")
    edited = hash_of()
    (package / "room/work.py").rename(package / "room/play.py")

    assert len({before, edited, hash_of()}) == 3


def test_problems_are_found_every_time(made):
    edit_params(Path("params.yaml"), prune__round_to=8, grid__ratios=[0.5], ratio=0.9)

    (line,) = find_problems()
    assert "l1_channel at ratio 0.9" in line

    assert find_problems() == [line]
    assert made.count("check_feasible") == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n\0", b"{}\n", b"0" * 64 + b"\n"])
def test_a_damaged_file_of_verdicts_costs_a_check_and_is_written_anew(made, content):
    assert find_problems() == []
    verdicts.FILE.write_bytes(content)
    made.clear()

    assert find_problems() == []
    assert find_problems() == []
    assert made == list(NETWORK_CHECKS)


def test_verdicts_that_cannot_be_kept_change_nothing(made):
    Path(".prunelab").write_text("a file where the folder should be")

    assert find_problems() == []
    assert find_problems() == []
    assert made == 2 * list(NETWORK_CHECKS)


def test_the_oldest_verdicts_are_forgotten(made, monkeypatch):
    monkeypatch.setattr(verdicts, "MAX_VERDICTS", 2)
    for name in ("first", "second", "third"):
        verdicts.remember(name)

    assert [verdicts.has_passed(name) for name in ("first", "second", "third")] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weights": OUTPUT}, f"weights: {OUTPUT} is in models/base/final"),
        (
            {"dataset": "imagefolder", "data__source": "data/prepared/train/x"},
            "data.source: data/prepared/train/x is in data/prepared/train",
        ),
        (
            {"dataset": "text_tsv", "data__source": "metrics/base.json"},
            "data.source: metrics/base.json is in metrics/base.json",
        ),
    ],
)
@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_path_that_a_stage_would_delete_before_it_reads_it_is_a_problem(
    made, changes, named, is_absolute
):
    shutil.copy(PROJECT / "dvc.yaml", "dvc.yaml")
    if is_absolute:
        key, path = list(changes.items())[-1]
        changes, named = changes | {key: str(Path(path).absolute())}, named.partition(" is in ")[2]
    edit_params(Path("params.yaml"), **changes)

    (line,) = [line for line in find_problems() if "DVC deletes before the stage runs" in line]

    assert named in line
    assert "Copy it" in line


def test_weights_outside_of_the_outputs_are_no_problem(made):
    shutil.copy(PROJECT / "dvc.yaml", "dvc.yaml")
    own = Path("data/raw/own.safetensors")
    own.parent.mkdir(parents=True)
    save_file(build("resnet8", 10, (1, 8, 8)).state_dict(), own)
    edit_params(Path("params.yaml"), weights=str(own))

    assert find_problems() == []
