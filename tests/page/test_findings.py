"""The findings of made-up studies: they are never stronger than the intervals."""

import random
import re

import pytest
from helpers.page import RATIOS, dense_metrics, latency_rows, point, report_data

from prunelab.page.findings import drop_shown, findings, verdict

METHODS = ("random_unstructured", "l1_unstructured", "random_channel", "l1_channel")
LEAST, FALLS, CONTROLS, CLOCK = range(4)


def made_up_points(generator: random.Random, methods=METHODS) -> list[dict]:
    """Cells with any accuracies and intervals, and any names in `same_as`."""
    points = []
    for method in methods:
        for ratio in RATIOS:
            drop = generator.uniform(-0.02, 0.3)
            change = {
                "accuracy": 0.9 - drop,
                "accuracy_ci95": generator.uniform(0, 0.1),
                "accuracy_drop": drop,
                "accuracy_drop_ci95": generator.uniform(0, 0.2),
                "same_as": ", ".join(generator.sample(methods, generator.randint(0, 2))),
            }
            points.append(point(method, ratio) | change)
    return points


def found(points: list[dict], latency: list[dict] | None = None) -> list[str]:
    rows = latency or latency_rows(["dense", *(each["key"] for each in points)])
    return [finding.text for finding in findings(dense_metrics(), points, rows, "a machine")]


def names(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.mark.parametrize("seed", range(30))
def test_better_is_said_only_where_intervals_do_not_overlap(seed):
    points = made_up_points(random.Random(seed))
    by_cell = {(each["method"], each["ratio"]): each for each in points}

    text = found(points)[CONTROLS]

    for method, kind in (("l1_unstructured", "unstructured"), ("l1_channel", "channel")):
        (sentence,) = re.findall(rf"`{method}` [^`]*", text)
        for ratio in RATIOS:
            own, control = by_cell[method, ratio], by_cell[f"random_{kind}", ratio]
            above = own["accuracy"] - own["accuracy_ci95"] > (
                control["accuracy"] + control["accuracy_ci95"]
            )
            paired = f"random_{kind}" not in own["same_as"]

            better = re.search(r"better than random at ratio ([^;]*)", sentence)
            said = better is not None and f"{ratio:g}" in re.findall(r"[\d.]*\d", better[1])
            assert said == (above and paired)


@pytest.mark.parametrize("seed", range(30))
def test_networks_of_the_first_finding_have_no_shown_drop(seed):
    points = made_up_points(random.Random(seed))
    by_key = {each["key"]: each for each in points}
    kept = [each for each in points if not drop_shown(each)]

    text = found(points)[LEAST]

    if not kept:
        assert text.startswith("A drop in accuracy was shown for every pruned network")
        return
    assert not any(drop_shown(by_key[name]) for name in names(text))
    smallest = min(each["size_compressed_bytes"] for each in kept)
    assert smallest in [by_key[name]["size_compressed_bytes"] for name in names(text)]


@pytest.mark.parametrize("seed", range(30))
def test_every_method_falls_at_its_first_shown_drop_or_not_at_all(seed):
    points = made_up_points(random.Random(seed))

    text = found(points)[FALLS]

    shown, _, never = text.partition("None was shown")
    for method in METHODS:
        ratios = [e["ratio"] for e in points if e["method"] == method and drop_shown(e)]
        if not ratios:
            assert f"`{method}`" in never
            continue
        (part,) = [part for part in shown.split(";") if f"`{method}`" in part]
        assert f"ratio {min(ratios):g} " in part


def test_verdict_needs_both_the_intervals_and_the_pairs():
    control = point("random_channel", 0.5) | {"accuracy": 0.8, "accuracy_ci95": 0.02}
    far = point("l1_channel", 0.5) | {"accuracy": 0.9, "accuracy_ci95": 0.02}

    assert verdict(far, control) == "better"
    assert verdict(control, far) == "worse"
    assert verdict(far | {"accuracy_ci95": 0.09}, control) == "not decided"
    assert verdict(far | {"same_as": "l2_channel, random_channel"}, control) == "not decided"


def test_drop_that_is_not_ruled_out_is_named():
    points = [point("l1_channel", 0.5) | {"accuracy_drop": 0.01, "accuracy_drop_ci95": 0.015}]

    assert "1.00 ± 1.50 points, so up to 2.50 is not ruled out" in found(points)[LEAST]


def test_drop_that_is_a_gain_is_called_one():
    points = [point("l1_channel", 0.5) | {"accuracy_drop": -0.02, "accuracy_drop_ci95": 0.015}]

    text = found(points)[LEAST]

    assert "-2.00 ± 1.50 points, so a gain was shown" in text
    assert "ruled out" not in text


def test_random_control_is_named_after_a_method_of_equal_macs():
    points = []
    for method, drop in (("random_channel", 0.0), ("l1_channel", 0.01)):
        points.append(point(method, 0.5) | {"accuracy_drop": drop})

    text = found(points)[LEAST]

    assert names(text)[:2] == ["l1_channel-0.5", "random_channel-0.5"]
    assert "No drop was shown either for `random_channel-0.5`" in text


def test_study_without_controls_says_that_it_shows_nothing_of_criteria():
    assert "no random control" in found([point("l1_channel", 0.5)])[CONTROLS]


def test_control_of_another_family_is_none():
    points = [point("random_channel", 0.5), point("l1_head", 0.5)]

    assert "no control at the same ratios for `l1_head`" in found(points)[CONTROLS]


@pytest.mark.parametrize("control", ["random_unstructured", "random_block"])
def test_control_that_masks_other_groups_of_weights_is_none(control):
    points = [point(control, 0.5) | {"accuracy": 0.2}, point("l1_filter", 0.5)]

    text = found(points)[CONTROLS]

    assert text == "There is no control at the same ratios for `l1_filter`."


def test_many_methods_are_counted():
    methods = ("random_channel", *(f"criterion{index}_channel" for index in range(9)))
    points = made_up_points(random.Random(0), methods)

    text = found(points)[CONTROLS]

    assert text.startswith("9 methods have a control.")
    assert len(names(text)) < 9


def test_speed_that_was_not_shown_is_not_claimed():
    points = [point("l1_channel", 0.5) | {"accuracy_drop": 0.0}]
    rows = latency_rows(["dense", points[0]["key"]])

    assert "`l1_channel-0.5` takes" in found(points, rows)[CLOCK]
    for low in (0.99, 1.005):  # the latter is less than can be resolved
        unsure = [row | {"faster_low": low} for row in rows]
        text = found(points, unsure)[CLOCK]
        assert "takes" not in text
        assert "no network without a shown drop was shown to be faster" in text


def test_a_ratio_that_the_calls_do_not_support_is_not_claimed():
    doubt = "no ratio, because the median call of dense took 3.0 times as long as its fastest"
    points = [point("l1_channel", 0.5) | {"accuracy_drop": 0.0}, point("l1_unstructured", 0.5)]
    rows = latency_rows(["dense", *(each["key"] for each in points)])

    text = found(points, [row | {"told": doubt} for row in rows])[CLOCK]

    assert "takes" not in text
    assert "no network without a shown drop was shown to be faster" in text
    assert "none was shown to be faster" in text


def test_masked_networks_that_are_faster_are_counted():
    points = [point("l1_unstructured", ratio) for ratio in RATIOS]

    assert "Of the 3 networks with zeros and no fewer MACs, 3 were shown" in found(points)[CLOCK]


def test_study_in_which_nothing_was_pruned_has_findings_too():
    untouched = report_data().points[0] | {"sparsity": 0.0, "ratio": 0.0}

    assert found([untouched])[LEAST] == "No network of this study was pruned."
