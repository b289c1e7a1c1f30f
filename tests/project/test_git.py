"""Git in the project's folder, wherever that lies in a repository, and without one."""

import shutil
from pathlib import Path

import pytest
from helpers.layouts import LAYOUTS, SUBFOLDER, at_the_top, in_a_subfolder, write_project
from helpers.repository import Repository

from prunelab.core.errors import InputError
from prunelab.project.clones import clone_at
from prunelab.project.experiments import code_of
from prunelab.project.git import (
    blobs,
    changed_files,
    git,
    holds,
    prefix,
    require_commit,
    require_identity,
    show,
    top_folder,
)
from prunelab.project.trees import Tree

IDENTITY_COMMANDS = (
    'git config --global user.name "Your Name" && git config --global user.email you@example.com'
)


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def root(request, tmp_path) -> Path:
    return request.param(tmp_path)


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD").strip()


def test_files_of_a_commit_are_read_relative_to_the_project(root):
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text("other")

    assert show(root, "HEAD", "params.yaml") == text
    assert holds(root, "HEAD", "params.yaml")
    assert not holds(root, "HEAD", "no such file")
    with pytest.raises(InputError, match="no such file"):
        show(root, "HEAD", "no such file")

    paths = ["params.yaml", "no such file"]
    params_hash = git(root, "rev-parse", "HEAD:./params.yaml").strip()
    assert blobs(root, ["HEAD"], paths) == {"params.yaml": {params_hash}, "no such file": set()}
    assert Tree(root, "HEAD", "HEAD").files("params.yaml") == {"params.yaml": params_hash}


def test_changed_files_are_named_relative_to_the_project(root):
    assert changed_files(root) == []
    new_file = 'new folder/é "quoted"'
    (top_folder(root) / "elsewhere.txt").touch()
    (root / "params.yaml").write_text("other")
    (root / new_file).parent.mkdir()
    (root / new_file).touch()

    changed = {"params.yaml", new_file}
    if top_folder(root) == root:
        changed.add("elsewhere.txt")
    assert set(changed_files(root)) == changed
    assert changed_files(root, untracked=False) == ["params.yaml"]
    assert changed_files(root, "new folder", "dvc.yaml") == [new_file]
    assert Tree(root, "workspace", None).describe().endswith(f"{len(changed)} files not committed")


def test_a_clone_is_of_the_whole_repository_and_names_the_project_in_it(root, tmp_path):
    (root / "data/raw").mkdir(parents=True)
    (root / "data/raw/images.txt").write_text("raw")

    project = clone_at(root, tmp_path / "clone", head(root))

    assert project == tmp_path / "clone" / prefix(root)
    assert (project / "make.py").read_text() == (root / "make.py").read_text()
    assert (project / "data/raw/images.txt").read_text() == "raw"
    assert changed_files(project) == []
    assert head(project) == head(root)
    assert code_of(project, "HEAD") == code_of(root, "HEAD")


def test_a_clone_in_a_copied_project_has_the_raw_data_of_the_copy(tmp_path):
    first = at_the_top(tmp_path)
    (first / "data/raw").mkdir(parents=True)
    (first / "data/raw/images.txt").write_text("raw")
    clone_at(first, first / ".prunelab/clone", head(first))
    second = tmp_path / "copy"
    shutil.copytree(first, second, symlinks=True)
    (second / "data/raw/images.txt").write_text("other raw")

    project = clone_at(second, second / ".prunelab/clone", head(second))

    assert (project / "data/raw/images.txt").read_text() == "other raw"
    assert (first / "data/raw/images.txt").read_text() == "raw"


def test_a_clone_is_made_with_templates_of_the_user_too(root, tmp_path, monkeypatch):
    templates = tmp_path / "templates"
    (templates / "hooks").mkdir(parents=True)
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[init]\n\ttemplateDir = "{templates}"\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))

    project = clone_at(root, tmp_path / "clone", head(root))

    assert (project / "make.py").exists()
    assert changed_files(project) == []


def test_the_code_of_a_project_does_not_depend_on_where_it_lies(tmp_path):
    codes = set()
    for layout in LAYOUTS:
        (tmp_path / layout.__name__).mkdir()
        codes.add(code_of(layout(tmp_path / layout.__name__), "HEAD"))

    assert len(codes) == 1


def test_a_commit_without_the_project_is_not_cloned(tmp_path):
    root = in_a_subfolder(tmp_path)
    repository = Repository.existing(root)
    repository.git("mv", f"../../{SUBFOLDER}", "../../moved")
    moved = top_folder(tmp_path / "laboratory") / "moved"
    Repository.existing(moved).commit("Moved")

    with pytest.raises(InputError, match=r"commit \w{8} has no dvc.yaml in this folder"):
        clone_at(moved, tmp_path / "clone", git(moved, "rev-parse", "HEAD~1").strip())


# --- what Git lacks ---


def problem_of(requirement, root: Path) -> str:
    with pytest.raises(InputError) as error:
        requirement(root)
    (problem,) = error.value.problems
    return problem


def test_a_folder_without_a_commit_is_told_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "laboratory" / "project"
    write_project(root)
    assert problem_of(require_commit, root).endswith(
        'type: git init && git add -A && git commit -m "Start"'
    )

    repository = Repository(root.parent)
    assert problem_of(require_commit, root).endswith('type: git add -A && git commit -m "Start"')

    (root.parent / "README").touch()
    repository.git("add", "README")
    repository.git("commit", "-qm", "Without the project")
    assert problem_of(require_commit, root).endswith('type: git add -A && git commit -m "Start"')

    repository.commit("With the project")
    require_commit(root)


@pytest.mark.parametrize("language", ["C", "de_DE.UTF-8"])
def test_a_folder_without_a_repository_is_recognised_in_any_language(
    tmp_path, monkeypatch, language
):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("LANGUAGE", language)
    monkeypatch.setenv("LC_ALL", language)

    assert "this needs a Git repository" in problem_of(require_commit, tmp_path)


def test_a_repository_of_another_user_is_refused_with_the_remedy_of_git(tmp_path, monkeypatch):
    root = at_the_top(tmp_path)
    # A switch of Git itself, for its own tests: only root could give a folder away.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")

    problem = problem_of(require_commit, root)

    assert "dubious ownership" in problem
    assert f"git config --global --add safe.directory {root}" in problem


def test_a_missing_author_is_named_with_the_two_commands(tmp_path, monkeypatch):
    root = at_the_top(tmp_path)
    for variable in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "EMAIL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("GIT_COMMITTER_EMAIL", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    # Otherwise Git makes an author of the names of user and host, where the host has a domain.
    (tmp_path / "gitconfig").write_text("[user]\n    useConfigOnly = true\n")
    require_identity(root)

    Repository.existing(root).git("config", "--unset", "user.email")

    assert problem_of(require_identity, root).endswith(f"type: {IDENTITY_COMMANDS}")


def test_a_missing_git_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert problem_of(require_commit, tmp_path).startswith("this needs Git, which is not installed")
