"""Every command that uses Git, wherever the project lies in its repository, and without Git."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from helpers.layouts import LAYOUTS, at_the_top, write_project
from helpers.repository import Repository
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.config.params import read_params
from prunelab.project.git import changed_files, git, top_folder
from prunelab.project.outputs import fetch_output

# DVC looks hashes up in a trie, which warns of a change to come in itself.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


def prunelab(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def passes(*arguments: str) -> str:
    """Run a command that must succeed, and return what it printed."""
    result = prunelab(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def root(request, tmp_path, monkeypatch) -> Path:
    """The project with its results, in one of the layouts."""
    project = request.param(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.chdir(project)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], cwd=project, check=True)
    Repository.existing(project).commit("Results")
    return project


def compared_rows(*revisions: str) -> dict[str, dict]:
    """The rows of `prunelab compare`, by revision; all revisions must have one."""
    comparison = json.loads(passes("compare", "--format", "json", *revisions))
    assert comparison["left_out"] == {}
    return {row["name"]: row for row in comparison["rows"]}


def assert_sweep_measures_and_compares(root: Path) -> str:
    """Measure the ratio 0.2 as an experiment, and return its name."""
    assert set(compared_rows()) == {"workspace", "HEAD"}

    assert "1/1" in passes("sweep", "-S", "ratio=0.2")

    (name,) = set(compared_rows()) - {"workspace", "HEAD"}
    assert name.startswith("sweep-resnet8-l1_channel-0.2-")
    assert compared_rows()[name]["changed"] == {"ratio": 0.2}
    assert "measured already" in passes("sweep", "-S", "ratio=0.2")

    (root / "make.py").write_text((root / "make.py").read_text() + "# edited\n")
    result = prunelab("sweep", "-S", "ratio=0.3")
    assert "make.py differs from the last commit" in result.stderr.splitlines()[-1]
    git(root, "restore", "make.py")
    return name


def assert_study_is_measured_and_shown(root: Path) -> None:
    passes("study", "run", "tiny", "--only", "l1_channel-0.5")

    assert "l1_channel-0.5" in passes("study", "show", "tiny")
    stored = json.loads((root / "studies/results/tiny.json").read_text())["settings"]
    assert list(stored) == ["l1_channel-0.5"]
    assert stored["l1_channel-0.5"]["baseline"] == git(root, "rev-parse", "HEAD").strip()


def assert_experiment_is_applied_and_reviewed(root: Path, name: str) -> None:
    passes("apply", name)

    assert read_params(root / "params.yaml")["ratio"] == 0.2
    assert (root / "models/focus/finetuned/seed_0.txt").read_text() == "l1_channel 0.2"
    changed = set(changed_files(root))
    assert changed == {"params.yaml", "dvc.lock", "metrics/focus.json", "studies/results/tiny.json"}

    document = passes("review", "HEAD")
    assert "dvc.lock is up to date" in document
    assert "4 files not committed" in document
    assert "`ratio`" in document
    assert "`macs`" in document


@pytest.mark.slow
def test_commands_work_wherever_the_project_lies(root, tmp_path):
    name = assert_sweep_measures_and_compares(root)
    assert_study_is_measured_and_shown(root)

    network = Path("models/focus/finetuned/seed_0.txt")
    commit = git(root, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").strip()
    fetch_output(root, commit, network, tmp_path / "network.txt")
    assert (tmp_path / "network.txt").read_text() == "l1_channel 0.2"

    output = passes("verify", "--runs", "1")
    assert "7 of 7 outputs are the same to the bit" in output

    assert_experiment_is_applied_and_reviewed(root, name)
    assert "dvc.lock is up to date" in passes("review", "HEAD", name)
    top_status = git(top_folder(root), "status", "--porcelain", "--untracked-files=all")
    assert len(top_status.splitlines()) == len(changed_files(root))


# --- without Git ---


@pytest.fixture
def bare_project(tmp_path, monkeypatch) -> Path:
    """The files of the project, as in an archive, in no repository."""
    write_project(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return tmp_path / "project"


def test_repro_needs_no_git(bare_project, without_check):
    config = (bare_project / ".dvc/config").read_text()

    assert "all 5 stages are up to date" in passes("repro")
    assert "5 of 5 stages are up to date" in passes("repro")

    assert not (bare_project / ".git").exists()
    assert (bare_project / ".dvc/config").read_text() == config
    assert "workspace" in passes("compare", "workspace")


@pytest.mark.parametrize(
    "command",
    [
        ["compare"],
        ["review", "HEAD"],
        ["sweep", "-S", "ratio=0.2"],
        ["verify"],
        ["study", "run", "tiny"],
        ["study", "show", "tiny"],
        ["apply", "some-experiment"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("bare_project")
def test_commands_that_need_git_say_in_a_line_what_to_type(command):
    result = prunelab(*command)

    assert result.exit_code == 1
    assert result.stderr == (
        'this needs a Git repository; type: git init && git add -A && git commit -m "Start"\n'
    )


@pytest.mark.parametrize("command", [["sweep", "-S", "ratio=0.2"], ["study", "run", "tiny"]])
def test_experiments_without_an_author_are_refused_before_any_work(tmp_path, monkeypatch, command):
    root = at_the_top(tmp_path)
    monkeypatch.chdir(root)
    (tmp_path / "gitconfig").write_text("[user]\n    useConfigOnly = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    git(root, "config", "--unset", "user.name")

    result = prunelab(*command)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert 'git config --global user.name "Your Name"' in line
    assert "git config --global user.email you@example.com" in line
    assert not (root / ".prunelab").exists()
