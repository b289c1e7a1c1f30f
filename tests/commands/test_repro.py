"""`prunelab repro`: the order of stages by properties, and small pipelines of commands against DVC's serial run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.params import PROJECT, edit_params
from helpers.repository import Clone
from ruamel.yaml import YAML
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.repro.cores import available_cores, core_shares, pin, sharing_warnings
from prunelab.commands.repro.pool import WorkerPool
from prunelab.commands.repro.runner import reproduce
from prunelab.commands.repro.scheduler import TaskGraph, chain_lengths
from prunelab.core.errors import InputError
from prunelab.project import dvc_lock
from prunelab.project.dvc_graph import load_pipeline, open_repo

# DVC's own use of another package.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def random_tasks(seed: int) -> tuple[dict[str, set[str]], set[str], int]:
    """A random graph without cycles, some of its tasks to run alone, and a number of jobs."""
    draw = random.Random(seed)
    names = [str(number) for number in range(draw.randint(1, 20))]
    density = draw.choice([0.05, 0.2, 0.5])
    needs = {
        name: {before for before in names[:place] if draw.random() < density}
        for place, name in enumerate(names)
    }
    draw.shuffle(names)
    return (
        {name: needs[name] for name in names},
        {n for n in names if draw.random() < 0.15},
        draw.randint(1, 5),
    )


def above(needs: dict[str, set[str]], name: str) -> set[str]:
    """Everything a task rests on."""
    return needs[name].union(*(above(needs, needed) for needed in needs[name]))


def longest(needs: dict[str, set[str]], name: str) -> int:
    return 1 + max((longest(needs, other) for other in needs if name in needs[other]), default=0)


@pytest.mark.parametrize("seed", range(40))
def test_tasks_start_when_they_can_and_never_before(seed):
    needs, alone, jobs = random_tasks(seed)
    draw, schedule, done, order = random.Random(seed), TaskGraph(needs, jobs, alone), set(), []
    while not schedule.finished:
        before = set(schedule.running)
        started = schedule.start_ready()
        assert schedule.running == before | set(started)
        for name in started:
            assert needs[name] <= done
        order += started
        running = schedule.running
        assert 0 < len(running) <= jobs
        assert len(running) == 1 or not running & alone
        ready = {name for name in needs if needs[name] <= done} - set(order)
        if len(running) < jobs and not running & alone:
            assert ready <= alone  # nobody waits without a reason
        for name in started:
            assert name in alone or longest(needs, name) >= max(
                (longest(needs, o) for o in ready - alone), default=0
            )
            assert name not in alone or not ready - alone
        ended = draw.choice(sorted(running))
        schedule.mark_done(ended)
        done.add(ended)
    assert sorted(order) == sorted(needs)


@pytest.mark.parametrize("seed", range(40))
def test_a_failure_skips_exactly_what_rests_on_it(seed):
    needs, alone, jobs = random_tasks(seed)
    draw, schedule, done, failed, skipped = (
        random.Random(seed),
        TaskGraph(needs, jobs, alone),
        set(),
        set(),
        [],
    )
    while not schedule.finished:
        schedule.start_ready()
        ended = draw.choice(sorted(schedule.running))
        if draw.random() < 0.2:
            failed.add(ended)
            skipped += schedule.mark_failed(ended)
        else:
            schedule.mark_done(ended)
            done.add(ended)
    assert len(skipped) == len(set(skipped))
    assert set(skipped) == {name for name in needs if above(needs, name) & failed} - failed
    assert done | failed | set(skipped) == set(needs)
    assert not done & (failed | set(skipped))


def test_the_longest_chain_begins_first():
    needs = {"lone": [], "one": [], "two": ["one"], "three": ["two"], "pair": [], "end": ["pair"]}
    assert chain_lengths(needs) == {
        name: longest({n: set(its) for n, its in needs.items()}, name) for name in needs
    }
    assert TaskGraph(needs, 2).start_ready() == ["one", "pair"]


@pytest.mark.parametrize("count", range(1, 12))
def test_cores_are_dealt_out_evenly(count):
    some = [0, 1, 4, 5, 8]
    dealt = core_shares(some, count)
    assert len(dealt) == count
    sizes = [len(its) for its in dealt]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    used = [core for its in dealt for core in its]
    assert set(used) == set(some) if count >= len(some) else sorted(used) == some
    assert core_shares([], count) == [[]] * count


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not let processes choose cores"
)
def test_a_process_and_what_is_below_it_are_pinned():
    command = "import subprocess, sys; print(subprocess.run(['sleep', '60']), flush=True)"
    with subprocess.Popen([sys.executable, "-c", command]) as process:
        try:
            children = []
            while not children:
                children = (
                    Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                )
            pin(process.pid, available_cores()[:1])
            for pid in (process.pid, *map(int, children)):
                assert os.sched_getaffinity(pid) == set(available_cores()[:1])
        finally:
            for child in children:
                os.kill(int(child), signal.SIGKILL)
            process.kill()
    pin(process.pid, available_cores())  # gone by now, which is no error


def test_what_is_too_much_is_said():
    assert list(sharing_warnings(1, 8, 2, 1)) == []
    assert list(sharing_warnings(2, 2, 4, 2)) == []
    (line,) = sharing_warnings(3, 2, 4, 0)
    assert "3 jobs x 2 threads" in line
    assert "runtime.threads: 1" in line
    (line,) = sharing_warnings(3, 1, 4, 2)
    assert "3 jobs share 2 GPUs" in line


def test_the_lock_is_taken_apart_and_put_together_as_it_was():
    text = (PROJECT / "dvc.lock").read_text()
    found = dvc_lock.split_entries(text)
    assert list(found) == list(YAML(typ="safe").load(text)["stages"])
    assert dvc_lock.join_entries(found, []) == dvc_lock.join_entries(found, list(found)) == text
    backwards = dvc_lock.split_entries(dvc_lock.join_entries(found, [*reversed(found), "of another time"]))
    assert list(backwards) == list(reversed(found))
    assert backwards == found
    for strange in (
        "",
        "<<<<<<< ours\n" + text,
        text + "datasets: []\n",
        text.replace("\n  prepare:", "\n prepare:"),
    ):
        assert dvc_lock.split_entries(strange) is None


def test_stages_are_known_by_name_and_group_and_the_clock_stands_alone():
    with open_repo(PROJECT) as repo:
        everything = load_pipeline(repo)
        some = load_pipeline(repo, ["prune@l1_channel-0.5", "evaluate_base"])
        group = load_pipeline(repo, ["prune"])
        with pytest.raises(InputError) as refused:
            load_pipeline(repo, ["evaluat_base", "prune@l1_chanel-0.5", "plot"])
    assert everything.alone == {"benchmark"}
    names = list(everything.stages)
    for name in names:
        assert all(names.index(needed) < names.index(name) for needed in everything.needs[name])
    assert everything.needs["benchmark"] >= {
        name for name in names if name.startswith(("prune@", "finetune@"))
    }
    assert set(some.stages) == {"prepare", "train_base", "prune@l1_channel-0.5", "evaluate_base"}
    assert set(group.stages) == {
        "prepare",
        "train_base",
        *(name for name in names if name.startswith("prune@")),
    }
    first, second = refused.value.problems
    assert "unknown stage 'evaluat_base' (did you mean 'evaluate_base'?); valid: prepare, " in first
    assert "unknown stage 'prune@l1_chanel-0.5' (did you mean 'prune@l1_channel-0.5'?)" in second


# Small pipelines whose stages are shell commands.

GRID = {"kind": ["a", "b"], "size": [1, 2]}


def project(folder: Path, *, grid: dict = GRID, cell: str = "true") -> Path:
    """A pipeline like our own in small: one beginning, a grid of two levels, something that must run alone, an end."""
    from dvc.repo import Repo

    folder.mkdir()
    stages = {
        "first": {"cmd": "seq 1 9 > first.txt", "params": ["seeds"], "outs": ["first.txt"]},
        "cell": {
            "matrix": grid,
            "cmd": f"{cell}; mkdir -p cells && head -n ${{item.size}} first.txt > cells/${{key}}.txt",
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
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    (folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    Repo.init(str(folder), no_scm=True).close()
    return folder


def serial(folder: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        repo.reproduce()


def contents(folder: Path) -> dict[str, bytes]:
    """All that a run makes, the lock included."""
    made = [
        folder / "dvc.lock",
        *folder.glob("*.txt"),
        *folder.glob("cells/*"),
        *folder.glob("metrics/*"),
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in made}


def both(one: Path, several: Path, monkeypatch) -> set[str]:
    """Run a pipeline by DVC and its copy by us, compare all that is there, and return the stages that we made."""
    monkeypatch.chdir(one)
    serial(one)
    monkeypatch.chdir(several)
    outcome = reproduce(several, [], 2, lambda line: None)
    assert not outcome.failed
    assert contents(one) == contents(several)
    return set(outcome.made)


def test_a_run_leaves_what_a_serial_run_leaves_to_the_byte(tmp_path, monkeypatch):
    folders = project(tmp_path / "one"), project(tmp_path / "several")
    assert len(both(*folders, monkeypatch)) == 3 + 2 * 4
    assert both(*folders, monkeypatch) == set()


@pytest.mark.slow
def test_so_it_does_after_changes_and_out_of_the_run_cache(tmp_path, monkeypatch):
    grid = {"kind": ["a", "b"], "size": [1]}
    folders = project(tmp_path / "one", grid=grid), project(tmp_path / "several", grid=grid)
    everything = both(*folders, monkeypatch)
    for folder in folders:
        edit_params(folder / "params.yaml", ratio=0.25)
        (folder / "last.txt").write_text("damaged")
    # New parameters give the same cells, so what rests on them stands.
    assert both(*folders, monkeypatch) == {"cell@a-1", "cell@b-1", "last"}
    for folder in folders:
        (folder / "dvc.lock").unlink()
    assert both(*folders, monkeypatch) == everything
    assert "Running stage" not in (folders[1] / ".prunelab/logs/last.log").read_text()


def test_a_mark_in_meta_changes_nothing_for_dvc(tmp_path, monkeypatch):
    folder = project(tmp_path / "one", grid={"kind": ["a"], "size": [1]})
    monkeypatch.chdir(folder)
    serial(folder)
    before = contents(folder)
    path = folder / "dvc.yaml"
    path.write_text(path.read_text().replace("alone: true", "alone: false"))
    assert reproduce(folder, [], 2, lambda line: None).made == []
    path.write_text(path.read_text().replace("    meta:\n      alone: false\n", ""))
    assert "meta" not in path.read_text()
    assert reproduce(folder, [], 2, lambda line: None).made == []
    assert contents(folder) == before


@pytest.mark.slow
def test_failures_are_told_and_stop_only_what_rests_on_them(tmp_path, monkeypatch):
    folder = project(tmp_path / "one", cell="key=${key}; . ./cell.sh")
    # One command fails, and one takes its DVC down with it.
    broken = "case $key in a-1) echo broken on purpose; exit 3;; b-2) kill -9 $PPID;; esac"
    (folder / "cell.sh").write_text(broken)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("prunelab.commands.repro.command._check", lambda: None)
    result = CliRunner().invoke(app, ["repro", "--jobs", "2"])
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    assert any("broken on purpose" in line for line in told)
    assert any("the process was killed" in line for line in told)
    assert "2 failed, 4 skipped" in told[-1]
    skipped = {line.split()[0] for line in told if " was skipped, because " in line}
    assert skipped == {"measure@a-1", "measure@b-2", "clock", "last"}
    assert {path.name for path in Path("metrics").iterdir()} == {"a-2.json", "b-1.json"}
    (folder / "cell.sh").write_text("true")
    result = CliRunner().invoke(app, ["repro", "--jobs", "2"])
    assert result.exit_code == 0, result.stderr
    assert "all 11 stages are up to date" in result.stdout
    mended = contents(folder)
    serial(folder)
    assert contents(folder) == mended


def test_wrong_targets_are_refused_in_a_line(tmp_path, monkeypatch):
    folder = project(tmp_path / "one")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("prunelab.commands.repro.command._check", lambda: None)
    monkeypatch.setattr(WorkerPool, "submit", lambda *_: pytest.fail("work was started"))
    result = CliRunner().invoke(app, ["repro", "meassure", "--jobs", "2"])
    assert result.exit_code == 1
    assert result.stderr == (
        "unknown stage 'meassure' (did you mean 'measure'?); valid: first, cell, measure, clock, last\n"
    )
    assert CliRunner().invoke(app, ["repro", "--jobs", "0"]).exit_code == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    assert "holds no dvc.yaml" in CliRunner().invoke(app, ["repro"]).stderr


DRIVE = """
import sys
from pathlib import Path
from prunelab.commands.repro import command
command._check = lambda: None
from prunelab.cli import app
app(["repro", "--jobs", "2"])
"""


def below(folder: Path) -> list[str]:
    """Commands that still run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in str((process / "cwd").readlink()):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in found if command]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(its, marks=pytest.mark.slow) for its in (signal.SIGTERM, signal.SIGKILL)),
    ],
)
def test_a_stopped_run_leaves_nothing_behind_and_goes_on(tmp_path, monkeypatch, number):
    folder = project(
        tmp_path / "one", cell="test -e /tmp/never || { touch started-${key}; sleep 60; }"
    )
    with subprocess.Popen(
        [sys.executable, "-c", DRIVE],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("started-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert any("sleep 60" in command for command in below(folder))
        run.send_signal(number)
        _, told = run.communicate(timeout=30)
    if number == signal.SIGKILL:  # nobody could pass it on, so workers notice by themselves
        while below(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
    else:
        assert run.returncode == 128 + number
        assert told.splitlines()[-1] == "stopped; run the same command again to continue"
        assert "Traceback" not in told
    assert below(folder) == []
    path = folder / "dvc.yaml"
    path.write_text(path.read_text().replace("sleep 60", "sleep 0"))
    monkeypatch.chdir(folder)
    outcome = reproduce(folder, [], 2, lambda line: None)
    assert not outcome.failed
    assert outcome.unchanged == ["first"]
    after = contents(folder)
    serial(folder)
    assert contents(folder) == after


@pytest.mark.slow
def test_workers_at_their_busiest_never_stand_in_each_others_way(tmp_path, monkeypatch):
    for attempt in range(4):
        folder = project(
            tmp_path / str(attempt), grid={"kind": ["a", "b", "c", "d"], "size": [1, 2, 3]}
        )
        monkeypatch.chdir(folder)
        outcome = reproduce(folder, [], 4, lambda line: None)
        assert not outcome.failed
        assert len(outcome.made) == 3 + 2 * 12
        kept = contents(folder)
        serial(folder)
        assert contents(folder) == kept


@pytest.mark.slow
def test_the_study_itself_has_the_same_bits_however_many_stages_run_at_a_time(tmp_path):
    """With two threads on one core each, as on two."""
    locks = []
    for command in (["dvc", "repro"], [sys.executable, "-m", "prunelab", "repro", "--jobs", "2"]):
        (tmp_path / command[0].replace("/", "_")).mkdir()
        clone = Clone(tmp_path / command[0].replace("/", "_"))
        edit_params(
            clone.folder / "params.yaml",
            seeds=[0],
            grid={"methods": ["l1_unstructured", "random_channel"], "ratios": [0.5]},
            train__epochs=1,
            finetune__epochs=1,
            benchmark={"batch_sizes": [1], "backends": ["eager"], "rounds": 2, "seconds": 0.02},
        )
        clone.environment["PYTHONPATH"] = str(clone.folder / "src")
        clone.run(*command)
        locks.append(YAML(typ="safe").load(clone.folder / "dvc.lock")["stages"])
    one, several = locks
    assert list(one) == list(several)
    for name, entry in one.items():
        assert entry == several[name] or name in ("benchmark", "report"), name  # these hold times
