"""Sweeps: their grammar against DVC's own, refusals, and a real Ray that loses nodes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from configobj import ConfigObj
from helpers.layouts import in_a_subfolder
from helpers.params import edit_params
from helpers.repository import Clone
from helpers.studies import PIPELINE, SHIPPED
from helpers.studies import StudyRepository as Repository
from safetensors.torch import save_file
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.gpus import devices, worker_environments
from prunelab.commands.studies.jobs import Job, first_job_per_dense
from prunelab.commands.studies.local import LocalRun, gpu_queue
from prunelab.commands.sweep.axes import NAME, params_name, read_axes, resolve_sweep
from prunelab.commands.sweep.ray import node, node_job
from prunelab.commands.sweep.ray.driver import connected
from prunelab.commands.sweep.ray.driver import sweep_spec as describe_sweep
from prunelab.commands.sweep.ray.remotes import FOLDER_IN_GIT, check_remotes, fetch_experiments
from prunelab.commands.sweep.sweep import run_sweep
from prunelab.config.params import read_params
from prunelab.core.errors import InputError
from prunelab.models.networks import build
from prunelab.project.experiments import experiment_name, experiments
from prunelab.project.git import git, top_folder

# --- assignments and settings ---


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
def test_assignments_mean_what_they_mean_to_dvc(assignments, tmp_path):
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

    expected = []
    for combination in get_hydra_sweeps({"params.yaml": assignments}):
        path = tmp_path / "params.yaml"
        path.write_text(SHIPPED.read_text())
        apply_overrides(path, combination["params.yaml"])
        expected.append(read_params(path))

    assert list(settings_of(*assignments).values()) == expected


def test_all_malformed_assignments_are_reported_at_once():
    wrong = ["ratio", "+a=3", "~seeds", "ratio=interval(0,1)", "model=a,a", "method=x", "method=y"]

    with pytest.raises(InputError) as error:
        read_axes(wrong)

    assert len(error.value.problems) == 6


def test_unknown_and_unread_keys_are_reported_at_once():
    with pytest.raises(InputError) as error:
        settings_of("ratoi=0.5", "train.epoch=3", "grid.ratios=[0.5]", "benchmark.rounds=2,3")

    unknown, unknown_in_section, *unread = error.value.problems
    assert "did you mean 'ratio'?" in unknown
    assert "did you mean 'train.epochs'?); valid: epochs, batch_size" in unknown_in_section
    assert all("the focus does not read it" in line for line in unread)
    assert len(unread) == 2


def test_values_out_of_range_are_reported_with_their_setting():
    with pytest.raises(InputError, match=r"ratio=1.5: ratio: must be less than 1, not 1.5"):
        settings_of("ratio=0.5,1.5")


def test_texts_that_differ_in_a_space_are_two_settings():
    settings = settings_of("weights='my net.th',mynet.th")

    assert [params["weights"] for params in settings.values()] == ["my net.th", "mynet.th"]


def test_experiment_names_do_not_depend_on_the_rest_of_the_sweep():
    def names(*assignments: str) -> list[str]:
        return [
            experiment_name(NAME, params_name(params), PIPELINE.select(params), {})
            for params in settings_of(*assignments).values()
        ]

    wide = names("ratio=0.5,0.8", "train.epochs=3,4", "model=resnet8,resnet20")

    assert len(set(wide)) == 8
    assert set(names("ratio=0.8", "model=resnet20,resnet8", "train.epochs=4")) < set(wide)
    assert all(re.fullmatch(r"sweep-resnet\d+-l1_channel-0\.\d-[0-9a-f]{8}", name) for name in wide)


def test_the_first_job_of_every_dense_network_is_found():
    jobs = [Job(label, label, {}, {}, dense) for label, dense in zip("abcde", "xyxzy", strict=True)]

    first = {dense_key: job.label for dense_key, job in first_job_per_dense(jobs).items()}

    assert first == {"x": "a", "y": "b", "z": "d"}


# --- GPUs ---

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


VISIBLE_GPUS = [
    ("3,1", ["3", "1"]),
    ("", []),
    ("-1", []),
    ("0,-1,2", ["0"]),
    ("GPU-a, MIG-b", ["GPU-a", "MIG-b"]),
]


@pytest.mark.parametrize(("visible", "expected"), VISIBLE_GPUS)
def test_gpus_are_those_that_the_environment_allows(visible, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert devices() == expected


@pytest.mark.parametrize(("visible", "expected"), VISIBLE_GPUS)
def test_workers_share_the_allowed_gpus_evenly(visible, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    gpus = [variables.get("CUDA_VISIBLE_DEVICES") for variables in worker_environments(5)]

    assert len(gpus) == 5
    assert set(gpus) == set(expected or [None])
    assert max(map(gpus.count, gpus)) - min(map(gpus.count, gpus)) <= 1


def test_a_worker_alone_has_all_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    assert worker_environments(1) == [{}]


# --- what machines share ---


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Repository:
    """A project whose commit is on a bare Git remote and names a DVC remote."""
    (tmp_path / "project").mkdir()
    repository = Repository(tmp_path / "project")
    (repository.folder / ".dvc").mkdir()
    (repository.folder / ".dvc/config").write_text(
        "[core]\n    remote = storage\n['remote \"storage\"']\n    url = /x\n"
    )
    ray_folder = repository.folder / FOLDER_IN_GIT
    ray_folder.mkdir(parents=True, exist_ok=True)
    for file in Path(node_job.__file__).parent.glob("*.py"):
        (ray_folder / file.name).write_bytes(file.read_bytes())
    repository.commit("Remotes and the code of this package")

    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    git(repository.folder, "remote", "add", "origin", str(tmp_path / "remote.git"))
    git(repository.folder, "push", "--quiet", "origin", "HEAD:main")
    monkeypatch.chdir(repository.folder)
    return repository


def test_a_complete_remote_is_accepted_by_its_address(repository, tmp_path):
    url = check_remotes(repository.folder, "origin", repository.head())

    assert url == str(tmp_path / "remote.git")


def test_an_unknown_remote_is_refused_with_the_known_ones(repository):
    with pytest.raises(InputError, match="no Git remote 'upstream' here.*valid: origin"):
        check_remotes(repository.folder, "upstream", repository.head())


def test_all_problems_of_a_remote_are_reported_at_once(repository):
    folder = repository.folder
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    with (folder / "src/prunelab/commands/sweep/ray/node.py").open("a") as file:
        file.write("# another line\n")
    repository.commit("Worse")

    with pytest.raises(InputError) as error:
        check_remotes(folder, "origin", repository.head())

    not_pushed, no_storage, other_code = error.value.problems
    assert "is on no branch of origin" in not_pushed
    assert "names no default DVC remote" in no_storage
    assert other_code.startswith("src/prunelab/commands/sweep/ray/node.py: not as in commit")


def test_only_the_experiments_of_a_sweep_are_fetched(repository, tmp_path):
    url = str(tmp_path / "remote.git")
    git(tmp_path, "clone", "--quiet", url, "other", "--branch", "main")
    names = ["sweep-a-00000000", "sweep-b-11111111", "somebody-elses"]
    base = repository.head()
    for name in names:
        reference = node_job.experiment_reference(base, name)
        git(tmp_path / "other", "push", "--quiet", "origin", f"{base}:{reference}")

    fetch_experiments(repository.folder, url, names[:2])
    fetch_experiments(repository.folder, url, names[:2])  # nothing is new

    listed = git(repository.folder, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps")
    assert sorted(listed.split()) == names[:2]


# --- nodes ---


@pytest.fixture
def sweep_spec(repository, tmp_path, monkeypatch) -> dict:
    """What a node must know about a sweep of the repository's commit."""
    monkeypatch.setenv("PRUNELAB_SCRATCH", str(tmp_path / "scratch"))
    return {
        "url": str(tmp_path / "remote.git"),
        "prefix": ".",
        "revision": repository.head(),
        "versions": node.versions(["torch", "dvc"]),
        "identity": {"user.name": "Somebody Else"},
    }


def test_versions_are_those_of_python_and_the_packages():
    assert set(node.versions(["torch", "dvc", "no-such-package"])) == {"python", "torch", "dvc"}


def test_a_node_clones_the_commit_once(sweep_spec):
    assert node.prepare(sweep_spec) == []

    clone = node.clone_folder(sweep_spec)
    assert git(clone, "rev-parse", "HEAD").strip() == sweep_spec["revision"]
    assert git(clone, "config", "user.name").strip() == "Somebody Else"

    (clone / "mark").touch()
    assert node.prepare(sweep_spec) == []
    assert (clone / "mark").exists()


def test_a_node_finds_a_project_below_the_top_of_its_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNELAB_SCRATCH", str(tmp_path / "scratch"))
    root = in_a_subfolder(tmp_path)
    revision = git(root, "rev-parse", "HEAD").strip()
    spec = describe_sweep(root, str(top_folder(root)), revision, "a sweep")

    assert node.prepare(spec) == []

    project = node.clone_folder(spec) / spec["prefix"]
    assert (project / "params.yaml").read_text() == (root / "params.yaml").read_text()
    assert str(node.cache_folder(spec)) in (project / ".dvc/config.local").read_text()


@pytest.mark.parametrize("name", ["a #1", "with, comma", "ordinary"])
def test_a_node_s_dvc_keeps_its_cache_in_the_scratch_folder(
    sweep_spec, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("PRUNELAB_SCRATCH", str(tmp_path / name))

    assert node.prepare(sweep_spec) == []

    local = node.clone_folder(sweep_spec) / ".dvc/config.local"
    config = ConfigObj(str(local), encoding="utf-8")
    assert config["cache"]["dir"] == str(node.cache_folder(sweep_spec))


def test_a_node_reports_other_versions(sweep_spec):
    other_versions = {"torch": "0.1", "no-such-package": "1"}

    problems = node.prepare({**sweep_spec, "versions": other_versions})

    assert len(problems) == 2
    assert "torch is" in problems[0]
    assert "but 0.1 where the sweep was started" in problems[0]
    assert "no-such-package is not installed" in problems[1]


def test_a_node_reports_what_cannot_be_cloned(sweep_spec, tmp_path):
    wrong_url = {**sweep_spec, "url": str(tmp_path / "nowhere.git")}
    wrong_revision = {**sweep_spec, "revision": "0" * 40}

    (problem,) = node.prepare(wrong_url)
    assert "nowhere.git cannot be cloned" in problem

    (problem,) = node.prepare(wrong_revision)
    assert "cannot be cloned" in problem
    assert not node.clone_folder(wrong_revision).exists()


# --- the command ---


def sweep_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sweep", *arguments])


@pytest.fixture
def no_work(monkeypatch) -> None:
    """Fail the test if a job is started."""
    monkeypatch.setattr(
        "prunelab.commands.studies.local.LocalRun.run_job",
        lambda *_: pytest.fail("work was started"),
    )


@pytest.mark.usefixtures("repository", "no_work")
def test_unknown_names_are_refused_before_any_work():
    result = sweep_command(
        "-S", "ratio=0.5,0.8", "-S", "model=resnet8,resnet9", "-S", "dataset=digts"
    )

    assert result.exit_code == 1
    assert "unknown model 'resnet9' (did you mean 'resnet8', " in result.stderr
    assert "all settings: dataset: unknown dataset 'digts' (did you mean 'digits'?" in result.stderr


@pytest.mark.usefixtures("repository", "no_work")
def test_jobs_at_a_time_are_refused_on_a_cluster():
    result = sweep_command("-S", "ratio=0.5", "--jobs", "2", "--address", "auto")

    assert result.exit_code == 1
    assert "--jobs is for this machine" in result.stderr


@pytest.mark.usefixtures("repository", "no_work")
def test_weights_that_a_stage_would_delete_are_refused_before_any_work():
    weights = Path("models/base/final/0.safetensors")
    weights.parent.mkdir(parents=True)
    save_file(build("resnet8", 10, (1, 8, 8)).state_dict(), weights)

    result = sweep_command("-S", f"weights=none,{weights}")

    assert result.exit_code == 1
    problem = f"weights={weights}: weights: {weights} is in models/base/final, an output"
    assert problem in result.stderr
    assert weights.exists()


@pytest.mark.usefixtures("repository", "no_work")
def test_files_that_nodes_would_not_have_are_refused():
    weights = Path("data/raw/own.th")
    weights.parent.mkdir(parents=True)
    weights.write_text("weights")

    result = sweep_command("-S", f"weights={weights}", "--address", "auto")

    assert f"weights: {weights} is not in Git" in result.stderr


@pytest.mark.usefixtures("repository", "no_work")
def test_a_missing_ray_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    result = sweep_command("-S", "ratio=0.5", "--address", "auto")

    assert result.exit_code == 1
    assert "pip install ray" in result.stderr


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_a_ray_is_refused_at_once(scheme, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", object())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"

        with (
            pytest.raises(InputError, match=f"--address {address}: .*refused.*valid: auto, local"),
            connected(address),
        ):
            pytest.fail("connected to nothing")


@pytest.mark.parametrize("message", ["The current node timed out during startup.\nMore.", ""])
def test_a_cluster_that_does_not_start_here_is_refused_in_one_line(message, monkeypatch):
    def init(**settings: object) -> None:
        raise Exception(message)

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))

    with pytest.raises(InputError) as refusal, connected("local"):
        pytest.fail("connected to nothing")

    (line,) = refusal.value.problems
    assert line.startswith("--address local: ")
    assert "More" not in line


def local_run(repository: Repository, work: Callable, slots: int = 1, **options) -> LocalRun:
    """Jobs of the repository's commit, each of which does `work`."""
    return LocalRun(
        root=repository.folder,
        revision=repository.head(),
        cache=repository.folder / "cache",
        slots=slots,
        print_line=print,
        work=work,
        **options,
    )


def test_jobs_that_run_at_a_time_get_different_gpus(repository, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    both_started = threading.Barrier(2, timeout=60)
    gpus = []

    def work(job, clone, dvc):
        both_started.wait()
        gpus.append(dvc.keywords["variables"]["CUDA_VISIBLE_DEVICES"])
        return "done"

    gpus_of_jobs = gpu_queue(worker_environments(2))
    run = local_run(repository, work, slots=2, gpu_environments=gpus_of_jobs)
    params = read_params(SHIPPED)
    jobs = [Job(name, name, params, {}, "x") for name in "ab"]

    threads = [threading.Thread(target=run.run_job, args=(job, "")) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert run.failures == {}
    assert sorted(gpus) == ["5", "7"]


def test_a_job_that_is_stopped_between_two_commands_of_dvc_begins_no_other(repository):
    commands = []

    def work(job, clone, dvc):
        run.stop()
        dvc("repro", "--help")
        commands.append("repro")
        return "done"

    run = local_run(repository, work)
    run.run_job(Job("label", "name", read_params(SHIPPED), {}, "x"), "1/1")

    assert commands == []
    assert run.failures == {}


def test_a_setting_that_fails_is_not_shown_as_earlier_code_measured_it(repository, monkeypatch):
    params = read_params(SHIPPED)
    repository.experiment("any", params, accuracy=0.8)
    name = experiment_name(NAME, params_name(params), PIPELINE.select(params), {})
    (measured,) = experiments(repository.folder)
    reference = node_job.experiment_reference(measured.baseline, name)
    git(repository.folder, "update-ref", reference, measured.commit)
    monkeypatch.setattr(
        "prunelab.commands.sweep.sweep.run_jobs", lambda *_, **__: {"its label": "the end of a log"}
    )
    assignments = [f"ratio={params['ratio']}"]

    assert name in run_sweep(repository.folder, assignments, 1, None, print).table
    repository.commit_code()
    assert run_sweep(repository.folder, assignments, 1, None, print).table is None


# --- a real Ray, minutes: a head and two nodes with their own scratch folders ---


class SweepClone(Clone):
    """A clone with a Git remote and a DVC remote, `remote.git` and `storage` beside it."""

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
        """Start a sweep of four settings."""
        command = ["-m", "prunelab", "sweep", "-S", "ratio=0.5,0.6,0.7,0.8", "--address", address]
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def shared(self) -> dict[str, str]:
        """Experiments on the Git remote: commits by name."""
        remote = self.base / "remote.git"
        row = "--format=%(refname:lstrip=4) %(objectname)"
        listed = git(remote, "for-each-ref", row, "refs/exps")
        return dict(line.split() for line in listed.splitlines())

    def started_settings(self, node_name: str) -> list[Path]:
        """Logs of the settings that a node has started."""
        pattern = f"node_{node_name}/*/*/.prunelab/studies/logs/sweep-*.log"
        return list(self.base.glob(pattern))

    def wait_until(
        self,
        condition: Callable[[], object],
        failure: str,
        process: subprocess.Popen,
        seconds: float = 900,
    ) -> None:
        """Wait for a condition while the process runs; `failure` says that it did not hold."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, failure
            time.sleep(0.2)

    def running_commands(self, node_name: str) -> list[str]:
        """Commands of the processes that work in a node's folder."""
        commands = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.base / f"node_{node_name}") in str((process / "cwd").readlink()):
                    commands.append((process / "cmdline").read_text())
            except OSError:
                continue
        return commands


def retry(start: Callable[[], object]) -> object:
    """Ray gives a node half a minute to start, which may be too little on a busy machine."""
    for _ in range(2):
        try:
            return start()
        except Exception:
            continue
    return start()


@pytest.fixture
def ray_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": False, **memory}
    cluster = retry(partial(Cluster, initialize_head=True, head_node_args=head))
    nodes = {}
    for name in "ab":
        scratch = {"PRUNELAB_SCRATCH": str(tmp_path / f"node_{name}")}
        nodes[name] = retry(partial(cluster.add_node, num_cpus=1, env_vars=scratch, **memory))
    yield cluster, nodes
    cluster.shutdown()


def lose_a_node_then_the_driver(clone: SweepClone, cluster, nodes: dict) -> str:
    """Start a sweep, kill a node in the middle of a setting, then the driver; return the output."""
    driver = clone.sweep(cluster.address)
    clone.wait_until(lambda: clone.started_settings("b"), "no setting came to node b", driver)
    cluster.remove_node(nodes["b"], allow_graceful=False)
    clone.wait_until(
        lambda: not clone.running_commands("b"),
        "the work of a killed node goes on",
        driver,
        seconds=30,
    )
    clone.wait_until(clone.shared, "no experiment arrived", driver)

    driver.send_signal(signal.SIGKILL)
    output = driver.communicate()[0]
    deadline = time.monotonic() + 60
    while clone.running_commands("a") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert clone.running_commands("a") == []
    return output


def assert_rest_is_done(clone: SweepClone, address: str, first_output: str) -> None:
    """Repeat the sweep: it does the settings without an experiment, and only those."""
    before = clone.shared()
    assert 1 <= len(before) < 4

    again = clone.sweep(address)
    output = again.communicate()[0]

    assert again.returncode == 0, output
    assert output.count("measured already") == len(before)
    assert output.count("measured on") == 4 - len(before)
    after = clone.shared()
    assert len(after) == 4
    assert before.items() <= after.items()
    assert (first_output + output).count(": train_base") == 1, first_output + output
    for name in before:
        assert f"ratio={name.split('-')[3]}: started" not in output
    for name in after:
        table_row = rf"^{re.escape(name)} "
        assert re.search(table_row, output, re.MULTILINE), output
    assert clone.run("git", "status", "--porcelain").stdout == ""


def assert_strangers_get_an_experiment(clone: SweepClone, folder: Path) -> None:
    """A new clone of the Git remote gets an experiment and its networks from the remotes."""
    name, commit = next(iter(clone.shared().items()))
    revision = clone.run("git", "rev-parse", "HEAD").stdout.strip()
    remote = clone.base / "remote.git"
    git(folder.parent, "clone", "--quiet", "--branch", "main", str(remote), str(folder))
    git(folder, "fetch", "--quiet", "origin", node_job.experiment_reference(revision, name))
    git(folder, "checkout", "--quiet", commit)

    subprocess.run(
        ["dvc", "pull", "models/focus/finetuned", "models/base/final"],
        cwd=folder,
        env=clone.environment,
        check=True,
        capture_output=True,
    )

    assert list((folder / "models/focus/finetuned").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_sweep_survives_the_loss_of_a_node_and_of_its_driver(tmp_path, ray_cluster):
    cluster, nodes = ray_cluster
    clone = SweepClone(tmp_path)

    first_output = lose_a_node_then_the_driver(clone, cluster, nodes)

    assert_rest_is_done(clone, cluster.address, first_output)
    assert_strangers_get_an_experiment(clone, tmp_path / "stranger")
