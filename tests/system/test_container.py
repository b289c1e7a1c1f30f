"""The image built for real and the pipeline run inside: as root, with apt, 30 GB of disk and a
quarter of an hour.

PRUNELAB_ENGINE names a folder of tools/engine.sh to use and to keep; else the image is built anew,
and removed.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.params import PROJECT
from helpers.repository import Clone, outputs, stages_run, tiny_clone

USER = 54321  # of no account, inside or outside
CUT_OFF = "--network none"  # what `make` hardens by itself comes on top
ENGINE = PROJECT / "tools/engine.sh"
FREE_GB = 30

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Iterator[dict[str, str]]:
    """The environment in which `podman` reaches an engine of its own that has the base image."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("an image can only be built as root on a Debian machine")
    kept = os.environ.get("PRUNELAB_ENGINE")
    if not kept and shutil.disk_usage("/var/tmp").free < FREE_GB * 1e9:
        pytest.skip(f"building the image takes {FREE_GB} GB in /var/tmp, which are not free")
    folder = kept or tempfile.mkdtemp(prefix="engine-", dir="/var/tmp")
    try:
        exported = subprocess.run(
            [ENGINE, "up", folder], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        variables = dict(
            line.removeprefix("export ").split("=", 1) for line in exported.splitlines()
        )
        release = variables["BASE_IMAGE"].split("/")[1]  # debian:bookworm
        assert f"BASE_IMAGE={release}-" in (PROJECT / "Dockerfile").read_text()
        nothing = ["podman", "run", "--rm", "--network", "none", variables["BASE_IMAGE"], "true"]
        tried = subprocess.run(
            nothing, env=os.environ | variables, capture_output=True, text=True, check=False
        )
        if tried.returncode != 0:
            pytest.skip(f"no container can be run here: {' '.join(tried.stderr.split())}")
        yield os.environ | variables
    finally:
        if not kept:
            subprocess.run([ENGINE, "down", folder], check=True)


class Container:
    """What `make` says about running the image, on the checkout in a folder."""

    def __init__(self, folder: Path, engine: dict[str, str]):
        self.folder, self.engine = folder, engine

    def _make(
        self, target: str, user: int, run_args: str, *options: str
    ) -> subprocess.CompletedProcess[str]:
        variables = [f"OWNER={user}:{user}", f"RUN_ARGS={run_args}", "DOCKER=podman", "GPUS="]
        base = f"BUILD_ARGS=--build-arg BASE_IMAGE={self.engine['BASE_IMAGE']}"
        return self._run(["make", "--no-print-directory", *options, target, base, *variables])

    def _run(self, command: list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.folder, env=self.engine, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done

    def make(self, target: str) -> str:
        return self._make(target, USER, CUT_OFF).stdout

    def command(
        self, *inside: str, user: int = USER, run_args: str = CUT_OFF, hardened: bool = True
    ) -> list[str]:
        """The command line of `make docker-repro` with another command inside."""
        options = ["--just-print", *([] if hardened else ["HARDENED="])]
        said = self._make("docker-repro", user, run_args, *options).stdout
        return [*shlex.split(said.splitlines()[-1]), *inside]

    def run(self, *inside: str, user: int = USER, hardened: bool = True) -> str:
        return self._run(self.command(*inside, user=user, hardened=hardened)).stdout


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Clone:
    """A tiny configuration, not yet run."""
    return tiny_clone(tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def container(engine, outside, tmp_path_factory) -> Container:
    """The same configuration after `make docker-repro`: image built, checkout mounted, stages run
    inside.
    """
    folder = tmp_path_factory.mktemp("inside") / "checkout"
    shutil.copytree(outside.folder, folder, symlinks=True)
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, USER, USER)
    container = Container(folder, engine)
    output = container.make("docker-repro")
    assert {"prepare", "train_base", "evaluate@l1_channel-0.5", "evaluate_focus", "report"} <= set(
        stages_run(output)
    )
    return container


def metrics(folder: Path) -> dict[str, str]:
    found = (folder / "metrics").rglob("*.json")
    texts = {str(path.relative_to(folder)): path.read_text() for path in found}
    return {
        path: text
        for path, text in texts.items()
        if not path.startswith(("metrics/speed", "metrics/environment"))
    }


def processes() -> list[str]:
    """Commands of the user of the container that run on this machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == USER:
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_numbers_inside_and_outside_are_equal_to_the_bit(container, outside):
    minor = container.run("python", "-c", "import sys; print(sys.version_info[:2])").strip()
    if minor != str(sys.version_info[:2]):
        pytest.skip(f"Python is {minor} in the image and {sys.version_info[:2]} here")
    outside.run("dvc", "repro")
    expected = outputs(outside.folder)

    assert len([path for path in expected if path.startswith("models/")]) >= 5
    assert outputs(container.folder) == expected
    assert {"metrics/base.json", "metrics/focus.json", "metrics/grid/l1_channel-0.5.json"} <= set(
        metrics(outside.folder)
    )
    assert metrics(container.folder) == metrics(outside.folder)


def test_container_has_exactly_the_locked_packages(container):
    listed = json.loads(container.run("uv", "pip", "list", "--format", "json"))
    installed = {package["name"]: package["version"] for package in listed}
    lock = (PROJECT / "requirements.lock").read_text()

    assert {"torch", "dvc", "prunelab"} <= set(installed)

    foreign = [name for name, version in installed.items() if f"\n{name}=={version} " not in lock]

    assert foreign == ["pip", "prunelab"]  # what fetched uv, and what is studied


def test_files_belong_to_the_caller_and_no_process_remains(container):
    assert processes() == []
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in container.folder.rglob("*")}
    assert owners == {(USER, USER)}


def test_second_repro_in_the_container_runs_nothing(container):
    assert stages_run(container.run()) == []


def test_code_of_the_mounted_checkout_runs(container):
    package = container.folder / "src/prunelab/__init__.py"
    text = package.read_text()
    try:
        package.write_text(f"{text}\nprint('as mounted')\n")
        assert "as mounted" in container.run("prunelab", "--help")
        assert "as mounted" in container.run("python", "-c", "import prunelab")
    finally:
        package.write_text(text)


def test_experiment_by_a_user_without_an_account(container):
    container.run("git", "add", "--all")
    container.run("git", "commit", "--quiet", "--message", "Results")
    output = container.run("dvc", "exp", "run", "--temp", "--set-param", "ratio=0.8")

    assert stages_run(output) == ["prune_focus", "finetune_focus", "evaluate_focus"]
    assert "workspace" in container.run("dvc", "exp", "show", "--csv")
    assert processes() == []


def test_torch_compile_works_in_the_container(container):
    compiled = "torch.compile(lambda x: (x.sin() + 1).relu().sum(1))"
    container.run(
        "python",
        "-c",
        f"import torch; x = torch.randn(64, 64); assert {compiled}(x).isfinite().all()",
    )


def test_stopped_container_leaves_no_process_and_no_lock(container):
    with subprocess.Popen(
        container.command("dvc", "repro", "--force", run_args=f"{CUT_OFF} --name stopped"),
        env=container.engine, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout:
            if "Running stage 'train_base'" in line:
                break
        assert processes()
        subprocess.run(
            ["podman", "stop", "--time", "60", "stopped"], env=container.engine, check=True
        )
        process.communicate()

    assert process.returncode not in (
        0,
        137,
    )  # neither finished nor killed: it was asked to end, and did
    assert processes() == []
    assert json.loads((container.folder / ".dvc/tmp/rwlock").read_text()) == {}

    container.run()  # not the same command, which DVC would take for the same process

    assert "up to date" in container.run("dvc", "status")


def test_checkout_of_another_user_is_trusted(container):
    """Git and libgit2 refuse it otherwise. Last of all, since what root writes stays root's."""
    container.run("dvc", "metrics", "diff", user=0, hardened=False)
    container.run("git", "status", user=0, hardened=False)
