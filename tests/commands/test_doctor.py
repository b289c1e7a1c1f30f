"""What `prunelab doctor` finds about machines and projects that lack something."""

import os
import platform
import subprocess

import pytest
from helpers.params import PROJECT
from helpers.repository import Repository
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.doctor import doctor as examination
from prunelab.commands.doctor.doctor import Verdict, examine
from prunelab.core import processor


@pytest.fixture
def project(tmp_path):
    """A repository with a study, committed."""
    for name in ("dvc.yaml", "params.yaml", "requirements.lock"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    Repository(tmp_path).commit("Start")
    return tmp_path


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    monkeypatch.setattr(examination, "machine_load", lambda: {"busy": []})
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_AUTHOR_NAME", "A")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "A")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "a@example.com")


def about(findings, words: str):
    (finding,) = [finding for finding in findings if words in finding.text]
    return finding


def test_every_finding_that_is_not_ok_says_what_to_do(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    for finding in (*examine(project), *examine(elsewhere)):
        assert (finding.verdict is Verdict.ok) == (not finding.remedy), finding


def test_project_in_order_is_ok(project):
    findings = examine(project)

    assert about(findings, "is a study").verdict is Verdict.ok
    assert about(findings, "Git commits as A <a@example.com>").verdict is Verdict.ok
    assert about(findings, "packages").verdict is Verdict.ok


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has portable bits")
def test_processor_without_avx2_is_advised_native_bits(tmp_path, monkeypatch):
    description = tmp_path / "cpuinfo"
    description.write_text("flags : fpu sse4_2 avx\n")
    monkeypatch.setattr(processor, "CPUINFO", description)

    finding = about(examine(tmp_path), "no AVX2")
    assert finding.verdict is Verdict.look
    assert "set runtime.bits to native" in finding.remedy


def test_folder_without_a_study_stops_and_one_without_git_does_not(tmp_path):
    findings = examine(tmp_path)

    assert about(findings, "has no dvc.yaml").verdict is Verdict.stop
    no_git = about(findings, "no Git repository")
    assert no_git.verdict is Verdict.look
    assert "git init" in no_git.remedy


def test_other_versions_than_the_lock_names_are_named(project):
    lock = project / "requirements.lock"
    text = lock.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("tqdm==")]
    lock.write_text(text.replace(line, "tqdm==0.0.1 \\"))

    finding = about(examine(project), "packages other than requirements.lock names: tqdm ")

    assert finding.verdict is Verdict.look
    assert "make setup" in finding.remedy


def test_packages_without_a_lock_are_not_said_to_have_its_versions(project):
    (project / "requirements.lock").unlink()

    finding = about(examine(project), "packages; there is no requirements.lock here")

    assert finding.verdict is Verdict.ok


def test_git_without_an_identity_names_both_commands(project, monkeypatch):
    def fail(folder, *arguments, **_):
        if arguments[0] == "var":
            raise examination.InputError("git var: empty ident name")
        return str(folder)

    monkeypatch.setattr(examination, "git", fail)

    finding = about(examine(project), "who commits")

    assert "user.name" in finding.remedy
    assert "user.email" in finding.remedy


def test_little_disk_memory_and_a_busy_machine_are_noticed(project, monkeypatch):
    monkeypatch.setattr(examination.shutil, "disk_usage", lambda _: _Usage(10**9))
    monkeypatch.setattr(examination.psutil, "virtual_memory", lambda: _Usage(10**9))
    monkeypatch.setattr(examination, "machine_load", lambda: {"busy": ["compiler 99%"]})

    findings = examine(project)

    for words in ("1.0 GB of disk", "1.0 GB of memory", "compiler 99%"):
        assert about(findings, words).verdict is Verdict.look


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = self.available = free


def test_driver_that_fails_is_reported_with_its_message(project, monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'driver/library version mismatch' >&2\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    finding = about(examine(project), "driver/library version mismatch")

    assert finding.verdict is Verdict.look


def test_command_ends_with_1_only_if_a_study_would_not_run(project, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(project)
    good = CliRunner().invoke(app, ["doctor"])
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    bad = CliRunner().invoke(app, ["doctor"])

    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "STOP" in bad.stdout
    assert "-> go to the top folder" in bad.stdout
    assert "prunelab new --images FOLDER" in bad.stdout


def test_doctor_changes_nothing(project):
    before = subprocess.run(["git", "status", "--short"], cwd=project, capture_output=True)
    examine(project)
    after = subprocess.run(["git", "status", "--short"], cwd=project, capture_output=True)

    assert (before.stdout, after.stdout) == (b"", b"")
