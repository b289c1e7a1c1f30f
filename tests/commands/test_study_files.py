"""Study files: the shipped ones, what is wrong with others, and what their settings mean."""

import math
from copy import deepcopy

import pytest
from helpers.params import PROJECT
from helpers.studies import PIPELINE, SHIPPED, TINY, record, tiny_study, write_study

from prunelab.commands.studies import study_tables
from prunelab.commands.studies.published_measures import MEASURES
from prunelab.commands.studies.study_file import load_study, read_overrides, resolve, study_files
from prunelab.config.params import Params, read_params
from prunelab.core.errors import InputError
from prunelab.datasets.datasets import DATASETS
from prunelab.models.catalogue import find_architecture
from prunelab.models.networks import build
from prunelab.project.experiments import experiment_name
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import infeasible_specs
from prunelab.report import text_table

STUDIES = PROJECT / "studies"
FILES = study_files(STUDIES)

# --- the shipped files ---


def test_shipped_studies_are_not_few():
    assert len(FILES) >= 15


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_settings_of_a_shipped_study_are_valid_and_named_apart(name, quick):
    study = load_study(name, STUDIES)

    settings = resolve(study, SHIPPED, quick=quick, overrides={})

    assert settings
    names = {
        experiment_name(name, label, PIPELINE.select(params), {})
        for label, params in settings.items()
    }
    assert len(names) == len(settings)


@pytest.mark.parametrize("name", FILES)
def test_a_quick_run_of_a_shipped_study_is_small(name):
    study = load_study(name, STUDIES)

    for params in resolve(study, SHIPPED, quick=True, overrides={}).values():
        assert params["train"]["epochs"] <= 5
        assert params["finetune"]["epochs"] <= 5
        assert params["prune"]["iterations"] <= 5
        assert len(params["seeds"]) == 1


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_shipped_studies_name_known_methods_models_and_datasets(name, quick):
    study = load_study(name, STUDIES)

    for params in resolve(study, SHIPPED, quick=quick, overrides={}).values():
        assert params["method"] in METHODS
        assert find_architecture(params["model"])  # it raises for others
        assert params["dataset"] in DATASETS


SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


def input_shape(params: Params) -> tuple[int, int, int]:
    channels, height, width = SHAPES[params.dataset]
    if params.data.resize:
        return channels, params.data.resize, params.data.resize
    return channels, height, width


@pytest.mark.slow
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_settings_of_shipped_studies_are_feasible(name, quick):
    settings = resolve(load_study(name, STUDIES), SHIPPED, quick=quick, overrides={})
    params_by_network: dict[tuple, list[Params]] = {}
    for values in settings.values():
        params = Params.model_validate(values)
        if params.dataset != "text_tsv":  # whose network has the sizes of its weights
            network = params.model, CLASSES[params.dataset], input_shape(params)
            params_by_network.setdefault(network, []).append(params)

    for (model, classes, shape), all_params in params_by_network.items():
        network = build(model, classes, shape)
        for train in {
            params.train.model_dump_json(): params.train for params in all_params
        }.values():
            specs = [
                params.spec(params.method, params.ratio)
                for params in all_params
                if params.train == train
            ]
            assert not infeasible_specs(network, model, specs, shape=shape, train=train)


@pytest.mark.parametrize("name", FILES)
def test_shipped_comparisons_of_methods_contain_a_random_control(name):
    methods = [setting.method for setting in load_study(name, STUDIES).settings]

    assert len(methods) == 1 or any(method.startswith("random") for method in methods)


# --- what is wrong with a file ---


def test_all_invalid_keys_of_a_file_are_reported_at_once(tmp_path):
    content = deepcopy(TINY)
    content["titel"] = "twice"
    content["settings"] = [
        {"method": "l1_channel", "ratio": 1.5},
        {"method": "x"},
        {"method": "y", "ratio": 0, "rate": 1},
    ]
    del content["network"]

    with pytest.raises(InputError) as error:
        load_study("tiny", write_study(tmp_path, content))

    message = "\n".join(error.value.problems)
    for part in (
        "titel: unknown key (did you mean 'title'?)",
        "settings.0.ratio",
        "settings.1: give exactly one of ratio",
        "settings.2.rate: unknown key (did you mean 'ratio'?)",
        "network: missing",
    ):
        assert part in message
    assert len(error.value.problems) == 5


def test_all_inconsistencies_of_a_file_are_reported_at_once(tmp_path):
    content = deepcopy(TINY)
    content["settings"].append(content["settings"][0])
    content["published"]["rows"][0] |= {"setting": "l2_channel-0.5", "values": {"accuracy": 0.8}}
    content["params"]["ratio"] = 0.3
    content["needs"] = {"train.epochs": "how long"}

    with pytest.raises(InputError) as error:
        load_study("tiny", write_study(tmp_path, content))

    message = "\n".join(error.value.problems)
    for part in (
        "l1_channel-0.5 appears more than once",
        "no setting 'l2_channel-0.5'",
        "unknown measure 'accuracy'",
        "params: ratio cannot be set here",
        "train.epochs is also in needs",
    ):
        assert part in message


def test_unreadable_files_and_unknown_studies_are_refused(tmp_path):
    (tmp_path / "broken.yaml").write_text("title: [")

    with pytest.raises(InputError, match="cannot be read as YAML"):
        load_study("broken", tmp_path)
    with pytest.raises(InputError, match="unknown study 'brokn' .did you mean 'broken'"):
        load_study("brokn", tmp_path)


# --- the parameters of settings ---


def test_amounts_per_round_and_as_a_factor_become_ratios():
    settings = [
        {"method": "l1_unstructured", "prune_fraction": 0.1591, "params": {"prune.iterations": 12}},
        {"method": "l1_channel", "times_fewer": 2.5},
    ]
    study = tiny_study(settings=settings, quick=TINY["quick"] | {"settings": None})
    kept = 1.0
    for _ in range(12):
        kept *= 1 - 0.1591

    rounds, factor = resolve(study, SHIPPED, quick=False, overrides={}).values()

    assert rounds["ratio"] == pytest.approx(1 - kept, abs=1e-6)
    assert rounds["prune"]["iterations"] == 12
    assert 1 / (1 - factor["ratio"]) == pytest.approx(2.5)


def test_later_layers_override_earlier_ones_and_leave_the_rest():
    own = {"finetune.epochs": 3, "train": {"epochs": 4}}
    study = tiny_study(
        settings=[{"method": "l1_channel", "ratio": 0.5, "params": own}],
        quick={"note": "less", "params": {"finetune": {"epochs": 2}}},
    )
    shipped = read_params(SHIPPED)

    def epochs(quick: bool, **overrides: object) -> tuple[int, int]:
        (params,) = resolve(study, SHIPPED, quick=quick, overrides=overrides).values()
        assert params["finetune"]["batch_size"] == shipped["finetune"]["batch_size"]
        assert params["grid"] == shipped["grid"]
        return params["train"]["epochs"], params["finetune"]["epochs"]

    assert epochs(False) == (4, 3)
    assert epochs(True) == (4, 2)
    assert epochs(True, **{"finetune.epochs": 7}) == (4, 7)


def test_wrong_parameters_are_reported_with_their_settings():
    settings = [
        {"method": "l1_channel", "ratio": 0.5, "params": {"finetune.epoch": 3}},
        {"method": "l2_channel", "ratio": 0.5},
    ]
    quick = TINY["quick"] | {"settings": None}
    study = tiny_study(settings=settings, params={"colour": "red"}, quick=quick)

    with pytest.raises(InputError) as error:
        resolve(study, SHIPPED, quick=False, overrides={"seeds": []})

    problems = error.value.problems
    assert len(problems) == 3
    for start in (
        "l1_channel-0.5: finetune.epoch: unknown key (did you mean 'epochs'?)",
        "all settings: colour: unknown key",
        "all settings: seeds: empty",
    ):
        assert any(problem.startswith(start) for problem in problems)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"train.epochs": "many"}, "train.epochs: must be a valid integer, not 'many'"),
        ({"train.rewind_epoch": "last"}, "train.rewind_epoch: must be a valid integer"),
        ({"finetune": 3}, "finetune: 3 is not a section of keys"),
        ({"prune.iterations": math.inf}, "prune.iterations: must be a valid integer"),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_values_that_no_epochs_or_rounds_can_have_are_reported(overrides, problem, scale):
    with pytest.raises(InputError) as error:
        resolve(tiny_study(), SHIPPED, quick=False, overrides=overrides, scale=scale)

    assert all(line.startswith(f"all settings: {problem}") for line in error.value.problems)


def test_overrides_of_the_command_line_are_yaml():
    overrides = read_overrides(
        [
            "seeds=[0, 1]",
            "finetune.learning_rate=1e-3",
            "weights=data/raw/a=b.th",
            "data.resize=null",
        ]
    )

    assert overrides == {
        "seeds": [0, 1],
        "finetune.learning_rate": 0.001,
        "weights": "data/raw/a=b.th",
        "data.resize": None,
    }


def test_all_wrong_overrides_are_reported_at_once():
    with pytest.raises(InputError) as error:
        read_overrides(["seeds", "ratio=0.5", "a=[", "grid.ratios=[0.1]"])

    assert len(error.value.problems) == 4


# --- measures and tables ---


def test_published_measures_follow_their_definitions_in_our_metrics():
    """A network of 1,000,000 parameters, half of which were removed with their MACs."""
    metrics = {
        "accuracy": 0.9,
        "accuracy_pruned": 0.5,
        "precision_macro": 0.8,
        "recall_macro": 0.7,
        "specificity_macro": 0.6,
        "f1_macro": 0.4,
        "sparsity": 0.5,
        "params": 500_000,
        "params_ratio": 2.0,
        "macs": 3_000_000,
        "macs_ratio": 4.0,
        "size_bytes": 2_000_000,
    }
    expected = {
        "accuracy_percent": 90,
        "accuracy_pruned_percent": 50,
        "precision": 0.8,
        "recall": 0.7,
        "specificity": 0.6,
        "f1": 0.4,
        "sparsity_percent": 50,
        "params_millions": 0.5,
        "params_kept_percent": 50,
        "macs_millions": 3,
        "macs_fewer_times": 4,
        "flops_millions": 6,
        "size_mb": 2,
    }

    ours = {name: measure.ours(metrics) for name, measure in MEASURES.items() if measure.ours}

    assert ours == pytest.approx(expected)
    times = {name for name, measure in MEASURES.items() if measure.ours is None}
    assert times == {"latency_s_per_image", "images_per_s"}


def test_compared_table_computes_changes_and_their_difference():
    study = tiny_study()
    records = {"l1_channel-0.5": record(), "random_unstructured-0.5": None}

    header, lines = study_tables.compared_table(study, records)

    assert all(len(line) == len(header) for line in lines)
    accuracy, speed, theirs = lines
    assert accuracy[3:6] == ["90.50", "80.25", "-10.25"]
    assert accuracy[6:9] == ["95.00", "85.00 ± 1.00", "-10.00 ± 1.20"]
    assert accuracy[9] == "+0.25"  # -10.00 less -10.25
    assert "not compared" in speed[6]
    assert theirs[5] == "-9.50"
    assert "no such method" in theirs[6]


def test_compared_table_marks_settings_that_did_not_run():
    _, lines = study_tables.compared_table(tiny_study(), {"l1_channel-0.5": None})

    assert lines[0][6] == "not run"


def test_measured_table_marks_other_code_and_settings_that_did_not_run():
    header, (measured, missing) = study_tables.measured_table(
        {"a": record(current=False), "b": None}
    )

    assert len(measured) == len(missing) == len(header)
    assert measured[0] == "a †"
    assert measured[-1] == "-10.00 ± 1.20"
    assert missing[1] == "not run"


def test_markdown_and_aligned_tables_hold_every_cell():
    header, lines = ["a", "long header"], [["1", ""], ["a long cell", "2"]]

    rows = text_table.markdown_table(header, lines).splitlines()
    assert len(rows) == 4
    assert all(row.count("|") == 3 for row in rows)

    plain = text_table.aligned_table(header, lines).splitlines()
    assert plain[3].index("2") == plain[0].index("long header")
