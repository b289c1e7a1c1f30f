"""The workflows of .github: pinned actions, no more rights than needed, and correct shell."""

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
OWN_REPOSITORY = "github.event.pull_request.head.repo.full_name == github.repository"
PINNED_ACTION = re.compile(r"(- )?uses: actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")


def all_jobs() -> dict[str, dict]:
    """Every job, by the name of its workflow and its own."""
    jobs = {}
    for name, workflow in WORKFLOWS.items():
        for key, job in workflow["jobs"].items():
            jobs[f"{name}:{key}"] = job
    return jobs


JOBS = all_jobs()
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
SHELL_STEPS = [(name, step) for name, step in STEPS if "run" in step]


def test_pull_requests_are_tested_and_reviewed():
    assert "pull_request" in WORKFLOWS["tests.yml"]["on"]
    assert "push" in WORKFLOWS["tests.yml"]["on"]
    assert "pull_request" in WORKFLOWS["results.yml"]["on"]


def test_no_workflow_runs_foreign_code_with_our_rights():
    for workflow in WORKFLOWS.values():
        assert "pull_request_target" not in workflow["on"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_action_is_pinned_to_a_commit_and_names_its_release(file):
    lines = [line.strip() for line in file.read_text().splitlines()]
    actions = [line for line in lines if re.match(r"(- )?uses:", line)]

    assert actions
    for action in actions:
        assert PINNED_ACTION.fullmatch(action), action


def test_every_action_is_pinned_to_one_commit():
    pinned = {step["uses"] for _, step in STEPS if "uses" in step}
    actions = {action.partition("@")[0] for action in pinned}

    assert len(pinned) == len(actions)


def rights_of(name: str) -> dict[str, str]:
    workflow = WORKFLOWS[name.partition(":")[0]]
    return JOBS[name].get("permissions", workflow["permissions"])


def checkouts_of(name: str) -> list[dict]:
    """The options of the steps that check out the repository."""
    options = []
    for step in JOBS[name]["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            options.append(step["with"])
    return options


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_a_time_limit_rights_and_a_strict_shell(name):
    workflow = WORKFLOWS[name.partition(":")[0]]

    assert JOBS[name]["timeout-minutes"] <= 60
    assert set(rights_of(name).values()) <= {"read", "write"}
    assert workflow["concurrency"]["group"]
    # With bash, a failure anywhere in a pipe is an error.
    assert workflow["defaults"]["run"]["shell"] == "bash"


@pytest.mark.parametrize("name", JOBS)
def test_every_checkout_has_the_whole_history_and_keeps_no_token(name):
    for options in checkouts_of(name):
        assert options["fetch-depth"] == 0
        assert options["persist-credentials"] is False


@pytest.mark.parametrize("name", [name for name in JOBS if "write" in rights_of(name).values()])
def test_a_job_that_may_write_runs_no_code_of_the_pull_request(name):
    job = JOBS[name]

    assert not checkouts_of(name)
    assert rights_of(name) == {"pull-requests": "write"}
    assert OWN_REPOSITORY in job["if"]
    assert job["continue-on-error"] is True


@pytest.mark.parametrize(("name", "step"), SHELL_STEPS)
def test_shell_steps_are_valid_and_paste_nothing_into_commands(name, step):
    check = subprocess.run(
        ["bash", "-n"], input=step["run"], text=True, capture_output=True, check=False
    )

    assert check.returncode == 0, check.stderr
    assert "${{" not in step["run"], "a branch may be named like a command; pass it in env"


def script(name_start: str) -> str:
    """The shell of the step whose name begins so."""
    (script,) = [step["run"] for _, step in STEPS if step.get("name", "").startswith(name_start)]
    return script


def run(folder: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run shell as GitHub does, with the programs in folder/bin first."""
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
        cwd=folder,
        env=os.environ | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def write_program(path: Path, text: str) -> None:
    """Write a Python program that can be run by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)


# Stands for GitHub's command line: it writes down its arguments and prints the ids of comments.
FAKE_GH = """
import json
import sys
from pathlib import Path

with Path({log!r}).open("a") as log:
    print(json.dumps(sys.argv[1:]), file=log)
if "--paginate" in sys.argv:
    print({ids!r}, end="")
"""


@pytest.mark.parametrize(
    ("ids", "method", "path"),
    [("", "POST", "issues/5/comments"), ("11\n12\n", "PATCH", "comments/12")],
    ids=["first run", "later run"],
)
def test_the_comment_is_created_once_and_then_updated(tmp_path, ids, method, path):
    log = tmp_path / "calls"
    write_program(tmp_path / "bin/gh", FAKE_GH.format(log=str(log), ids=ids))
    (tmp_path / "comment.md").write_text("# Results\n")

    process = run(tmp_path, script("Write the comment"), GITHUB_REPOSITORY="us/study", NUMBER="5")

    assert process.returncode == 0, process.stderr
    body = (tmp_path / "body.md").read_text()
    mark = body.splitlines()[0]
    assert body == f"{mark}\n# Results\n"
    search, update = [json.loads(line) for line in log.read_text().splitlines()]
    assert f'startswith("{mark}")' in search[search.index("--jq") + 1]
    assert update[update.index("--method") + 1] == method
    assert any(argument.endswith(path) for argument in update)
    assert "body=@body.md" in update


# Stands for `prunelab review`: it writes the two revisions and exits with a given status.
FAKE_REVIEW = """
import sys
from pathlib import Path

out = Path(sys.argv[sys.argv.index("--out") + 1])
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(" ".join(sys.argv[1:3]))
sys.exit({status})
"""


@pytest.mark.parametrize("status", [0, 1])
def test_the_review_step_exits_as_the_command_and_keeps_both_documents(tmp_path, status):
    write_program(tmp_path / ".venv/bin/prunelab", FAKE_REVIEW.format(status=status))
    runner = tmp_path / "runner"

    process = run(
        tmp_path, script("Review the results"), GITHUB_BASE_REF="release/1", RUNNER_TEMP=str(runner)
    )

    assert process.returncode == status
    for file in ("review/review.md", "comment/comment.md"):
        assert (runner / file).read_text() == "review origin/release/1"


# Stands for `prunelab verify` on a machine of an architecture: what it says, and its exit status.
FAKE_VERIFY = """
import sys

print({line!r})
sys.exit("--against" in sys.argv and {status})
"""
ELSEWHERE = "the committed results were made on another environment, so they need not be the same"


@pytest.mark.parametrize(
    ("machine", "line", "status", "passes"),
    [
        ("x86_64", "same bits", 0, True),
        ("x86_64", "NOT the same", 1, False),
        ("aarch64", ELSEWHERE, 1, True),
        ("aarch64", "the commit and run 1: 1 of 1 outputs are the same to the bit", 0, False),
    ],
)
def test_x86_64_must_give_the_committed_bits_and_arm64_be_told_apart(
    tmp_path, machine, line, status, passes
):
    write_program(tmp_path / ".venv/bin/prunelab", FAKE_VERIFY.format(line=line, status=status))
    write_program(tmp_path / "bin/uname", f"print({machine!r})")

    process = run(tmp_path, script("Repeat the results"))
    assert (process.returncode == 0) == passes


def test_results_are_repeated_with_two_versions_of_python():
    matrix = JOBS["tests.yml:bits"]["strategy"]["matrix"]
    pythons = {*matrix["python"], *(each["python"] for each in matrix["include"])}
    assert len(pythons) > 1


def test_results_are_repeated_on_machines_of_both_architectures():
    runners = JOBS["tests.yml:bits"]["strategy"]["matrix"]["runner"]
    assert len([runner for runner in runners if not runner.endswith("-arm")]) > 1
    assert any(runner.endswith("-arm") for runner in runners)
