"""Studies run in one process: the same bits as by DVC, in pieces, at a scale, and bad input."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from helpers.params import PROJECT
from helpers.repository import Clone
from helpers.studies import (
    SHIPPED,
    TINY,
    StudyRepository,
    measured_metrics,
    tiny_study,
    write_study,
)
from ruamel.yaml import YAML
from typer.testing import CliRunner

from prunelab.artifacts.prepared import load_split, read_data_info, save_prepared
from prunelab.cli import app
from prunelab.commands.studies import here
from prunelab.commands.studies.fewer_images import keep_images
from prunelab.commands.studies.here_command import seeds_of
from prunelab.commands.studies.origin import Origin, origin_of
from prunelab.commands.studies.results import read_stored, results_file
from prunelab.commands.studies.scale import key_of, scaled, scaled_epochs
from prunelab.commands.studies.study_file import override, resolve
from prunelab.commands.studies.time_plan import TimePlan, epochs_of
from prunelab.commands.studies.work_folder import WorkFolder
from prunelab.config.params import read_params
from prunelab.core.errors import InputError
from prunelab.core.files import write_json
from prunelab.core.metrics_files import OTHERS, split_metrics
from prunelab.data.splits import Split
from prunelab.project.stage_commands import stages_before
from prunelab.runtime.time_limit import OutOfTimeError, epoch_ended

LABEL = "l1_channel-0.5"
OTHER = "random_unstructured-0.5"
PARAMS = read_params(SHIPPED)
PIPELINE = (PROJECT / "dvc.yaml").read_text()

# --- the scale ---


@pytest.mark.parametrize(
    ("epochs", "scale", "expected"),
    [(40, 0.1, 4), (200, 0.25, 50), (3, 0.5, 2), (1, 0.01, 1), (0, 0.5, 0), (7, 1.0, 7)],
)
def test_epochs_are_rounded_up_and_none_stay_none(epochs, scale, expected):
    assert scaled_epochs(epochs, scale) == expected


def test_every_training_is_scaled_and_nothing_else():
    changed = scaled(PARAMS, 0.25)

    assert changed["train"]["epochs"] == 10
    assert changed["finetune"]["epochs"] == 2
    assert changed["prune"]["epochs"] == 1
    assert changed["prune"]["iterations"] == PARAMS["prune"]["iterations"]
    assert PARAMS["train"]["epochs"] == 40
    for section in ("train", "prune", "finetune"):
        changed[section]["epochs"] = PARAMS[section]["epochs"]
    assert changed == PARAMS


def test_weights_are_kept_for_rewinding_within_the_scaled_epochs():
    params = deepcopy(PARAMS)
    params["train"] |= {"epochs": 20, "rewind_epoch": 8}

    assert scaled(params, 0.1)["train"]["rewind_epoch"] == 2


def test_scales_have_keys_of_their_own():
    assert key_of("a-0.5", 1.0) == "a-0.5"
    assert key_of("a-0.5", 0.25) == "a-0.5@0.25"


# --- time ---


class MeasuredFolder:
    """A stage's folder with what stage.json would say."""

    def __init__(self, name: str, seconds: float = 0.0, epochs: int = 0, spent: float = 0.0):
        self.stage = type("Stage", (), {"name": name})
        self._done = {"seconds": seconds, "epochs": epochs}
        self._spent = spent

    def done(self) -> dict:
        return self._done

    def spent(self) -> float:
        return self._spent


def test_nothing_is_expected_before_an_epoch_was_measured():
    assert TimePlan().seconds([MeasuredFolder("train_base")], PARAMS) is None


def test_a_setting_is_expected_to_take_its_epochs_and_its_evaluation():
    plan = TimePlan()
    plan.learn(MeasuredFolder("train_base", seconds=400, epochs=40))
    plan.learn(MeasuredFolder("evaluate_focus", seconds=3))
    pending = [MeasuredFolder("finetune_focus"), MeasuredFolder("evaluate_focus")]

    assert plan.seconds(pending, PARAMS) == pytest.approx(1.1 * (8 * 10 + 3))

    half_done = [MeasuredFolder("finetune_focus", spent=30), MeasuredFolder("evaluate_focus")]
    assert plan.seconds(half_done, PARAMS) == pytest.approx(1.1 * (8 * 10 - 30 + 3))


@pytest.mark.parametrize(
    ("method", "pruning", "fine_tuning"),
    [
        ("l1_channel", 0, 8),
        ("l1_unstructured_iterative", 4 * 2, 8),
        ("l1_unstructured_gradual", 2, 8),
        ("l1_unstructured_lottery", 4 * 40, 39),
        ("l1_unstructured_scratch", 0, 48),
    ],
)
def test_epochs_of_stages_follow_the_method(method, pruning, fine_tuning):
    params = PARAMS | {"method": method}

    assert epochs_of("train_base", params) == 40
    assert epochs_of("prune_focus", params) == pruning
    assert epochs_of("finetune_focus", params) == fine_tuning
    assert epochs_of("evaluate_focus", params) == 0


# --- a part of the images ---


def prepared_folder(folder: Path, counts: dict[str, int], classes: int = 3) -> Path:
    """Prepared images whose first pixel numbers them."""
    splits = {}
    for name, count in counts.items():
        images = np.zeros((count, 1, 2, 2), np.uint8)
        images[:, 0, 0, 0] = np.arange(count)
        splits[name] = Split(images, np.arange(count, dtype=np.int64) % classes)

    info = {
        "dataset": "digits",
        "classes": [str(label) for label in range(classes)],
        "shape": [1, 2, 2],
        "counts": counts,
        "mean": [0.5],
        "std": [1.0],
    }
    save_prepared(folder, splits, lambda written: info)
    return folder


def test_fewer_images_are_as_many_of_every_class_and_the_test_split_is_whole(tmp_path):
    folder = prepared_folder(tmp_path, {"train": 90, "validation": 30, "test": 12})
    test_images = load_split(folder, "test").inputs

    keep_images(folder, 30)

    train, validation = load_split(folder, "train"), load_split(folder, "validation")
    assert np.bincount(train.labels).tolist() == [10, 10, 10]
    assert np.bincount(validation.labels).tolist() == [4, 3, 3]
    assert len(set(train.inputs[:, 0, 0, 0])) == 30
    assert np.array_equal(load_split(folder, "test").inputs, test_images)

    info = read_data_info(folder)
    assert info["counts"] == {"train": 30, "validation": 10, "test": 12}
    assert info["images"] == 30
    pixels = train.inputs / 255
    assert info["mean"] == pytest.approx([pixels.mean()], abs=1e-6)


@pytest.mark.parametrize("images", [2, 91])
def test_too_few_and_too_many_images_are_refused(tmp_path, images):
    folder = prepared_folder(tmp_path, {"train": 90, "validation": 30, "test": 12})

    with pytest.raises(InputError, match=rf"images: {images} of 90 training images; valid"):
        keep_images(folder, images)

    assert read_data_info(folder)["counts"]["train"] == 90


# --- the work folder ---

OWNER = {"study": "tiny", "scale": 1.0, "code": "abc"}


def test_a_work_folder_is_taken_again_by_the_same_run(tmp_path):
    work = WorkFolder(tmp_path / "work", {})

    work.claim(OWNER)
    work.claim(OWNER)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("study", "other", "study 'tiny' instead of 'other'"),
        ("scale", 0.5, "scale 1.0 instead of 0.5"),
        ("code", "def", "code 'abc' instead of 'def'"),
    ],
)
def test_a_work_folder_of_another_run_is_refused(tmp_path, key, value, shown):
    work = WorkFolder(tmp_path / "work", {})
    work.claim(OWNER)

    with pytest.raises(InputError, match=shown) as caught:
        work.claim(OWNER | {key: value})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("content", ["", '{"study": "ti', "[]"])
def test_damaged_notes_of_a_work_folder_give_advice_that_helps(tmp_path, content):
    """As a power cut leaves them. DVC knows nothing of these files."""
    work = WorkFolder(tmp_path / "work", {})
    work.claim(OWNER)
    folder = folders_of(work)["prepare"]
    folder.note_spent(3.0)

    (folder.path / "spent.json").write_text(content)
    assert folder.spent() == 0
    (work.path / "work.json").write_text(content)
    with pytest.raises(InputError, match="is damaged. Give another folder, or delete this one"):
        work.claim(OWNER)


def test_a_folder_with_something_else_is_no_work_folder(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")

    with pytest.raises(InputError, match="the folder holds something else"):
        WorkFolder(tmp_path, {}).claim(OWNER)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def folders_of(work: WorkFolder, **changes: object) -> dict:
    stages = stages_before(PIPELINE, PARAMS | changes)
    return {folder.stage.name: folder for folder in work.folders(stages, {})}


def test_settings_share_the_stages_that_they_have_in_common(tmp_path):
    work = WorkFolder(tmp_path, {})
    one, other = folders_of(work), folders_of(work, ratio=0.25)

    for name in ("prepare", "train_base", "evaluate_base"):
        assert one[name].path == other[name].path
    for name in ("prune_focus", "finetune_focus", "evaluate_focus"):
        assert one[name].path != other[name].path


def test_other_seeds_hardware_and_files_have_folders_of_their_own(tmp_path):
    usual = folders_of(WorkFolder(tmp_path, {"device": "a card"}))

    seeds = folders_of(WorkFolder(tmp_path, {"device": "a card"}), seeds=[9])
    assert seeds["prepare"].path == usual["prepare"].path
    assert seeds["train_base"].path != usual["train_base"].path
    assert seeds["evaluate_focus"].path != usual["evaluate_focus"].path

    hardware = folders_of(WorkFolder(tmp_path, {"device": "another"}))
    assert hardware["train_base"].path != usual["train_base"].path


@pytest.mark.parametrize("key", ["weights", "data.source", "data.table"])
def test_a_stage_finds_the_users_own_files_of_the_project(tmp_path, key):
    project = tmp_path / "project"
    project.mkdir()
    (project / "own").write_text("of the user")
    params = deepcopy(PARAMS)
    override(params, {key: "own"})

    folder = folders_of(WorkFolder(tmp_path / "work", {}))["prepare"]
    folder.set_up(project, params)

    assert (folder.path / "own").read_text() == "of the user"


def test_an_output_that_was_changed_is_refused(tmp_path):
    folder = folders_of(WorkFolder(tmp_path, {}))["evaluate_base"]
    metrics = folder.path / "metrics/base.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("{}")
    folder.finish(seconds=1.0, epochs=0)
    assert folder.done()["outputs"].keys() == {"metrics/base.json"}

    metrics.write_text('{"accuracy": 1}')
    with pytest.raises(InputError, match="was changed after it was written. Delete"):
        folder.done()

    metrics.unlink()
    with pytest.raises(InputError, match="is missing. Delete"):
        folder.done()


# --- the code ---


@pytest.fixture
def repository(tmp_path) -> StudyRepository:
    return StudyRepository(tmp_path)


def test_code_of_another_folder_is_refused(repository):
    with pytest.raises(InputError, match="this process runs the code in .* PYTHONPATH=src"):
        origin_of(repository.folder)


def test_a_bundle_brings_its_origin_along(tmp_path):
    (tmp_path / "origin.json").write_text('{"commit": "1234", "code": "5678"}')

    assert origin_of(tmp_path) == Origin("1234", "5678")


def test_a_damaged_origin_is_one_line(tmp_path):
    (tmp_path / "origin.json").write_text('{"commit": "1234"')

    with pytest.raises(InputError, match="origin.json is damaged"):
        origin_of(tmp_path)


# --- failures ---


def test_a_lost_gpu_is_one_line_and_a_bug_is_not():
    with pytest.raises(InputError, match=r"\[1/2\] a: the GPU failed \(CUDA error: unspecified"):
        here._report_lost_gpu(
            RuntimeError("CUDA error: unspecified launch failure\nmore"), "[1/2] a"
        )

    here._report_lost_gpu(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "[1/2] a")
    here._report_lost_gpu(RuntimeError("CUDA out of memory"), "[1/2] a")


def test_settings_that_need_different_processes_are_refused():
    settings = resolve(tiny_study(), SHIPPED, quick=False, overrides={})
    settings[OTHER]["runtime"]["bits"] = "native"
    with pytest.raises(InputError, match="runtime: settings differ in it"):
        here.shared_runtime(settings)

    settings = resolve(tiny_study(), SHIPPED, quick=False, overrides={"runtime.processes": 2})
    with pytest.raises(InputError, match="runtime.processes: --here trains in one process"):
        here.shared_runtime(settings)


# --- the command ---


def study_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["study", *arguments])


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with a tiny study and no repository, as a bundle is."""
    write_study(tmp_path / "studies", TINY)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--minutes", "5"], "--minutes needs --here, which runs in this process"),
        (["--scale", "0.5"], "--scale needs --here, which runs in this process"),
        (["--here", "--minutes", "0"], "--minutes 0: give a number above 0"),
        (["--here", "--scale", "2"], "--scale 2: give a number above 0 and at most 1"),
        (["--here", "--scale", "0"], "--scale 0: give a number above 0 and at most 1"),
        (["--here", "--seeds", "a"], "--seeds a: give numbers with commas between, such as 0,1,2"),
        (["--here", "--nearest"], "this study has no section nearest"),
        (["--here", "--nearest", "--quick"], "--quick and --nearest are two different runs"),
        (["--here", "--only", "l1_chanel-0.5"], "unknown setting 'l1_chanel-0.5'"),
    ],
)
def test_bad_options_are_one_line_before_any_work(arguments, problem):
    result = study_command("run", "tiny", *arguments)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(problem)
    assert not Path(".prunelab").exists()


@pytest.mark.usefixtures("project")
def test_a_path_that_leads_out_of_the_project_is_refused_before_any_work():
    Path("../photos").mkdir()

    result = study_command("run", "tiny", "--here", "--set", "data.source=../photos")

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert (
        line
        == "all settings: data.source: ../photos leads out of the project. Give an absolute path."
    )
    assert "[1/" not in result.stdout


def test_seeds_are_numbers_with_commas():
    assert seeds_of("0,12,3") == [0, 12, 3]
    for text in ("", "1,", "1;2", "-1", "1.5"):
        with pytest.raises(InputError):
            seeds_of(text)


@pytest.mark.usefixtures("project")
def test_a_part_of_the_images_needs_here():
    write_study(Path("studies"), TINY | {"images": 100})

    result = study_command("run", "tiny")

    assert result.stderr.startswith(
        "this study takes 100 of the training images, which only --here"
    )


# --- which settings run, and what is left: with stages that only write ---

EPOCH_S = 60.0


class FakeStages:
    """Stages that write outputs at once, and take minutes by a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.calls: list[str] = []
        self.failing = ""
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(here._Runner, "_call", lambda _, stage, path: self.call(stage, path))

    def call(self, stage: object, path: Path) -> None:
        self.calls.append(stage.name)
        if stage.name == self.failing:
            raise InputError("broken on purpose")
        params = YAML(typ="safe").load(path / "params.yaml")
        for epoch in range(epochs_of(stage.name, params)):
            checkpoint = path / ".prunelab/checkpoints/x/0.pt"
            done = 0
            if checkpoint.exists():
                done = int(checkpoint.read_text())
            if epoch < done:
                continue
            self.now += EPOCH_S
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_text(str(epoch + 1))
            epoch_ended()

        for output in stage.outputs:
            (path / output).parent.mkdir(parents=True, exist_ok=True)
            if output.startswith("metrics/"):
                continue
            (path / output).write_text(stage.name)
        self._write_metrics(stage.name, path)

    def _write_metrics(self, name: str, path: Path) -> None:
        if not name.startswith("evaluate"):
            return
        stem = name.removeprefix("evaluate_")
        headline, others = split_metrics(measured_metrics(0.9, 0.95))
        files = {f"{stem}.json": headline, f"details/{stem}.json": {OTHERS: others}}
        for file, content in files.items():
            write_json(path / "metrics" / file, content)
        metrics_hash = hashlib.sha256((path / f"metrics/{stem}.json").read_bytes()).hexdigest()
        note = {"device": "a test", "metrics_sha256": metrics_hash}
        write_json(path / f"metrics/environment/{stem}.json", note)


@pytest.fixture
def stages(monkeypatch) -> FakeStages:
    return FakeStages(monkeypatch)


def here_run(folder: Path, **changes: object) -> here.HereRun:
    """A run of the tiny study: two epochs of base training, five of fine-tuning for a setting."""
    params = {"seeds": [0], "train": {"epochs": 2}, "finetune.epochs": 5, "runtime.bits": "native"}
    study = tiny_study(params=params)
    settings = resolve(study, SHIPPED, quick=False, overrides={})
    options = {
        "root": PROJECT,
        "name": "tiny",
        "study": study,
        "settings": settings,
        "only": list(settings),
        "work": folder / "work",
        "origin": Origin("1" * 40, "2" * 12),
        "results_in": folder,
    }
    return here.HereRun(**(options | changes))


def run_quietly(run: here.HereRun) -> here.Outcome:
    return here.run_here(run, lambda line: None)


def test_every_setting_is_measured_once_and_its_result_is_written(tmp_path, stages):
    outcome = run_quietly(here_run(tmp_path))

    assert list(outcome.records) == [LABEL, OTHER]
    assert stages.calls.count("train_base") == 1
    assert stages.calls.count("evaluate_focus") == 2
    stored = read_stored(results_file(tmp_path, "tiny"))
    assert stored[LABEL]["baseline"] == "1" * 40
    assert stored[LABEL]["environment"] == {"commit": "1" * 40, "device": "a test"}

    stages.calls.clear()
    again = run_quietly(here_run(tmp_path))
    assert stages.calls == []
    assert again.records.keys() == outcome.records.keys()

    # Without the work folder, as on another machine, the results are enough.
    elsewhere = run_quietly(here_run(tmp_path, work=tmp_path / "other"))
    assert stages.calls == []
    assert elsewhere.records.keys() == outcome.records.keys()


def test_a_second_run_in_the_same_work_folder_is_refused(tmp_path, stages):
    run_quietly(here_run(tmp_path))
    stages.calls.clear()

    with (
        WorkFolder(tmp_path / "work", {}).reserved(),
        pytest.raises(InputError, match="another run uses this folder"),
    ):
        run_quietly(here_run(tmp_path))
    assert stages.calls == []

    run_quietly(here_run(tmp_path))  # the other one has ended


def test_results_of_other_code_are_measured_again(tmp_path, stages):
    run_quietly(here_run(tmp_path))
    stages.calls.clear()

    origin = Origin("3" * 40, "4" * 12)
    run_quietly(here_run(tmp_path, work=tmp_path / "other", origin=origin))

    assert stages.calls.count("evaluate_focus") == 2
    assert read_stored(results_file(tmp_path, "tiny"))[LABEL]["code"] == "4" * 12


def test_a_setting_starts_only_if_it_is_expected_to_end(tmp_path, stages):
    start = stages.now

    outcome = run_quietly(here_run(tmp_path, minutes=10))

    # Two epochs and five are seven minutes. Another five would not fit into the other three.
    assert list(outcome.records) == [LABEL]
    assert list(outcome.left) == [OTHER]
    assert outcome.left[OTHER] == pytest.approx(1.1 * 5 * EPOCH_S)
    assert stages.now - start == 7 * EPOCH_S

    assert list(run_quietly(here_run(tmp_path, minutes=10)).records) == [LABEL, OTHER]
    assert stages.calls.count("train_base") == 1


def test_a_setting_longer_than_all_minutes_is_trained_in_pieces(tmp_path, stages):
    moments = []
    for _ in range(20):
        start = stages.now
        outcome = run_quietly(here_run(tmp_path, minutes=3))
        moments.append(stages.now - start)
        if not outcome.left:
            break

    assert list(outcome.records) == [LABEL, OTHER]
    assert max(moments) <= 3 * 60
    assert sum(moments) == (2 + 5 + 5) * EPOCH_S  # no epoch was repeated


def test_minutes_that_are_over_before_an_epoch_are_refused(tmp_path, stages, monkeypatch):
    def call(runner: object, stage: object, path: Path) -> None:
        stages.now += 1000
        raise OutOfTimeError

    monkeypatch.setattr(here._Runner, "_call", call)

    with pytest.raises(InputError, match="--minutes 1 is too small: not a single epoch ended"):
        run_quietly(here_run(tmp_path, minutes=1))


def test_a_setting_that_fails_leaves_the_others_alone(tmp_path, stages):
    stages.failing = "prune_focus"
    outcome = run_quietly(here_run(tmp_path))

    assert outcome.failures == dict.fromkeys([LABEL, OTHER], "broken on purpose")
    stages.failing = ""
    assert list(run_quietly(here_run(tmp_path)).records) == [LABEL, OTHER]
    assert stages.calls.count("train_base") == 1


def test_a_full_disk_ends_the_run_and_keeps_what_is_whole(tmp_path, stages, monkeypatch):
    run_quietly(here_run(tmp_path, only=[LABEL]))
    before = results_file(tmp_path, "tiny").read_bytes()

    def call(runner: object, stage: object, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(here._Runner, "_call", call)
    with pytest.raises(OSError, match="No space left"):
        run_quietly(here_run(tmp_path))

    assert results_file(tmp_path, "tiny").read_bytes() == before


def test_settings_of_other_work_share_the_result_file(tmp_path, stages):
    run_quietly(here_run(tmp_path, only=[LABEL]))
    run_quietly(here_run(tmp_path, only=[OTHER], work=tmp_path / "other"))

    assert set(read_stored(results_file(tmp_path, "tiny"))) == {LABEL, OTHER}


def test_a_setting_that_needs_another_process_can_run_alone(tmp_path, stages):
    run = here_run(tmp_path, only=[OTHER])
    run.settings[LABEL]["runtime"]["precision"] = "bf16"

    assert list(run_quietly(run).records) == [OTHER]
    with pytest.raises(InputError, match="runtime: settings differ in it"):
        run_quietly(replace(run, only=[LABEL, OTHER]))


def test_what_settings_share_is_read_once_to_learn_what_it_took(tmp_path, stages, monkeypatch):
    run_quietly(here_run(tmp_path))
    learned = []
    monkeypatch.setattr(TimePlan, "learn", lambda _, folder: learned.append(folder.path.name))

    run_quietly(here_run(tmp_path))

    assert len(learned) == len(set(learned))
    assert sum(name.startswith("train_base") for name in learned) == 1
    assert sum(name.startswith("evaluate_focus") for name in learned) == 2


# --- real runs on digits: minutes ---


class HereClone(Clone):
    """A clone with a tiny study of two settings."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.environment["PYTHONPATH"] = str(folder / "src")
        content = deepcopy(TINY)
        content["params"] = {"seeds": [0, 1], "train": {"epochs": 2}, "finetune.epochs": 1}
        content["settings"][1] = {
            "method": "l1_unstructured_iterative",
            "ratio": 0.5,
            "params": {"prune.iterations": 2, "prune.epochs": 1},
        }
        write_study(folder / "studies", content)
        self.commit("A tiny study")

    def study(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "prunelab", "study", *arguments, check=check)

    def results(self) -> dict:
        return json.loads((self.folder / "studies/results/tiny.json").read_text())["settings"]


def dvc_hash(path: Path) -> str:
    """The hash that DVC gives a file or a folder."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    entries = [
        {"md5": dvc_hash(file), "relpath": file.relative_to(path).as_posix()} for file in files
    ]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def hashes_of_work(work: Path) -> set[tuple[str, str]]:
    """Path and hash of every output in a work folder."""
    hashes = set()
    stages = {stage.name: stage for stage in stages_before(PIPELINE, PARAMS)}
    for done in work.glob("*/stage.json"):
        stage = stages[json.loads(done.read_text())["stage"]]
        for output in stage.outputs:
            if (done.parent / output).exists():
                hashes.add((output, dvc_hash(done.parent / output)))
    return hashes


def hashes_of_experiments(clone: Clone) -> set[tuple[str, str]]:
    """Path and hash of every output that DVC has noted in its experiments, without pictures."""
    hashes = set()
    listing = clone.run("git", "for-each-ref", "--format=%(objectname)", "refs/exps").stdout
    for commit in listing.split():
        lock = YAML(typ="safe").load(clone.run("git", "show", f"{commit}:dvc.lock").stdout)
        for name, stage in lock["stages"].items():
            for output in stage["outs"]:
                is_picture = output["path"].endswith((".svg", ".png", "training.json"))
                if name not in ("code", "settings") and not is_picture:
                    hashes.add((output["path"], output["md5"]))
    return hashes


@pytest.mark.slow
def test_a_study_run_here_has_the_bits_of_the_same_study_run_by_dvc(tmp_path):
    clone = HereClone(tmp_path / "project")
    work = tmp_path / "work"

    too_short = clone.study("run", "tiny", "--here", "--work", str(work), "--minutes", "0.001",
                            check=False)  # fmt: skip
    assert too_short.returncode == 1
    assert too_short.stderr.startswith("--minutes 0.001 is too small: not a single epoch ended")

    only = clone.study("run", "tiny", "--here", "--work", str(work), "--only", LABEL)
    assert f"[1/1] {LABEL}: train_base" in only.stdout
    assert set(clone.results()) == {LABEL}

    rest = clone.study("run", "tiny", "--here", "--work", str(work))
    assert f"[1/2] {LABEL}: measured already" in rest.stdout
    assert "train_base" not in rest.stdout
    by_here = clone.results()
    assert len(by_here) == 2

    clone.study("run", "tiny")
    assert hashes_of_work(work) == hashes_of_experiments(clone)

    (clone.folder / "studies/results/tiny.json").unlink()
    clone.study("show", "tiny")
    by_dvc = clone.results()
    for label, result in by_here.items():
        for key in ("experiment", "baseline", "code", "parameters", "metrics", "dense"):
            assert result[key] == by_dvc[label][key]


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_bits_of_a_whole_run(tmp_path):
    clone = HereClone(tmp_path / "project")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    arguments = ("run", "tiny", "--here", "--set", "train.epochs=20", "--only", LABEL, "--work")
    clone.study(*arguments, str(whole))

    interrupted = subprocess.Popen(
        [sys.executable, "-m", "prunelab", "study", *arguments, str(pieces)],
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(pieces.glob("train_base-*/.prunelab/**/*.pt")):
        assert interrupted.poll() is None
        time.sleep(0.05)
    interrupted.send_signal(signal.SIGINT)
    assert "run the same command again to continue" in interrupted.communicate()[1]
    assert interrupted.returncode == 130

    clone.study(*arguments, str(pieces))
    assert "going on after epoch" in (pieces / f"logs/{LABEL}.log").read_text()
    assert hashes_of_work(pieces) == hashes_of_work(whole)
    assert not (clone.folder / "studies/results/tiny.json").exists()  # --set changes the study
    assert (whole / "studies/results/tiny.json").exists()


@pytest.mark.slow
def test_another_scale_is_another_result_with_a_folder_of_its_own(tmp_path):
    clone = HereClone(tmp_path / "project")
    work = tmp_path / "work"
    clone.study("run", "tiny", "--here", "--work", str(work), "--only", LABEL)

    refused = clone.study("run", "tiny", "--here", "--work", str(work), "--scale", "0.5",
                          check=False)  # fmt: skip
    assert "the folder belongs to another run (scale 1.0 instead of 0.5)" in refused.stderr

    half = tmp_path / "half"
    clone.study("run", "tiny", "--here", "--work", str(half), "--scale", "0.5", "--only", LABEL)
    results = clone.results()
    assert set(results) == {LABEL, f"{LABEL}@0.5"}
    assert results[f"{LABEL}@0.5"]["parameters"]["train"]["epochs"] == 1
    assert results[f"{LABEL}@0.5"]["scale"] == 0.5

    shown = clone.study("show", "tiny").stdout
    assert shown.startswith("A tiny study\n")
    assert f"- Measured at scale 0.5 as well (--scale 0.5): {LABEL}" in shown
    assert "A tiny study (epochs x 0.5)" in clone.study("show", "tiny", "--scale", "0.5").stdout
    assert clone.results() == results
