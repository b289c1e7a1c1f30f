"""`prunelab repro`: the order of stages, and small pipelines compared with DVC's serial run."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.params import PROJECT, edit_params
from helpers.repository import Clone
from ruamel.yaml import YAML
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.repro.checking import started_check
from prunelab.commands.repro.cores import default_jobs, sharing_warnings
from prunelab.commands.repro.display import Display
from prunelab.commands.repro.pool import WorkerPool
from prunelab.commands.repro.runner import (
    STOP_SIGNALS,
    ReproResult,
    Stopped,
    reproduce,
    stoppable,
)
from prunelab.commands.repro.scheduler import TaskGraph, chain_lengths
from prunelab.commands.repro.time_left import Durations, describe
from prunelab.core.cores import available_cores, core_shares, pin
from prunelab.core.errors import InputError
from prunelab.project import dvc_lock
from prunelab.project.dvc_graph import load_pipeline, open_repo

# DVC's own use of another package.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

Needs = dict[str, set[str]]  # for each task those that it needs directly


@dataclass(frozen=True)
class RandomTasks:
    """A random graph without cycles, the tasks that must run alone, and a number of jobs."""

    needs: Needs
    alone: set[str]
    jobs: int


def random_tasks(seed: int) -> RandomTasks:
    draw = random.Random(seed)
    names = [str(number) for number in range(draw.randint(1, 20))]
    density = draw.choice([0.05, 0.2, 0.5])

    needs = {}
    for index, name in enumerate(names):
        needs[name] = {earlier for earlier in names[:index] if draw.random() < density}

    draw.shuffle(names)
    shuffled = {name: needs[name] for name in names}
    alone = {name for name in names if draw.random() < 0.15}
    return RandomTasks(shuffled, alone, jobs=draw.randint(1, 5))


def all_needed(needs: Needs, name: str) -> set[str]:
    """Everything that a task depends on, directly or through other tasks."""
    return needs[name].union(*(all_needed(needs, needed) for needed in needs[name]))


def longest_chain(needs: Needs, name: str) -> int:
    """The number of tasks in the longest chain that begins with a task."""
    followers = [task for task, needed in needs.items() if name in needed]
    return 1 + max((longest_chain(needs, task) for task in followers), default=0)


@pytest.mark.parametrize("seed", range(40))
def test_tasks_start_as_soon_as_they_can_and_not_before(seed):
    tasks = random_tasks(seed)
    needs, alone = tasks.needs, tasks.alone
    draw = random.Random(seed)
    graph = TaskGraph(needs, tasks.jobs, alone)

    done: set[str] = set()
    order: list[str] = []
    while not graph.finished:
        running_before = set(graph.running)
        started = graph.start_ready()
        order += started
        running = graph.running
        assert running == running_before | set(started)
        assert all(needs[name] <= done for name in started)
        assert 0 < len(running) <= tasks.jobs
        assert len(running) == 1 or not running & alone

        waiting = {name for name in needs if needs[name] <= done} - set(order)
        if len(running) < tasks.jobs and not running & alone:
            assert waiting <= alone  # no other task waits without a reason
        waiting_together = waiting - alone
        for name in started:
            if name in alone:
                assert not waiting_together
            else:
                chains = [longest_chain(needs, task) for task in waiting_together]
                assert longest_chain(needs, name) >= max(chains, default=0)

        ended = draw.choice(sorted(running))
        graph.mark_done(ended)
        done.add(ended)

    assert sorted(order) == sorted(needs)


@pytest.mark.parametrize("seed", range(40))
def test_a_failure_skips_exactly_the_tasks_that_depend_on_it(seed):
    tasks = random_tasks(seed)
    draw = random.Random(seed)
    graph = TaskGraph(tasks.needs, tasks.jobs, tasks.alone)

    done: set[str] = set()
    failed: set[str] = set()
    skipped: list[str] = []
    while not graph.finished:
        graph.start_ready()
        ended = draw.choice(sorted(graph.running))
        if draw.random() < 0.2:
            failed.add(ended)
            skipped += graph.mark_failed(ended)
        else:
            graph.mark_done(ended)
            done.add(ended)

    assert len(skipped) == len(set(skipped))
    dependent = {name for name in tasks.needs if all_needed(tasks.needs, name) & failed}
    assert set(skipped) == dependent - failed
    assert done | failed | set(skipped) == set(tasks.needs)
    assert not done & (failed | set(skipped))


def test_the_longest_chain_starts_first():
    needs: Needs = {
        "lone": set(),
        "one": set(),
        "two": {"one"},
        "three": {"two"},
        "pair": set(),
        "end": {"pair"},
    }

    assert chain_lengths(needs) == {name: longest_chain(needs, name) for name in needs}
    assert TaskGraph(needs, 2).start_ready() == ["one", "pair"]


@pytest.mark.parametrize("count", range(1, 12))
def test_cores_are_shared_evenly(count):
    cores = [0, 1, 4, 5, 8]

    shares = core_shares(cores, count)

    assert len(shares) == count
    sizes = [len(share) for share in shares]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    used = [core for share in shares for core in share]
    if count >= len(cores):
        assert set(used) == set(cores)
    else:
        assert sorted(used) == cores
    assert core_shares([], count) == [[]] * count


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not let processes choose cores"
)
def test_a_process_and_its_descendants_are_pinned():
    command = "import subprocess, sys; print(subprocess.run(['sleep', '60']), flush=True)"
    with subprocess.Popen([sys.executable, "-c", command]) as process:
        children_file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children: list[int] = []
        try:
            while not children:
                children = list(map(int, children_file.read_text().split()))

            pin(process.pid, available_cores()[:1])

            for pid in (process.pid, *children):
                assert os.sched_getaffinity(pid) == set(available_cores()[:1])
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
            process.kill()

    pin(process.pid, available_cores())  # of a process that has ended: no error


@pytest.mark.parametrize(
    ("cores", "threads", "gpus", "expected"),
    [(8, 2, 0, 4), (3, 2, 0, 1), (1, 2, 0, 1), (0, 1, 0, 1), (8, 1, 2, 2), (2, 1, 4, 2)],
)
def test_by_default_every_job_has_its_cores_and_its_gpu(cores, threads, gpus, expected):
    assert default_jobs(cores, threads, gpus) == expected


def test_too_few_cores_or_gpus_give_a_warning():
    assert list(sharing_warnings(1, 8, 2, 1)) == []
    assert list(sharing_warnings(2, 2, 4, 2)) == []

    (line,) = sharing_warnings(3, 2, 4, 0)
    assert "3 jobs x 2 threads" in line
    assert "runtime.threads: 1" in line

    (line,) = sharing_warnings(3, 1, 2, 0)  # fewer threads cannot be had
    assert line == "3 jobs x 1 thread (runtime.threads) share 2 cores."

    (line,) = sharing_warnings(3, 1, 4, 2)
    assert line == "3 jobs share 2 GPUs and their memory."
    (line,) = sharing_warnings(3, 1, 4, 1)
    assert line == "3 jobs share 1 GPU and its memory."


def test_a_stage_takes_as_long_as_its_group_took_in_this_run_or_the_last():
    durations = Durations({"prune": 10.0, "evaluate": 4.0})
    assert durations.expected("prune@a-1") == 10
    assert durations.expected("unknown") is None

    durations.add("prune@a-1", 20.0)
    durations.add("prune@b-1", 30.0)

    assert durations.expected("prune@a-2") == 25
    assert durations.expected("evaluate@a-1") == 4
    assert durations.expected("unknown") == 25  # as the groups of this run on average


def test_the_time_left_is_shared_by_jobs_except_of_stages_that_run_alone():
    durations = Durations({"prune": 10.0, "finetune": 30.0, "clock": 7.0})
    waiting = ["prune@a-1", "finetune@a-1", "clock"]
    running = {"prune@b-1": 4.0, "finetune@b-1": 100.0}  # the last one takes longer than expected

    assert durations.left(waiting, running, jobs=2, alone={"clock"}) == (10 + 30 + 6 + 0) / 2 + 7
    assert durations.left([*waiting, "unknown"], running, jobs=2) is None
    assert durations.left([], {}, jobs=2) == 0


def test_durations_are_kept_for_the_next_run(tmp_path):
    path = tmp_path / "durations.json"
    assert Durations.read(path).expected("prune") is None
    first = Durations({"prune": 1.0, "evaluate": 2.0})
    first.add("prune@a", 3.0)
    first.add("prune@b", 5.0)

    first.write(path)

    kept = Durations.read(path)
    assert [kept.expected(stage) for stage in ("prune@c", "evaluate@c")] == [4, 2]


@pytest.mark.parametrize("content", ["", "[1]", "[]", '{"prune": "long"}', '{"prune": null}', "\0"])
def test_damaged_durations_count_as_none(content, tmp_path):
    path = tmp_path / "durations.json"
    path.write_text(content)

    assert Durations.read(path).expected("prune") is None


def test_the_time_left_is_in_round_words():
    words = [describe(seconds) for seconds in (None, 0.0, 1.4, 89.4, 90.0, 3600.0)]

    assert words == [
        "",
        "about 1 s left",
        "about 1 s left",
        "about 89 s left",
        "about 2 min left",
        "about 60 min left",
    ]


def test_the_status_line_counts_stages_and_names_those_that_run(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr("prunelab.commands.repro.display.time.monotonic", lambda: now)
    stages = ["first", *(f"cell@{number}" for number in range(6)), "last"]
    display = Display(stages, Durations({"cell": 60.0, "last": 5.0}), jobs=4, alone=["last"])

    display.started("first")
    assert display.status() == "0 done, 1 running, 7 waiting of 8; first 0 s"

    now += 20
    display.ended("first", "done")
    for number in range(4):
        display.started(f"cell@{number}", " on GPU 1")
    now += 10
    assert display.status() == (
        "1 done, 4 running, 3 waiting of 8; about 85 s left; "
        "cell@0 10 s, cell@1 10 s, cell@2 10 s, ..."
    )

    display.ended("cell@0", "FAILED", "; others go on")
    display.skipped(["cell@4", "cell@5", "last"])
    assert display.status().startswith("5 done, 3 running, 0 waiting of 8; ")

    display.close()
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "[1/8] first: started",
        "[1/8] first: done after 20 s",
        *(f"[{number + 2}/8] cell@{number}: started on GPU 1" for number in range(4)),
        "[2/8] cell@0: FAILED after 10 s; others go on",
    ]
    assert printed.err == ""  # a status line is for terminals only


def test_a_terminal_shows_the_status_line_below_the_lines(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    display = Display(["only"], Durations({}), jobs=1, alone=[])

    display.started("only")
    display.ended("only", "done")
    display.close()

    assert "0 done, 1 running, 0 waiting of 1; only 0 s" in screen.getvalue()
    assert screen.getvalue().endswith("\r")  # it is wiped at the end


def test_a_split_lock_is_joined_to_the_same_text():
    text = (PROJECT / "dvc.lock").read_text()

    entries = dvc_lock.split_entries(text)

    names = list(entries)
    assert names == list(YAML(typ="safe").load(text)["stages"])
    assert dvc_lock.join_entries(entries, []) == text
    assert dvc_lock.join_entries(entries, names) == text

    reordered = dvc_lock.join_entries(entries, [*reversed(names), "unknown stage"])
    assert dvc_lock.split_entries(reordered) == entries
    assert list(dvc_lock.split_entries(reordered)) == names[::-1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "<<<<<<< ours\n" + text,
        lambda text: text + "datasets: []\n",
        lambda text: text.replace("\n  prepare:", "\n prepare:"),
    ],
    ids=["empty", "conflict", "more sections", "indentation"],
)
def test_a_lock_of_another_layout_is_not_split(damage):
    text = (PROJECT / "dvc.lock").read_text()

    assert dvc_lock.split_entries(damage(text)) is None


def test_targets_are_stages_or_groups_with_all_they_need():
    with open_repo(PROJECT) as repo:
        everything = load_pipeline(repo)
        two_stages = load_pipeline(repo, ["prune@l1_channel-0.5", "evaluate_base"])
        group = load_pipeline(repo, ["prune"])

    names = list(everything.stages)
    for index, name in enumerate(names):
        assert everything.needs[name] <= set(names[:index])

    first_stages = {"code", "settings", "prepare", "train_base"}
    assert set(two_stages.stages) == first_stages | {"prune@l1_channel-0.5", "evaluate_base"}
    cells = {name for name in names if name.startswith("prune@")}
    assert set(group.stages) == first_stages | cells


def test_the_benchmark_runs_alone_after_all_networks():
    with open_repo(PROJECT) as repo:
        everything = load_pipeline(repo)

    assert everything.alone == {"benchmark"}
    cells = {name for name in everything.stages if name.startswith(("prune@", "finetune@"))}
    assert everything.needs["benchmark"] >= cells


def test_unknown_targets_are_named_with_similar_stages():
    with open_repo(PROJECT) as repo, pytest.raises(InputError) as raised:
        load_pipeline(repo, ["evaluat_base", "prune@l1_chanel-0.5", "plot"])

    stage_problem, cell_problem = raised.value.problems
    assert (
        "unknown stage 'evaluat_base' (did you mean 'evaluate_base', 'evaluate' or "
        "'evaluate_focus'?); `dvc stage list --name-only` lists all" in stage_problem
    )
    assert (
        "unknown stage 'prune@l1_chanel-0.5' (did you mean 'prune@l1_channel-0.5', " in cell_problem
    )


# Small pipelines whose stages are shell commands.

GRID = {"kind": ["a", "b"], "size": [1, 2]}
SMALL_GRID = {"kind": ["a"], "size": [1]}


def project(folder: Path, *, grid: dict = GRID, cell_command: str = "true") -> Path:
    """A small pipeline like our own: a first stage, a grid of two levels, a clock, a last stage.

    Every cell runs `cell_command` first.
    """
    from dvc.repo import Repo

    cell = "mkdir -p cells && head -n ${item.size} first.txt > cells/${key}.txt"
    stages = {
        "first": {"cmd": "seq 1 9 > first.txt", "params": ["seeds"], "outs": ["first.txt"]},
        "cell": {
            "matrix": grid,
            "cmd": f"{cell_command}; {cell}",
            "deps": ["first.txt"],
            "params": ["ratio"],
            "outs": ["cells/${key}.txt"],
        },
        "measure": {
            "matrix": grid,
            "cmd": "mkdir -p metrics && wc -c < cells/${key}.txt > metrics/${key}.json",
            "deps": ["cells/${key}.txt"],
            "metrics": [{"metrics/${key}.json": {"cache": False}}],
        },
        "clock": {
            "meta": {"alone": True},
            "cmd": "cat cells/* > clock.txt",
            "deps": ["cells"],
            "outs": ["clock.txt"],
        },
        "last": {
            "cmd": "cat metrics/* > last.txt",
            "deps": ["metrics", "clock.txt"],
            "outs": ["last.txt"],
        },
    }

    folder.mkdir()
    write_pipeline(folder, stages)
    shutil.copyfile(PROJECT / "params.yaml", folder / "params.yaml")
    Repo.init(str(folder), no_scm=True).close()
    return folder


def write_pipeline(folder: Path, stages: dict) -> None:
    YAML().dump({"stages": stages}, folder / "dvc.yaml")


def read_pipeline(folder: Path) -> dict:
    return YAML(typ="safe").load(folder / "dvc.yaml")["stages"]


def run_serially(folder: Path) -> None:
    """Run a pipeline by DVC alone, one stage after another."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        repo.reproduce()


def contents(folder: Path) -> dict[str, bytes]:
    """All files that a run makes, dvc.lock included."""
    files = [
        folder / "dvc.lock",
        *folder.glob("*.txt"),
        *folder.glob("cells/*"),
        *folder.glob("metrics/*"),
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def ignore_line(line: str) -> None:
    pass


def run_both(serial: Path, parallel: Path, monkeypatch) -> set[str]:
    """Run a pipeline by DVC and its copy by us, compare all files, and return the stages made."""
    monkeypatch.chdir(serial)
    run_serially(serial)
    monkeypatch.chdir(parallel)
    result = reproduce(parallel, [], 2, ignore_line)

    assert not result.failed
    assert contents(serial) == contents(parallel)
    return set(result.made)


def test_a_run_leaves_the_same_bytes_as_a_serial_run(tmp_path, monkeypatch):
    serial, parallel = project(tmp_path / "serial"), project(tmp_path / "parallel")

    assert len(run_both(serial, parallel, monkeypatch)) == 3 + 2 * 4
    assert run_both(serial, parallel, monkeypatch) == set()


@pytest.mark.slow
def test_changes_and_cached_runs_leave_the_same_bytes_too(tmp_path, monkeypatch):
    grid = {"kind": ["a", "b"], "size": [1]}
    folders = project(tmp_path / "serial", grid=grid), project(tmp_path / "parallel", grid=grid)
    all_stages = run_both(*folders, monkeypatch)

    for folder in folders:
        edit_params(folder / "params.yaml", ratio=0.25)
        (folder / "last.txt").write_text("damaged")
    # New parameters give the same cells, so stages that depend on cells do not run.
    assert run_both(*folders, monkeypatch) == {"cell@a-1", "cell@b-1", "last"}

    for folder in folders:
        (folder / "dvc.lock").unlink()
    assert run_both(*folders, monkeypatch) == all_stages
    assert "Running stage" not in (folders[1] / ".prunelab/logs/last.log").read_text()


def test_a_changed_meta_section_makes_no_stage_stale(tmp_path, monkeypatch):
    folder = project(tmp_path / "project", grid=SMALL_GRID)
    monkeypatch.chdir(folder)
    run_serially(folder)
    before = contents(folder)
    stages = read_pipeline(folder)

    stages["clock"]["meta"] = {"alone": False}
    write_pipeline(folder, stages)
    assert reproduce(folder, [], 2, ignore_line).made == []

    del stages["clock"]["meta"]
    write_pipeline(folder, stages)
    assert reproduce(folder, [], 2, ignore_line).made == []
    assert contents(folder) == before


@pytest.mark.slow
def test_failures_are_reported_and_stop_only_dependent_stages(tmp_path, monkeypatch, without_check):
    folder = project(tmp_path / "project", cell_command="key=${key}; . ./cell.sh")
    # One command fails, and one kills its worker.
    script = "case $key in a-1) echo broken on purpose; exit 3;; b-2) kill -9 $PPID;; esac"
    (folder / "cell.sh").write_text(script)
    monkeypatch.chdir(folder)

    result = CliRunner().invoke(app, ["repro", "--jobs", "2"])

    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert any("broken on purpose" in line for line in lines)
    assert any("the process was killed" in line for line in lines)
    assert "2 failed, 4 skipped" in lines[-1]
    skipped = {line.split()[0] for line in lines if " was skipped, because " in line}
    assert skipped == {"measure@a-1", "measure@b-2", "clock", "last"}
    assert {path.name for path in Path("metrics").iterdir()} == {"a-2.json", "b-1.json"}

    (folder / "cell.sh").write_text("true")
    result = CliRunner().invoke(app, ["repro", "--jobs", "2"])
    assert result.exit_code == 0, result.stderr
    assert "all 11 stages are up to date" in result.stdout
    after = contents(folder)
    run_serially(folder)
    assert contents(folder) == after


def test_an_unknown_target_is_refused_before_any_work(tmp_path, monkeypatch, without_check):
    monkeypatch.chdir(project(tmp_path / "project"))
    monkeypatch.setattr(WorkerPool, "submit", lambda *_: pytest.fail("work was started"))

    result = CliRunner().invoke(app, ["repro", "meassure", "--jobs", "2"])

    assert result.exit_code == 1
    assert result.stderr == (
        "unknown stage 'meassure' (did you mean 'measure'?); "
        "valid: first, cell, measure, clock, last\n"
    )


def test_parameters_are_refused_in_the_words_of_check_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(project(tmp_path / "project"))
    monkeypatch.setattr(WorkerPool, "submit", lambda *_: pytest.fail("work was started"))
    Path(".prunelab").mkdir()
    Path(".prunelab/passed_checks").touch()  # without a loaded process
    Path("params.yaml").write_text("grid: {methods: 1}\n")

    result = CliRunner().invoke(app, ["repro"])

    check = subprocess.run(
        [sys.executable, "-m", "prunelab", "check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 1
    assert "grid.methods" in check.stderr
    assert (result.exit_code, result.stderr) == (1, check.stderr)


def test_a_first_check_runs_in_a_fork_of_the_process_that_stages_will_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRUNELAB_WARM", raising=False)
    Path("params.yaml").write_text("seeds: 1\n")

    with started_check(tmp_path, tmp_path / "logs") as (check, variables):
        assert variables is not None
        with pytest.raises(InputError) as error:
            check()
    assert any(line.startswith("params.yaml: seeds") for line in error.value.problems)
    assert not any(Path(socket).exists() for socket in variables.values())

    Path(".prunelab").mkdir()
    Path(".prunelab/passed_checks").touch()
    with started_check(tmp_path, tmp_path / "logs") as (_, variables):
        assert variables is None


def test_a_check_that_is_killed_without_a_word_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".prunelab").mkdir()
    Path(".prunelab/passed_checks").touch()
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))

    killed_line = "`prunelab check` was killed by SIGKILL"
    with (
        started_check(tmp_path, tmp_path / "logs") as (check, _),
        pytest.raises(InputError, match=killed_line),
    ):
        check()


def test_no_jobs_are_refused(tmp_path, monkeypatch, without_check):
    monkeypatch.chdir(project(tmp_path / "project"))

    assert CliRunner().invoke(app, ["repro", "--jobs", "0"]).exit_code == 2


def test_where_cores_cannot_be_chosen_all_are_used(tmp_path, monkeypatch, without_check):
    jobs = []

    def reproduce(root, targets, job_count, *arguments, **options):
        jobs.append(job_count)
        return ReproResult()

    monkeypatch.chdir(tmp_path)
    shutil.copyfile(PROJECT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.setattr("prunelab.core.cores.available_cores", list)
    monkeypatch.setattr("prunelab.commands.gpus.devices", list)
    monkeypatch.setattr("prunelab.commands.repro.runner.reproduce", reproduce)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)

    result = CliRunner().invoke(app, ["repro"])

    assert (result.exit_code, jobs) == (0, [6])
    assert "cores" not in result.output


def test_a_folder_without_a_pipeline_is_refused(tmp_path, monkeypatch, without_check):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(PROJECT / "params.yaml", tmp_path / "params.yaml")

    assert "has no dvc.yaml" in CliRunner().invoke(app, ["repro"]).stderr


RUN_TWO_JOBS = """
from contextlib import nullcontext

from prunelab.commands.repro import checking

checking.started_check = lambda *_: nullcontext((lambda: None, None))
from prunelab.cli import app

app(["repro", "--jobs", "2"])
"""


def commands_in(folder: Path) -> list[str]:
    """The commands of processes that work in a folder."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in str((process / "cwd").readlink()):
                commands.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in commands if command]


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_signal_that_whoever_started_the_run_ignores_does_not_stop_it(number, is_ignored):
    """As SIGHUP is ignored below nohup, and SIGINT in the background of a script."""
    before = signal.signal(number, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    try:
        with nullcontext() if is_ignored else pytest.raises(Stopped), stoppable():
            signal.raise_signal(number)
        assert (signal.getsignal(number) is signal.SIG_IGN) == is_ignored
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_leaves_no_process_and_can_continue(tmp_path, monkeypatch, number):
    wait_at_first = "test -e continue || { touch started-${key}; sleep 60; }"
    folder = project(tmp_path / "project", cell_command=wait_at_first)

    with subprocess.Popen(
        [sys.executable, "-c", RUN_TWO_JOBS],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("started-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert any("sleep 60" in command for command in commands_in(folder))
        run.send_signal(number)
        _, errors = run.communicate(timeout=30)

    if number == signal.SIGKILL:  # workers have to notice it by themselves
        while commands_in(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
    else:
        assert run.returncode == 128 + number
        assert errors.splitlines()[-1] == "stopped; run the same command again to continue"
        assert "Traceback" not in errors
    assert commands_in(folder) == []

    (folder / "continue").touch()
    monkeypatch.chdir(folder)
    result = reproduce(folder, [], 2, ignore_line)
    assert not result.failed
    assert result.unchanged == ["first"]
    after = contents(folder)
    run_serially(folder)
    assert contents(folder) == after


@pytest.mark.slow
def test_workers_at_their_busiest_do_not_block_each_other(tmp_path, monkeypatch):
    grid = {"kind": ["a", "b", "c", "d"], "size": [1, 2, 3]}
    for attempt in range(4):
        folder = project(tmp_path / str(attempt), grid=grid)
        monkeypatch.chdir(folder)

        result = reproduce(folder, [], 4, ignore_line)

        assert not result.failed
        assert len(result.made) == 3 + 2 * 12
        after = contents(folder)
        run_serially(folder)
        assert contents(folder) == after


@pytest.mark.slow
def test_the_study_has_the_same_bits_with_two_jobs(tmp_path):
    """With two threads on one core each, as on two cores."""
    serial = run_tiny_study(tmp_path / "serial", "dvc", "repro")
    parallel = run_tiny_study(
        tmp_path / "parallel", sys.executable, "-m", "prunelab", "repro", "--jobs", "2"
    )

    assert list(serial) == list(parallel)
    hold_times = ("benchmark", "report")
    for name, entry in serial.items():
        assert entry == parallel[name] or name in hold_times, name


def run_tiny_study(folder: Path, *command: str) -> dict:
    """Run the project's own pipeline on a tiny grid, and return the entries of its dvc.lock."""
    folder.mkdir()
    clone = Clone(folder)
    edit_params(
        clone.folder / "params.yaml",
        seeds=[0],
        grid={"methods": ["l1_unstructured", "random_channel"], "ratios": [0.5]},
        train__epochs=1,
        finetune__epochs=1,
        benchmark={"batch_sizes": [1], "backends": ["eager"], "rounds": 2, "seconds": 0.02},
        runtime__threads=2,
    )
    clone.environment["PYTHONPATH"] = str(clone.folder / "src")
    clone.run(*command)
    return YAML(typ="safe").load(clone.folder / "dvc.lock")["stages"]
