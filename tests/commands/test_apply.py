"""`prunelab apply`: what comes into the tree, what stays, and what it refuses to write over."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from helpers.layouts import at_the_top
from helpers.repository import Repository
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.config.params import read_params
from prunelab.core.files import sha256
from prunelab.project.dvc_lock import split_entries

# DVC looks hashes up in a trie, which warns of a change to come in itself.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

NETWORK = "models/focus/finetuned/seed_0.txt"
FOCUS = "metrics/focus.json"
NOTE = "metrics/environment/focus.json"


class TinyProject(Repository):
    """The tiny project with experiments `thin`, ratio 0.8, and `wide`, ratio 0.3.

    The grid never ran. The focus of the last commit has ratio 0.6.
    """

    def dvc(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        process = subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True
        )
        return process.stdout

    def read(self, path: str) -> str:
        return (self.folder / path).read_text()

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        assert old in self.read(path)
        self.write(path, self.read(path).replace(old, new))

    @property
    def ratio(self) -> float:
        return read_params(self.folder / "params.yaml")["ratio"]

    def measure(self, ratio: float) -> None:
        self.edit("params.yaml", f"\nratio: {self.ratio}\n", f"\nratio: {ratio}\n")
        self.dvc("repro", "--quiet", "evaluate_focus")

    def save_experiment(self, name: str) -> None:
        """Turn the tree into an experiment derived from HEAD, and go back to HEAD."""
        baseline = self.git("rev-parse", "HEAD")
        commit = self.commit(name)
        self.git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", commit)
        self.git("reset", "--quiet", "--hard", baseline)
        self.dvc("checkout", "--quiet", "--with-deps", "evaluate_focus")

    def tree(self) -> dict[str, str]:
        """The hash of every file of the project, its networks included."""
        hashes = {}
        for path in self.folder.rglob("*"):
            name = str(path.relative_to(self.folder))
            if path.is_file() and not name.startswith((".git/", ".dvc/")):
                hashes[name] = sha256(path)
        return hashes


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    project = TinyProject.existing(at_the_top(tmp_path_factory.mktemp("template")))
    project.measure(0.6)
    project.commit("Results")
    for name, ratio in (("thin", 0.8), ("wide", 0.3)):
        project.measure(ratio)
        project.save_experiment(name)
    return project.folder


@pytest.fixture
def project(template, tmp_path, monkeypatch) -> TinyProject:
    shutil.copytree(template, tmp_path / "project", symlinks=True)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.chdir(tmp_path / "project")
    return TinyProject.existing(tmp_path / "project")


def apply(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["apply", *arguments])


def applied(*arguments: str) -> str:
    result = apply(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = apply(*arguments)
    assert result.exit_code == 1, result.output
    return result.stderr


@pytest.fixture
def thin(project) -> str:
    """The commit of the experiment `thin`."""
    return project.git("for-each-ref", "--format=%(objectname)", "refs/exps/*/*/thin")


def test_parameters_results_and_networks_of_an_experiment_come_into_the_tree(project, thin):
    before = project.tree()

    output = applied("thin")

    assert output == f"thin is here. Parameters: ratio. Files of results: {FOCUS}.\n"
    changed = {path for path, digest in project.tree().items() if before[path] != digest}
    assert changed == {"params.yaml", "dvc.lock", FOCUS, NETWORK}
    assert project.git("diff", thin, "--", "params.yaml", "dvc.lock", "metrics") == ""
    assert project.read(NETWORK) == "l1_channel 0.8"
    assert "Running stage" not in project.dvc("repro", "--dry", "evaluate_focus")


def test_the_grid_and_other_edits_stay(project):
    project.dvc("repro", "--quiet")  # the grid: results of no commit
    project.edit("params.yaml", "\ngrid:\n", "\n# of mine\ngrid:\n")
    project.edit("params.yaml", "\n  ratios:\n  - 0.5\n", "\n  ratios:\n  - 0.5\n  - 0.9\n")
    project.write("notes.txt", "also of mine")
    before = project.tree()
    entries = split_entries(project.read("dvc.lock"))

    applied("thin")

    changed = {path for path, digest in project.tree().items() if before[path] != digest}
    assert changed == {"params.yaml", "dvc.lock", FOCUS, NETWORK}
    assert "# of mine" in project.read("params.yaml")
    assert read_params(project.folder / "params.yaml")["grid"]["ratios"] == [0.5, 0.9]
    for name, entry in split_entries(project.read("dvc.lock")).items():
        assert (entry == entries[name]) == (name != "evaluate_focus"), name


def test_an_edit_in_the_way_is_refused_and_nothing_changes(project):
    project.edit("params.yaml", "\nratio: 0.6\n", "\nratio: 0.7\n")
    project.write(FOCUS, json.dumps({"accuracy": 1}))
    before = project.tree()

    lines = refused("thin").splitlines()

    assert len(lines) == 2
    assert lines[0].startswith("ratio in params.yaml is in no commit and in no experiment")
    assert lines[1].startswith(f"{FOCUS} is in no commit")
    assert all(line.endswith("prunelab apply thin --stash") for line in lines)
    assert project.tree() == before


def test_an_edit_in_the_way_is_put_into_the_stash_on_request(project):
    project.edit("params.yaml", "\nratio: 0.6\n", "\nratio: 0.7\n")
    project.write(FOCUS, '{"accuracy": 1}')
    project.write("make.py", project.read("make.py") + "# not in the way\n")

    output = applied("thin", "--stash")

    assert f"put into Git's stash: params.yaml, {FOCUS}" in output
    assert project.ratio == 0.8
    assert project.read(NETWORK) == "l1_channel 0.8"
    assert project.read("make.py").endswith("# not in the way\n")
    assert "\nratio: 0.7\n" in project.git("show", "stash@{0}:params.yaml")
    assert project.git("show", f"stash@{{0}}:{FOCUS}") == '{"accuracy": 1}'
    project.git("restore", "params.yaml", "dvc.lock", FOCUS)
    project.git("stash", "pop")
    assert project.ratio == 0.7


def test_results_that_an_experiment_has_are_no_edit(project):
    applied("thin")

    applied("wide")

    assert project.ratio == 0.3
    assert project.read(NETWORK) == "l1_channel 0.3"


@pytest.mark.slow
@pytest.mark.parametrize("stash", [[], ["--stash"]])
def test_a_network_that_no_stage_wrote_is_refused_and_everything_is_as_before(project, stash):
    project.write(NETWORK, "trained by hand")
    if stash:
        project.edit("params.yaml", "\nratio: 0.6\n", "\nratio: 0.7\n")
    before = project.tree()

    (line,) = refused("thin", *stash).splitlines()

    assert line.endswith(
        f"{NETWORK} was not written by a stage, and DVC does not have it; move it away"
    )
    assert project.tree() == before
    assert project.git("stash", "list") == ""


@pytest.mark.slow
def test_networks_that_the_cache_lacks_are_named_with_the_ways_to_get_them(project):
    shutil.rmtree(project.folder / ".dvc/cache")
    shutil.rmtree(project.folder / "models/focus")

    output = applied("thin")

    assert "not in DVC's cache: models/focus/finetuned" in output
    assert "dvc pull --with-deps evaluate_focus" in output
    assert project.ratio == 0.8


@pytest.mark.slow
def test_results_of_other_code_are_marked(project):
    project.write("make.py", project.read("make.py") + "# other code\n")
    project.dvc("repro", "--quiet", "evaluate_focus")
    project.commit("Other code with the same results")

    output = applied("thin")

    assert "not of the code and files here: evaluate_focus; prunelab repro" in output


@pytest.mark.slow
def test_a_result_that_the_experiment_does_not_have_is_removed(project):
    """It would be taken for one of the experiment."""
    project.write(NOTE, "{}")
    project.commit("A note on the environment of the last commit")

    output = applied("thin")

    assert NOTE in output
    assert not (project.folder / NOTE).exists()


@pytest.mark.slow
def test_parameters_that_are_not_valid_here_are_refused(project):
    project.edit("params.yaml", "\nfinetune:\n", "\nfinetune:\n  warmth: 1\n")
    project.save_experiment("older")
    before = project.tree()

    message = refused("older")

    assert "with the parameters of older, params.yaml would not be valid: finetune" in message
    assert project.tree() == before


@pytest.mark.parametrize("path", ["params.yaml", "dvc.yaml"])
@pytest.mark.parametrize("damage", ["<<<<<<< HEAD\nratio: 1\n=======\n", ""])
def test_damaged_files_are_named_and_nothing_changes(project, path, damage):
    project.write(path, damage)
    before = project.tree()

    message = refused("thin")

    assert message.startswith(f"{path} ")
    assert message.count("\n") == 1
    assert project.tree() == before


def test_names_without_results_are_refused(project):
    assert "did you mean 'thin'?" in refused("thing")
    assert "workspace is what is here already" in refused("workspace")
    assert "HEAD~1 has no result" in refused("HEAD~1")

    project.write("dvc.lock", "<<<<<<< HEAD\n")
    assert "dvc.lock is damaged; type: git restore dvc.lock" in refused("thin")
