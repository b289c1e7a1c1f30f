"""Groups of coupled layers: their costs, widths and budgets, on real networks."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from helpers.params import prune_spec
from torch import nn

from prunelab.core.errors import InputError
from prunelab.models.cost import macs, output_positions, parameters
from prunelab.models.networks import build, example_input, fixed_layers, prunable_weights
from prunelab.pruning.prune import prune
from prunelab.pruning.pruner import scheduled_ratio
from prunelab.pruning.structured import channels, groups, penalties
from prunelab.pruning.structured.budget import Costs

EXAMPLE = example_input(DIGITS_SHAPE)


def groups_of(name: str, model: nn.Module) -> list[groups.Group]:
    return channels.find_groups(model, fixed_layers(name, model), EXAMPLE).groups


def noise(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.shape, generator=generator)
        for name, weight in prunable_weights(model).items()
    }


def candidates_of(name: str, **settings: object) -> list[groups.Candidate]:
    model = build(name, 10, DIGITS_SHAPE)
    spec = prune_spec("l1_channel", 0.5, **settings)
    return groups.find_candidates(groups_of(name, model), noise(model), spec, {})


def digits_macs(model: nn.Module) -> int:
    return macs(model, DIGITS_SHAPE)


MEASURES: dict[str, Callable[[nn.Module], int]] = {"params": parameters, "macs": digits_macs}


@pytest.mark.parametrize("budget", MEASURES)
@pytest.mark.parametrize(
    "name", ["resnet8", "resnet18", "vgg11_bn", "mobilenet_v2", "efficientnet_b0"]
)
def test_predicted_costs_are_those_of_the_smaller_network(name, budget):
    model = build(name, 10, DIGITS_SHAPE)
    network_groups = groups_of(name, model)
    costs = Costs(model, output_positions(model, EXAMPLE), macs=budget == "macs")
    widths = [max(1, group.count // 3) for group in network_groups]
    measure = MEASURES[budget]

    before = costs.total(network_groups, [group.count for group in network_groups])
    after = costs.total(network_groups, widths)
    dense = measure(model)
    dropped = [
        list(range(group.count - width))
        for group, width in zip(network_groups, widths, strict=True)
    ]
    channels.remove_units(model, network_groups, dropped, EXAMPLE)

    if budget == "params":
        assert (before, after) == (dense, measure(model))
    else:  # torchprofile counts pooling as well
        assert before == pytest.approx(dense, rel=0.02)
        assert after / before == pytest.approx(measure(model) / dense, abs=0.005)


@pytest.mark.parametrize("method", ["l1_channel", "l1_channel_global"])
@pytest.mark.parametrize(
    ("budget", "ratio"), [("params", 0.3), ("params", 0.7), ("macs", 0.3), ("macs", 0.6)]
)
@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn"])
def test_a_budget_is_met_within_one_percent(name, method, budget, ratio, retrainer):
    model, dense = (build(name, 10, DIGITS_SHAPE) for _ in range(2))
    spec = prune_spec(method, ratio, budget=budget)

    pruned = prune(model, name, spec, shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)

    measure = MEASURES[budget]
    assert 1 - measure(model) / measure(dense) == pytest.approx(ratio, abs=0.0101)
    assert pruned.ratio_achieved == pytest.approx(ratio, abs=0.01)


def test_a_macs_budget_of_a_transformer_counts_attention_products(retrainer):
    shape = (1, 32, 32)
    model, dense = (build("vit_tiny", 10, shape) for _ in range(2))
    spec = prune_spec("l1_channel", 0.3, budget="macs")

    pruned = prune(model, "vit_tiny", spec, shape=shape, seed=0, retrainer=retrainer)

    removed = 1 - macs(model, shape) / macs(dense, shape)
    assert removed == pytest.approx(0.3, abs=0.01)
    assert pruned.ratio_achieved == pytest.approx(removed, abs=1e-6)


@pytest.mark.parametrize(("budget", "ratio"), [("params", 0.8), ("macs", 0.5)])
def test_a_budget_of_a_mask_method_counts_nonzero_weights(budget, ratio, retrainer):
    model, dense = (build("resnet8", 10, DIGITS_SHAPE) for _ in range(2))
    spec = prune_spec("l1_unstructured", ratio, budget=budget)

    prune(model, "resnet8", spec, shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)

    zeros = {name: int((weight == 0).sum()) for name, weight in prunable_weights(model).items()}
    if budget == "params":
        total = sum(parameter.numel() for parameter in dense.parameters())
        removed = sum(zeros.values())
    else:
        total = digits_macs(dense)
        positions = output_positions(dense, EXAMPLE)
        removed = sum(
            count * positions[name.removesuffix(".weight")] for name, count in zeros.items()
        )
    assert removed / total == pytest.approx(ratio, abs=0.01)


def test_a_budget_that_cannot_be_met_names_the_nearest_ratio(retrainer):
    model = build("resnet8", 10, DIGITS_SHAPE)
    spec = prune_spec("l1_channel", 0.99, budget="macs")

    with pytest.raises(InputError, match=r"nearest that can be removed is 0\.\d+"):
        prune(model, "resnet8", spec, shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)


def test_positions_are_the_output_pixels_of_every_layer():
    model = build("resnet20", 10, DIGITS_SHAPE)

    positions = output_positions(model, EXAMPLE)

    assert positions["conv1"] == positions["layer1.0.bn2"] == 64
    assert positions["layer2.0.conv1"] == 16
    assert positions["layer3.2.conv2"] == 4
    assert positions["linear"] == 1


# What competes under each scope, as a function of a group's scores.
COMPETING_SCORES = {
    groups.ranked_together: lambda scores: scores,
    groups.ranked_relatively: lambda scores: scores / scores.mean(),
}


@pytest.mark.parametrize("scope", COMPETING_SCORES)
def test_ranking_globally_keeps_every_floor_and_meets_the_ratio(scope):
    candidates = candidates_of("resnet20")
    counts = [candidate.dense_count for candidate in candidates]

    for ratio in (0.2, 0.5, 0.8):
        widths = scope(candidates, ratio, floor=0.15)
        assert all(width >= 0.15 * count for width, count in zip(widths, counts, strict=True))
        assert 1 - sum(widths) / sum(counts) == pytest.approx(ratio, abs=0.5 / sum(counts))
    assert len({width / count for width, count in zip(widths, counts, strict=True)}) > 1


@pytest.mark.parametrize("scope", COMPETING_SCORES)
def test_ranking_globally_drops_the_least_salient_units(scope):
    candidates = []
    for candidate in candidates_of("resnet20"):  # similar scores everywhere: no layer vanishes
        scores = candidate.scores + 0.9 * candidate.scores.mean()
        candidates.append(replace(candidate, scores=scores))

    widths = scope(candidates, 0.2, floor=0.0)

    kept, dropped = [], []
    for candidate, width in zip(candidates, widths, strict=True):
        scores = COMPETING_SCORES[scope](candidate.scores)
        units = candidate.units_to_drop(width)
        dropped += scores[units].tolist()
        if width > 1:  # the last unit stays, whatever its rank
            kept += [score for unit, score in enumerate(scores.tolist()) if unit not in units]
    assert max(dropped) <= min(kept)


def test_rounding_never_undercuts_the_floor():
    candidates = candidates_of("resnet20", round_to=4)

    for scope in COMPETING_SCORES:
        widths = scope(candidates, 0.9, 0.3)
        for candidate, width in zip(candidates, widths, strict=True):
            assert width >= 0.3 * candidate.dense_count
            assert width % 4 == 0


def test_layers_narrower_than_round_to_keep_their_width(retrainer):
    model, dense = (build("resnet26_dse", 10, DIGITS_SHAPE) for _ in range(2))
    spec = prune_spec("l1_channel", 0.5, round_to=8)

    prune(model, "resnet26_dse", spec, shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)

    widths, dense_widths = (
        {name: weight.shape[0] for name, weight in prunable_weights(network).items()}
        for network in (model, dense)
    )
    assert min(dense_widths.values()) < 8
    assert all(widths[name] == count for name, count in dense_widths.items() if count < 8)
    assert sum(widths.values()) < 0.6 * sum(dense_widths.values())


def test_a_round_to_beyond_the_widest_layer_is_an_error(retrainer):
    model = build("resnet26_dse", 10, DIGITS_SHAPE)
    spec = prune_spec("l1_channel", 0.5, round_to=4096)

    with pytest.raises(InputError, match="widest layer"):
        prune(model, "resnet26_dse", spec, shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)


def test_protecting_a_block_protects_all_layers_in_it(retrainer):
    model = build("resnet20", 10, DIGITS_SHAPE)
    spec = prune_spec("l1_unstructured", 0.5, protect=["layer1"])

    prune(model, "resnet20", spec, shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)

    for name, weight in prunable_weights(model).items():
        if name.startswith("layer1."):
            assert weight.all()


@pytest.mark.parametrize("changes", [{"protect": ["layer9"]}, {"layer_ratios": {"layer9": 0.5}}])
def test_a_pattern_that_matches_no_layer_is_an_error(changes, retrainer):
    model = build("resnet20", 10, DIGITS_SHAPE)
    spec = prune_spec("l1_channel", 0.5, **changes)

    with pytest.raises(InputError, match=r"'layer9' matches no layer"):
        prune(model, "resnet20", spec, shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)


def test_a_layer_ratio_rises_with_the_network_and_arrives():
    assert scheduled_ratio(0.7, 0.5, target_ratio=0.5) == 0.7
    assert scheduled_ratio(0.0, 0.3, target_ratio=0.5) == 0

    # A layer with the ratio of the network keeps pace with it.
    assert scheduled_ratio(0.5, 0.3, target_ratio=0.5) == pytest.approx(0.3)

    steps = [scheduled_ratio(0.7, ratio, target_ratio=0.5) for ratio in (0.0, 0.1, 0.3, 0.4)]
    assert steps == sorted(steps)
    assert steps[0] == 0


def test_the_last_matching_layer_ratio_counts_and_protected_layers_stay_whole():
    layer_ratios = {"layer3.*": 0.75, "layer3.2.*": 0.25}
    candidates = candidates_of("resnet20", layer_ratios=layer_ratios, protect=["layer1.*"])

    names = [candidate.group.name for candidate in candidates]
    widths = dict(zip(names, groups.uniform(candidates, 0.5, 0.0), strict=True))

    assert widths["layer1.0.conv1"] == 16
    assert widths["layer2.0.conv1"] == 16
    assert widths["layer3.0.conv1"] == 16
    assert widths["layer3.2.conv1"] == 48


def test_zeroing_units_zeroes_their_weights_and_norms_only():
    model = build("resnet20", 10, DIGITS_SHAPE)
    network_groups = groups_of("resnet20", model)

    channels.zero_units(model, network_groups, [[1, 3] for _ in network_groups])

    block = model.layer1[0]
    filter_sums = block.conv1.weight.flatten(1).abs().sum(1)
    assert filter_sums.eq(0).nonzero().flatten().tolist() == [1, 3]
    assert block.bn1.weight.eq(0).nonzero().flatten().tolist() == [1, 3]
    assert not block.conv2.weight.eq(0).any()


def test_penalties_follow_the_formulas_of_their_papers():
    model = build("resnet20", 10, DIGITS_SHAPE)
    network_groups = groups_of("resnet20", model)
    selected = [(group, [0, 2]) for group in network_groups]
    convolutions = [model.get_submodule(group.name) for group in network_groups]
    norms = [model.get_submodule(group.name.replace("conv", "bn")) for group in network_groups]
    with torch.no_grad():
        for norm in norms:
            norm.weight.normal_()

    scales = sum(float(norm.weight.detach().abs().sum()) for norm in norms)
    assert penalties.scales(selected, 0.3)(0.5).item() == pytest.approx(0.3 * scales, rel=1e-5)

    lasso = sum(
        (convolution.weight[0].numel() ** 0.5) * float(filter.norm())
        for convolution in convolutions
        for filter in convolution.weight.detach()
    )
    group_lasso = penalties.group_lasso(selected, 0.1)
    assert group_lasso(0.0).item() == pytest.approx(0.1 * lasso, rel=1e-4)

    squares = sum(float(conv.weight.detach()[[0, 2]].square().sum()) for conv in convolutions)
    growing_l2 = penalties.growing_l2(selected, 2.0)
    assert growing_l2(0.25).item() == pytest.approx(0.25 * squares, rel=1e-5)
    assert growing_l2(0.0).item() == 0
