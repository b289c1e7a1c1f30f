"""One search by the machinery that people use: killed, continued, answered, repeated."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.params import edit_params
from helpers.repository import Clone

METHODS = ["l1_channel", "l2_channel_global"]


class SearchClone(Clone):
    """The project with a search of seconds."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        edit_params(
            folder / "params.yaml",
            seeds=[0],
            grid__methods=["l1_channel"],
            grid__ratios=[0.5],
            train__epochs=4,
            search__methods=METHODS,
            search__layers=["method"],
            search__tries=4,
            search__epochs=2,
            search__first_epochs=1,
            search__reduction=2,
            search__final_seeds=[1000, 1001],
            search__runners_up=0,
        )
        self.commit("A search of seconds")
        self.command = [sys.executable, "-m", "prunelab", "search"]
        self.environment["PYTHONPATH"] = str(folder / "src")

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def search(self, *arguments: str) -> str:
        return self.run(*self.command, *arguments).stdout

    def experiments(self) -> dict[str, str]:
        """The commits of the experiments by name."""
        listing = self.run("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
        commits = {}
        for line in listing.stdout.splitlines():
            reference, commit = line.split()
            commits[reference.rpartition("/")[2]] = commit
        return commits


def kill_after_the_first_try(clone: SearchClone) -> str:
    """Start a search, kill it when its first try has ended, and return what it printed."""
    process = clone.start("--max-drop", "30")
    printed = ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if line.startswith("try 1: "):
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, printed
    process.stdout.close()
    return printed


@pytest.mark.slow
def test_a_killed_search_goes_on_and_its_command_gives_the_network_it_found(tmp_path):
    clone = SearchClone(tmp_path)
    printed = kill_after_the_first_try(clone)
    before = clone.experiments()
    assert before
    assert all(name.startswith("search-resnet8-") for name in before)

    answer = clone.search("--resume")

    after = clone.experiments()
    assert before.items() <= after.items()  # nothing that was measured ran again
    assert "try 1: " not in answer
    assert "try 4: " in answer
    assert "within 30." in answer
    status = clone.search("--status")
    assert "4 of at most 4 tries" in status
    changed = clone.run("git", "status", "--porcelain").stdout.split()
    assert [name for name in changed if name != "??"] == ["searches/resnet8-digits-macs-30.json",
        "searches/resnet8-digits-macs-30.png", "searches/resnet8-digits-macs-30.svg"]  # fmt: skip

    # Tries were measured on the validation split, and the network that was found on the test split.
    found = json.loads((tmp_path / "searches/resnet8-digits-macs-30.json").read_text())
    finals = {final["experiment"] for final in found["finals"]}
    for name, commit in after.items():
        params = clone.run("git", "show", f"{commit}:params.yaml").stdout
        assert ("split: test" in params) == (name in finals)

    # The command of the answer needs no search. All its stages are in DVC's cache.
    (line,) = [line.strip() for line in answer.splitlines() if line.startswith("  dvc exp run")]
    clone.run(*shlex.split(line))
    candidate = found["finals"][0]
    measured = clone.metrics("focus.json")
    assert measured["accuracy_drop"] == pytest.approx(candidate["drop"], abs=1e-6)
    assert printed.startswith("checking methods")
