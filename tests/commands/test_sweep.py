"""Sweeps: their grammar against DVC's own, what is refused, and a real Ray of several nodes that loses one of them."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from helpers.params import edit_params
from helpers.repository import Clone
from helpers.studies import PIPELINE, SHIPPED
from helpers.studies import StudyRepository as Repository
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.gpus import devices, worker_environments
from prunelab.commands.studies.jobs import Job, one_of_each_dense
from prunelab.commands.studies.local import Run, handed_out
from prunelab.commands.sweep.axes import NAME, params_name, read_axes, resolve_sweep
from prunelab.commands.sweep.ray import node, node_job
from prunelab.commands.sweep.ray.driver import connected
from prunelab.commands.sweep.ray.remotes import check_remotes, fetch_experiments
from prunelab.config.params import read_params
from prunelab.core.errors import InputError
from prunelab.project.experiments import experiment_name
from prunelab.project.git import git


def settings_of(*assignments: str) -> dict[str, dict]:
    return resolve_sweep(read_axes(assignments), SHIPPED, PIPELINE)


@pytest.mark.parametrize(
    "assignments",
    [
        ["ratio=0.20,0.5", "model=resnet20,resnet56", "seeds=[0,1],[2]"],
        [
            "train.freeze=['a,b',c],[]",
            "data.flip=true",
            "weights='a,b.th',\"c d\",none",
            "data.resize=null,32",
        ],
        [
            "train.learning_rate=1e-3",
            "finetune.epochs=range(1,4)",
            "method=choice(l1_channel,l2_channel)",
        ],
    ],
)
def test_values_mean_what_they_mean_to_dvc(assignments, tmp_path):
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

    expected = []
    for combination in get_hydra_sweeps({"params.yaml": assignments}):
        path = tmp_path / "params.yaml"
        path.write_text(SHIPPED.read_text())
        apply_overrides(path, combination["params.yaml"])
        expected.append(read_params(path))
    assert list(settings_of(*assignments).values()) == expected


def test_all_problems_of_a_sweep_are_told_at_once():
    with pytest.raises(InputError) as refused:
        read_axes(
            ["ratio", "+a=3", "~seeds", "ratio=interval(0,1)", "model=a,a", "method=x", "method=y"]
        )
    assert len(refused.value.problems) == 6
    with pytest.raises(InputError) as refused:
        settings_of("ratoi=0.5", "train.epoch=3", "grid.ratios=[0.5]", "benchmark.rounds=2,3")
    unknown, inner, *unread = refused.value.problems
    assert "did you mean 'ratio'?" in unknown
    assert "did you mean 'train.epochs'?); known here: epochs, batch_size" in inner
    assert all("the focus does not read it" in line for line in unread)
    assert len(unread) == 2
    with pytest.raises(InputError, match=r"ratio=1.5: ratio: must be less than 1, not 1.5"):
        settings_of("ratio=0.5,1.5")


def test_an_experiment_is_called_the_same_whatever_else_was_swept():
    def names(*assignments: str) -> list[str]:
        return [
            experiment_name(NAME, params_name(params), PIPELINE.used(params), {})
            for params in settings_of(*assignments).values()
        ]

    wide = names("ratio=0.5,0.8", "train.epochs=3,4", "model=resnet8,resnet20")
    assert len(set(wide)) == 8
    assert set(names("ratio=0.8", "model=resnet20,resnet8", "train.epochs=4")) < set(wide)
    assert all(re.fullmatch(r"sweep-resnet\d+-l1_channel-0\.\d-[0-9a-f]{8}", name) for name in wide)


def test_one_setting_of_every_dense_network_goes_first():
    jobs = [Job(label, label, {}, {}, dense) for label, dense in zip("abcde", "xyxzy", strict=True)]
    assert {dense: job.label for dense, job in one_of_each_dense(jobs).items()} == {
        "x": "a",
        "y": "b",
        "z": "d",
    }


LISTED = {
    "": [],
    "GPU 0: NVIDIA A100 (UUID: GPU-aa)\nGPU 1: NVIDIA A100 (UUID: GPU-bb)\n": ["GPU-aa", "GPU-bb"],
    "GPU 0: A (UUID: GPU-aa)\n  MIG 1g Device 0: (UUID: MIG-1)\n  MIG 1g Device 1: (UUID: MIG-2)\n"
    "GPU 1: A (UUID: GPU-bb)\n": ["MIG-1", "MIG-2", "GPU-bb"],
}


@pytest.mark.parametrize("listed", LISTED)
def test_gpus_are_those_that_the_driver_lists(listed, tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s' '{listed}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices() == LISTED[listed]
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert devices() == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("3,1", ["3", "1"]),
        ("", []),
        ("-1", []),
        ("0,-1,2", ["0"]),
        ("GPU-a, MIG-b", ["GPU-a", "MIG-b"]),
    ],
)
def test_gpus_are_those_that_the_environment_allows(visible, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices() == expected
    assert worker_environments(1) == [
        {}
    ]  # a single worker sees what there is, and nobody else wants its cores
    assert all(share["OMP_WAIT_POLICY"] == "PASSIVE" for share in worker_environments(2))
    got = [share.get("CUDA_VISIBLE_DEVICES") for share in worker_environments(5)]
    assert len(got) == 5
    assert set(got) == set(expected or [None])
    assert max(map(got.count, got)) - min(map(got.count, got)) <= 1


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Repository:
    """A project whose commit lies on a bare remote and names a DVC remote."""
    (tmp_path / "project").mkdir()
    made = Repository(tmp_path / "project")
    (made.folder / ".dvc").mkdir()
    (made.folder / ".dvc/config").write_text(
        "[core]\n    remote = storage\n['remote \"storage\"']\n    url = /x\n"
    )
    for file in Path(node_job.__file__).parent.glob("*.py"):
        (made.folder / "src/prunelab/commands/sweep/ray").mkdir(parents=True, exist_ok=True)
        (made.folder / "src/prunelab/commands/sweep/ray" / file.name).write_bytes(file.read_bytes())
    made.commit("Remotes and machinery")
    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    git(made.folder, "remote", "add", "origin", str(tmp_path / "remote.git"))
    git(made.folder, "push", "--quiet", "origin", "HEAD:main")
    monkeypatch.chdir(made.folder)
    return made


def head(repository: Repository) -> str:
    return git(repository.folder, "rev-parse", "HEAD").strip()


def test_what_machines_share_must_be_there(repository, tmp_path):
    folder = repository.folder
    assert check_remotes(folder, "origin", head(repository)) == str(tmp_path / "remote.git")
    with pytest.raises(InputError, match="no Git remote 'upstream' here.*valid: origin"):
        check_remotes(folder, "upstream", head(repository))
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    with (folder / "src/prunelab/commands/sweep/ray/node.py").open("a") as file:
        file.write("# another line\n")
    repository.commit("Worse")
    with pytest.raises(InputError) as refused:
        check_remotes(folder, "origin", head(repository))
    pushed, stored, other = refused.value.problems
    assert "is on no branch of origin" in pushed
    assert "names no default DVC remote" in stored
    assert other.startswith("src/prunelab/commands/sweep/ray/node.py: not as in commit")


def test_only_the_experiments_of_a_sweep_are_fetched(repository, tmp_path):
    other, base = tmp_path / "other", head(repository)
    git(tmp_path, "clone", "--quiet", str(tmp_path / "remote.git"), "other", "--branch", "main")
    names = ["sweep-a-00000000", "sweep-b-11111111", "somebody-elses"]
    for name in names:
        reference = node_job.reference_of(base, name)
        git(other, "push", "--quiet", "origin", f"{base}:{reference}")
    fetch_experiments(repository.folder, str(tmp_path / "remote.git"), names[:2])
    fetch_experiments(repository.folder, str(tmp_path / "remote.git"), names[:2])  # nothing new
    here = git(
        repository.folder, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps"
    ).split()
    assert sorted(here) == names[:2]


def test_a_node_clones_once_and_says_what_it_lacks(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNELAB_SCRATCH", str(tmp_path / "scratch"))
    packages = node.versions(["torch", "dvc"])
    assert set(packages) == {"python", "torch", "dvc"}
    order = {
        "url": str(tmp_path / "remote.git"), "revision": head(repository), "versions": packages,
        "identity": {"user.name": "Somebody Else"},
    }  # fmt: skip
    assert node.prepare(order) == []
    clone = node.home(order)
    assert git(clone, "rev-parse", "HEAD").strip() == head(repository)
    assert git(clone, "config", "user.name").strip() == "Somebody Else"
    (clone / "mark").touch()
    assert node.prepare(order) == []
    assert (clone / "mark").exists()
    wrong = node.prepare({**order, "versions": {"torch": "0.1", "no-such-package": "1"}})
    assert len(wrong) == 2
    assert any("torch is" in line and "0.1 where the sweep was started" in line for line in wrong)
    (line,) = node.prepare({**order, "url": str(tmp_path / "nowhere.git")})
    assert "nowhere.git cannot be cloned" in line
    (line,) = node.prepare({**order, "revision": "0" * 40})
    assert "cannot be cloned" in line
    assert not node.home({**order, "revision": "0" * 40}).exists()


def sweep_command(*arguments: str):
    return CliRunner().invoke(app, ["sweep", *arguments])


def test_everything_wrong_is_refused_before_any_work(repository, monkeypatch):
    monkeypatch.setattr(
        "prunelab.commands.studies.local.Run.job", lambda *_: pytest.fail("work was started")
    )
    result = sweep_command(
        "-S", "ratio=0.5,0.8", "-S", "model=resnet8,resnet9", "-S", "dataset=digts"
    )
    assert result.exit_code == 1
    assert "unknown model 'resnet9' (did you mean 'resnet8'?" in result.stderr
    assert "all settings: dataset: unknown dataset 'digts' (did you mean 'digits'?" in result.stderr
    result = sweep_command("-S", "ratio=0.5", "--jobs", "2", "--address", "auto")
    assert "--jobs is for this machine" in result.stderr
    raw = Path("data/raw/own.th")
    raw.parent.mkdir(parents=True)
    raw.write_text("weights")
    result = sweep_command("-S", f"weights={raw}", "--address", "auto")
    assert f"weights: {raw} is not in Git" in result.stderr
    monkeypatch.setitem(sys.modules, "ray", None)
    result = sweep_command("-S", "ratio=0.5", "--address", "auto")
    assert result.exit_code == 1
    assert "pip install prunelab[ray]" in result.stderr


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_waits_for_a_ray_that_is_not_there(scheme, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", object())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(InputError, match=f"--address {address}: .*refused.*valid: auto, local"),
            connected(address),
        ):
            pytest.fail("connected to nothing")


def test_jobs_at_a_time_get_a_gpu_each(repository, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    together = threading.Barrier(2, timeout=60)
    seen = []

    def work(job, clone, dvc):
        together.wait()
        seen.append(dvc.keywords["variables"]["CUDA_VISIBLE_DEVICES"])
        return "done"

    params = read_params(SHIPPED)
    run = Run(
        repository.folder,
        head(repository),
        repository.folder / "cache",
        2,
        print,
        work,
        free=handed_out(2),
    )
    jobs = [Job(name, name, params, {}, "x") for name in "ab"]
    threads = [threading.Thread(target=run.job, args=(job, "")) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.failures == {}
    assert sorted(seen) == ["5", "7"]


# A real Ray: a head and two nodes, each with a scratch folder of its own, that share the two remotes. Minutes.


class SweepClone(Clone):
    def __init__(self, base: Path):
        (base / "project").mkdir()
        super().__init__(base / "project")
        self.base = base
        self.environment |= {"PYTHONPATH": str(self.folder / "src"), "RAY_USAGE_STATS_ENABLED": "0"}
        edit_params(
            self.folder / "params.yaml",
            seeds=[0],
            train__epochs=1,
            finetune__epochs=1,
            runtime__threads=1,
        )
        self.run("dvc", "remote", "add", "--default", "storage", str(base / "storage"))
        self.commit("Tiny")
        self.run("git", "init", "-q", "--bare", str(base / "remote.git"))
        self.run("git", "remote", "add", "origin", str(base / "remote.git"))
        self.run("git", "push", "-q", "origin", "HEAD:main")

    def sweep(self, address: str) -> subprocess.Popen[str]:
        command = ["-m", "prunelab", "sweep", "-S", "ratio=0.5,0.6,0.7,0.8", "--address", address]
        return subprocess.Popen(
            [sys.executable, *command], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def shared(self) -> dict[str, str]:
        """Experiments on the Git remote: commits by name."""
        listed = git(
            self.base / "remote.git",
            "for-each-ref",
            "--format=%(refname:lstrip=4) %(objectname)",
            "refs/exps",
        )
        return dict(line.split() for line in listed.splitlines())

    def settings(self, where: str) -> list[Path]:
        """Logs of the settings that a node has begun."""
        return list(self.base.glob(f"node_{where}/*/*/.prunelab/studies/logs/sweep-*.log"))

    def wait_until(
        self, condition, what: str, process: subprocess.Popen, seconds: float = 900
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, what
            time.sleep(0.2)

    def working(self, where: str) -> list[str]:
        """Processes that work in a node's folder."""
        told = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.base / f"node_{where}") in str((process / "cwd").readlink()):
                    told.append((process / "cmdline").read_text())
            except OSError:
                continue
        return told


def patiently(start):
    """Ray gives a node half a minute to start, which on a busy machine may be too little."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            told = error
    raise told


@pytest.fixture
def ray_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": False, **memory}
    cluster = patiently(partial(Cluster, initialize_head=True, head_node_args=head))
    nodes = {}
    for name in "ab":
        scratch = {"PRUNELAB_SCRATCH": str(tmp_path / f"node_{name}")}
        nodes[name] = patiently(partial(cluster.add_node, num_cpus=1, env_vars=scratch, **memory))
    yield cluster, nodes
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_sweep_survives_the_loss_of_a_node_and_of_its_driver(tmp_path, ray_cluster):
    cluster, nodes = ray_cluster
    clone = SweepClone(tmp_path)

    # A node is lost in the middle of a setting: nothing of it lives on, and the sweep does.
    driver = clone.sweep(cluster.address)
    clone.wait_until(lambda: clone.settings("b"), "no setting came to node b", driver)
    cluster.remove_node(nodes["b"], allow_graceful=False)
    clone.wait_until(
        lambda: not clone.working("b"), "a killed node's work goes on", driver, seconds=30
    )
    clone.wait_until(clone.shared, "no experiment arrived", driver)

    # So is the driver.
    driver.send_signal(signal.SIGKILL)
    first = driver.communicate()[0]
    deadline = time.monotonic() + 60
    while clone.working("a") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert clone.working("a") == []
    before = clone.shared()
    assert 1 <= len(before) < 4

    # Typed again, it does the rest and no more.
    again = clone.sweep(cluster.address)
    output = again.communicate()[0]
    assert again.returncode == 0, output
    assert output.count("measured already") == len(before)
    assert output.count("measured on") == 4 - len(before)
    after = clone.shared()
    assert len(after) == 4
    assert before.items() <= after.items()
    assert (first + output).count(": train_base") == 1, first + output
    for name in before:
        assert f"ratio={name.split('-')[3]}: started" not in output
    for name in after:
        assert re.search(rf"^{re.escape(name)} ", output, re.MULTILINE), (
            output
        )  # its row of the table
    assert clone.run("git", "status", "--porcelain").stdout == ""

    # All of it is on the remotes: a stranger gets an experiment's network from there.
    name, commit = next(iter(after.items()))
    git(tmp_path, "clone", "--quiet", "--branch", "main", str(tmp_path / "remote.git"), "stranger")
    git(
        tmp_path / "stranger",
        "fetch",
        "--quiet",
        "origin",
        node_job.reference_of(clone.run("git", "rev-parse", "HEAD").stdout.strip(), name),
    )
    git(tmp_path / "stranger", "checkout", "--quiet", commit)
    pull = partial(
        subprocess.run,
        cwd=tmp_path / "stranger",
        env=clone.environment,
        check=True,
        capture_output=True,
    )
    pull(["dvc", "pull", "models/focus/finetuned", "models/base/final"])
    assert list((tmp_path / "stranger/models/focus/finetuned").iterdir())
