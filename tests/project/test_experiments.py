"""Which code made a result, in projects that have this package installed and not its source."""

import hashlib
import json
from pathlib import Path

import pytest
from helpers.repository import Repository

from prunelab.commands.new.project import pipeline
from prunelab.core import plugins
from prunelab.core.errors import InputError
from prunelab.project import experiments
from prunelab.project.dvc_lock import HEADER, split_entries
from prunelab.project.experiments import (
    code_of,
    current_code,
    require_committed,
    stage_closure,
)
from prunelab.stages.code import main as write_code_digests

CODE = Path("data/code")


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Repository:
    """A project as `prunelab new` writes it, with one commit and no result."""
    monkeypatch.chdir(tmp_path)
    repository = Repository(tmp_path)
    (tmp_path / "dvc.yaml").write_text(pipeline())
    (tmp_path / "environment.lock").write_text("torch\n")
    (tmp_path / ".gitignore").write_text("/data\n")
    repository.commit("A new project")
    return repository


def commit_results(repository: Repository) -> str:
    """Commit the dvc.lock that DVC writes after stage `code` has written what is in data/code."""
    lines = ["  code:", "    cmd: python -m prunelab.stages code data/code", "    outs:"]
    for file in sorted(CODE.iterdir()):
        content = file.read_bytes()
        lines += [
            f"    - path: {file}",
            "      hash: md5",
            f"      md5: {hashlib.md5(content).hexdigest()}",
            f"      size: {len(content)}",
        ]
    text = HEADER + "\n".join(lines) + "\n"
    assert split_entries(text) is not None

    Path("dvc.lock").write_text(text)
    return repository.commit("Results")


def edit_digests(stage: str) -> None:
    """Let a file that a stage imports have another digest, as in another version of the package."""
    file = CODE / f"{stage}.json"
    digests = json.loads(file.read_text())
    digests[next(iter(digests))] = "0" * 64
    file.write_text(json.dumps(digests))


def test_results_of_the_installed_package_are_the_current_codes(repository):
    before = current_code(repository.folder)
    write_code_digests(CODE)

    commit = commit_results(repository)

    assert code_of(repository.folder, commit) == before
    assert current_code(repository.folder) == before


@pytest.mark.parametrize("stage", ["prepare", "train_base", "prune", "finetune", "evaluate"])
def test_results_of_another_version_are_those_of_other_code(repository, stage):
    write_code_digests(CODE)
    edit_digests(stage)

    commit = commit_results(repository)

    assert code_of(repository.folder, commit) != current_code(repository.folder)


def test_code_that_no_measured_stage_runs_does_not_count(repository):
    write_code_digests(CODE)
    edit_digests("report")
    edit_digests("benchmark")

    commit = commit_results(repository)

    assert code_of(repository.folder, commit) == current_code(repository.folder)


def test_another_version_makes_other_code_of_the_same_commit(repository, monkeypatch):
    write_code_digests(CODE)
    commit = commit_results(repository)
    made_by, before = code_of(repository.folder, commit), current_code(repository.folder)

    monkeypatch.setattr(experiments, "stage_digests", lambda stage: {f"{stage}.py": "other"})

    assert current_code(repository.folder) != before
    assert code_of(repository.folder, commit) == made_by


def test_a_commit_that_does_not_say_which_code_ran_is_no_result(repository):
    with pytest.raises(InputError, match=r"dvc\.lock"):
        code_of(repository.folder, "HEAD")

    write_code_digests(CODE)
    (CODE / "train_base.json").unlink()
    commit = commit_results(repository)
    with pytest.raises(InputError, match="does not say which code made its results"):
        code_of(repository.folder, commit)


def test_plugins_that_are_not_committed_are_refused(repository, monkeypatch):
    monkeypatch.setattr(plugins, "FOLDER", Path("plugins"))  # which tests usually do not read
    closure = stage_closure(pipeline())
    require_committed(repository.folder, closure, "results name it")
    Path("plugins").mkdir()
    Path("plugins/mine.py").write_text("x = 1\n")

    with pytest.raises(InputError, match=r"plugins/mine\.py differs from the last commit, and res"):
        require_committed(repository.folder, closure, "results name it")

    repository.commit("A plugin")
    require_committed(repository.folder, closure, "results name it")
