"""The workflows of .github: pinned, with no more rights than they need, and shell that does what it should."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.params import PROJECT
from ruamel.yaml import YAML

FILES = sorted((PROJECT / ".github/workflows").glob("*.y*ml"))
WORKFLOWS = {file.name: YAML(typ="safe", pure=True).load(file) for file in FILES}
JOBS = {
    f"{name}:{key}": job
    for name, workflow in WORKFLOWS.items()
    for key, job in workflow["jobs"].items()
}
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
GUARD = "github.event.pull_request.head.repo.full_name == github.repository"


def test_there_are_tests_and_a_review():
    assert "pull_request" in WORKFLOWS["tests.yml"]["on"]
    assert "push" in WORKFLOWS["tests.yml"]["on"]
    assert "pull_request" in WORKFLOWS["results.yml"]["on"]
    assert not any("pull_request_target" in workflow["on"] for workflow in WORKFLOWS.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_action_is_pinned_by_its_commit_and_says_which_release_that_is(file):
    lines = [
        line.strip() for line in file.read_text().splitlines() if re.match(r"\s*(- )?uses:", line)
    ]
    assert lines
    for line in lines:
        assert re.fullmatch(r"(- )?uses: actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line


def test_one_action_has_one_commit():
    used = {step["uses"] for _, step in STEPS if "uses" in step}
    assert len(used) == len({action.partition("@")[0] for action in used})


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_an_end_its_own_rights_and_the_whole_history(name):
    workflow, job = WORKFLOWS[name.partition(":")[0]], JOBS[name]
    rights = job.get("permissions", workflow["permissions"])
    assert set(rights.values()) <= {"read", "write"}
    assert job["timeout-minutes"] <= 60
    assert workflow["concurrency"]["group"]
    assert workflow["defaults"]["run"]["shell"] == "bash"  # with which a broken pipe is an error
    checkouts = [
        step["with"]
        for step in job["steps"]
        if step.get("uses", "").startswith("actions/checkout@")
    ]
    for given in checkouts:
        assert given["fetch-depth"] == 0
        assert given["persist-credentials"] is False
    if "write" in rights.values():
        assert not checkouts, "what may write must not run the pull request's code"
        assert rights == {"pull-requests": "write"}
        assert GUARD in job["if"]
        assert job["continue-on-error"] is True


@pytest.mark.parametrize(("name", "step"), [(name, step) for name, step in STEPS if "run" in step])
def test_shell_is_shell_and_nothing_is_pasted_into_it(name, step, tmp_path):
    checked = subprocess.run(
        ["bash", "-n"], input=step["run"], text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "${{" not in step["run"], "a branch may be named like a command; hand it over in env"


def script(named: str) -> str:
    (found,) = [step["run"] for _, step in STEPS if step.get("name", "").startswith(named)]
    return found


def run(folder: Path, text: str, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"} | variables
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text], cwd=folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("ids", "method", "place"),
    [("", "POST", "issues/5/comments"), ("11\n12\n", "PATCH", "comments/12")],
)
def test_one_comment_is_written_and_then_written_anew(tmp_path, ids, method, place):
    """GitHub's command line is played by a program that writes down what it was asked."""
    said = tmp_path / "said"
    program(
        tmp_path / "bin/gh",
        "import json, sys\n"
        f"open({str(said)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        f"print({ids!r} if '--paginate' in sys.argv else '', end='')\n",
    )
    (tmp_path / "comment.md").write_text("# Results\n")
    done = run(tmp_path, script("Write the comment"), GITHUB_REPOSITORY="us/study", NUMBER="5")
    assert done.returncode == 0, done.stderr
    asked, wrote = [json.loads(line) for line in said.read_text().splitlines()]
    mark = (tmp_path / "body.md").read_text().splitlines()[0]
    assert (tmp_path / "body.md").read_text() == f"{mark}\n# Results\n"
    assert f'startswith("{mark}")' in asked[asked.index("--jq") + 1]
    assert wrote[wrote.index("--method") + 1] == method
    assert any(word.endswith(place) for word in wrote)
    assert "body=@body.md" in wrote


@pytest.mark.parametrize("status", [0, 1])
def test_the_review_ends_as_the_command_does_and_leaves_both_documents(tmp_path, status):
    program(
        tmp_path / ".venv/bin/prunelab",
        "import pathlib, sys\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "out.parent.mkdir(parents=True, exist_ok=True)\n"
        f"out.write_text(' '.join(sys.argv[1:3]))\nsys.exit({status})\n",
    )
    runner = tmp_path / "runner"
    done = run(
        tmp_path, script("Review the results"), GITHUB_BASE_REF="release/1", RUNNER_TEMP=str(runner)
    )
    assert done.returncode == status
    for file in ("review/review.md", "comment/comment.md"):
        assert (runner / file).read_text() == "review origin/release/1"
