"""What comes from outside: nothing at run time, and before that nothing unhashed, unaudited or
unlicensed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.params import PROJECT
from helpers.repository import stages_run, tiny_clone
from ruamel.yaml import YAML

LOCKS = sorted(PROJECT.glob("requirements*.lock"))
PIP_LICENSES = Path(sys.executable).with_name("pip-licenses")
CUT_OFF = (("unshare", "--net"), ("unshare", "--user", "--map-root-user", "--net"))

# Every module, and the readers that have a hub behind them, where asking for an address or a
# connection is an error.
GUARDED = """
import importlib, pkgutil, sys

def guard(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        if not isinstance(arguments[-1], str):  # a Unix socket has a path
            raise SystemExit(f"{event} {arguments}")

sys.addaudithook(guard)
import prunelab
found = [module.name for module in pkgutil.walk_packages(prunelab.__path__, "prunelab.")]
found.remove("prunelab.__main__")
for name in found:
    importlib.import_module(name)
from plotly.offline import get_plotlyjs
from prunelab.models import encoders
get_plotlyjs(), encoders.tokenizer("minilm"), encoders.weights_file("minilm")
print(len(found))
try:
    import socket
    socket.create_connection(("192.0.2.1", 9), timeout=0.1)
except SystemExit:
    print("guarded")
"""


NETWORK = re.compile(
    r"\b(urlopen|urlretrieve|create_connection|snapshot_download|download_url\w*|load_state_dict_from_url|hub\.load)\("
    r"|download=True|^\s*(?:import|from) (?:requests|httpx|aiohttp|urllib3|socketserver)\b",
    re.MULTILINE,
)


def test_network_calls_are_made_in_few_modules_only():
    source = PROJECT / "src/prunelab"
    found = {
        str(file.relative_to(source)): NETWORK.findall(file.read_text())
        for file in source.rglob("*.py")
    }

    assert {name: calls for name, calls in found.items() if calls} == {
        "core/download.py": ["urlopen"],
        "encoders/pretrained.py": ["snapshot_download"],
        "commands/sweep/ray/driver.py": ["create_connection"],  # of a Ray whose address was given
        "warm/server.py": [""],  # a socket that is a file
    }


def test_report_page_fetches_nothing():
    page = (PROJECT / "src/prunelab/page/page.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(", page)


@pytest.mark.slow
def test_no_import_opens_a_connection():
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", GUARDED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr

    count, guarded = done.stdout.split()[-2:]

    assert int(count) > 100
    assert guarded == "guarded"


def test_usage_statistics_are_switched_off():
    """DVC would send statistics, and ask for its newest version once a day."""
    config = (PROJECT / ".dvc/config").read_text()

    assert {"analytics = false", "check_update = false"} <= {
        line.strip() for line in config.splitlines()
    }
    assert "DVC_NO_ANALYTICS=1" in (PROJECT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def cut_off() -> tuple[str, ...]:
    """What runs a command in a network namespace of its own, in which there is nothing."""
    for command in CUT_OFF:
        tried = subprocess.run(
            [*command, "cat", "/proc/net/dev"], capture_output=True, text=True, check=False
        )
        if tried.returncode == 0:
            interfaces = re.findall(r"^\s*(\S+):", tried.stdout, re.MULTILINE)
            assert interfaces == ["lo"]
            return command
    return pytest.skip("no network namespace can be made here: unshare --net is not allowed")


@pytest.mark.slow
def test_whole_study_runs_without_a_network(cut_off, tmp_path):
    clone = tiny_clone(tmp_path)
    clone.environment.pop("CI", None)  # with which DVC asks for no newest version anyhow
    for command in (
        ("prunelab", "check"),
        ("dvc", "repro"),
        ("dvc", "exp", "run", "-S", "ratio=0.8"),
    ):
        ran = clone.run(*cut_off, *command).stdout

    assert stages_run(ran) == ["prune_focus", "finetune_focus", "evaluate_focus"]
    assert (tmp_path / "plots/report.html").exists()
    assert clone.run(*cut_off, "prunelab", "compare").stdout
    # ... and nobody was to be called, had there been one: DVC does that behind one's back, in a
    # process of its own.
    assert not [file for file in (tmp_path / ".dvc/tmp").rglob("*") if "updater" in file.name]


def pins(lock: Path) -> list[tuple[str, list[str]]]:
    """Every entry of a lock, with its hashes."""
    entries = re.split(
        r"\n(?=\S)", "\n".join(line for line in lock.read_text().splitlines() if line[:1] != "#")
    )
    return [
        (entry.split(" ")[0].strip(), re.findall(r"--hash=(\S+)", entry))
        for entry in entries
        if entry.strip()
    ]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_entry_of_a_lock_is_one_version_with_its_hashes(lock):
    found = pins(lock)

    assert len(found) > 100
    for pin, hashes in found:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[\w.!+]+", pin), pin
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), pin


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_name_no_address(lock):
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"--(index|extra-index|find-links|trusted)|^-|@ ", text, re.MULTILINE)


def test_both_locks_name_the_same_versions():
    whole, run = (
        dict(pin.split("==") for pin, _ in pins(PROJECT / f"requirements{kind}.lock"))
        for kind in ("-dev", "")
    )
    assert {name: whole.get(name) for name in run} == run


def test_every_installed_licence_is_on_the_list_of_allowed_ones():
    done = subprocess.run([PIP_LICENSES], cwd=PROJECT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert " scipy " in done.stdout
    assert " pygit2 " not in done.stdout  # judged by name


def test_a_licence_that_is_not_on_the_list_fails_the_audit(tmp_path):
    settings = (PROJECT / "pyproject.toml").read_text()

    assert "Zope Public License" in settings

    (tmp_path / "pyproject.toml").write_text(settings.replace("Zope Public License", "Other"))

    done = subprocess.run([PIP_LICENSES], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "zc.lockfile" in done.stderr + done.stdout


def test_container_can_write_only_the_checkout():
    said = subprocess.run(
        ["make", "--no-print-directory", "--just-print", "docker-repro", "DOCKER=docker"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()[-1]  # fmt: skip

    for option in (
        "--read-only",
        "--cap-drop ALL",
        "--security-opt no-new-privileges",
        "--tmpfs /tmp:exec,mode=1777",
    ):
        assert f" {option} " in said
    assert re.findall(r"--volume \"([^\"]+)\"", said) == [f"{PROJECT}:/workspace"]
    services = YAML(typ="safe").load(PROJECT / "compose.yaml")["services"]
    assert services.keys() == {"study", "study-gpu", "editor"}
    for service in services.values():
        assert service["volumes"] == [".:/workspace"]
    del services["editor"]  # it installs what an editor needs
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges"]
        assert service["tmpfs"] == ["/tmp:exec,mode=1777"]


def test_audit_runs_in_the_workflow_of_tests():
    jobs = YAML(typ="safe").load(PROJECT / ".github/workflows/tests.yml")["jobs"]
    assert {"run": "make audit"} in jobs["audit"]["steps"]
    makefile = (PROJECT / "Makefile").read_text()
    assert "pip-audit --strict" in makefile
    assert "pip-licenses" in makefile


def test_environment_without_cuda_leaves_out_cuda_and_takes_torch_in_its_locked_version(tmp_path):
    """The script runs with programs in place of Python and uv that only note their arguments."""
    venv, notes = tmp_path / "venv", tmp_path / "notes"
    (venv / "bin").mkdir(parents=True)
    for program in ("python", "uv"):
        file = venv / "bin" / program
        file.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n')
        file.chmod(0o755)

    subprocess.run(
        ["tools/locked-environment.sh", str(venv), str(venv / "bin/python")],
        cwd=PROJECT,
        env=os.environ | {"TORCH": "cpu"},
        check=True,
    )

    locked = set(
        re.findall(r"^([a-z][\w.-]*)==", (PROJECT / "requirements.lock").read_text(), re.M)
    )
    kept = set(re.findall(r"^([a-z][\w.-]*)==", (venv / "cpu.lock").read_text(), re.M))
    gone = locked - kept
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit"} <= gone
    assert all(re.match(r"torch$|torchvision$|triton$|cuda-|nvidia-", name) for name in gone)
    *_, sync, install = notes.read_text().splitlines()
    assert sync.endswith(f"--require-hashes {venv}/cpu.lock")
    torch_version = re.search(r"^torch==(\S+)", (PROJECT / "requirements.lock").read_text(), re.M)[
        1
    ]
    assert "--no-deps --torch-backend cpu" in install
    assert f" torch=={torch_version} torchvision==" in install
