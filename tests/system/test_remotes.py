"""DVC remotes, a folder, an SSH server or an S3 server: a second machine runs nothing again."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.params import edit_params
from helpers.remotes import (
    REMOTES,
    Machine,
    Remote,
    add_remote,
    free_port,
    isolated_environment,
    make_key,
    ssh_remote,
)
from helpers.repository import STAGES, Clone, stages_run
from ruamel.yaml import YAML

FOCUS = ["prune_focus", "finetune_focus", "evaluate_focus"]
COMPUTED = ["evaluate", "evaluate_focus", "sensitivity"]


def has_uncached_output(stage: dict) -> bool:
    """Whether a plain output of a stage is outside DVC's cache."""
    for out in stage.get("outs", []):
        if isinstance(out, dict):
            (settings,) = out.values()
            if not settings.get("cache", True):
                return True
    return False


# DVC's run cache has no stage with such an output (dvc/stage/__init__.py, no_cache_outs).
UNSAVED = {name for name, stage in STAGES.items() if has_uncached_output(stage)}


def stages_cached(output: str) -> list[str]:
    return re.findall(r"Stage '([^']+)' is cached - skipping run", output)


def locked(folder: Path) -> dict:
    """What dvc.lock holds of each stage: command, parameters, and hashes of its files."""
    return YAML(typ="safe").load(folder / "dvc.lock")["stages"]


def kept_by_dvc(folder: Path) -> dict[str, bytes]:
    files = [*(folder / "models").rglob("*"), *(folder / "data/prepared").rglob("*")]
    files.append(folder / "plots/report.html")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Clone:
    """A tiny study, committed at ratio 0.5 (tag `before`) and again at 0.8, nothing pushed."""
    folder = tmp_path_factory.mktemp("first")
    first = Clone(folder / "checkout")
    first.environment = isolated_environment(folder)

    tiny = {
        "seeds": [0],
        "grid__methods": ["random_channel"],
        "grid__ratios": [0.5],
        "finetune__epochs": 1,
    }
    quick = {"batch_sizes": [1], "backends": ["eager"], "rounds": 2, "seconds": 0.02}
    edit_params(first.folder / "params.yaml", ratio=0.5, train__epochs=1, benchmark=quick, **tiny)
    first.run("dvc", "repro")
    first.commit("Ratio 0.5")
    first.run("git", "tag", "before")

    edit_params(first.folder / "params.yaml", ratio=0.8)
    assert stages_run(first.run("dvc", "repro").stdout) == FOCUS
    first.commit("Ratio 0.8")
    return first


@pytest.fixture(scope="module", params=REMOTES)
def remote(request, tmp_path_factory):
    with REMOTES[request.param](tmp_path_factory.mktemp(request.param)) as remote:
        yield remote


@pytest.fixture(scope="module")
def pushed(finished, remote) -> Clone:
    """The first machine, after it pushed all finished runs."""
    add_remote(finished, remote)
    assert " 0 files" not in finished.run("prunelab", "push").stdout
    assert " 0 files were not there yet" in finished.run("prunelab", "push").stdout
    return finished


@pytest.mark.slow
def test_a_fresh_clone_pulls_everything_and_runs_nothing(pushed, remote, tmp_path):
    second = Machine(tmp_path, pushed.folder, remote)
    assert not (second.folder / "models").exists()

    second.run("dvc", "pull")
    output = second.run("dvc", "repro").stdout

    assert stages_run(output) == stages_cached(output) == []
    assert "Data and pipelines are up to date." in output
    assert second.run("git", "status", "--porcelain").stdout == ""
    assert len(kept_by_dvc(second.folder)) > 20
    assert kept_by_dvc(second.folder) == kept_by_dvc(pushed.folder)


@pytest.mark.slow
def test_earlier_parameters_are_found_in_the_run_cache(pushed, remote, tmp_path):
    third = Machine(tmp_path, pushed.folder, remote)
    third.run("git", "checkout", "-q", "before", "--", "params.yaml")
    third.run("dvc", "pull")
    dry_output = third.run("dvc", "repro", "--dry").stdout
    assert stages_run(dry_output)[0] == FOCUS[0]  # without the run cache it would run

    output = third.run("dvc", "repro", "--pull").stdout

    assert stages_cached(output) == [name for name in FOCUS if name not in UNSAVED]
    assert stages_run(output) == [name for name in FOCUS if name in UNSAVED]
    paths = ("dvc.lock", "metrics", "plots/focus", ":!metrics/environment")
    third.run("git", "diff", "--exit-code", "before", "--", *paths)


@pytest.mark.slow
def test_without_a_lock_file_nothing_runs_again(pushed, remote, tmp_path):
    third = Machine(tmp_path, pushed.folder, remote)
    before = locked(third.folder)
    (third.folder / "dvc.lock").unlink()

    output = third.run("dvc", "repro", "--pull", *COMPUTED).stdout

    assert stages_run(output) == []
    restored = locked(third.folder)
    assert sorted(stages_cached(output)) == sorted(restored)
    assert set(restored) == {
        "code",
        "settings",
        "prepare",
        "train_base",
        "evaluate_base",
        "prune@random_channel-0.5",
        "finetune@random_channel-0.5",
        "evaluate@random_channel-0.5",
        "sensitivity",
        *FOCUS,
    }
    assert restored == {name: before[name] for name in restored}


def test_only_clocks_and_pictures_are_left_out_of_the_run_cache():
    assert {"benchmark", "plot", "plot_sensitivity"} == UNSAVED


@pytest.mark.slow
def test_an_experiment_is_shared_with_its_results(pushed, remote, tmp_path):
    second = Machine(tmp_path / "second", pushed.folder, remote)
    third = Machine(tmp_path / "third", pushed.folder, remote)

    second.run("dvc", "pull")
    second.run("dvc", "exp", "run", "--pull", "-n", remote.kind, "-S", "ratio=0.5")
    second.run("dvc", "exp", "push", "origin", remote.kind)
    third.run("dvc", "exp", "pull", "origin", remote.kind)
    third.run("dvc", "exp", "apply", remote.kind)
    third.run("dvc", "pull")

    assert stages_run(third.run("dvc", "repro").stdout) == []
    assert third.metrics("focus.json") == second.metrics("focus.json")
    assert third.metrics("focus.json") != pushed.metrics("focus.json")
    assert kept_by_dvc(third.folder) == kept_by_dvc(second.folder)


@pytest.fixture
def small(tmp_path) -> Clone:
    """A checkout with one file that DVC keeps."""
    small = object.__new__(Clone)
    small.folder, small.environment = tmp_path / "checkout", isolated_environment(tmp_path)
    small.folder.mkdir()
    small.run("git", "init", "-q")
    (small.folder / ".dvc").mkdir()
    (small.folder / ".dvc/config").touch()
    (small.folder / "data.txt").write_text("kept\n")
    small.run("dvc", "add", "-q", "data.txt")
    return small


def files_outside_tmp(folder: Path) -> dict[str, bytes]:
    """All files but those in DVC's temporary folder."""
    contents = {}
    for file in folder.rglob("*"):
        if file.is_file() and ".dvc/tmp" not in str(file):
            contents[str(file.relative_to(folder))] = file.read_bytes()
    return contents


def assert_refused(clone: Clone, remote: Remote, message: str) -> None:
    """A push, and a pull without the cache, fail with this message and change no file."""
    settings = {"url": remote.url} | remote.shared | remote.local
    lines = ["[core]", f"remote = {remote.kind}", f"['remote \"{remote.kind}\"']"]
    lines += [f"{key} = {value}" for key, value in settings.items()]
    (clone.folder / ".dvc/config.local").write_text("\n".join(lines))
    clone.environment |= remote.environment

    for command in ("push", "pull"):
        before = files_outside_tmp(clone.folder)

        done = clone.run("dvc", command, check=False)

        assert done.returncode != 0
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert files_outside_tmp(clone.folder) == before
        shutil.rmtree(clone.folder / ".dvc/cache", ignore_errors=True)


@pytest.mark.slow
def test_missing_credentials_are_reported_and_nothing_is_lost(small):
    endpoint = {"endpointurl": f"http://127.0.0.1:{free_port()}"}
    remote = Remote("s3", "s3://bucket/store", shared=endpoint)

    assert_refused(small, remote, "Unable to locate credentials")


@pytest.mark.slow
def test_an_s3_server_that_is_away_is_named_and_nothing_is_lost(small):
    endpoint = f"http://127.0.0.1:{free_port()}"
    remote = Remote(
        "s3",
        "s3://bucket/store",
        shared={"endpointurl": endpoint},
        environment={"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
    )

    assert_refused(small, remote, endpoint)


@pytest.mark.slow
def test_an_ssh_server_that_is_away_is_named_and_nothing_is_lost(small):
    port = free_port()
    remote = Remote("ssh", f"ssh://127.0.0.1:{port}/store")

    assert_refused(small, remote, f"('127.0.0.1', {port})")


@pytest.mark.slow
def test_an_unknown_ssh_key_is_refused_and_nothing_is_lost(small, tmp_path):
    with ssh_remote(tmp_path) as remote:
        make_key(tmp_path / "stranger")
        stranger = replace(remote, local=remote.local | {"keyfile": str(tmp_path / "stranger")})

        assert_refused(small, stranger, "Permission denied for user")

        assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_dvc_does_not_check_the_key_of_an_ssh_server(small, tmp_path):
    """docs/remotes.md warns of it; when this fails, the warning can go."""
    with ssh_remote(tmp_path) as remote:
        make_key(tmp_path / "another")
        known_hosts = Path(small.environment["HOME"]) / ".ssh/known_hosts"
        known_hosts.parent.mkdir(mode=0o700)
        port = urlsplit(remote.url).port
        known_hosts.write_text(f"[127.0.0.1]:{port} {(tmp_path / 'another.pub').read_text()}")

        add_remote(small, remote)
        small.run("dvc", "push")

        assert [file for file in (tmp_path / "store").rglob("*") if file.is_file()]
