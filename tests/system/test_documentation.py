"""Documentation is complete, its links lead somewhere, and its commands run as they are printed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.documents import shell_blocks
from helpers.params import PROJECT

from prunelab.cli import app
from prunelab.core.metrics_files import HEADLINE
from prunelab.pruning.methods import METHODS

DOCS = PROJECT / "docs"
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
BLOCKS = [block for page in PAGES for block in shell_blocks(page)]
REASONS = (
    *("needs a GPU", "needs a network", "needs a remote", "needs a cluster", "needs Docker"),
    *("needs minutes", "needs another", "needs a folder", "needs an experiment"),
)
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
METRICS_FILES = [
    *("base.json", "details/base.json", "details/grid/*.json", "grid/*.json"),
    *("sensitivity.json", "speed/benchmark.json", "environment/base.json"),
]
# Keys that are names of somebody else: of packages, and of kinds of units.
NAMES_BELOW = {"packages", "skipped"}


def keys_of(content: Any) -> Iterator[str]:
    """All keys of a JSON file's content, at any depth."""
    if isinstance(content, list):
        for item in content:
            yield from keys_of(item)
    elif isinstance(content, dict):
        for key, value in content.items():
            yield key
            if key not in NAMES_BELOW:
                yield from keys_of(value)


def table_keys(page: Path) -> set[str]:
    """The names between backticks in the first cells of a page's tables."""
    names = set()
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            names.update(re.findall(r"`([^`]+)`", line.split("|")[1]))
    return names


@pytest.mark.parametrize("pattern", METRICS_FILES)
def test_every_key_of_a_metrics_file_is_explained(pattern):
    explained = table_keys(DOCS / "metrics.md")

    files = sorted((PROJECT / "metrics").glob(pattern))
    keys = {key for file in files for key in keys_of(json.loads(file.read_text()))}

    assert files
    assert keys - explained - {"metrics"} == set()


def test_every_metric_of_the_headline_is_explained_with_its_unit():
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")

    for key in HEADLINE:
        line = re.search(rf"^\| `{key}` \|([^|]*)\|([^|]*)\|", text, re.MULTILINE)
        assert line
        assert all(cell.strip() for cell in line.groups())


def test_every_method_is_explained_and_no_other():
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    explained = table_keys(DOCS / "methods.md")
    own = set(METHODS.own)

    assert own - explained == set()
    assert {name for name in explained if not name.startswith("…")} - own == set()
    assert all(f"`{name}`" in text for name in own if name.startswith("random"))


def test_every_page_of_the_documentation_is_in_its_index():
    linked = {target for target, _ in LINK.findall((DOCS / "README.md").read_text())}

    pages = {page.name for page in DOCS.iterdir() if page.suffix in (".md", ".ipynb")}
    assert pages - {"README.md"} <= linked


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add("#" + plain.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_and_headings(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}{anchor}"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_block_of_commands_is_shell_and_says_why_it_is_not_run(block):
    language, _, rest = block.info.partition(" ")

    assert language == "sh"
    assert rest == "" or block.not_run.startswith(REASONS), rest
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def commands_of(text: str) -> set[str]:
    return set(re.findall(r"(?:^|&& |\| )(?:\S*/)?prunelab (\w+)", text, re.MULTILINE))


def test_documents_name_only_commands_that_exist():
    commands = {each.name or each.callback.__name__ for each in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}

    named = set().union(*(commands_of(block.text) for block in BLOCKS))

    assert len(named) > 5
    assert named <= commands


@pytest.mark.parametrize(
    "file",
    sorted((PROJECT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")),
    ids=lambda file: file.stem,
)
def test_issue_form_is_one_that_github_accepts(file):
    form = yaml.safe_load(file.read_text(encoding="utf-8"))

    assert {"name", "description", "body"} <= form.keys()
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) > 0
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert part["attributes"]["label"]


def test_devcontainer_makes_the_study_and_opens_files_that_exist():
    text = (PROJECT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8")
    settings = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))

    assert commands_of(settings["updateContentCommand"]) == {"repro"}
    for name in settings["customizations"]["codespaces"]["openFiles"]:
        assert (PROJECT / name).exists()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """A clone of the last commit beside a home of its own, with a finished study."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "home").mkdir()
    clone = folder / "prunelab"
    subprocess.run(["git", "clone", "-q", PROJECT, clone], check=True)

    # `make` finds the environment of these tests in place of one that it would install.
    environment = clone / ".venv"
    environment.mkdir()
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", environment)
    for part in ("bin", "lib"):
        (environment / part).symlink_to(Path(sys.prefix) / part)
    for mark in (".ready", ".ready-dev"):
        (environment / mark).touch()

    for key, value in (("user.name", "Reader"), ("user.email", "reader@example.org")):
        subprocess.run(["git", "-C", clone, "config", key, value], check=True)
    completed = run_block("make repro", clone)
    assert completed.returncode == 0, completed.stdout[-3000:]
    # On another machine the results differ in their last bits, and then they are committed first.
    run_block("git add -A && git commit -qm 'Results here'", clone)
    return clone


def run_block(text: str, folder: Path) -> subprocess.CompletedProcess:
    """Type commands into a shell that stops at the first one that fails."""
    environment = os.environ | {
        "HOME": str(folder.parent / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "DVC_PAGER": "cat",
        "SHELL": shutil.which("bash") or "/bin/bash",
    }
    command = ["bash", "-e", "-o", "pipefail", "-c", text]

    # A file, not a pipe: `prunelab warm` leaves a process that would keep a pipe open.
    log = folder.parent / "log"
    with log.open("w") as output:
        completed = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return subprocess.CompletedProcess(command, completed.returncode, log.read_text())


@pytest.mark.slow  # a study, and then seconds to minutes each
@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if not block.not_run], ids=lambda block: block.place
)
def test_commands_of_the_documents_run_as_they_are_printed(block, scratch):
    completed = run_block(block.text, scratch)
    run_block("git checkout -q . && dvc checkout -q; prunelab warm --stop", scratch)

    assert completed.returncode == 0, completed.stdout[-3000:]
