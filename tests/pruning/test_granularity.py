"""Every granularity against brute force, and the properties that all of them share."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from helpers.params import prune_spec
from torch import Tensor

from prunelab.config.params import Prune
from prunelab.core.errors import InputError
from prunelab.models.networks import build, prunable_weights
from prunelab.pruning.unstructured.granularity import (
    BLOCK,
    FILTER,
    GRANULARITIES,
    KERNEL,
    N_OF_M,
    PATTERN,
    VECTOR,
    WEIGHT,
    Granularity,
    achievable_ratio,
    explain_infeasible,
)
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.pruning.unstructured.select import (
    Scope,
    Selection,
    choose_masks,
    expected_drops,
)
from prunelab.pruning.unstructured.tiling import WeightShape
from prunelab.training import masking
from prunelab.training.masking import Masks

Index = tuple[int, ...]

OF_UNITS = [name for name, granularity in GRANULARITIES.items() if not granularity.choose_in_groups]
OF_GROUPS = [name for name, granularity in GRANULARITIES.items() if granularity.choose_in_groups]

CONVS = {"conv": (6, 4, 3, 3), "wide": (5, 8, 3, 3), "large": (3, 4, 5, 5), "flat": (4, 4, 1, 3)}
SHAPES = CONVS | {
    "stem": (4, 3, 3, 3),
    "depthwise": (8, 1, 3, 3),
    "pointwise": (7, 8, 1, 1),
    "linear": (10, 12),
}


def settings(**changes: int) -> Prune:
    sizes = {"block_rows": 4, "block_columns": 5, "group": 4, "patterns": 3}
    return prune_spec("any", 0.5, **sizes | changes)


def random_saliency(
    shapes: Mapping[str, WeightShape] = SHAPES, seed: int = 0, ties: bool = False
) -> Saliency:
    """Uniform noise; with `ties`, only four different values."""
    generator = torch.Generator().manual_seed(seed)

    saliency = {}
    for name, shape in shapes.items():
        score = torch.rand(shape, generator=generator)
        saliency[name] = (score * 4).floor() if ties else score
    return saliency


def random_shapes(seed: int) -> dict[str, WeightShape]:
    random = np.random.default_rng(seed)

    shapes: dict[str, WeightShape] = {}
    for index in range(4):
        kernel = int(random.choice([1, 3, 3, 5]))
        outputs = int(random.integers(1, 12))
        inputs = int(random.integers(1, 5)) * 4
        shapes[f"conv{index}"] = (outputs, inputs, kernel, kernel)

    shapes["square"] = (3, 4, 3, 3)
    shapes["linear"] = (int(random.integers(2, 20)), int(random.integers(1, 6)) * 4)
    return shapes


def widest_scope(granularity: Granularity) -> Scope:
    return Scope.LAYERWISE if granularity.choose_in_groups else Scope.GLOBAL


def choose(
    saliency: Saliency,
    granularity: Granularity,
    ratio: float,
    scope: Scope | None = None,
    layer_ratios: Mapping[str, float] | None = None,
    **changes: int,
) -> Masks:
    """The masks by the settings of these tests, in the widest scope that the granularity allows."""
    scope = scope or widest_scope(granularity)
    selection = Selection(granularity, scope, settings(**changes), layer_ratios or {})
    return choose_masks(saliency, ratio, selection)


def share_dropped(masks: Iterable[Tensor]) -> float:
    masks = list(masks)
    total = sum(mask.numel() for mask in masks)
    return 1 - sum(int(mask.count_nonzero()) for mask in masks) / total


def dropped_indices(masks: Masks) -> set[tuple[str, Index]]:
    dropped = set()
    for name, mask in masks.items():
        for index in (~mask).nonzero().tolist():
            dropped.add((name, tuple(index)))
    return dropped


def unit_of(name: str, index: Index, shape: WeightShape, block: tuple[int, int]) -> Index | None:
    """The unit of a weight, by its indices alone; None if the granularity does not apply."""
    if name == "weight":
        return index
    if name == "filter":
        return index[:1]
    if name == "block":
        column = int(np.ravel_multi_index(index[1:], shape[1:]))
        return index[0] // block[0], column // block[1]

    if len(shape) == 2:
        return None
    if name == "vector":
        return index[:3] if shape[3] > 1 else None
    return index[:2] if shape[2] * shape[3] > 1 else None


def units_by_brute_force(
    name: str, score: Tensor, block: tuple[int, int] = (4, 5)
) -> list[list[Index]]:
    """The weights of every unit, by index, in the order in which units are numbered."""
    indices_by_unit: dict[Index, list[Index]] = {}
    for index in np.ndindex(*score.shape):
        unit = unit_of(name, index, tuple(score.shape), block)
        if unit is not None:
            indices_by_unit.setdefault(unit, []).append(index)
    return [indices_by_unit[unit] for unit in sorted(indices_by_unit)]


def dropped_by_brute_force(name: str, saliency: Saliency, ratio: float) -> set[tuple[str, Index]]:
    """The weights, by tensor and index, that one ranking of all units drops."""
    units: list[tuple[str, list[Index]]] = []
    means: list[float] = []
    for tensor, score in saliency.items():
        for indices in units_by_brute_force(name, score):
            units.append((tensor, indices))
            means.append(sum(float(score[index]) for index in indices) / len(indices))

    order = sorted(range(len(units)), key=lambda number: means[number])  # stable
    sizes = [len(units[number][1]) for number in order]

    # So many units go that the weights dropped are nearest to the ratio.
    totals = [0, *itertools.accumulate(sizes)]
    target = ratio * sum(sizes)
    count = min(range(len(totals)), key=lambda number: abs(totals[number] - target))

    dropped = set()
    for number in order[:count]:
        tensor, indices = units[number]
        dropped |= {(tensor, index) for index in indices}
    return dropped


# --- rankings of units


@pytest.mark.parametrize("ratio", [0.21, 0.5, 0.83])
@pytest.mark.parametrize("name", OF_UNITS)
def test_global_scope_ranks_the_units_of_all_tensors_together(name, ratio):
    saliency = random_saliency()

    masks = choose(saliency, GRANULARITIES[name], ratio, Scope.GLOBAL)

    assert dropped_indices(masks) == dropped_by_brute_force(name, saliency, ratio)


@pytest.mark.parametrize("name", OF_UNITS)
def test_layerwise_scope_ranks_the_units_of_each_tensor(name):
    saliency = {}
    expected = set()
    for tensor, score in random_saliency().items():
        if units_by_brute_force(name, score):
            saliency[tensor] = score
            expected |= dropped_by_brute_force(name, {tensor: score}, 0.57)

    masks = choose(saliency, GRANULARITIES[name], 0.57, Scope.LAYERWISE)

    assert dropped_indices(masks) == expected


@pytest.mark.parametrize("ties", [False, True])
def test_rowwise_scope_drops_the_smallest_weights_of_each_row(ties):
    saliency = random_saliency(ties=ties)

    masks = choose(saliency, WEIGHT, 0.4, Scope.ROWWISE)

    assert set(masks) == set(saliency)
    for name, score in saliency.items():
        for row, mask in zip(score.flatten(1), masks[name].flatten(1), strict=True):
            dropped = row.argsort(stable=True)[: round(0.4 * len(row))]
            assert (~mask).nonzero().flatten().tolist() == sorted(dropped.tolist())


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("scope", [Scope.GLOBAL, Scope.LAYERWISE])
def test_of_equal_weights_the_first_are_dropped(scope, ratio):
    saliency = random_saliency(ties=True)

    masks = choose(saliency, WEIGHT, ratio, scope)

    rankings = [list(saliency)] if scope is Scope.GLOBAL else [[name] for name in saliency]
    for names in rankings:
        scores = torch.cat([saliency[name].flatten() for name in names])
        dropped = scores.argsort(stable=True)[: round(ratio * len(scores))]
        expected = torch.ones(len(scores), dtype=torch.bool).index_fill(0, dropped, False)
        assert torch.equal(torch.cat([masks[name].flatten() for name in names]), expected)


@pytest.mark.parametrize("name", OF_UNITS)
def test_each_layer_keeps_a_unit_in_layerwise_scope(name):
    masks = choose(random_saliency(), GRANULARITIES[name], 0.97, Scope.LAYERWISE)

    assert all(mask.any() for mask in masks.values())


def test_each_row_keeps_a_weight_in_rowwise_scope():
    masks = choose(random_saliency(), WEIGHT, 0.97, Scope.ROWWISE)

    assert all(mask.flatten(1).any(1).all() for mask in masks.values())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", OF_UNITS)
def test_units_stay_or_go_as_a_whole(name, seed):
    granularity = GRANULARITIES[name]
    saliency = random_saliency(random_shapes(seed), seed)
    sizes = settings(block_rows=3, block_columns=7)

    masks = choose(saliency, granularity, 0.6, Scope.GLOBAL, block_rows=3, block_columns=7)

    largest = 0
    for tensor, score in saliency.items():
        units = units_by_brute_force(name, score, block=(3, 7))
        tiling = granularity.tiling(tuple(score.shape), sizes)
        assert (tiling is not None) == (tensor in masks) == bool(units)
        if tiling is None:
            continue

        numbers = tiling.expand(torch.arange(len(tiling)), tuple(score.shape))
        for number, indices in enumerate(units):
            assert {int(numbers[index]) for index in indices} == {number}
            assert len({bool(masks[tensor][index]) for index in indices}) == 1
            largest = max(largest, len(indices))

    total = sum(mask.numel() for mask in masks.values())
    half_a_unit = largest / 2 / total + 1e-9
    assert share_dropped(masks.values()) == pytest.approx(0.6, abs=half_a_unit)


# --- what all granularities share


@pytest.mark.parametrize("name", GRANULARITIES)
@pytest.mark.parametrize("ratio", [0.21, 0.5, 0.83])
def test_expected_drops_agree_with_the_masks(name, ratio):
    granularity = GRANULARITIES[name]
    scopes = [Scope.LAYERWISE]
    if not granularity.choose_in_groups:
        scopes.append(Scope.GLOBAL)
    if granularity is WEIGHT:
        scopes.append(Scope.ROWWISE)

    tolerance = 9  # weights of one unit
    if granularity is WEIGHT:
        tolerance = 0.51
    elif granularity in (FILTER, BLOCK):
        tolerance = 30  # blocks at edges are smaller

    for scope in scopes:
        selection = Selection(granularity, scope, settings(), {"wide": 0.4})
        masks = choose_masks(random_saliency(CONVS), ratio, selection)
        expected = expected_drops(CONVS, ratio, selection)
        dropped = {tensor: int((~mask).sum()) for tensor, mask in masks.items()}

        assert dropped.keys() == expected.keys()
        if scope is Scope.GLOBAL:  # among tensors that compete, only the sum is known
            dropped = {"wide": dropped["wide"], "sum": sum(dropped.values())}
            expected = {"wide": expected["wide"], "sum": sum(expected.values())}
        assert dropped == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GRANULARITIES)
def test_a_higher_ratio_keeps_less_and_zero_keeps_all(name, seed):
    granularity = GRANULARITIES[name]
    saliency = random_saliency(random_shapes(seed), seed)

    choices = [choose(saliency, granularity, ratio) for ratio in (0, 0.2, 0.4, 0.5, 0.75)]

    assert all(mask.all() for mask in choices[0].values())
    assert choices[0].keys() == choices[-1].keys()
    assert share_dropped(choices[-1].values()) > share_dropped(choices[1].values())
    for lower, higher in itertools.pairwise(choices):
        assert share_dropped(lower.values()) <= share_dropped(higher.values())
        if granularity is not PATTERN:  # every ratio has a set of patterns of its own
            assert all((lower[tensor] | ~higher[tensor]).all() for tensor in lower)


@pytest.mark.parametrize("ratio", [0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
@pytest.mark.parametrize("name", GRANULARITIES)
def test_the_achievable_ratio_is_achieved(name, ratio):
    granularity = GRANULARITIES[name]
    shapes = {"a": (40, 20, 3, 3), "b": (60, 40, 5, 5), "c": (30, 64), "stem": (16, 3, 3, 3)}
    tolerance = 1e-9 if name in OF_GROUPS else 0.01

    assert explain_infeasible(shapes.values(), granularity, ratio, settings()) is None
    masks = choose(random_saliency(shapes), granularity, ratio)

    achievable = achievable_ratio(shapes.values(), granularity, ratio, settings())
    assert share_dropped(masks.values()) == pytest.approx(achievable, abs=tolerance)


@pytest.mark.parametrize("name", GRANULARITIES)
def test_precision_and_memory_layout_of_a_saliency_make_no_difference(name):
    granularity = GRANULARITIES[name]
    random = torch.Generator().manual_seed(0)

    # Whole numbers have exact sums in either precision. "a" is a view of one score per filter.
    per_filter = torch.randint(1000, (6, 1, 1, 1), generator=random).float()
    per_weight = torch.randint(1000, (5, 8, 3, 3), generator=random).float()
    plain = {"a": per_filter.expand(6, 4, 3, 3), "b": per_weight}
    changed = {
        "a": plain["a"].double(),
        "b": plain["b"].double().contiguous(memory_format=torch.channels_last),
    }

    expected = choose(plain, granularity, 0.5)
    masks = choose(changed, granularity, 0.5)

    assert masks.keys() == expected.keys()
    assert all(torch.equal(masks[tensor], expected[tensor]) for tensor in expected)
    assert all(mask.is_contiguous() for mask in masks.values())


# --- N of M


@pytest.mark.parametrize(
    ("group", "ratio", "n"), [(4, 0.5, 2), (4, 0.75, 1), (2, 0.5, 1), (8, 0.25, 6)]
)
@pytest.mark.parametrize("seed", range(3))
def test_n_of_m_keeps_the_largest_n_of_every_m_input_channels(group, ratio, n, seed):
    shapes = {"conv": (5, 16, 3, 3), "linear": (3, 24), "stem": (4, 3, 3, 3)}
    saliency = random_saliency(shapes, seed, ties=seed == 2)

    masks = choose(saliency, N_OF_M, ratio, group=group)

    assert set(masks) == {"conv", "linear"}  # three input channels make no group
    for name, mask in masks.items():
        for output, *place in np.ndindex(mask.shape[0], *mask.shape[2:]):
            along_inputs = (output, slice(None), *place)
            groups = zip(
                torch.split(mask[along_inputs], group),
                torch.split(saliency[name][along_inputs], group),
                strict=True,
            )
            for kept, scores in groups:
                assert int(kept.sum()) == n
                assert scores[kept].min() >= scores[~kept].max()


def test_two_of_four_is_the_layout_of_semi_structured_kernels():
    """Such kernels need two zeros among every four neighbours in a row of the matrix [out, in]."""
    masks = choose(random_saliency({"linear": (32, 64)}), N_OF_M, 0.5)

    assert bool((masks["linear"].view(32, 16, 4).sum(2) == 2).all())


# --- patterns


@pytest.mark.parametrize("max_patterns", [1, 3, 8])
@pytest.mark.parametrize("ratio", [0.33, 0.55])
def test_each_kernel_takes_the_best_of_the_most_frequent_patterns(max_patterns, ratio):
    shapes = {"a": (6, 4, 3, 3), "b": (9, 5, 3, 3), "linear": (4, 4), "pointwise": (8, 8, 1, 1)}
    saliency = random_saliency(shapes)
    kept_per_kernel = round((1 - ratio) * 9)

    masks = choose(saliency, PATTERN, ratio, patterns=max_patterns)

    assert set(masks) == {"a", "b"}
    kernels: list[list[float]] = []
    patterns: list[Index] = []
    for name, mask in masks.items():
        kernels += saliency[name].reshape(-1, 9).tolist()
        patterns += [tuple(row.nonzero().flatten().tolist()) for row in mask.reshape(-1, 9)]

    used = set(patterns)
    assert len(used) <= max_patterns
    assert {len(pattern) for pattern in used} == {kept_per_kernel}

    # No pattern that is left out is more frequent than one in use.
    own_choices: Counter[Index] = Counter()
    for kernel in kernels:
        ascending = sorted(range(9), key=kernel.__getitem__)
        own_choices[tuple(sorted(ascending[-kept_per_kernel:]))] += 1
    most_frequent = sorted(own_choices.values(), reverse=True)[:max_patterns]
    assert min(own_choices[pattern] for pattern in used) >= most_frequent[-1]

    # Each kernel has the best of the patterns in use.
    def saliency_kept(kernel: list[float], pattern: Index) -> float:
        return sum(kernel[place] for place in pattern)

    for kernel, pattern in zip(kernels, patterns, strict=True):
        best = max(saliency_kept(kernel, candidate) for candidate in used)
        assert saliency_kept(kernel, pattern) == pytest.approx(best)


def test_patterns_keep_what_an_earlier_step_has_kept():
    saliency = {"conv": torch.rand(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))}
    first = choose(saliency, PATTERN, 4 / 9, patterns=200)["conv"]
    remaining = {"conv": saliency["conv"].masked_fill(~first, -torch.inf)}

    second = choose(remaining, PATTERN, 6 / 9, patterns=200)["conv"]

    assert not (second & ~first).any()
    assert torch.equal(second, choose(saliency, PATTERN, 6 / 9, patterns=200)["conv"])


def test_with_enough_patterns_each_kernel_keeps_its_largest_weights():
    # A kernel of 256 places has more patterns than an integer has bits for.
    saliency = random_saliency({"large": (3, 2, 16, 16), "small": (4, 4, 3, 3)})

    masks = choose(saliency, PATTERN, 0.5, patterns=1000)

    for name, score in saliency.items():
        area = score[0, 0].numel()
        kernels, kept = score.reshape(-1, area), masks[name].reshape(-1, area)
        for kernel, mask in zip(kernels, kept, strict=True):
            largest = kernel.topk(round(0.5 * area)).indices
            assert set(mask.nonzero().flatten().tolist()) == set(largest.tolist())


# --- ratios of single tensors


@pytest.mark.parametrize("name", GRANULARITIES)
def test_tensors_with_their_own_ratio_lose_it_and_protected_ones_nothing(name):
    granularity = GRANULARITIES[name]
    saliency = random_saliency(dict.fromkeys("abcd", (8, 8, 4, 4)))
    layer_ratios = {"a": 0.75, "b": 0, "no such tensor": 0.3}

    masks = choose(saliency, granularity, 0.5, layer_ratios=layer_ratios, block_columns=4)

    assert list(masks) == ["a", "c", "d"]
    assert share_dropped([masks["a"]]) == 0.75
    assert share_dropped([masks["c"], masks["d"]]) == 0.5

    # The other tensors lose what they lose by themselves.
    others = {tensor: saliency[tensor] for tensor in "cd"}
    by_themselves = choose(others, granularity, 0.5, block_columns=4)
    assert dropped_indices(by_themselves) == dropped_indices({"c": masks["c"], "d": masks["d"]})


def test_a_tensor_without_a_mask_keeps_its_weights():
    model = build("resnet8", 10, DIGITS_SHAPE)
    before = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
    saliency = {name: weight.abs() for name, weight in before.items()}

    masks = choose(saliency, KERNEL, 0.5, layer_ratios={"conv1.weight": 0})
    masking.apply(model, masks)
    masking.verify(model, masks)

    assert set(before) - set(masks) == {"conv1.weight", "linear.weight"}
    for name, weight in prunable_weights(model).items():
        assert torch.equal(weight, before[name] * masks.get(name, True))


# --- infeasible ratios


@pytest.mark.parametrize(
    ("granularity", "shapes", "ratio", "message"),
    [
        (PATTERN, {"a": (8, 8, 1, 1), "b": (4, 4)}, 0.5, r"has none\. .*larger than 1x1"),
        (KERNEL, {"b": (4, 4)}, 0.5, r"has none\. .*larger than 1x1"),
        (VECTOR, {"a": (8, 8, 3, 1)}, 0.5, r"has none\. .*wider than 1"),
        (N_OF_M, {"a": (8, 3, 3, 3), "b": (4, 6)}, 0.5, r"multiple of prune\.group = 4"),
        (N_OF_M, {"a": (8, 8)}, 0.1, r"ratio 0\.1 removes none of a group of 4 weights.* 0\.25"),
        (N_OF_M, {"a": (8, 8)}, 0.95, r"ratio 0\.95 leaves none of a group of 4 weights.* 0\.75"),
        (
            PATTERN,
            {"a": (8, 8, 3, 3), "b": (8, 8, 7, 7)},
            0.96,
            r"leaves none of a group of 9 weights.* 0\.888889",
        ),
        (FILTER, {"a": (2, 8), "b": (2, 4)}, 0.05, r"removes none of the 4 filters.* 0\.25"),
        (BLOCK, {"a": (8, 10)}, 0.9, r"leaves none of the 4 blocks.* 0\.75"),
        (BLOCK, {"a": (4, 5)}, 0.5, r"there is only one"),
        (WEIGHT, {"a": (4, 5)}, 0.99, r"leaves none of the 20 weights.* 0\.95"),
    ],
)
def test_an_infeasible_ratio_is_refused_by_one_line(granularity, shapes, ratio, message):
    line = explain_infeasible(shapes.values(), granularity, ratio, settings())

    with pytest.raises(InputError, match=message) as refusal:
        choose(random_saliency(shapes), granularity, ratio)

    assert refusal.value.problems == [line]
    assert line is not None
    assert "\n" not in line
    if "nearest" in line:  # the nearest ratio is feasible
        nearest = float(line.rsplit(" ", 1)[1].rstrip("."))
        masks = choose(random_saliency(shapes), granularity, nearest)
        assert 0 < share_dropped(masks.values()) < 1


def test_an_infeasible_ratio_of_a_tensor_is_refused_by_its_name():
    saliency = random_saliency({"a": (8, 8), "b": (8, 8)})

    with pytest.raises(InputError, match=r"^b: ratio 0\.9 leaves none"):
        choose(saliency, N_OF_M, 0.5, layer_ratios={"b": 0.9})


def test_a_saliency_that_is_not_a_number_is_refused():
    saliency = {"a": torch.tensor([[1.0, float("nan")]])}

    with pytest.raises(InputError, match="saliency of a is not a number"):
        choose(saliency, WEIGHT, 0.5)


def test_a_saliency_of_zeros_is_refused():
    with pytest.raises(InputError, match="all saliencies are zero"):
        choose({"a": torch.zeros(2, 2)}, WEIGHT, 0.5)
