"""Every granularity against brute force, and the invariants that all of them share, over random shapes."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from helpers.params import prune_spec
from torch import Tensor

from prunelab.config.params import Prune
from prunelab.core.errors import InputError
from prunelab.models.catalogue import build, prunable_weights
from prunelab.pruning.unstructured.granularity import (
    BLOCK,
    FILTER,
    GRANULARITIES,
    KERNEL,
    N_OF_M,
    PATTERN,
    VECTOR,
    WEIGHT,
    achievable,
    why_not,
)
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.pruning.unstructured.select import Scope, choose, expected, removed_share
from prunelab.training import masking
from prunelab.training.masking import Masks

UNITS = {name: granularity for name, granularity in GRANULARITIES.items() if not granularity.select}
WITHIN_GROUPS = {
    name: granularity for name, granularity in GRANULARITIES.items() if granularity.select
}
CONVS = {"conv": (6, 4, 3, 3), "wide": (5, 8, 3, 3), "large": (3, 4, 5, 5), "flat": (4, 4, 1, 3)}
SHAPES = CONVS | {
    "stem": (4, 3, 3, 3),
    "depthwise": (8, 1, 3, 3),
    "pointwise": (7, 8, 1, 1),
    "linear": (10, 12),
}


def settings(**changes: int) -> Prune:
    return prune_spec(
        "any", 0.5, **{"block_rows": 4, "block_columns": 5, "group": 4, "patterns": 3} | changes
    )


def saliencies(
    shapes: dict[str, tuple[int, ...]] = SHAPES, seed: int = 0, ties: bool = False
) -> Saliency:
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return {name: (score * 4).floor() for name, score in found.items()} if ties else found


def random_shapes(seed: int) -> dict[str, tuple[int, ...]]:
    random = np.random.default_rng(seed)
    shapes = {}
    for index in range(4):
        kernel = int(random.choice([1, 3, 3, 5]))
        shapes[f"conv{index}"] = (
            int(random.integers(1, 12)),
            int(random.integers(1, 5)) * 4,
            kernel,
            kernel,
        )
    return shapes | {
        "square": (3, 4, 3, 3),
        "linear": (int(random.integers(2, 20)), int(random.integers(1, 6)) * 4),
    }


def scope_of(granularity) -> Scope:
    return Scope.LAYERWISE if granularity.select else Scope.GLOBAL


def unit_of(
    name: str, index: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, int]
) -> tuple | None:
    """To which unit a weight belongs, told by its indices alone; None where the granularity does not apply."""
    if name == "weight":
        return index
    if name == "filter":
        return index[:1]
    if name == "block":
        column = int(np.ravel_multi_index(index[1:], shape[1:]))
        return index[0] // block[0], column // block[1]
    if len(shape) == 2 or (shape[3] == 1 if name == "vector" else shape[2] * shape[3] == 1):
        return None
    return index[:3] if name == "vector" else index[:2]


def members(
    name: str, score: Tensor, block: tuple[int, int] = (4, 5)
) -> list[list[tuple[int, ...]]]:
    """The weights of every unit, by index, in the order in which units are numbered."""
    found: dict[tuple, list[tuple[int, ...]]] = {}
    for index in np.ndindex(*score.shape):
        if (unit := unit_of(name, index, tuple(score.shape), block)) is not None:
            found.setdefault(unit, []).append(index)
    return [found[unit] for unit in sorted(found)]


def dropped_by_brute_force(name: str, scores: Saliency, ratio: float) -> set[tuple]:
    """The weights, by tensor and index, that one ranking of all units drops."""
    units = [
        (tensor, indices) for tensor, score in scores.items() for indices in members(name, score)
    ]
    means = [
        sum(float(scores[tensor][index]) for index in indices) / len(indices)
        for tensor, indices in units
    ]
    order = sorted(range(len(units)), key=lambda number: means[number])  # stable
    target = ratio * sum(len(indices) for _, indices in units)
    totals = [0, *itertools.accumulate(len(units[number][1]) for number in order)]
    count = min(range(len(totals)), key=lambda number: abs(totals[number] - target))
    return {(units[number][0], index) for number in order[:count] for index in units[number][1]}


def dropped(kept: Masks) -> set[tuple]:
    return {
        (name, tuple(index)) for name, mask in kept.items() for index in (~mask).nonzero().tolist()
    }


@pytest.mark.parametrize("ratio", [0.21, 0.5, 0.83])
@pytest.mark.parametrize("name", UNITS)
def test_global_choice_is_one_ranking_of_all_units(name, ratio):
    scores = saliencies()
    assert dropped(
        choose(scores, UNITS[name], Scope.GLOBAL, ratio, settings())
    ) == dropped_by_brute_force(name, scores, ratio)


@pytest.mark.parametrize("name", UNITS)
def test_layerwise_choice_is_a_ranking_of_every_layers_units(name):
    scores = {key: score for key, score in saliencies().items() if members(name, score)}
    expected = set.union(
        *(dropped_by_brute_force(name, {key: score}, 0.57) for key, score in scores.items())
    )
    assert dropped(choose(scores, UNITS[name], Scope.LAYERWISE, 0.57, settings())) == expected


@pytest.mark.parametrize("scope", [Scope.GLOBAL, Scope.LAYERWISE])
def test_of_equal_weights_the_first_go(scope):
    scores = saliencies(ties=True)
    for ratio in (0.1, 0.3, 0.9):
        kept = choose(scores, WEIGHT, scope, ratio, settings())
        groups = (
            [scores] if scope is Scope.GLOBAL else [{name: score} for name, score in scores.items()]
        )
        for group in groups:
            flat = torch.cat([score.flatten() for score in group.values()])
            gone = flat.argsort(stable=True)[: round(ratio * len(flat))]
            expected = torch.ones(len(flat), dtype=torch.bool).index_fill(0, gone, False)
            assert torch.equal(torch.cat([kept[name].flatten() for name in group]), expected)


@pytest.mark.parametrize("name", UNITS)
def test_layers_and_rows_that_compete_by_themselves_keep_something(name):
    masks = choose(saliencies(), UNITS[name], Scope.LAYERWISE, 0.97, settings())
    assert all(mask.any() for mask in masks.values())
    if name == "weight":
        masks = choose(saliencies(), UNITS[name], Scope.ROWWISE, 0.97, settings())
        assert all(mask.flatten(1).any(1).all() for mask in masks.values())


@pytest.mark.parametrize("name", GRANULARITIES)
@pytest.mark.parametrize("ratio", [0.21, 0.5, 0.83])
def test_what_is_expected_to_go_goes(name, ratio):
    scopes = [Scope.LAYERWISE] if GRANULARITIES[name].select else [Scope.LAYERWISE, Scope.GLOBAL]
    own = {"wide": 0.4}
    for scope in scopes + [Scope.ROWWISE] * (name == "weight"):
        kept = choose(saliencies(CONVS), GRANULARITIES[name], scope, ratio, settings(), own)
        foretold = expected(CONVS, GRANULARITIES[name], scope, ratio, settings(), own)
        assert kept.keys() == foretold.keys()
        gone = {tensor: int((~mask).sum()) for tensor, mask in kept.items()}
        if scope is Scope.GLOBAL:  # among tensors that compete, only the sum can be known
            gone, foretold = (
                {"wide": its["wide"], "": sum(its.values())} for its in (gone, foretold)
            )
        for tensor, count in gone.items():
            unit = 30 if name in ("filter", "block") else 9  # edges of blocks are smaller
            assert count == pytest.approx(foretold[tensor], abs=unit if name != "weight" else 0.51)


@pytest.mark.parametrize("ties", [False, True])
def test_rowwise_every_output_row_loses_its_own_least_weights(ties):
    scores = saliencies(ties=ties)
    kept = choose(scores, WEIGHT, Scope.ROWWISE, 0.4, settings())
    assert set(kept) == set(scores)
    for name, score in scores.items():
        for row, mask in zip(score.flatten(1), kept[name].flatten(1), strict=True):
            gone = row.argsort(stable=True)[: round(0.4 * len(row))]
            assert (~mask).nonzero().flatten().tolist() == sorted(gone.tolist())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", UNITS)
def test_units_are_numbered_and_stay_or_go_as_a_whole(name, seed):
    scores = saliencies(random_shapes(seed), seed)
    chosen = settings(block_rows=3, block_columns=7)
    kept = choose(scores, UNITS[name], Scope.GLOBAL, 0.6, chosen)
    largest = 0
    for key, score in scores.items():
        expected = members(name, score, block=(3, 7))
        numbers = UNITS[name].units(tuple(score.shape), chosen)
        assert (numbers is not None) == (key in kept) == bool(expected)
        for number, indices in enumerate(expected):
            assert {int(numbers[index]) for index in indices} == {number}
            assert len({bool(kept[key][index]) for index in indices}) == 1
            largest = max(largest, len(indices))
    total = sum(mask.numel() for mask in kept.values())
    assert removed_share(kept) == pytest.approx(0.6, abs=largest / 2 / total + 1e-9)  # half a unit


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GRANULARITIES)
def test_a_higher_ratio_keeps_less_and_zero_keeps_all(name, seed):
    granularity = GRANULARITIES[name]
    scores = saliencies(random_shapes(seed), seed)
    kept = [
        choose(scores, granularity, scope_of(granularity), r, settings())
        for r in (0, 0.2, 0.4, 0.5, 0.75)
    ]
    assert all(mask.all() for mask in kept[0].values())
    assert kept[0].keys() == kept[-1].keys()
    assert removed_share(kept[-1]) > removed_share(kept[1])
    for more, fewer in itertools.pairwise(kept):
        assert removed_share(more) <= removed_share(fewer)
        if granularity is not PATTERN:  # whose set of patterns is another for every ratio
            assert all((more[key] | ~fewer[key]).all() for key in more)


# --- N of M


@pytest.mark.parametrize(
    ("group", "ratio", "kept_of"), [(4, 0.5, 2), (4, 0.75, 1), (2, 0.5, 1), (8, 0.25, 6)]
)
@pytest.mark.parametrize("seed", range(3))
def test_n_of_m_keeps_the_largest_n_of_every_m_input_channels(group, ratio, kept_of, seed):
    scores = saliencies(
        {"conv": (5, 16, 3, 3), "linear": (3, 24), "stem": (4, 3, 3, 3)}, seed, ties=seed == 2
    )
    kept = choose(scores, N_OF_M, Scope.LAYERWISE, ratio, settings(group=group))
    assert set(kept) == {"conv", "linear"}  # three input channels make no group
    for name, mask in kept.items():
        for out, *place in np.ndindex(mask.shape[0], *mask.shape[2:]):
            column = mask[(out, slice(None), *place)]  # along the input channels
            values = scores[name][(out, slice(None), *place)]
            for start in range(0, len(column), group):
                stays, those = column[start : start + group], values[start : start + group]
                assert int(stays.sum()) == kept_of
                assert those[stays].min() >= those[~stays].max()


def test_two_of_four_is_the_layout_of_semi_structured_kernels():
    """Of the matrix [out, in] that such kernels multiply by, two of every four neighbours in a row are zero."""
    kept = choose(saliencies({"linear": (32, 64)}), N_OF_M, Scope.LAYERWISE, 0.5, settings())[
        "linear"
    ]
    assert bool((kept.view(32, 16, 4).sum(2) == 2).all())


# --- patterns


@pytest.mark.parametrize("patterns", [1, 3, 8])
@pytest.mark.parametrize("ratio", [0.33, 0.55])
def test_every_kernel_takes_the_best_of_a_few_frequent_patterns(patterns, ratio):
    scores = saliencies(
        {"a": (6, 4, 3, 3), "b": (9, 5, 3, 3), "linear": (4, 4), "pointwise": (8, 8, 1, 1)}
    )
    count = round((1 - ratio) * 9)
    kept = choose(scores, PATTERN, Scope.LAYERWISE, ratio, settings(patterns=patterns))
    assert set(kept) == {"a", "b"}
    kernels = [kernel for name in kept for kernel in scores[name].reshape(-1, 9).tolist()]
    own = Counter(
        tuple(sorted(sorted(range(9), key=kernel.__getitem__)[-count:])) for kernel in kernels
    )
    masked = [
        tuple(row.nonzero().flatten().tolist())
        for name in kept
        for row in kept[name].reshape(-1, 9)
    ]
    used = set(masked)
    assert len(used) <= patterns
    assert {len(pattern) for pattern in used} == {count}
    # No pattern left out is more frequent than one in use, and each kernel has the best of those in use.
    assert (
        min(own[pattern] for pattern in used) >= sorted(own.values(), reverse=True)[:patterns][-1]
    )
    for kernel, pattern in zip(kernels, masked, strict=True):
        best = max(sum(kernel[place] for place in other) for other in used)
        assert sum(kernel[place] for place in pattern) == pytest.approx(best)


def test_enough_patterns_let_every_kernel_keep_its_own_largest_weights():
    scores = saliencies(
        {"large": (3, 2, 16, 16), "small": (4, 4, 3, 3)}
    )  # 256 places: too many for an integer's bits
    kept = choose(scores, PATTERN, Scope.LAYERWISE, 0.5, settings(patterns=1000))
    for name, score in scores.items():
        area = score[0, 0].numel()
        for row, mask in zip(score.reshape(-1, area), kept[name].reshape(-1, area), strict=True):
            assert set(mask.nonzero().flatten().tolist()) == set(
                row.topk(round(0.5 * area)).indices.tolist()
            )


# --- shares of single tensors


@pytest.mark.parametrize("name", GRANULARITIES)
def test_tensors_with_their_own_ratio_lose_it_and_protected_ones_nothing(name):
    granularity = GRANULARITIES[name]
    scores = saliencies(dict.fromkeys("abcd", (8, 8, 4, 4)))
    own = {"a": 0.75, "b": 0, "no such tensor": 0.3}
    kept = choose(scores, granularity, scope_of(granularity), 0.5, settings(block_columns=4), own)
    assert list(kept) == ["a", "c", "d"]
    assert removed_share({"a": kept["a"]}) == 0.75
    assert removed_share({"c": kept["c"], "d": kept["d"]}) == 0.5
    alone = {key: score for key, score in scores.items() if key in "cd"}
    assert dropped(
        choose(alone, granularity, scope_of(granularity), 0.5, settings(block_columns=4))
    ) == {(key, index) for key, index in dropped(kept) if key != "a"}


def test_a_tensor_without_a_mask_is_left_alone_by_all_that_follows():
    model = build("resnet8", 10, DIGITS_SHAPE)
    before = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
    scores = {name: weight.abs() for name, weight in before.items()}
    kept = choose(scores, KERNEL, Scope.GLOBAL, 0.5, settings(), {"conv1.weight": 0})
    assert set(before) - set(kept) == {"conv1.weight", "linear.weight"}
    masking.apply(model, kept)
    masking.verify(model, kept)
    for name, weight in prunable_weights(model).items():
        assert torch.equal(weight, before[name] * kept.get(name, True))


def test_other_forms_of_a_saliency_make_no_difference():
    """A view with one score for each filter, memory in another order, another precision."""
    # Whole numbers, whose sums are exact in either precision.
    random = torch.Generator().manual_seed(0)
    numbers = [
        torch.randint(1000, shape, generator=random).float()
        for shape in ((6, 1, 1, 1), (5, 8, 3, 3))
    ]
    scores = {"a": numbers[0].expand(6, 4, 3, 3), "b": numbers[1]}
    last = {
        "a": scores["a"].double(),
        "b": scores["b"].double().contiguous(memory_format=torch.channels_last),
    }
    for granularity in GRANULARITIES.values():
        scope = scope_of(granularity)
        first, second = (
            choose(form, granularity, scope, 0.5, settings()) for form in (scores, last)
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert all(mask.is_contiguous() for mask in second.values())


# --- what cannot be


@pytest.mark.parametrize(
    ("granularity", "shapes", "ratio", "said"),
    [
        (PATTERN, {"a": (8, 8, 1, 1), "b": (4, 4)}, 0.5, r"none; needed: .*larger than 1x1"),
        (KERNEL, {"b": (4, 4)}, 0.5, r"none; needed: .*larger than 1x1"),
        (VECTOR, {"a": (8, 8, 3, 1)}, 0.5, r"none; needed: .*wider than 1"),
        (N_OF_M, {"a": (8, 3, 3, 3), "b": (4, 6)}, 0.5, r"multiple of prune\.group = 4"),
        (N_OF_M, {"a": (8, 8)}, 0.1, r"ratio 0\.1 removes none of a group of 4 weights; .* 0\.25"),
        (N_OF_M, {"a": (8, 8)}, 0.95, r"ratio 0\.95 leaves none of a group of 4 weights; .* 0\.75"),
        (
            PATTERN,
            {"a": (8, 8, 3, 3), "b": (8, 8, 7, 7)},
            0.96,
            r"leaves none of a group of 9 weights; .* 0\.888889",
        ),
        (FILTER, {"a": (2, 8), "b": (2, 4)}, 0.05, r"removes none of the 4 filters; .* 0\.25"),
        (BLOCK, {"a": (8, 10)}, 0.9, r"leaves none of the 4 blocks; .* 0\.75"),
        (BLOCK, {"a": (4, 5)}, 0.5, r"there is only one"),
        (WEIGHT, {"a": (4, 5)}, 0.99, r"leaves none of the 20 weights; .* 0\.95"),
    ],
)
def test_a_ratio_that_cannot_be_met_is_named_and_refused(granularity, shapes, ratio, said):
    line = why_not(shapes, granularity, ratio, settings())
    assert line is not None
    assert "\n" not in line
    with pytest.raises(InputError, match=said) as refusal:
        choose(saliencies(shapes), granularity, scope_of(granularity), ratio, settings())
    assert refusal.value.problems == [line]
    if "nearest" in line:  # what is named instead can be met
        nearest = float(line.rsplit(" ", 1)[1])
        kept = choose(saliencies(shapes), granularity, scope_of(granularity), nearest, settings())
        assert 0 < removed_share(kept) < 1


def test_a_tensors_own_ratio_is_refused_by_the_tensors_name():
    scores = saliencies({"a": (8, 8), "b": (8, 8)})
    with pytest.raises(InputError, match=r"^b: ratio 0\.9 leaves none"):
        choose(scores, N_OF_M, Scope.LAYERWISE, 0.5, settings(), {"b": 0.9})


def test_a_saliency_that_is_not_a_number_is_refused():
    with pytest.raises(InputError, match="saliency of a is not a number"):
        choose({"a": torch.tensor([[1.0, float("nan")]])}, WEIGHT, Scope.GLOBAL, 0.5, settings())


@pytest.mark.parametrize("ratio", [0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
@pytest.mark.parametrize("name", GRANULARITIES)
def test_what_is_achievable_is_achieved(name, ratio):
    granularity = GRANULARITIES[name]
    shapes = {"a": (40, 20, 3, 3), "b": (60, 40, 5, 5), "c": (30, 64), "stem": (16, 3, 3, 3)}
    assert why_not(shapes, granularity, ratio, settings()) is None
    kept = choose(saliencies(shapes), granularity, scope_of(granularity), ratio, settings())
    tolerance = 1e-9 if name in WITHIN_GROUPS else 0.01
    assert removed_share(kept) == pytest.approx(
        achievable(shapes, granularity, ratio, settings()), abs=tolerance
    )
