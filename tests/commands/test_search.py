"""Searches: the tries by a formula, the answer, refusals, and one search with a kill."""

import json
import shlex
from copy import deepcopy
from dataclasses import replace
from html import unescape
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.page import report_data
from helpers.params import edit_params
from helpers.search import (
    FormulaRunner,
    FormulaSearch,
    Killed,
    Noise,
    base_params,
    formula_search,
    plain_rule,
    search_section,
)
from helpers.studies import SHIPPED
from helpers.studies import StudyRepository as Repository
from typer.testing import CliRunner

from prunelab.artifacts.records import SearchResult, read_record
from prunelab.cli import app
from prunelab.commands.search.answer import answer, reproducing_command
from prunelab.commands.search.drop_error import error_from_details, standard_error
from prunelab.commands.search.engine import Strategy, front, try_again
from prunelab.commands.search.finals import shown_within
from prunelab.commands.search.network import SearchedNetwork
from prunelab.commands.search.plan import LAST, Request, differences
from prunelab.commands.search.records import (
    STATE_FILE,
    Final,
    Measurement,
    SearchState,
    Try,
    best_within,
    score,
)
from prunelab.commands.search.result import result_of, write_result
from prunelab.commands.search.sampler import importances
from prunelab.commands.search.space import (
    OBJECTIVES,
    Point,
    params_of,
    random_control,
    scratch_control,
    space_of,
)
from prunelab.commands.studies.study_file import read_overrides
from prunelab.config.params import read_params
from prunelab.core.errors import InputError
from prunelab.page.page import page
from prunelab.page.searches import search_sections
from prunelab.pruning.methods import METHODS, Method
from prunelab.statistics.intervals import half_width

MACS = OBJECTIVES["macs"]
RANDOM = Strategy("random", halving=False, opening=0, passes_over=False)
ONE_POINT = {
    "methods": ["l1_channel"],
    "layers": ["method"],
    "round_to": [1],
    "distill": [0.0],
    "recalibrate": [0],
}


def range_of(low: float, high: float) -> object:
    """A range as the section has it."""
    return search_section().ratio.model_copy(update={"low": low, "high": high})


def rates_of(low: float, high: float) -> object:
    return search_section().learning_rate.model_copy(update={"low": low, "high": high})


def points(state: SearchState) -> list[Point]:
    return [tried.point for tried in state.tries]


# --- tries ---


def test_the_same_search_gives_the_same_tries():
    first = formula_search(tries=25).run()
    second = formula_search(tries=25).run()
    other = formula_search(tries=25, sampler_seed=1).run()

    assert points(first) == points(second)
    assert points(first) != points(other)
    assert len(set(points(first))) == 25


@pytest.fixture(scope="module")
def whole() -> tuple[FormulaSearch, SearchState]:
    """A search of 14 tries that nothing interrupts."""
    searching = formula_search(tries=14)
    return searching, searching.run()


@pytest.fixture(scope="module")
def searched() -> tuple[FormulaSearch, SearchState]:
    """A search of 40 tries, to be looked at."""
    searching = formula_search(tries=40)
    return searching, searching.run()


@pytest.mark.parametrize("jobs", [0, 1, 2, 7, 12, 23])
def test_a_killed_search_goes_on_with_the_same_tries_and_repeats_none(jobs, whole, tmp_path):
    uninterrupted, expected = whole

    killed = formula_search(tries=14)
    killed.folder, killed.runner.kill_after = tmp_path, jobs
    with pytest.raises(Killed):
        killed.run()
    killed.runner.queue.clear()
    killed.runner.kill_after = None
    resumed = killed.run(SearchState.load(tmp_path))

    assert points(resumed) == points(expected)
    assert [tried.state for tried in resumed.tries] == [tried.state for tried in expected.tries]
    names = [job.name for job in killed.runner.ran]
    assert names == [job.name for job in uninterrupted.runner.ran]
    assert len(names) == len(set(names))


def test_a_stopped_search_begins_no_more_tries_and_can_go_on():
    searching = formula_search(tries=10)
    searching.stopped = lambda: len(searching.runner.ran) >= 6
    state = searching.run()
    stopped_after = len(state.tries)
    assert state.ended == "stopped"
    assert all(tried.state != "running" for tried in state.tries)

    searching.stopped = lambda: False
    state.ended = None
    searching.run(state)

    assert stopped_after < len(state.tries) == 10
    assert points(state) == points(formula_search(tries=10).run())


def test_a_search_that_is_stopped_during_its_last_try_does_not_go_on_to_the_test_split():
    searching = formula_search(tries=3)
    state = SearchState({}, {})
    searching.stopped = lambda: len(state.tries) == 3

    searching.run(state)

    assert state.ended == "stopped"


def test_a_search_that_is_stopped_during_its_last_two_tries_can_go_on():
    searching = formula_search(tries=4)
    searching.runner.width = 2
    state = SearchState({}, {})
    searching.stopped = lambda: state.ended is not None  # there is no other try to begin
    searching.run(state)
    assert state.ended == "stopped"

    searching.stopped = lambda: False
    state.ended = None
    searching.run(state)

    assert state.ended == "all 4 tries are done"


def test_a_space_with_one_point_is_tried_once():
    searching = formula_search(
        **ONE_POINT, ratio=range_of(0.5, 0.5), learning_rate=rates_of(0.02, 0.02)
    )
    state = searching.run()

    assert len(state.tries) == 1
    assert state.ended == "nothing else is left in the space"
    assert state.tries[0].point == Point("l1_channel", 0.5, "method", 1, 0.02, 0.0, 0)


def test_a_target_out_of_reach_ends_early_after_the_gentlest_try():
    searching = formula_search(lambda params: 0.2 + params["ratio"], tries=40)
    state = searching.run()

    assert state.out_of_reach
    assert len(state.tries) < 12
    assert searching.search.ratio.low in [tried.point.ratio for tried in state.tries]
    text = "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, ["conv1 costs 9"]))
    assert "No try is within 1 points. The nearest is" in text
    assert "What limits it: conv1 costs 9." in text
    assert searching.test(state).finals == []


def test_a_target_is_not_out_of_reach_while_a_try_may_be_within():
    state = SearchState({}, {})

    def rule(params: dict) -> float:
        ended = sum(tried.state != "running" for tried in state.tries)
        return 0.5 if ended < 8 else 0.0

    searching = formula_search(rule, tries=20, layers=["method"])
    searching.runner.width = 3
    searching.run(state)

    assert any(tried.is_within(searching.max_drop) for tried in state.tries)
    assert not state.out_of_reach
    assert len(state.tries) > 11


def test_where_everything_is_within_the_range_is_said_to_be_the_limit():
    searching = formula_search(lambda params: 0.0, tries=30)
    state = searching.test(searching.run())

    best = best_within(state.tries, MACS, 0.01)
    assert best is not None
    assert best.point.ratio > 0.95
    text = "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, []))
    assert "set a larger search.ratio.high than 0.97" in text


def test_where_everything_is_within_but_few_tries_were_made_more_tries_are_advised():
    searching = formula_search(lambda params: 0.0, tries=2)
    state = searching.test(searching.run())

    text = "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, []))

    assert "more of search.tries may find a smaller network" in text
    assert "search.ratio.high" not in text


def test_the_first_tries_beside_each_other_are_far_apart():
    searching = formula_search(tries=4)
    searching.runner.width = 4
    state = searching.run()

    ratios = [tried.point.ratio for tried in state.tries]
    low, high = searching.search.ratio.low, searching.search.ratio.high
    assert sorted(ratios)[0] == low
    quarters = [low + (high - low) * share for share in (0.25, 0.5, 0.75)]
    assert sorted(ratios)[1:] == pytest.approx(quarters, abs=0.001)


def test_controls_have_the_ratio_that_their_own_method_can_reach():
    searching = formula_search(tries=12)
    searching.feasible = lambda point: replace(point, ratio=round(point.ratio - 0.01, 3))
    state = searching.test(searching.run())

    ratio = state.candidates[0].params["ratio"]
    controls = [final for final in state.finals if final.role != "candidate"]
    assert len(controls) == 2
    for control in controls:
        assert control.params["ratio"] == pytest.approx(ratio - 0.01)


def test_short_runs_that_are_not_worth_it_are_stopped(searched):
    searching, state = searched

    stopped = [tried for tried in state.tries if tried.state == "stopped"]
    assert len(stopped) > 5
    for tried in stopped:
        assert [run.epochs for run in tried.runs] == [searching.search.first_epochs]
    for tried in state.tries:
        epochs = [run.epochs for run in tried.runs]
        assert epochs == sorted(epochs)
        assert max(epochs) <= searching.search.epochs


def test_only_tries_that_matter_get_all_seeds(searched):
    searching, state = searched

    confirmed = [tried for tried in state.tries if len(tried.runs[-1].seeds) > 1]
    assert 0 < len(confirmed) < len(state.tries) / 2
    smallest_believed = 1.0
    for tried in confirmed:
        assert tried.runs[-1].seeds == searching.params.seeds
        share = tried.last.share("macs")
        assert share < smallest_believed
        if tried.is_believed(searching.params.seeds, 0.01):
            smallest_believed = share
    assert smallest_believed < 1


def test_a_method_that_fails_is_skipped_and_named():
    def fails(params: dict) -> str | None:
        return "it broke\nfor this reason" if params["method"] == "taylor_channel_global" else None

    searching = formula_search(tries=30)
    searching.runner.fails = fails
    state = searching.run()

    failed = [tried for tried in state.tries if tried.state == "failed"]
    assert len(failed) == 2
    assert {tried.reason for tried in failed} == {"for this reason"}
    assert state.skipped == {"taylor_channel_global": "for this reason"}
    text = "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, []))
    assert "Skipped: taylor_channel_global (for this reason)." in text


@pytest.mark.parametrize("before_failures", [0, 1, 2])
def test_a_search_whose_tries_failed_is_not_out_of_reach_and_tries_them_again(before_failures):
    """The disk is full for a while."""
    searching = formula_search(tries=12)
    runs = iter(range(1000))
    searching.runner.fails = lambda _: "full" if next(runs) >= before_failures else None
    state = searching.run()

    assert not state.out_of_reach
    text = "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, []))
    assert "The same command tries them again." in text
    assert "out of reach" not in text

    searching.runner.fails = lambda _: None
    try_again(state, searching.max_drop)
    searching.run(state)

    assert len(state.tries) == 12
    assert all(tried.state in ("complete", "stopped") for tried in state.tries)
    assert state.skipped == {}
    assert searching.test(state).tested


def test_a_try_that_failed_after_a_short_run_within_the_drop_is_not_said_to_be_too_much():
    searching = formula_search(lambda params: 0.0, tries=8)
    runs = iter(range(1000))
    searching.runner.fails = lambda _: "full" if next(runs) > 0 else None
    state = searching.run()

    text = "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, []))
    assert "No try that came to its end is within 1 points. The nearest is" in text


def test_a_search_with_a_network_does_not_try_again_what_failed():
    searching = formula_search(tries=30)
    searching.runner.fails = lambda params: (
        "it broke" if params["method"] == "taylor_channel_global" else None
    )
    state = searching.run()
    before = deepcopy(state)

    try_again(state, searching.max_drop)

    assert state == before


def test_tries_that_cannot_be_pruned_cost_no_run():
    searching = formula_search(tries=12)
    searching.infeasible = lambda params: "too much" if params["ratio"] > 0.6 else None
    state = searching.run()

    assert any(tried.state == "failed" for tried in state.tries)
    assert all(job.params["ratio"] <= 0.6 for job in searching.runner.ran)


def test_several_tries_at_a_time_are_all_different():
    searching = formula_search(tries=20)
    searching.runner.width = 4
    state = searching.run()

    assert len(set(points(state))) == len(state.tries) == 20
    assert all(tried.state in ("complete", "stopped") for tried in state.tries)


def test_tries_beside_each_other_that_are_the_same_network_run_once():
    searching = formula_search(tries=12, layers=["method"])
    searching.runner.width = 3
    make_job = searching.job
    # As where the curves of sensitivity end: a larger ratio removes no more.
    searching.job = lambda params, label: make_job(
        {**params, "ratio": min(params["ratio"], 0.5)}, label
    )

    state = searching.run()

    assert len(state.tries) == 12
    assert all(tried.state != "running" and tried.runs for tried in state.tries)
    names = [job.name for job in searching.runner.ran]
    assert len(names) == len(set(names))


def test_a_search_finds_smaller_networks_than_random_tries_of_as_many_epochs():
    wins = 0
    for seed in range(5):
        searching = formula_search(tries=30, sampler_seed=seed)
        state = searching.run()
        found = best_within(state.tries, MACS, 0.01)

        random = formula_search(tries=max(1, state.epochs // 16), sampler_seed=seed)
        random.strategy = RANDOM
        random.base["seeds"] = [0]
        random.params = random.params.model_copy(update={"seeds": [0]})
        other = best_within(random.run().tries, MACS, 0.01)

        assert found is not None
        wins += other is None or found.last.share("macs") < other.last.share("macs")
    assert wins >= 3


def test_score_prefers_what_is_within_to_any_cheaper_network_that_is_not():
    within = score(0.5, 0.01, 0.01, final=True)

    assert score(0.4, 0.01, 0.01, final=True) < within
    for share in (0.4, 0.1, 0.04):
        assert score(share, 0.02, 0.01, final=True) > within
    assert score(0.25, 0.015, 0.01, final=False) < score(0.5, 0.005, 0.01, final=False)
    assert score(0.5, 0.0, 0.0, final=True) < score(0.1, 0.001, 0.0, final=True)


def test_front_has_what_no_other_try_beats(searched):
    _, state = searched
    chosen = front(state.tries, "macs")

    complete = [tried for tried in state.tries if tried.state == "complete"]
    for tried in complete:
        beaten = any(
            other.last.share("macs") <= tried.last.share("macs")
            and other.last.drop <= tried.last.drop
            and other is not tried
            for other in complete
        )
        assert (tried in chosen) == (not beaten)


def test_importances_name_what_the_formula_depends_on():
    def rule(params: dict) -> float:
        return 0.05 * abs(params["ratio"] - 0.5)

    searching = formula_search(rule, tries=40)
    searching.strategy = RANDOM
    state = searching.run()

    found = importances(searching.search, searching.search.methods, state.tries)
    assert max(found, key=found.__getitem__) == "ratio"
    assert sum(found.values()) == pytest.approx(1)
    assert importances(searching.search, searching.search.methods, state.tries[:1]) == {}


# --- the space ---


def test_a_family_stands_for_its_methods_without_controls():
    space = space_of(search_section(methods=["channel"]), MACS, lambda name: None)

    assert "l1_channel" in space.methods
    for name in space.methods:
        method = METHODS[name]
        assert method.granularity == "channel"
        assert method.criterion != "random"
        assert not method.trains


def test_a_plugins_method_belongs_to_its_family(monkeypatch):
    monkeypatch.setitem(METHODS._own, "my_channel", Method("l1", "channel", "uniform"))

    space = space_of(search_section(methods=["channel"]), MACS, lambda name: None)

    assert "my_channel" in space.methods
    assert random_control("my_channel") == "random_channel"


def test_methods_that_cannot_prune_the_network_are_skipped_with_the_reason():
    section = search_section(methods=["l1_channel", "l1_head", "l1_unstructured"])
    problems = {"l1_head": "it has no heads"}
    space = space_of(section, MACS, problems.get)

    assert space.methods == ["l1_channel"]
    assert space.skipped == {
        "l1_head": "it has no heads",
        "l1_unstructured": "masks leave all MACs in place",
    }


def test_ratios_at_which_the_network_cannot_be_pruned_become_the_nearest():
    def nearest(method: str, ratio: float, round_to: int) -> float:
        return min(ratio, 0.874) if method == "l2_channel_global" else ratio

    space = space_of(search_section(), MACS, lambda name: None, nearest)

    point = Point("l2_channel_global", 0.95, "method", 1, 0.02, 0.0, 0)
    assert space.feasible(point).ratio == 0.874
    assert space.feasible(replace(point, ratio=0.5)).ratio == 0.5
    assert space.feasible(replace(point, method="l1_channel")).ratio == 0.95
    by_layer = replace(point, method="l1_channel", layers="sensitivity")
    assert space.feasible(by_layer) == by_layer


@pytest.mark.parametrize("method", ["l1_channel", "l2_channel_global"])
def test_nearly_every_ratio_has_a_feasible_one_beside_it(method):
    network = SearchedNetwork.of(base_params())
    missed = []

    for ratio in (0.635, 0.708, 0.95):
        point = Point(method, ratio, "method", 1, 0.02, 0.0, 0)
        nearest = network.nearest_ratio(method, ratio, 1, "macs")
        network.params_of(MACS, replace(point, ratio=nearest), 1, [0], "validation")
        try:
            network.params_of(MACS, point, 1, [0], "validation")
        except InputError:
            missed.append(ratio)
        else:
            assert nearest == ratio

    assert missed


def test_limits_are_the_layers_that_lose_most_at_the_gentlest_ratio():
    network = SearchedNetwork.of(base_params())
    rows = []
    for layer, accuracy in [("conv1", 0.5), ("layer1.0.conv1", 0.9), ("layer2.0.conv1", 0.7)]:
        for ratio, lower in [(0.3, 0.0), (0.9, 0.4)]:
            row = {"granularity": "channel", "layer": layer, "ratio": ratio, "removed": ratio}
            rows.append({**row, "accuracy": accuracy - lower})
    network.record = {"accuracy": 0.98, "rows": rows}

    limits = network.limits("l2_channel_global")

    assert [limit.split()[0] for limit in limits] == ["conv1", "layer2.0.conv1", "layer1.0.conv1"]
    assert limits[0] == "conv1 alone costs 48.00 points at 30% of its channels, before fine-tuning"
    assert network.limits("l1_unstructured") == []


def test_a_network_that_cannot_be_pruned_at_all_leaves_the_ratio_alone():
    base = base_params()
    base["prune"]["protect"] = ["*"]

    assert SearchedNetwork.of(base).nearest_ratio("l1_channel", 0.5, 1, "macs") == 0.5


def test_masks_are_searched_where_they_save_something():
    section = search_section(methods=["l1_unstructured"])
    space = space_of(section, OBJECTIVES["size_compressed_bytes"], lambda name: None)

    assert space.methods == ["l1_unstructured"]


def test_unknown_methods_and_a_network_that_nothing_prunes_are_refused():
    with pytest.raises(InputError, match="unknown method 'l1_chanel'.*did you mean") as error:
        space_of(search_section(methods=["l1_chanel", "nothing"]), MACS, lambda name: None)
    assert len(error.value.problems) == 2

    with pytest.raises(InputError, match="none can reduce the MACs of this network. .*: no layer"):
        space_of(search_section(), MACS, lambda name: "no layer")


def test_layer_ratios_are_for_methods_that_prune_layer_by_layer():
    space = space_of(search_section(), MACS, lambda name: None)
    raw = space.first(0.5, 0.02) | {"layers": "sensitivity"}

    assert space.point({**raw, "method": "l1_channel"}).layers == "sensitivity"
    assert space.point({**raw, "method": "l2_channel_global"}).layers == "method"


@pytest.mark.parametrize(
    ("method", "random", "scratch"),
    [
        ("l2_channel_global", "random_channel_global", "l1_channel_scratch"),
        ("taylor_channel", "random_channel", "l1_channel_scratch"),
        ("lamp_unstructured", "random_unstructured", "l1_unstructured_scratch"),
        ("l1_head", "random_head", None),
        ("random_channel", None, "l1_channel_scratch"),
        ("l1_channel_scratch", "random_channel", None),
    ],
)
def test_controls_remove_the_same_kind_of_units(method, random, scratch):
    assert random_control(method) == random
    assert scratch_control(method) == scratch


@pytest.mark.parametrize("method", ["random_channel", "l1_channel_scratch"])
def test_a_search_over_a_control_alone_has_an_answer(method):
    searching = formula_search(methods=[method], layers=["method"], tries=8)

    state = searching.test(searching.run())

    assert {final.method for final, _ in state.tested} == {method}
    text = "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, []))
    assert text.startswith(f"It is {method} at ")
    assert f"there is none for {method}" in text


# --- honesty ---


def test_tries_see_validation_and_only_the_networks_trained_again_see_test():
    searching = formula_search(tries=15)
    state = searching.run()
    tried = list(searching.runner.ran)
    searching.test(state)
    tested = searching.runner.ran[len(tried) :]

    assert {job.params["evaluate"]["split"] for job in tried} == {"validation"}
    assert state.validation_networks == sum(
        len(run.seeds) for one in state.tries for run in one.runs
    )
    finals = [job for job in tested if job.params["evaluate"]["split"] == "test"]
    assert {tuple(job.params["seeds"]) for job in finals} == {tuple(searching.search.final_seeds)}
    for job in [*tried, *tested]:
        used = set(job.params["seeds"]) & set(searching.search.final_seeds)
        assert bool(used) == (job.params["evaluate"]["split"] == "test")
    assert len(finals) == len(state.finals)
    text = "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, []))
    assert f"The validation split was asked {state.validation_networks} times" in text
    assert f"the test split {5 * len(finals)} times" in text


def test_finals_are_the_smallest_its_runners_up_and_two_controls_of_its_cost():
    searching = formula_search(tries=30, runners_up=2)
    state = searching.test(searching.run())

    candidates = [final for final in state.finals if final.role == "candidate"]
    shares = [final.measurement.share("macs") for final in candidates]
    assert len(candidates) == 3
    assert shares == sorted(shares)
    controls = {final.role: final for final in state.finals if final.role != "candidate"}
    assert set(controls) == {"random", "scratch"}
    for control in controls.values():
        assert control.measurement.costs == candidates[0].measurement.costs


def optimistic_search(test_drop: float) -> tuple[FormulaSearch, SearchState]:
    """A search whose networks lose more on the test split, the more the smaller they are."""

    def rule(params: dict) -> float:
        drop = plain_rule(params)
        if params["evaluate"]["split"] == "test":
            drop += test_drop * params["ratio"] ** 4
        return drop

    searching = formula_search(rule, tries=30, runners_up=8)
    return searching, searching.test(searching.run())


def test_a_drop_whose_interval_is_not_within_is_not_shown_and_the_next_larger_is_offered():
    searching, state = optimistic_search(0.008)
    request = Request(1.0, "macs", 1)
    candidates = [final for final in state.finals if final.role == "candidate"]
    shown = shown_within(candidates, 0.01)
    assert candidates[0] not in shown
    offered = shown[0]

    lines = answer(state, request, searching.base, [])

    assert lines[2].endswith("not shown to be within 1.")
    assert f"  {reproducing_command(searching.base, offered.params)}" in lines
    (line,) = [line for line in lines if line.startswith("The next larger one that is shown")]
    assert f"try {offered.tried + 1}" in line
    drop = state.tries[candidates[0].tried].last.drop
    difference = candidates[0].measurement.drop - drop
    (optimism,) = [line for line in lines if line.startswith("Optimism of choosing")]
    assert f"{100 * difference:+.2f}" in optimism


def test_where_none_is_shown_the_answer_says_so():
    searching, state = optimistic_search(0.5)
    lines = answer(state, Request(1.0, "macs", 1), searching.base, [])

    assert "not shown to be within 1" in lines[2]
    assert any(line.startswith("None of the ") for line in lines)


def networks_that_lose(*drops: float) -> list[Final]:
    """Candidates, the smallest first, with these drops on the test split, each ± 0.005."""
    finals = []
    for number, drop in enumerate(drops):
        costs = dict.fromkeys(("macs", "params_nonzero", "size_compressed_bytes"), number + 1.0)
        measurement = Measurement(0.9, 0.01, drop, 0.005, 0.0025, costs, costs)
        name = f"network{number}"
        finals.append(Final("candidate", 0, "l1_channel", name, {"weights": "none"}, measurement))
    return finals


@pytest.mark.parametrize(
    ("drops", "shown"),
    [
        ((0.004, 0.003, 0.002), 3),
        ((0.006, 0.003, 0.002), 2),
        ((0.006, 0.006, 0.002), 1),
        ((0.006, 0.006, 0.006), 0),
        ((0.001, 0.006, 0.002), 1),  # the smallest was lucky
        ((0.001, 0.001, 0.006), 0),
    ],
)
def test_of_several_networks_those_below_one_that_is_not_within_are_not_shown(drops, shown):
    tested = networks_that_lose(*drops)

    assert shown_within(tested, 0.01) == tested[len(tested) - shown :]


def test_the_smallest_shown_network_is_wrong_about_as_seldom_as_one_test_is():
    generator = np.random.default_rng(0)
    error, searches, wrong = 0.003, 4000, 0
    true_drops = np.full(5, 0.0101)  # none is within one point
    for _ in range(searches):
        measured = generator.normal(true_drops, error)
        half = 1.96 * error
        tested = [
            replace(final, measurement=replace(final.measurement, drop_ci95=half))
            for final in networks_that_lose(*measured)
        ]
        wrong += bool(shown_within(tested, 0.01))

    assert wrong / searches < 0.03


def test_a_lucky_interval_below_one_that_is_not_within_is_explained():
    searching = formula_search(tries=12, runners_up=1)
    state = searching.test(searching.run())
    small, large = [final for final in state.finals if final.role == "candidate"]
    unlucky = replace(large, measurement=replace(large.measurement, drop=0.02))
    lucky = replace(small, measurement=replace(small.measurement, drop=0.0))
    state.finals = [lucky, unlucky]

    lines = answer(state, Request(1.0, "macs", 1), searching.base, [])

    assert lines[2].endswith("not shown to be within 1.")
    assert any(line.startswith("Its own interval lies within") for line in lines)
    assert any(line.startswith("None of the 2 networks") for line in lines)


def test_few_images_make_the_search_choose_a_larger_network():
    """Both searches measure the same drops; one of them far more exactly."""
    shares = {}
    for half in (0.0005, 0.008):
        searching = formula_search(tries=20, runners_up=0)
        searching.strategy = RANDOM
        searching.runner.half_width = half
        state = searching.test(searching.run())
        (candidate,) = [final for final in state.finals if final.role == "candidate"]
        shares[half] = candidate.measurement.share("macs")
        believed = state.tries[candidate.tried].last
        assert believed.drop + half / 1.96 <= 0.01

    assert shares[0.008] > 1.05 * shares[0.0005]


def test_the_choice_is_wrong_less_often_than_the_smallest_try_within():
    """Drops on validation have noise, so that the smallest try within is one that was lucky."""
    error, wrong, wrong_smallest = 0.005, 0, 0
    for repetition in range(20):
        noise = Noise(error, repetition)
        searching = formula_search(noise.rule, tries=30, sampler_seed=repetition, runners_up=0)
        searching.strategy = RANDOM
        searching.runner.half_width = 1.96 * error
        state = searching.run()

        smallest = best_within(state.tries, MACS, 0.01)
        if smallest is not None:
            wrong_smallest += drop_in_truth(searching, smallest) > 0.01
        searching.test(state)
        for final in state.finals:
            if final.role == "candidate":
                wrong += drop_in_truth(searching, state.tries[final.tried]) > 0.01

    assert wrong_smallest > 5
    assert wrong < wrong_smallest / 2


def drop_in_truth(searching: FormulaSearch, tried: Try) -> float:
    """The drop of a try without noise."""
    return plain_rule(searching.params_of(tried.point, searching.search.epochs, [0], "test"))


def test_each_runner_up_is_larger_and_safer_than_the_one_before():
    searching = formula_search(tries=30, runners_up=2)
    searching.runner.half_width = 0.003
    state = searching.test(searching.run())

    candidates = [final for final in state.finals if final.role == "candidate"]
    assert len(candidates) == 3
    shares = [final.measurement.share("macs") for final in candidates]
    for smaller, larger in pairwise(shares):
        assert larger >= 1.19 * smaller
    for place, final in enumerate(candidates):
        tried = state.tries[final.tried]
        assert tried.last.bound(1 + place / 2) <= 0.01


# --- how well a drop is known ---


def test_the_error_of_a_drop_has_a_part_of_the_seeds_and_one_of_the_images():
    generator = np.random.default_rng(1)
    lost = generator.choice([-1.0, 0.0, 1.0], p=[0.05, 0.85, 0.1], size=(3, 400))
    half = half_width(lost, resamples=100)
    drops = lost.mean(axis=1)

    error = standard_error(half, list(drops), 400)

    over_seeds = drops.std(ddof=1) / 3**0.5
    over_images = lost.mean(axis=0).std(ddof=1) / 400**0.5
    assert error == pytest.approx(float(np.hypot(over_seeds, over_images)))


def test_the_error_of_one_seed_is_that_of_its_images():
    generator = np.random.default_rng(1)
    lost = generator.choice([-1.0, 0.0, 1.0], p=[0.05, 0.85, 0.1], size=(1, 400))

    error = standard_error(half_width(lost, resamples=10_000), [lost.mean()], 400)

    assert error == pytest.approx(lost.std() / 400**0.5, rel=0.05)


@pytest.mark.parametrize("drops", [[0.0], [0.0, 0.0, 0.0]])
def test_no_change_among_few_images_is_known_to_one_image_at_best(drops):
    assert standard_error(0.0, drops, 135) == pytest.approx(1 / 135)


def test_the_error_is_read_from_the_details_of_an_experiment():
    details = {
        "seeds": [{"accuracy_drop": 0.01}, {"accuracy_drop": 0.03}],
        "classes": [{"support": 60}, {"support": 40}],
    }
    half = half_width(np.array([[1.0] + 99 * [0.0], 3 * [1.0] + 97 * [0.0]]), resamples=1)

    assert error_from_details(half, details) == standard_error(half, [0.01, 0.03], 100)


def test_a_drop_that_is_shown_needs_no_other_network():
    searching = formula_search(lambda params: -0.01, tries=12)
    state = searching.test(searching.run())

    lines = answer(state, Request(1.0, "macs", 1), searching.base, [])

    assert lines[2].endswith("shown to be within 1.")
    assert "not shown" not in "\n".join(lines)


def test_the_command_of_the_answer_gives_dvc_the_parameters_of_the_network(tmp_path):
    from dvc.utils.hydra import apply_overrides

    base = base_params()
    point = Point("l1_channel", 0.815, "sensitivity", 4, 0.037, 0.5, 512)
    ratios = {"layer1.0.conv1": 0.25, "conv1": 0.0}
    params = params_of(
        base, MACS, point, epochs=16, seeds=[1000, 1001], split="test", layer_ratios=ratios
    )
    params["model_options"] = {"width": 8}  # no section, so a value as a whole

    overridden = {**params, "search": {**params["search"], "tries": 3}}

    words = shlex.split(reproducing_command(base, overridden))

    assert words[:3] == ["dvc", "exp", "run"]
    assert words[-1] == "evaluate_focus"
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.read_text())
    apply_overrides(path, [word for word in words[3:-1] if word != "-S"])
    assert read_params(path) == params


@pytest.mark.parametrize(
    "text",
    [
        "/home/müller/a b",
        "it's #1, or (2)",
        'say "x"',
        "back\\",
        "\\'",
        "~/x=y",
        "null",
        "1e-3",
        "No",
    ],
)
def test_the_command_of_the_answer_quotes_texts_for_dvc(text, tmp_path):
    from dvc.utils.hydra import apply_overrides

    base = base_params()
    data = {**base["data"], "source": text, "augment": [text, "x"]}
    (tmp_path / "params.yaml").write_text(SHIPPED.read_text())

    words = shlex.split(reproducing_command(base, {**base, "data": data}))
    apply_overrides(tmp_path / "params.yaml", [word for word in words[3:-1] if word != "-S"])

    assert read_params(tmp_path / "params.yaml")["data"] == data


def test_the_command_of_a_request_asks_for_the_same():
    request = Request(0.5, "latency", 8, {"seeds": [0], "search.ratio": {"low": 0.1, "high": 0.5}})

    words = shlex.split(request.command())
    assignments = [words[index + 1] for index, word in enumerate(words) if word == "--set"]

    assert words[2:8] == ["--max-drop", "0.5", "--minimise", "latency", "--batch-size", "8"]
    assert read_overrides(assignments) == request.overrides


def test_imported_weights_are_said_to_have_seen_the_validation_split():
    def texts(weights: str) -> str:
        searching = formula_search(tries=4)
        searching.base["weights"] = weights
        state = searching.test(searching.run())
        return "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, []))

    caution = "The dense weights were imported"
    assert caution not in texts("none")
    assert caution in texts("data/raw/resnet20.th")


# --- the page and the picture ---


def found_by(searching: FormulaSearch) -> tuple[SearchState, dict]:
    """A finished search, and the content of its file."""
    state = searching.test(searching.run())
    request = Request(1.0, "macs", 1)
    plan = SimpleNamespace(request=request, params=searching.params)
    lines = answer(state, request, searching.base, [])
    return state, result_of(plan, searching.search.methods, state, lines, "dvc exp run")


def test_the_file_of_a_search_is_what_the_page_reads(tmp_path):
    state, found = found_by(formula_search(tries=20))

    path = write_result(tmp_path, "found", found)

    content = read_record(path, SearchResult)
    assert len(content["tries"]) == len(state.tries)
    assert [final["role"] for final in content["finals"]][-2:] == ["random", "scratch"]
    assert content["answer"] == found["answer"]
    for suffix in (".svg", ".png"):
        assert path.with_suffix(suffix).stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("resnet20-digits-macs-0.5", "resnet20-digits-macs-0.5"),  # and not macs-0
        ("timm/resnet18-digits-macs-1", "timm-resnet18-digits-macs-1"),
    ],
)
def test_every_search_has_files_of_its_own_where_the_report_looks(name, files, tmp_path):
    _, found = found_by(formula_search(tries=8))

    write_result(tmp_path, name, found)

    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert written == [f"searches/{files}.{suffix}" for suffix in ("json", "png", "svg")]


def test_the_page_draws_every_try_once_and_the_front_in_order():
    state, found = found_by(formula_search(tries=20))

    ((_, title, text, charts, rows),) = search_sections([found])

    assert "fewest MACs within 1" in title
    assert found["answer"][0] in text
    assert [name for name, _ in charts] == ["tries", "what mattered"]
    assert len(rows) == len(state.tries)
    traces = {trace["name"]: trace for trace in charts[0][1]["data"]}
    methods = {tried.point.method for tried in state.tries}
    assert sum(len(traces[method]["x"]) for method in methods) == len(state.tries)
    line = traces["front"]
    assert line["x"] == sorted(line["x"])
    assert line["y"] == sorted(line["y"], reverse=True)
    assert set(traces["allowed"]["y"]) == {1.0}
    assert len(traces["trained again, test"]["x"]) == 3


def test_the_whole_page_has_the_answer_of_a_search():
    _, found = found_by(formula_search(tries=8))

    with_search = page(replace(report_data(), searches=[found]))

    title = f"Search: {found['title']}"
    assert title in with_search
    assert found["answer"][0] in unescape(with_search)
    assert title not in page(report_data())


def test_a_search_without_a_network_has_a_file_and_a_picture_too(tmp_path):
    searching = formula_search(lambda params: 0.2 + params["ratio"])
    state = searching.run()
    plan = SimpleNamespace(request=Request(1.0, "macs", 1), params=searching.params)

    found = result_of(plan, searching.search.methods, state, ["nothing"], "")

    assert read_record(write_result(tmp_path, "found", found), SearchResult)["finals"] == []


# --- the state ---


def test_a_state_is_read_as_it_was_written(tmp_path):
    searching = formula_search(tries=12)
    searching.folder = tmp_path
    state = searching.test(searching.run())

    assert SearchState.load(tmp_path) == state
    assert SearchState.load(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"tries": [3]}', '{"tries": 3, "finals": []}']
)
def test_a_damaged_state_is_refused(content, tmp_path):
    (tmp_path / STATE_FILE).write_text(content)

    with pytest.raises(InputError, match="is damaged. Remove the folder"):
        SearchState.load(tmp_path)


def test_searches_in_other_parameters_or_code_are_kept_apart():
    before = {"code": "a", "inputs": {}, "parameters": {"model": "resnet8", "search.tries": 3}}

    assert differences(before, json.loads(json.dumps(before))) == []
    changed = {**before, "code": "b", "parameters": {"model": "resnet20", "search.tries": 3}}
    assert differences(before, changed) == ["the code of the last commit", "model"]


# --- refusals ---


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Repository:
    repository = Repository(tmp_path)
    monkeypatch.chdir(tmp_path)
    return repository


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["search", *arguments])
    assert result.exit_code == 1, result.output
    return result.stderr.strip()


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give one of --max-drop"),
        (("--max-drop", "1", "--resume"), "give one of --max-drop"),
        (("--resume", "--set", "search.tries=40"), "--set makes another search"),
        (("--max-drop", "-0.5"), "-0.5 is no drop in points"),
        (("--max-drop", "101"), "101 is no drop in points"),
        (("--max-drop", "nan"), "nan is no drop in points"),
        (("--max-drop", "1", "--within", "soon"), "'soon' is no time"),
        (("--max-drop", "1", "--within", "0m"), "'0m' is no time"),
        (("--max-drop", "1", "--jobs", "2", "--address", "auto"), "--jobs is for this machine"),
        (("--max-drop", "1", "--set", "ratio=0.5"), "the search chooses methods and ratios"),
        (("--resume",), "no search was begun here"),
        (("--status",), "no search was begun here"),
        (("--stop",), "no search was begun here"),
    ],
)
def test_bad_requests_are_refused_in_one_line(arguments, words):
    message = refusal(*arguments)

    assert words in message
    assert len(message.splitlines()) == 1


def test_seeds_that_tries_use_are_refused_for_the_network_that_is_found(repository):
    edit_params(repository.folder / "params.yaml", search__final_seeds=[0, 1000])
    repository.commit("Seeds")

    message = refusal("--max-drop", "1")

    assert "search.final_seeds: 0 is in seeds too" in message
    assert len(message.splitlines()) == 1


def test_ratios_by_layer_are_refused_where_the_search_makes_them(repository):
    edit_params(repository.folder / "params.yaml", prune__layer_ratios={"conv1": 0.5})

    message = refusal("--max-drop", "1")

    assert message.startswith("search.layers: sensitivity gives every layer a ratio")


@pytest.mark.parametrize(
    ("methods", "protect", "words"),
    [
        (["l1_unstructured"], [], "l1_unstructured: masks leave all MACs in place"),
        (["l1_head"], [], "l1_head: resnet8 has no heads to remove"),
        (["l1_channel"], ["*"], "l1_channel at ratio"),
    ],
)
def test_an_empty_space_is_refused_and_leaves_the_last_search(methods, protect, words, repository):
    last = repository.folder / LAST
    last.parent.mkdir(parents=True)
    last.write_text("earlier\n")
    edit_params(repository.folder / "params.yaml", search__methods=methods)
    edit_params(repository.folder / "params.yaml", prune__protect=protect)

    message = refusal("--max-drop", "1")

    assert "search.methods: none can reduce the MACs of this network" in message
    assert words in message
    assert len(message.splitlines()) == 1
    assert last.read_text() == "earlier\n"


def test_uncommitted_code_is_refused(repository):
    name = repository.edit_code()

    assert f"{name} differs from the last commit" in refusal("--max-drop", "1")


def test_status_needs_neither_torch_nor_the_sampler(repository):
    import subprocess
    import sys

    code = (
        "import sys; from prunelab.commands.search import control, plan, command;"
        "print([name for name in ('torch', 'optuna') if name in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert process.stdout.strip() == "[]"


def test_a_failed_control_is_named_and_does_not_end_the_search():
    def fails(params: dict) -> str | None:
        return "no room" if params["method"] == "l1_channel_scratch" else None

    searching = formula_search(tries=12)
    searching.runner.fails = fails
    state = searching.test(searching.run())

    (scratch,) = [final for final in state.finals if final.role == "scratch"]
    assert scratch.measurement is None
    text = "\n".join(answer(state, Request(1.0, "macs", 1), searching.base, []))
    assert "Control, trained from scratch instead: failed (no room)." in text


def test_latency_is_measured_once_per_try():
    measured = []

    def speedup(name: str) -> tuple[float, float, float]:
        measured.append(name)
        return 2.0, 1.9, 2.1

    searching = formula_search(tries=6)
    from prunelab.commands.search.engine import Engine, Limits
    from prunelab.commands.search.space import Space

    state = SearchState({}, {})
    Engine(
        space=Space(list(searching.search.methods), searching.search),
        objective=OBJECTIVES["latency"],
        max_drop=0.01,
        seeds=[0, 1],
        learning_rate=0.02,
        state=state,
        runner=FormulaRunner(plain_rule),
        make_job=lambda point, epochs, seeds, number: searching.job(
            searching.params_of(point, epochs, seeds, "validation"), f"{number}{epochs}{seeds}"
        ),
        save=lambda state: None,
        print_line=searching.lines.append,
        limits=Limits(None, lambda: False),
        speedup=speedup,
    ).run()

    assert len(measured) == len(state.tries) == 6
    for tried in state.tries:
        assert {replace(run.measurement).faster for run in tried.runs} == {(2.0, 1.9, 2.1)}
        assert tried.last.share("latency") == 0.5
