"""The version is the same wherever it is written."""

import re
import subprocess
import sys
import tomllib

from helpers.params import PROJECT
from ruamel.yaml import YAML
from typer.testing import CliRunner

import prunelab
from prunelab.cli import app


def test_the_project_takes_its_version_from_the_package():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())

    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "prunelab.__version__"}


def test_the_version_is_that_of_the_citation_and_of_the_last_release():
    citation = YAML(typ="safe").load(PROJECT / "CITATION.cff")
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)

    last = prunelab.__version__, str(citation["date-released"])
    assert citation["version"] == prunelab.__version__
    assert releases[0] == last
    assert releases == sorted(releases, key=_as_numbers, reverse=True)


def _as_numbers(release: tuple[str, str]) -> list[int]:
    return [int(part) for part in release[0].split(".")]


def test_changelog_has_the_sections_of_keep_a_changelog():
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    sections = set(re.findall(r"^### (.*)$", changelog, re.MULTILINE))

    assert titles[0] == "[Unreleased]"
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_command_prints_the_version():
    result = CliRunner().invoke(app, ["--version"])

    assert result.stdout == f"prunelab {prunelab.__version__}\n"


def test_the_version_is_known_without_other_modules():
    program = (
        "import sys; before = set(sys.modules); import prunelab; "
        "print(prunelab.__version__, *set(sys.modules) - before)"
    )

    words = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(PROJECT / "src")},
    ).stdout.split()

    assert words == [prunelab.__version__, "prunelab"]
