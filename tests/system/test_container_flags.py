"""The container's flags are written once, in compose.yaml: make and the dev container take them."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from helpers.params import PROJECT

# Keys of compose.yaml that are not flags of how a container is run, or that make has by itself.
OF_THE_IMAGE = {"build", "image", "volumes", "user"}


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((PROJECT / "compose.yaml").read_text(encoding="utf-8"))


def flags_of(service: dict) -> list[str]:
    """The flags of `docker run` for a service of compose.yaml, pair by pair."""
    flags = [f"--ipc={service['ipc']}"]
    if service.get("read_only"):
        flags.append("--read-only")
    for key in ("cap_drop", "security_opt", "tmpfs"):
        for value in service.get(key, []):
            flags += [f"--{key.replace('_', '-')}", value]
    return flags


def made(*variables: str) -> list[str]:
    """The words of what `make docker-repro` runs at the end."""
    command = ["make", "--no-print-directory", "--just-print", "docker-repro", "GPUS=", *variables]
    printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    return shlex.split(printed.stdout.splitlines()[-1])


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@needs_make
def test_make_runs_the_container_with_the_flags_of_the_service_study(compose):
    words = made("OWNER=1:2", "DOCKER=docker")

    expected = ["--user", "1:2", *flags_of(compose["services"]["study"])]
    expected += ["--volume", f"{PROJECT}:/workspace"]
    assert words[:3] == ["docker", "run", "--rm"]
    assert words[-1] == compose["services"]["study"]["image"]
    assert sorted(words[3:-1]) == sorted(expected)


@needs_make
def test_without_hardening_the_flags_are_those_of_the_editor(compose):
    words = made("OWNER=1:2", "HARDENED=")

    editor = compose["services"]["editor"]
    assert [word for word in words if word in flags_of(compose["services"]["study"])] == flags_of(
        editor
    )
    assert "--read-only" not in words


def test_every_key_of_the_services_is_known_to_what_make_reads(compose):
    known = {"ipc", "read_only", "cap_drop", "security_opt", "tmpfs"}

    assert compose["services"]["study"].keys() == known | OF_THE_IMAGE
    assert compose["services"]["study-gpu"].items() >= compose["services"]["study"].items()
    assert compose["services"]["editor"].keys() == {"ipc", "profiles", "init"} | OF_THE_IMAGE


def test_dev_container_is_a_service_of_compose_and_has_no_flags_of_its_own(compose):
    folder = PROJECT / ".devcontainer"
    text = (folder / "devcontainer.json").read_text(encoding="utf-8")
    settings = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))

    assert (folder / settings["dockerComposeFile"]).resolve() == PROJECT / "compose.yaml"
    assert settings["service"] in compose["services"]
    assert f".:{settings['workspaceFolder']}" in compose["services"]["editor"]["volumes"]
    assert settings["overrideCommand"]
    assert not settings.keys() & {"runArgs", "mounts", "capAdd", "securityOpt", "workspaceMount"}
