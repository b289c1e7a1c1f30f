"""Runs of studies: which code and parameters a result belongs to, and runs that are interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
from click.testing import Result
from dvc.fs import localfs
from dvc.repo.experiments.refs import ExpRefInfo
from dvc.repo.experiments.utils import check_ref_format
from dvc.rwlock import rwlock
from dvc.scm import Git
from helpers.params import PROJECT
from helpers.repository import Clone
from helpers.studies import (
    PIPELINE,
    SHIPPED,
    TINY,
    StudyRepository,
    record,
    tiny_study,
    write_study,
)
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.studies.results import collect, results_file, write_results
from prunelab.commands.studies.study_file import load_study, resolve
from prunelab.config.params import Params, read_params
from prunelab.core.errors import InputError
from prunelab.project.clones import cache_folder, clone_at, use_cache
from prunelab.project.experiments import code_of, experiment_name, stage_closure
from prunelab.project.git import git

LABEL = "l1_channel-0.5"  # a setting of the tiny study


@pytest.fixture
def repository(tmp_path) -> StudyRepository:
    return StudyRepository(tmp_path)


# --- the code and the parameters of a result ---


def test_chain_of_the_focus_contains_its_inputs_and_nothing_of_the_grid():
    code = {"src/prunelab/models", "src/prunelab/evaluation", "src/prunelab/stages"}
    assert code | {"environment.lock"} <= set(PIPELINE.files)
    assert "benchmark.lock" not in PIPELINE.files
    outputs = ("data/", "models/", "metrics/", "plots/")
    assert not any(file.startswith(outputs) for file in PIPELINE.files)

    assert {"method", "ratio", "dataset", "weights", "finetune"} <= set(PIPELINE.parameters)
    assert not any(key.startswith("grid") for key in PIPELINE.parameters)


def test_a_pipeline_without_the_target_is_refused():
    with pytest.raises(InputError, match="cannot be read as YAML"):
        stage_closure("stages: [")
    with pytest.raises(InputError, match="dvc.yaml has no stage evaluate_focus"):
        stage_closure("stages: {a: {cmd: x}}")
    assert stage_closure("stages: {a: {cmd: x}}", "a").files == []


@pytest.mark.parametrize(
    ("entry", "files", "parameters"),
    [
        ("ratio", [], ["ratio"]),
        ({"params.yaml": ["ratio", "seeds"]}, [], ["ratio", "seeds"]),
        ({"own.yaml": ["ratio"]}, ["own.yaml"], []),
        ({"own.yaml": None}, ["own.yaml"], []),
        ({"params.yaml": None}, [], sorted(Params.model_fields)),
    ],
)
def test_parameters_may_be_of_other_files_as_dvc_allows(entry, files, parameters):
    stage = {"cmd": "true", "params": [entry], "deps": None, "outs": None}

    closure = stage_closure(json.dumps({"stages": {"evaluate_focus": stage}}))

    assert closure.files == files
    assert closure.parameters == parameters


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ({"evaluate_focus": {"cmd": "true"}, "mine": None}, "stage mine is empty, or no mapping"),
        ({"evaluate_focus": {"deps": ["a"]}}, "stage evaluate_focus has no cmd"),
    ],
)
def test_a_pipeline_in_the_middle_of_an_edit_is_refused(stages, problem):
    with pytest.raises(InputError, match=f"dvc.yaml: {problem}"):
        stage_closure(json.dumps({"stages": stages}))


def test_experiment_names_follow_the_parameters_that_stages_read():
    params = read_params(SHIPPED)

    def name(input_hashes: dict | None = None, **changes: object) -> str:
        return experiment_name(
            "study", "one", PIPELINE.select(params | changes), input_hashes or {}
        )

    assert name().startswith("study-one-")
    assert name(grid={}) == name()
    assert name(ratio=0.25) != name()
    assert name(seeds=[7]) != name()
    assert name(finetune=params["finetune"] | {"epochs": 99}) != name()
    assert name({"weights": "other bytes"}) != name()


def test_an_experiment_of_a_network_with_a_slash_has_a_name_that_dvc_takes():
    name = experiment_name("sweep", "torchvision/resnet18-l1_channel-0.5", {}, {})

    assert name.startswith("sweep-torchvision-resnet18-l1_channel-0.5-")
    check_ref_format(Git(PROJECT), ExpRefInfo("a" * 40, name))  # raises


def test_code_hash_follows_the_files_of_the_chain(repository):
    before = code_of(repository.folder, "HEAD")

    repository.commit_readme()
    assert code_of(repository.folder, "HEAD") == before

    repository.commit_code()
    assert code_of(repository.folder, "HEAD") != before


# --- results ---


def test_nothing_is_collected_before_a_run(repository):
    settings = resolve(tiny_study(), SHIPPED, quick=False, overrides={})

    assert set(collect(repository.folder, "tiny", settings, set()).values()) == {None}


def test_experiments_are_found_by_their_parameters_on_any_commit(repository):
    settings = resolve(tiny_study(), SHIPPED, quick=False, overrides={})
    other_grid = {"grid": {"methods": ["x"], "ratios": [0.5]}}
    repository.experiment(LABEL, settings[LABEL] | {"seeds": [3]}, accuracy=0.1)
    repository.experiment(LABEL, settings[LABEL] | other_grid, accuracy=0.8)
    head = repository.head()
    without_metrics = f"refs/exps/{head[:2]}/{head[2:]}/tiny-{LABEL}-00000000"
    git(repository.folder, "update-ref", without_metrics, head)
    repository.commit_readme()

    records = collect(repository.folder, "tiny", settings, set())

    assert records["random_unstructured-0.5"] is None
    assert records[LABEL]["metrics"]["accuracy"] == 0.8
    assert records[LABEL]["current"]
    assert records[LABEL]["environment"] == {"device": "a test"}


def test_metrics_are_joined_whether_an_experiment_divided_them_or_not(repository):
    settings = resolve(tiny_study(), SHIPPED, quick=False, overrides={})
    other = "random_unstructured-0.5"
    repository.experiment(LABEL, settings[LABEL], accuracy=0.8)
    repository.experiment(other, settings[other], accuracy=0.8, in_one_file=True)

    records = collect(repository.folder, "tiny", settings, set())

    expected = record(0.8)
    for label in (LABEL, other):
        assert records[label]["metrics"] == expected["metrics"]
        assert records[label]["dense"] == expected["dense"]


def test_results_of_earlier_code_are_not_current(repository):
    settings = resolve(tiny_study(), SHIPPED, quick=False, overrides={})
    repository.experiment(LABEL, settings[LABEL], accuracy=0.8)

    repository.commit_code()

    assert not collect(repository.folder, "tiny", settings, set())[LABEL]["current"]


def test_an_environment_note_of_other_metrics_is_dropped(repository):
    settings = resolve(tiny_study(), SHIPPED, quick=True, overrides={})
    repository.experiment(LABEL, settings[LABEL], accuracy=0.8, environment=False)

    records = collect(repository.folder, "tiny", settings, set())

    assert records[LABEL]["environment"] is None


@pytest.mark.parametrize("key", ["weights", "data.source", "data.table"])
def test_results_are_found_on_a_machine_with_other_folders(repository, key):
    def settings_in(folder: str) -> dict:
        overrides = {key: f"{folder}/of-the-user"}
        return resolve(tiny_study(), SHIPPED, quick=False, overrides=overrides)

    repository.experiment(LABEL, settings_in("/here")[LABEL], accuracy=0.8)

    records = collect(repository.folder, "tiny", settings_in("/there"), set())

    assert records[LABEL]["metrics"]["accuracy"] == 0.8
    write_results(repository.folder, tiny_study(), "tiny", records)
    file = results_file(repository.folder, "tiny")
    assert "/here" not in file.read_text()


def test_a_free_parameter_may_have_had_any_value(repository):
    settings = resolve(tiny_study(), SHIPPED, quick=True, overrides={})
    params = settings[LABEL] | {"weights": "data/raw/some.th"}
    repository.experiment(LABEL, params, accuracy=0.8)

    assert collect(repository.folder, "tiny", settings, set())[LABEL] is None
    records = collect(repository.folder, "tiny", settings, {"weights"})
    assert records[LABEL]["metrics"]["accuracy"] == 0.8


def delete_experiments(repository: StudyRepository) -> None:
    references = git(repository.folder, "for-each-ref", "--format=%(refname)", "refs/exps")
    for reference in references.split():
        git(repository.folder, "update-ref", "-d", reference)


def test_stored_results_replace_deleted_experiments(repository):
    study = tiny_study()
    weights = {"weights": str(repository.folder / "some.th")}
    settings = resolve(study, SHIPPED, quick=True, overrides=weights)
    repository.experiment(LABEL, settings[LABEL], accuracy=0.8)
    before = collect(repository.folder, "tiny", settings, set())

    write_results(repository.folder, study, "tiny", before)
    path = results_file(repository.folder, "tiny")
    delete_experiments(repository)
    after = collect(repository.folder, "tiny", settings, set())

    assert path == results_file(repository.folder, "tiny")
    assert str(repository.folder) not in path.read_text()
    assert after[LABEL]["metrics"] == before[LABEL]["metrics"]
    assert after[LABEL]["current"]


def test_stored_results_of_other_parameters_are_kept(repository):
    study = tiny_study()
    settings = resolve(study, SHIPPED, quick=True, overrides={})
    repository.experiment(LABEL, settings[LABEL], accuracy=0.8)
    records = collect(repository.folder, "tiny", settings, set())
    write_results(repository.folder, study, "tiny", records)
    path = results_file(repository.folder, "tiny")
    content = path.read_bytes()

    other_settings = resolve(study, SHIPPED, quick=True, overrides={"seeds": [9]})
    other_records = collect(repository.folder, "tiny", other_settings, set())
    write_results(repository.folder, study, "tiny", other_records)

    assert other_records[LABEL] is None
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "file", sorted((PROJECT / "studies/results").glob("*.json")), ids=lambda path: path.stem
)
def test_shipped_results_belong_to_the_shipped_settings(file, repository):
    """A new parameter must be added to the stored results, or they are shown as not run."""
    name = file.stem.removesuffix("_quick")
    study, quick = load_study(name, PROJECT / "studies"), name != file.stem
    settings = resolve(study, SHIPPED, quick=quick, overrides={})
    stored = results_file(repository.folder, file.stem)
    stored.parent.mkdir(parents=True)
    stored.write_bytes(file.read_bytes())

    free = study.needed(quick).keys()
    images = study.images_of(quick=quick, nearest=False)
    records = collect(repository.folder, file.stem, settings, free, images=images)

    found = [label for label, record in records.items() if record]
    assert found
    assert set(found) == json.loads(file.read_text())["settings"].keys()


@pytest.mark.parametrize(
    "stored", [[], {}, {"settings": {"a": {}}}, {"settings": {"a": []}}, {"settings": 3}]
)
def test_damaged_stored_results_are_refused(repository, stored):
    path = results_file(repository.folder, "tiny")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored))

    with pytest.raises(InputError, match=r"tiny\.json is damaged: "):
        collect(repository.folder, "tiny", {}, set())


# --- clones ---


def test_half_a_clone_is_replaced_and_the_project_around_it_stays(repository):
    """Git takes the folder of a killed `git clone` for a part of the project around it."""
    folder = repository.folder / ".prunelab/studies/checkouts/0"
    (folder / ".git/hooks").mkdir(parents=True)
    (repository.folder / "params.yaml").write_text("mine, and not committed")
    branch = git(repository.folder, "branch", "--show-current")

    clone_at(repository.folder, folder, "HEAD")

    assert (repository.folder / "params.yaml").read_text() == "mine, and not committed"
    assert git(repository.folder, "branch", "--show-current") == branch
    assert (folder / "params.yaml").read_text() == SHIPPED.read_text()


def test_the_lock_of_a_killed_git_is_removed_from_a_clone(repository):
    folder = repository.folder / ".prunelab/studies/checkouts/0"
    folder.parent.mkdir(parents=True)
    clone_at(repository.folder, folder, "HEAD")
    (folder / ".git/index.lock").touch()
    (folder / ".git/refs/exps").mkdir()
    (folder / ".git/refs/exps/its-name.lock").touch()  # of an experiment that was being saved
    (folder / "params.yaml").unlink()

    clone_at(repository.folder, folder, "HEAD")

    assert (folder / "params.yaml").exists()
    git(folder, "update-ref", "refs/exps/its-name", "HEAD")


@pytest.mark.parametrize("is_cut_short", [False, True])
def test_files_that_a_killed_dvc_had_in_use_do_not_block_a_clone(is_cut_short, repository):
    """After a restart of the machine, another process has the number of the killed one."""
    (repository.folder / ".dvc").mkdir(exist_ok=True)
    (repository.folder / ".dvc/.gitignore").write_text("/tmp\n")
    repository.commit("As DVC begins a project")
    folder = repository.folder / ".prunelab/studies/checkouts/0"
    folder.parent.mkdir(parents=True)
    clone_at(repository.folder, folder, "HEAD")
    file = str(folder / "params.yaml")
    killed = {"pid": os.getpid(), "cmd": "dvc repro of the killed run"}
    table = json.dumps({"write": {file: killed}, "read": {}})
    (folder / ".dvc/tmp").mkdir(parents=True)
    (folder / ".dvc/tmp/rwlock").write_text(table[: len(table) // 2] if is_cut_short else table)

    clone_at(repository.folder, folder, "HEAD")

    with rwlock(str(folder / ".dvc/tmp"), localfs, "dvc repro", [], [file], hardlink=False):
        pass


def test_a_clone_uses_the_cache_of_the_project(tmp_path):
    project = Clone(tmp_path / "project")
    project.commit("Project")
    clone_at(project.folder, tmp_path / "clone", "HEAD")

    use_cache(tmp_path / "clone", cache_folder(project.folder))

    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(
        command, cwd=tmp_path / "clone", capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == project.folder / ".dvc/cache"


# --- the command ---


@pytest.fixture
def workspace(repository, monkeypatch) -> StudyRepository:
    monkeypatch.chdir(repository.folder)
    return repository


@pytest.fixture
def no_work(monkeypatch) -> None:
    """Fail the test if a job is started."""
    monkeypatch.setattr(
        "prunelab.commands.studies.local.LocalRun.run_job",
        lambda *_: pytest.fail("work was started"),
    )


def study_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["study", *arguments])


@pytest.mark.usefixtures("workspace", "no_work")
def test_a_needed_parameter_that_is_not_given_is_refused():
    write_study(Path("studies"), TINY | {"needs": {"weights": "a checkpoint"}})

    result = study_command("run", "tiny")

    assert result.exit_code == 1
    assert "weights is missing: a checkpoint. Give it with --set weights=" in result.stderr


@pytest.mark.usefixtures("workspace", "no_work")
def test_unknown_names_are_refused_before_any_work():
    content = deepcopy(TINY)
    content["settings"] += [
        {"method": "l1_chanel", "ratio": 0.5},
        {"method": "magic", "ratio": 0.5},
    ]
    content["params"]["model"] = "resnet21"
    write_study(Path("studies"), content)

    result = study_command("run", "tiny", "--set", "weights=no/such/file")

    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    for start in (
        "all settings: model: unknown model 'resnet21'",
        "l1_chanel-0.5: method: unknown method 'l1_chanel' (did you mean",
        "magic-0.5: method: unknown method 'magic'",
    ):
        assert any(line.startswith(start) for line in lines)


def test_uncommitted_code_is_refused(workspace):
    write_study(Path("studies"), TINY)
    file = workspace.edit_code()

    result = study_command("run", "tiny")

    assert result.exit_code == 1
    assert f"{file} differs from the last commit" in result.stderr


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    ("key", "file"),
    [("weights", "own.th"), ("weights", "../own.th"), ("data.table", "own.csv")],
)
def test_files_that_clones_would_not_have_are_refused(key, file):
    write_study(Path("studies"), TINY)
    Path(file).write_text("of the user")

    result = study_command("run", "tiny", "--set", f"{key}={file}")

    assert f"{key}: {file} is neither under data/raw nor in Git" in result.stderr


@pytest.mark.usefixtures("workspace")
def test_list_and_show_work_before_a_run():
    write_study(Path("studies"), TINY)

    assert "tiny: A tiny study (2 settings)" in study_command("list").stdout

    result = study_command("show", "tiny", "--markdown")
    assert result.exit_code == 0, result.stderr
    assert "| l1_channel-0.5 | not run |" in result.stdout
    assert "Not a study at all." in result.stdout
    assert not Path("studies/results").exists()

    assert "unknown study" in study_command("show", "tni").stderr


# --- real runs on digits, through DVC: two minutes and more ---

# Appended to files of src/prunelab/pruning.
BREAK_L2_CHANNEL = {
    "schedules.py": """

def _fail(run: object) -> None:
    raise SystemExit("broken on purpose")


SCHEDULES.register("broken", _fail)
""",
    "methods.py": """

METHODS = Table("method", {**_ENTRIES, "l2_channel": Method("l2", "channel", "uniform", "broken")})
""",
}


class StudyClone(Clone):
    """A clone with a tiny study of three settings, of which l2_channel fails."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.environment["PYTHONPATH"] = str(folder / "src")
        content = deepcopy(TINY)
        content["settings"] = [
            {"method": "l1_channel", "ratio": 0.5},
            {"method": "l2_channel", "ratio": 0.5},
            {"method": "random_unstructured", "ratio": 0.5},
        ]
        write_study(folder / "studies", content)
        for name, code in BREAK_L2_CHANNEL.items():
            with (folder / "src/prunelab/pruning" / name).open("a") as file:
                file.write(code)
        self.commit("A tiny study")

    def study(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "prunelab", "study", *arguments, check=check)

    def start(self, *arguments: str, until: str) -> subprocess.Popen[str]:
        """Start a study run and return when it prints `until`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "prunelab", "study", "run", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for line in process.stdout:
            if until in line:
                return process
        pytest.fail(f"the run ended before it printed {until!r}")

    def running_commands(self) -> list[str]:
        """Commands of DVC or its stages that still run in this clone."""
        commands = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.folder) in str((process / "cwd").readlink()):
                    commands.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return [command for command in commands if "prunelab" in command]

    def experiments(self) -> list[str]:
        """Name and commit of every experiment."""
        listed = self.run(
            "git", "for-each-ref", "--format=%(refname:lstrip=4) %(objectname)", "refs/exps"
        )
        return listed.stdout.splitlines()


def assert_killed_run_leaves_nothing(clone: StudyClone) -> None:
    killed = clone.start("tiny", until="train_base")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    deadline = time.monotonic() + 10
    while clone.running_commands() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert clone.running_commands() == []
    assert clone.experiments() == []


def assert_interrupted_run_keeps_what_is_measured(clone: StudyClone) -> str:
    """Return name and commit of the one experiment that was finished."""
    interrupted = clone.start("tiny", until="[2/3] l2_channel-0.5: started")
    interrupted.send_signal(signal.SIGINT)
    output = interrupted.communicate()[0]

    assert interrupted.returncode == 130, output
    assert clone.running_commands() == []
    (experiment,) = clone.experiments()
    assert "tiny-l1_channel-0.5-" in experiment
    return experiment


def assert_rest_runs_although_a_setting_fails(clone: StudyClone, measured: str) -> None:
    rest = clone.study("run", "tiny", "--jobs", "2", check=False)

    assert rest.returncode == 1
    assert "l1_channel-0.5: measured already" in rest.stdout
    assert "prepare" not in rest.stdout  # out of DVC's cache, like the dense network
    assert "train_base" not in rest.stdout
    assert "l2_channel-0.5 failed; the end of its log" in rest.stderr
    assert "broken on purpose" in rest.stderr
    assert "1 of 3 settings failed" in rest.stderr
    assert len(clone.experiments()) == 2
    assert measured in clone.experiments()


def assert_results_are_shown_and_stored(clone: StudyClone) -> None:
    shown = clone.study("show", "tiny").stdout
    stored = json.loads((clone.folder / "studies/results/tiny.json").read_text())["settings"]

    assert set(stored) == {"l1_channel-0.5", "random_unstructured-0.5"}
    measured = stored["l1_channel-0.5"]
    assert measured["environment"]["threads"] == 1
    assert measured["parameters"]["train"]["epochs"] == 1
    assert measured["baseline"] == clone.run("git", "rev-parse", "HEAD").stdout.strip()
    assert measured["metrics"]["macs_ratio"] > 1.5
    assert measured["dense"] == stored["random_unstructured-0.5"]["dense"]

    lines = [line.split() for line in shown.splitlines()]
    (compared,) = [line for line in lines if line[:3] == ["l1_channel-0.5", "half", "accuracy,"]]
    change = 100 * (measured["metrics"]["accuracy"] - measured["dense"]["accuracy"])
    assert compared[-1] == f"{change - (80.25 - 90.5):+.2f}"
    assert ["l2_channel-0.5", "not", "run"] in lines


@pytest.mark.slow
def test_a_study_survives_kills_and_shows_what_was_measured(tmp_path):
    clone = StudyClone(tmp_path)

    assert_killed_run_leaves_nothing(clone)
    measured = assert_interrupted_run_keeps_what_is_measured(clone)
    assert_rest_runs_although_a_setting_fails(clone, measured)

    # The user's working tree is untouched, and DVC lists the experiments.
    assert clone.run("git", "status", "--porcelain").stdout == ""
    listed = clone.run("dvc", "exp", "list", "--name-only").stdout.split()
    names = sorted(name.rsplit("-", 1)[0] for name in listed)
    assert names == ["tiny-l1_channel-0.5", "tiny-random_unstructured-0.5"]

    assert_results_are_shown_and_stored(clone)
