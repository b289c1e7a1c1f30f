"""The version is the same wherever it is written."""

import subprocess
import sys
import tomllib

from helpers.params import PROJECT
from ruamel.yaml import YAML

import prunelab


def test_the_version_is_that_of_the_project_and_of_the_citation():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    citation = YAML(typ="safe").load(PROJECT / "CITATION.cff")

    assert prunelab.__version__ == project["version"] == citation["version"]


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
