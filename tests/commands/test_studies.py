"""Study files, what of them is run and found again, and the tables that set our numbers beside the printed ones."""

import json
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
from helpers.params import PROJECT
from helpers.repository import Clone
from helpers.studies import PIPELINE, SHIPPED, StudyRepository, record
from ruamel.yaml import YAML
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.commands.studies import study_tables
from prunelab.commands.studies.published_measures import MEASURES
from prunelab.commands.studies.results import collect, results_file, write_results
from prunelab.commands.studies.study_file import Study, load_study, read_overrides, resolve, studies
from prunelab.config.params import Params, read_params
from prunelab.core.errors import InputError
from prunelab.datasets.datasets import DATASETS
from prunelab.models.catalogue import MODELS, build
from prunelab.project.clones import cache_folder, clone_at, use_cache
from prunelab.project.experiments import chain, code_of, experiment_name
from prunelab.project.git import git
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import infeasible_specs
from prunelab.report import text_table

FILES = studies(PROJECT / "studies")

TINY = {
    "title": "A tiny study",
    "source": {"what": "Nothing", "by": "nobody", "link": None},
    "network": "ResNet-8",
    "data": "digits",
    "honest": ["Not a study at all."],
    "params": {"seeds": [0], "train": {"epochs": 1}, "finetune.epochs": 1},
    "quick": {"note": "less of it", "params": {"prune.floor": 0.2}, "settings": ["l1_channel-0.5"]},
    "settings": [
        {"method": "l1_channel", "ratio": 0.5},
        {"method": "random_unstructured", "ratio": 0.5},
    ],
    "published": {
        "dense": {"accuracy_percent": 90.5},
        "rows": [
            {
                "setting": "l1_channel-0.5",
                "label": "half",
                "values": {"accuracy_percent": 80.25, "images_per_s": 12},
            },
            {
                "setting": None,
                "label": "theirs",
                "source": "elsewhere",
                "values": {"accuracy_percent": 81},
            },
        ],
    },
}


def write(folder: Path, content: dict, name: str = "tiny") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    YAML().dump(content, folder / f"{name}.yaml")
    return folder


def tiny(**changes: object) -> Study:
    return Study.model_validate(deepcopy(TINY) | changes)


def test_there_are_studies():
    assert len(FILES) >= 15


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_every_shipped_study_means_valid_parameters(name, quick):
    study = load_study(name, PROJECT / "studies")
    settings = resolve(study, SHIPPED, quick=quick, overrides={})
    assert settings
    names = {
        experiment_name(name, label, PIPELINE.used(params), {})
        for label, params in settings.items()
    }
    assert len(names) == len(settings)
    for params in settings.values():
        if quick:
            assert (
                max(
                    params["train"]["epochs"],
                    params["finetune"]["epochs"],
                    params["prune"]["iterations"],
                )
                <= 5
            )
            assert len(params["seeds"]) == 1


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_study_names_what_there_is(name):
    study = load_study(name, PROJECT / "studies")
    for quick in (False, True):
        for params in resolve(study, SHIPPED, quick=quick, overrides={}).values():
            assert params["method"] in METHODS
            assert params["model"] in MODELS
            assert params["dataset"] in DATASETS


SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


@pytest.mark.slow
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_every_setting_of_every_shipped_study_can_be_met(name, quick):
    specs: dict[tuple, list] = {}
    for values in resolve(
        load_study(name, PROJECT / "studies"), SHIPPED, quick=quick, overrides={}
    ).values():
        params = Params.model_validate(values)
        if params.dataset == "text_tsv":
            continue  # its network's sizes are those of the weights
        side = (params.data.resize,) * 2 if params.data.resize else SHAPES[params.dataset][1:]
        key = params.model, CLASSES[params.dataset], (SHAPES[params.dataset][0], *side)
        specs.setdefault(key, []).append((params.spec(params.method, params.ratio), params.train))
    for (model, classes, shape), wanted in specs.items():
        network = build(model, classes, shape)
        for train in {train.model_dump_json(): train for _, train in wanted}.values():
            mine = [spec for spec, its in wanted if its == train]
            assert not infeasible_specs(network, model, mine, shape=shape, train=train)


def test_a_control_belongs_to_every_comparison_of_ours():
    for name in FILES:
        methods = [setting.method for setting in load_study(name, PROJECT / "studies").settings]
        assert len(methods) == 1 or any(method.startswith("random") for method in methods), name


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    wrong = deepcopy(TINY)
    wrong["titel"] = "twice"
    wrong["settings"] = [
        {"method": "l1_channel", "ratio": 1.5},
        {"method": "x"},
        {"method": "y", "ratio": 0, "rate": 1},
    ]
    del wrong["network"]
    with pytest.raises(InputError) as refused:
        load_study("tiny", write(tmp_path, wrong))
    told = "\n".join(refused.value.problems)
    for part in (
        "titel: unknown key (did you mean 'title'?)",
        "settings.0.ratio",
        "settings.1: say exactly one of ratio",
        "settings.2.rate: unknown key (did you mean 'ratio'?)",
        "network: missing",
    ):
        assert part in told
    assert len(refused.value.problems) == 5


def test_what_does_not_fit_together_is_told_at_once(tmp_path):
    wrong = deepcopy(TINY)
    wrong["settings"].append(wrong["settings"][0])
    wrong["published"]["rows"][0] |= {"setting": "l2_channel-0.5", "values": {"accuracy": 0.8}}
    wrong["params"]["ratio"] = 0.3
    wrong["needs"] = {"train.epochs": "how long"}
    with pytest.raises(InputError) as refused:
        load_study("tiny", write(tmp_path, wrong))
    told = "\n".join(refused.value.problems)
    for part in (
        "l1_channel-0.5 stands there more than once",
        "no setting 'l2_channel-0.5'",
        "unknown measure 'accuracy'",
        "params: ratio is what the settings are for",
        "train.epochs stands under needs too",
    ):
        assert part in told


def test_unreadable_files_and_unknown_names_are_refused(tmp_path):
    (tmp_path / "broken.yaml").write_text("title: [")
    with pytest.raises(InputError, match="cannot be read as YAML"):
        load_study("broken", tmp_path)
    with pytest.raises(InputError, match="unknown study 'brokn' .did you mean 'broken'"):
        load_study("brokn", tmp_path)


def test_amounts_are_what_the_rounds_or_the_factor_leave():
    kept = 1.0
    for _ in range(12):
        kept *= 1 - 0.1591
    settings = [
        {"method": "l1_unstructured", "prune_fraction": 0.1591, "params": {"prune.iterations": 12}},
        {"method": "l1_channel", "times_fewer": 2.5},
    ]
    study = tiny(settings=settings, quick=TINY["quick"] | {"settings": None})
    rounds, factor = resolve(study, SHIPPED, quick=False, overrides={}).values()
    assert rounds["ratio"] == pytest.approx(1 - kept, abs=1e-6)
    assert rounds["prune"]["iterations"] == 12
    assert 1 / (1 - factor["ratio"]) == pytest.approx(2.5)


def test_later_layers_win_and_the_rest_stays_as_shipped():
    settings = [
        {
            "method": "l1_channel",
            "ratio": 0.5,
            "params": {"finetune.epochs": 3, "train": {"epochs": 4}},
        }
    ]
    quick = {"note": "less", "params": {"finetune": {"epochs": 2}}}
    study = tiny(settings=settings, quick=quick)
    shipped = read_params(SHIPPED)

    def epochs(quick: bool, **overrides: object) -> tuple[int, int]:
        (params,) = resolve(study, SHIPPED, quick=quick, overrides=overrides).values()
        assert params["finetune"]["batch_size"] == shipped["finetune"]["batch_size"]
        assert params["grid"] == shipped["grid"]
        return params["train"]["epochs"], params["finetune"]["epochs"]

    assert epochs(False) == (4, 3)
    assert epochs(True) == (4, 2)
    assert epochs(True, **{"finetune.epochs": 7}) == (4, 7)


def test_wrong_parameters_name_the_settings_that_have_them():
    settings = [
        {"method": "l1_channel", "ratio": 0.5, "params": {"finetune.epoch": 3}},
        {"method": "l2_channel", "ratio": 0.5},
    ]
    study = tiny(
        settings=settings, params={"colour": "red"}, quick=TINY["quick"] | {"settings": None}
    )
    with pytest.raises(InputError) as refused:
        resolve(study, SHIPPED, quick=False, overrides={"seeds": []})
    told = refused.value.problems
    assert len(told) == 3
    assert any(
        line.startswith("l1_channel-0.5: finetune.epoch: unknown key (did you mean 'epochs'?)")
        for line in told
    )
    assert any(line.startswith("all settings: colour: unknown key") for line in told)
    assert any(line.startswith("all settings: seeds: empty") for line in told)


def test_overrides_from_the_command_line_are_yaml():
    told = read_overrides(
        [
            "seeds=[0, 1]",
            "finetune.learning_rate=1e-3",
            "weights=data/raw/a=b.th",
            "data.resize=null",
        ]
    )
    assert told == {
        "seeds": [0, 1], "finetune.learning_rate": 0.001, "weights": "data/raw/a=b.th", "data.resize": None,
    }  # fmt: skip
    with pytest.raises(InputError) as refused:
        read_overrides(["seeds", "ratio=0.5", "a=[", "grid.ratios=[0.1]"])
    assert len(refused.value.problems) == 4


def test_the_chain_holds_what_the_focus_rests_on_and_nothing_of_the_grid():
    assert {
        "environment.lock",
        "src/prunelab/models",
        "src/prunelab/stages/prepare.py",
        "src/prunelab/stages/evaluate.py",
    } <= set(PIPELINE.files)
    assert "src/prunelab/stages/plot.py" not in PIPELINE.files
    assert not any(
        file.startswith(("data/", "models/", "metrics/", "plots/")) for file in PIPELINE.files
    )
    assert {"method", "ratio", "dataset", "weights", "finetune"} <= set(PIPELINE.parameters)
    assert not any(key.startswith("grid") for key in PIPELINE.parameters)


def test_names_follow_the_parameters_that_are_used():
    params = read_params(SHIPPED)
    name = experiment_name("study", "one", PIPELINE.used(params), {})
    assert name.startswith("study-one-")
    assert experiment_name("study", "one", PIPELINE.used(params | {"grid": {}}), {}) == name
    for change in (
        {"ratio": 0.25},
        {"seeds": [7]},
        {"finetune": params["finetune"] | {"epochs": 99}},
    ):
        assert experiment_name("study", "one", PIPELINE.used(params | change), {}) != name
    assert (
        experiment_name("study", "one", PIPELINE.used(params), {"weights": "other bytes"}) != name
    )


def test_published_measures_mean_the_same_in_our_metrics():
    """Against the definitions, on a network of 1,000,000 parameters of which half went with their MACs."""
    metrics = {
        "accuracy": 0.9, "accuracy_pruned": 0.5, "precision_macro": 0.8, "recall_macro": 0.7, "specificity_macro": 0.6,
        "f1_macro": 0.4, "sparsity": 0.5, "params": 500_000, "params_ratio": 2.0, "macs": 3_000_000, "macs_ratio": 4.0,
        "size_bytes": 2_000_000,
    }  # fmt: skip
    expected = {
        "accuracy_percent": 90, "accuracy_pruned_percent": 50, "precision": 0.8, "recall": 0.7, "specificity": 0.6,
        "f1": 0.4, "sparsity_percent": 50, "params_millions": 0.5, "params_kept_percent": 50, "macs_millions": 3,
        "macs_fewer_times": 4, "flops_millions": 6, "size_mb": 2,
    }  # fmt: skip
    ours = {name: measure.ours(metrics) for name, measure in MEASURES.items() if measure.ours}
    assert ours == pytest.approx(expected)
    assert {name for name, measure in MEASURES.items() if measure.ours is None} == {
        "latency_s_per_image",
        "images_per_s",
    }


def test_differences_are_computed_and_what_was_not_run_says_so():
    study = tiny()
    header, lines = study_tables.compared_table(
        study, {"l1_channel-0.5": record(), "random_unstructured-0.5": None}
    )
    assert all(len(line) == len(header) for line in lines)
    accuracy, speed, theirs = lines
    assert accuracy[3:6] == ["90.50", "80.25", "-10.25"]
    assert accuracy[6:9] == ["95.00", "85.00 ± 1.00", "-10.00 ± 1.20"]
    assert accuracy[9] == "+0.25"  # -10.00 less -10.25
    assert "not compared" in speed[6]
    assert theirs[5] == "-9.50"
    assert "no such method" in theirs[6]
    (missing, *_) = study_tables.compared_table(study, dict.fromkeys(["l1_channel-0.5"]))[1]
    assert missing[6] == "not run"
    header, (ours, other) = study_tables.measured_table({"a": record(current=False), "b": None})
    assert len(ours) == len(other) == len(header)
    assert ours[0] == "a †"
    assert ours[-1] == "-10.00 ± 1.20"
    assert other[1] == "not run"


def test_both_renderings_hold_every_cell():
    header, lines = ["a", "long header"], [["1", ""], ["a long cell", "2"]]
    rows = text_table.markdown_table(header, lines).splitlines()
    assert len(rows) == 4
    assert all(row.count("|") == 3 for row in rows)
    plain = text_table.aligned_table(header, lines).splitlines()
    assert plain[3].index("2") == plain[0].index("long header")


@pytest.fixture
def repository(tmp_path) -> StudyRepository:
    return StudyRepository(tmp_path)


def test_code_is_what_the_focus_rests_on(repository):
    before = code_of(repository.folder, "HEAD")
    (repository.folder / "README.md").write_text("words")
    repository.commit("Words")
    assert code_of(repository.folder, "HEAD") == before
    with (repository.folder / "src/prunelab/training/loop.py").open("a") as file:
        file.write("# another line\n")
    repository.commit("Code")
    assert code_of(repository.folder, "HEAD") != before


def test_experiments_are_found_by_their_parameters_on_any_commit(repository):
    settings = resolve(tiny(), SHIPPED, quick=False, overrides={})
    label = "l1_channel-0.5"
    assert set(collect(repository.folder, "tiny", settings, set()).values()) == {None}
    repository.experiment(label, settings[label] | {"seeds": [3]}, accuracy=0.1)
    repository.experiment(
        label, settings[label] | {"grid": {"methods": ["x"], "ratios": [0.5]}}, accuracy=0.8
    )
    head = git(repository.folder, "rev-parse", "HEAD").strip()
    by_hand = f"refs/exps/{head[:2]}/{head[2:]}/tiny-{label}-00000000"
    git(repository.folder, "update-ref", by_hand, head)  # no metrics in it
    (repository.folder / "README.md").write_text("words")
    repository.commit("Words")
    found = collect(repository.folder, "tiny", settings, set())
    assert found["random_unstructured-0.5"] is None
    assert found[label]["metrics"]["accuracy"] == 0.8
    assert found[label]["current"]
    assert found[label]["environment"] == {"device": "a test"}
    with (repository.folder / "src/prunelab/training/loop.py").open("a") as file:
        file.write("# another line\n")
    repository.commit("Code")
    assert not collect(repository.folder, "tiny", settings, set())[label]["current"]


def test_a_note_on_the_environment_of_other_numbers_is_dropped(repository):
    settings = resolve(tiny(), SHIPPED, quick=True, overrides={})
    repository.experiment(
        "l1_channel-0.5", settings["l1_channel-0.5"], accuracy=0.8, environment=False
    )
    assert (
        collect(repository.folder, "tiny", settings, set())["l1_channel-0.5"]["environment"] is None
    )


def test_a_parameter_left_to_the_user_may_have_had_any_value(repository):
    settings = resolve(tiny(), SHIPPED, quick=True, overrides={})
    label = "l1_channel-0.5"
    repository.experiment(label, settings[label] | {"weights": "data/raw/some.th"}, accuracy=0.8)
    assert collect(repository.folder, "tiny", settings, set())[label] is None
    assert (
        collect(repository.folder, "tiny", settings, {"weights"})[label]["metrics"]["accuracy"]
        == 0.8
    )


def test_stored_results_stand_in_for_experiments_that_are_gone(repository):
    study, label = tiny(), "l1_channel-0.5"
    settings = resolve(
        study, SHIPPED, quick=True, overrides={"weights": str(repository.folder / "some.th")}
    )
    repository.experiment(label, settings[label], accuracy=0.8)
    found = collect(repository.folder, "tiny", settings, set())
    path = write_results(repository.folder, study, "tiny", found)
    assert path == results_file(repository.folder, "tiny")
    assert str(repository.folder) not in path.read_text()
    for reference in git(
        repository.folder, "for-each-ref", "--format=%(refname)", "refs/exps"
    ).split():
        git(repository.folder, "update-ref", "-d", reference)
    again = collect(repository.folder, "tiny", settings, set())
    assert again[label]["metrics"] == found[label]["metrics"]
    assert again[label]["current"]
    elsewhere = resolve(study, SHIPPED, quick=True, overrides={"seeds": [9]})
    nothing = collect(repository.folder, "tiny", elsewhere, set())
    assert nothing[label] is None
    whole = path.read_bytes()
    write_results(repository.folder, study, "tiny", nothing)
    assert path.read_bytes() == whole  # measured with other parameters, and not to be lost


@pytest.mark.parametrize(
    "file", sorted((PROJECT / "studies/results").glob("*.json")), ids=lambda path: path.stem
)
def test_all_stored_results_are_those_of_the_shipped_settings(file, repository):
    """A parameter that is new has to be written into them, or all of them would be shown as not run."""
    name = file.stem.removesuffix("_quick")
    study, quick = load_study(name, PROJECT / "studies"), name != file.stem
    settings = resolve(study, SHIPPED, quick=quick, overrides={})
    stored = results_file(repository.folder, file.stem)
    stored.parent.mkdir(parents=True)
    stored.write_bytes(file.read_bytes())
    assert all(collect(repository.folder, file.stem, settings, study.needed(quick).keys()).values())


@pytest.mark.parametrize(
    "stored", [[], {}, {"settings": {"a": {}}}, {"settings": {"a": []}}, {"settings": 3}]
)
def test_stored_results_that_are_none_are_refused_by_file_and_place(repository, stored):
    path = results_file(repository.folder, "tiny")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"tiny\.json is damaged: "):
        collect(repository.folder, "tiny", {}, set())


def test_a_pipeline_that_cannot_be_walked_is_refused():
    with pytest.raises(InputError, match="cannot be read as YAML"):
        chain("stages: [")
    with pytest.raises(InputError, match="dvc.yaml has no stage evaluate_focus; there are: a"):
        chain("stages: {a: {cmd: x}}")
    assert chain("stages: {a: {cmd: x}}", "a").files == []


def test_half_a_clone_is_made_anew_and_the_project_around_it_stays(repository):
    """Git takes the folder of a killed `git clone` for a part of the project that it lies in."""
    folder = repository.folder / ".prunelab/studies/checkouts/0"
    (folder / ".git/hooks").mkdir(parents=True)
    (repository.folder / "params.yaml").write_text("mine, and not committed")
    branch = git(repository.folder, "branch", "--show-current")
    clone_at(repository.folder, folder, "HEAD")
    assert (repository.folder / "params.yaml").read_text() == "mine, and not committed"
    assert git(repository.folder, "branch", "--show-current") == branch
    assert (folder / "params.yaml").read_text() == (PROJECT / "params.yaml").read_text()
    (folder / ".git/index.lock").touch()  # of a killed checkout
    (folder / "params.yaml").unlink()
    clone_at(repository.folder, folder, "HEAD")
    assert (folder / "params.yaml").exists()


@pytest.fixture
def workspace(repository, monkeypatch) -> StudyRepository:
    monkeypatch.chdir(repository.folder)
    return repository


def study_command(*arguments: str):
    return CliRunner().invoke(app, ["study", *arguments])


def test_a_checkout_shares_the_projects_cache(tmp_path):
    project = Clone(tmp_path / "project")
    project.commit("Project")
    clone_at(project.folder, tmp_path / "clone", "HEAD")
    use_cache(tmp_path / "clone", cache_folder(project.folder))
    where = [sys.executable, "-m", "dvc", "cache", "dir"]
    said = subprocess.run(where, cwd=tmp_path / "clone", capture_output=True, text=True, check=True)
    assert Path(said.stdout.strip()) == project.folder / ".dvc/cache"


def test_everything_wrong_is_refused_before_any_work(workspace, monkeypatch):
    monkeypatch.setattr(
        "prunelab.commands.studies.local.Run.job", lambda *_: pytest.fail("work was started")
    )
    wrong = deepcopy(TINY) | {"needs": {"weights": "a checkpoint"}}
    wrong["settings"] += [{"method": "l1_chanel", "ratio": 0.5}, {"method": "magic", "ratio": 0.5}]
    wrong["params"]["model"] = "resnet21"
    write(Path("studies"), wrong)
    result = study_command("run", "tiny")
    assert result.exit_code == 1
    assert "weights is needed: a checkpoint; give it with --set weights=" in result.stderr
    lines = study_command("run", "tiny", "--set", "weights=no/such/file").stderr.splitlines()
    assert any(line.startswith("all settings: model: unknown model 'resnet21'") for line in lines)
    assert any(
        line.startswith("l1_chanel-0.5: method: unknown method 'l1_chanel' (did you mean")
        for line in lines
    )
    assert any(line.startswith("magic-0.5: method: unknown method 'magic'") for line in lines)


def test_uncommitted_code_and_files_left_behind_are_refused(workspace):
    write(Path("studies"), TINY)
    with Path("src/prunelab/training/loop.py").open("a") as file:
        file.write("# another line\n")
    result = study_command("run", "tiny")
    assert result.exit_code == 1
    assert "src/prunelab/training/loop.py differs from the last commit" in result.stderr
    Path("own.th").write_text("weights")
    result = study_command("run", "tiny", "--set", "weights=own.th")
    assert "weights: own.th is neither under data/raw nor in Git" in result.stderr


def test_list_and_show_work_before_anything_was_run(workspace):
    write(Path("studies"), TINY)
    assert "tiny: A tiny study (2 settings)" in study_command("list").stdout
    result = study_command("show", "tiny", "--markdown")
    assert result.exit_code == 0, result.stderr
    assert "| l1_channel-0.5 | not run |" in result.stdout
    assert "Not a study at all." in result.stdout
    assert not Path("studies/results").exists()
    assert "unknown study" in study_command("show", "tni").stderr


# The machinery on real digits, through DVC. Two minutes and more.


class StudyClone(Clone):
    def __init__(self, folder: Path):
        super().__init__(folder)
        self.environment["PYTHONPATH"] = str(folder / "src")
        content = deepcopy(TINY)
        content["settings"] = [
            {"method": "l1_channel", "ratio": 0.5},
            {"method": "l2_channel", "ratio": 0.5},
            {"method": "random_unstructured", "ratio": 0.5},
        ]
        write(folder / "studies", content)
        prune = folder / "src/prunelab/stages/prune.py"
        breaks = '    params = load_params()\n    if method == "l2_channel":\n        raise SystemExit("broken on purpose")'
        prune.write_text(prune.read_text().replace("    params = load_params()", breaks))
        self.commit("A tiny study")

    def study(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "prunelab", "study", *arguments, check=check)

    def start(self, *arguments: str, until: str) -> subprocess.Popen[str]:
        """Start a study run and come back when it prints `until`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "prunelab", "study", "run", *arguments],
            cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        for line in process.stdout:
            if until in line:
                return process
        pytest.fail(f"the run ended before it said {until!r}")

    def alive(self) -> list[str]:
        """Commands of DVC or its stages that still run in this clone."""
        told = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.folder) in str((folder / "cwd").readlink()):
                    told.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return [command for command in told if "prunelab" in command]

    def experiments(self) -> list[str]:
        return self.run(
            "git", "for-each-ref", "--format=%(refname:lstrip=4) %(objectname)", "refs/exps"
        ).stdout.splitlines()


@pytest.mark.slow
def test_a_study_runs_survives_kills_and_shows_what_was_measured(tmp_path):
    clone = StudyClone(tmp_path)

    # Killed in the middle of the second stage: nothing of it lives on.
    killed = clone.start("tiny", until="train_base")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    deadline = time.monotonic() + 10
    while clone.alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert clone.alive() == []
    assert clone.experiments() == []

    # Interrupted after the first setting: that one is measured.
    interrupted = clone.start("tiny", until="[2/3] l2_channel-0.5: started")
    interrupted.send_signal(signal.SIGINT)
    output = interrupted.communicate()[0]
    assert interrupted.returncode == 130, output
    assert clone.alive() == []
    (first,) = clone.experiments()
    assert "tiny-l1_channel-0.5-" in first

    # The rest, one of which fails while the others go on.
    rest = clone.study("run", "tiny", "--jobs", "2", check=False)
    assert rest.returncode == 1
    assert "l1_channel-0.5: measured already" in rest.stdout
    assert "prepare" not in rest.stdout  # out of DVC's cache, as is the dense network
    assert "train_base" not in rest.stdout
    assert "l2_channel-0.5 failed; the end of its log" in rest.stderr
    assert "broken on purpose" in rest.stderr
    assert "1 of 3 settings failed" in rest.stderr
    assert len(clone.experiments()) == 2
    assert first in clone.experiments()

    # Nothing of the user's was touched, and DVC lists what came out.
    assert clone.run("git", "status", "--porcelain").stdout == ""
    listed = clone.run("dvc", "exp", "list", "--name-only").stdout.split()
    assert sorted(name.rsplit("-", 1)[0] for name in listed) == [
        "tiny-l1_channel-0.5",
        "tiny-random_unstructured-0.5",
    ]

    shown = clone.study("show", "tiny").stdout
    stored = json.loads((clone.folder / "studies/results/tiny.json").read_text())["settings"]
    assert set(stored) == {"l1_channel-0.5", "random_unstructured-0.5"}
    measured = stored["l1_channel-0.5"]
    assert measured["environment"]["threads"] == 2
    assert measured["parameters"]["train"]["epochs"] == 1
    assert measured["baseline"] == clone.run("git", "rev-parse", "HEAD").stdout.strip()
    assert measured["metrics"]["macs_ratio"] > 1.5
    assert measured["dense"] == stored["random_unstructured-0.5"]["dense"]
    change = 100 * (measured["metrics"]["accuracy"] - measured["dense"]["accuracy"])
    (compared,) = [
        line
        for line in shown.splitlines()
        if line.split()[:3] == ["l1_channel-0.5", "half", "accuracy,"]
    ]
    assert compared.split()[-1] == f"{change - (80.25 - 90.5):+.2f}"
    assert "l2_channel-0.5 not run" in [" ".join(line.split()) for line in shown.splitlines()]
