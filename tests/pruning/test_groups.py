"""Groups of channels: what they cost, how widths are chosen, and that budgets are met, against the real networks."""

from dataclasses import replace

import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from helpers.params import prune_spec
from torch import nn

from prunelab.core.errors import InputError
from prunelab.models.catalogue import build, example_input, fixed_layers, prunable_weights
from prunelab.models.cost import macs, output_positions, parameters
from prunelab.pruning.prune import prune
from prunelab.pruning.pruner import scheduled_ratio
from prunelab.pruning.structured import channels, groups, penalties
from prunelab.pruning.structured.budget import Costs


def found_in(name: str, model: nn.Module) -> list[groups.Group]:
    return channels.find(model, fixed_layers(name, model), example_input(DIGITS_SHAPE))


def noise(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.shape, generator=generator)
        for name, weight in prunable_weights(model).items()
    }


def candidates(name: str, **settings: object) -> list[groups.Candidate]:
    model = build(name, 10, DIGITS_SHAPE)
    return groups.candidates(
        found_in(name, model), noise(model), prune_spec("l1_channel", 0.5, **settings), {}
    )


@pytest.mark.parametrize("what", ["params", "macs"])
@pytest.mark.parametrize(
    "name", ["resnet8", "resnet18", "vgg11_bn", "mobilenet_v2", "efficientnet_b0"]
)
def test_costs_foretold_are_those_of_the_thinner_network(name, what):
    model = build(name, 10, DIGITS_SHAPE)
    found = found_in(name, model)
    costs = Costs(model, output_positions(model, example_input(DIGITS_SHAPE)), macs=what == "macs")
    before = costs.total(found, [group.count for group in found])
    widths = [max(1, group.count // 3) for group in found]
    after = costs.total(found, widths)
    measure = parameters if what == "params" else lambda net: macs(net, DIGITS_SHAPE)
    dense = measure(model)
    channels.remove(
        model,
        found,
        [list(range(g.count - w)) for g, w in zip(found, widths, strict=True)],
        example_input(DIGITS_SHAPE),
    )
    if what == "params":
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
    pruned = prune(
        model,
        name,
        prune_spec(method, ratio, budget=budget),
        shape=DIGITS_SHAPE,
        seed=0,
        retrainer=retrainer,
    )
    measure = parameters if budget == "params" else lambda net: macs(net, DIGITS_SHAPE)
    assert 1 - measure(model) / measure(dense) == pytest.approx(ratio, abs=0.0101)
    assert pruned.ratio_achieved == pytest.approx(ratio, abs=0.01)


def test_a_budget_of_a_transformer_counts_the_products_of_attention(retrainer):
    model, dense = (build("vit_tiny", 10, (1, 32, 32)) for _ in range(2))
    spec = prune_spec("l1_channel", 0.3, budget="macs")
    pruned = prune(model, "vit_tiny", spec, shape=(1, 32, 32), seed=0, retrainer=retrainer)
    removed = 1 - macs(model, (1, 32, 32)) / macs(dense, (1, 32, 32))
    assert removed == pytest.approx(0.3, abs=0.01)
    assert pruned.ratio_achieved == pytest.approx(removed, abs=1e-6)


@pytest.mark.parametrize(("budget", "ratio"), [("params", 0.8), ("macs", 0.5)])
def test_a_budget_of_a_mask_method_counts_what_is_not_zero(budget, ratio, retrainer):
    model, dense = (build("resnet8", 10, DIGITS_SHAPE) for _ in range(2))
    prune(
        model, "resnet8", prune_spec("l1_unstructured", ratio, budget=budget),
        shape=DIGITS_SHAPE, seed=0, retrainer=retrainer,
    )  # fmt: skip
    if budget == "params":
        total = sum(p.numel() for p in dense.parameters())
        removed = sum(int((w == 0).sum()) for w in prunable_weights(model).values())
    else:
        total = macs(dense, DIGITS_SHAPE)
        places = output_positions(dense, example_input(DIGITS_SHAPE))
        removed = sum(
            int((w == 0).sum()) * places[name.removesuffix(".weight")]
            for name, w in prunable_weights(model).items()
        )
    assert removed / total == pytest.approx(ratio, abs=0.01)


def test_a_budget_beyond_the_least_widths_is_refused_with_what_can_be_had(retrainer):
    model = build("resnet8", 10, DIGITS_SHAPE)
    with pytest.raises(InputError, match=r"nearest that can be removed is 0\.\d+"):
        prune(
            model, "resnet8", prune_spec("l1_channel", 0.99, budget="macs"),
            shape=DIGITS_SHAPE, seed=0, retrainer=retrainer,
        )  # fmt: skip


def test_positions_are_the_pixels_of_every_layer():
    model = build("resnet20", 10, DIGITS_SHAPE)
    places = output_positions(model, example_input(DIGITS_SHAPE))
    assert places["conv1"] == places["layer1.0.bn2"] == 64
    assert places["layer2.0.conv1"] == 16
    assert places["layer3.2.conv2"] == 4
    assert places["linear"] == 1


RANKINGS = {
    groups.ranked_together: lambda scores: scores,
    groups.ranked_relatively: lambda scores: scores / scores.mean(),
}


@pytest.mark.parametrize("ranking", RANKINGS)
def test_ranking_together_keeps_every_floor_and_the_share(ranking):
    found = candidates("resnet20")
    for ratio in (0.2, 0.5, 0.8):
        widths = ranking(found, ratio, floor=0.15)
        full = [candidate.full for candidate in found]
        assert all(width >= 0.15 * count for width, count in zip(widths, full, strict=True))
        assert 1 - sum(widths) / sum(full) == pytest.approx(ratio, abs=0.5 / sum(full))
    assert len({width / count for width, count in zip(widths, full, strict=True)}) > 1


@pytest.mark.parametrize("ranking", RANKINGS)
def test_ranking_together_drops_the_least_salient_of_all(ranking):
    found = [
        replace(c, scores=c.scores + 0.9 * c.scores.mean()) for c in candidates("resnet20")
    ]  # no layer vanishes
    widths = ranking(found, 0.2, floor=0.0)
    kept, dropped = [], []
    for candidate, width in zip(found, widths, strict=True):
        ranks = RANKINGS[ranking](candidate.scores)
        gone = candidate.drop(width)
        dropped += ranks[gone].tolist()
        if width > 1:  # the last one stays, whatever its rank
            kept += [value for index, value in enumerate(ranks.tolist()) if index not in gone]
    assert max(dropped) <= min(kept)


def test_rounding_never_undercuts_the_floor():
    found = candidates("resnet20", round_to=4)
    for ranking in RANKINGS:
        widths = ranking(found, 0.9, 0.3)
        assert all(
            width >= 0.3 * c.full and width % 4 == 0 for c, width in zip(found, widths, strict=True)
        )


def test_layers_narrower_than_the_rounding_keep_their_width_and_the_others_are_pruned(retrainer):
    model, dense = (build("resnet26_dse", 10, DIGITS_SHAPE) for _ in range(2))
    spec = prune_spec("l1_channel", 0.5, round_to=8)
    prune(model, "resnet26_dse", spec, shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)
    widths, full = (
        {name: weight.shape[0] for name, weight in prunable_weights(net).items()}
        for net in (model, dense)
    )
    assert min(full.values()) < 8
    assert all(widths[name] == count for name, count in full.items() if count < 8)
    assert sum(widths.values()) < 0.6 * sum(full.values())
    with pytest.raises(InputError, match="widest layer"):
        prune(
            dense, "resnet26_dse", prune_spec("l1_channel", 0.5, round_to=4096),
            shape=DIGITS_SHAPE, seed=0, retrainer=retrainer,
        )  # fmt: skip


def test_a_pattern_names_a_layer_and_all_within_it_and_must_name_something(retrainer):
    model = build("resnet20", 10, DIGITS_SHAPE)
    spec = prune_spec("l1_unstructured", 0.5, protect=["layer1"])
    prune(model, "resnet20", spec, shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)
    assert all(
        weight.all()
        for name, weight in prunable_weights(model).items()
        if name.startswith("layer1.")
    )
    for changes in ({"protect": ["layer9"]}, {"layer_ratios": {"layer9": 0.5}}):
        with pytest.raises(InputError, match=r"'layer9' matches no layer"):
            prune(
                model,
                "resnet20",
                prune_spec("l1_channel", 0.5, **changes),
                shape=DIGITS_SHAPE,
                seed=0,
                retrainer=retrainer,
            )


def test_an_own_ratio_goes_as_fast_as_the_others_and_arrives():
    assert scheduled_ratio(0.7, 0.5, final=0.5) == 0.7
    assert scheduled_ratio(0.0, 0.3, final=0.5) == 0
    assert scheduled_ratio(0.5, 0.3, final=0.5) == pytest.approx(
        0.3
    )  # a ratio like the others' stays like theirs
    steps = [scheduled_ratio(0.7, ratio, final=0.5) for ratio in (0.0, 0.1, 0.3, 0.4)]
    assert steps == sorted(steps)
    assert steps[0] == 0


def test_layers_with_a_ratio_of_their_own_get_it_and_protected_ones_stay_whole():
    found = candidates(
        "resnet20", layer_ratios={"layer3.*": 0.75, "layer3.2.*": 0.25}, protect=["layer1.*"]
    )
    widths = dict(zip([c.group.name for c in found], groups.uniform(found, 0.5, 0.0), strict=True))
    assert widths["layer1.0.conv1"] == 16
    assert widths["layer2.0.conv1"] == 16
    assert widths["layer3.0.conv1"] == 16
    assert widths["layer3.2.conv1"] == 48  # the last rule that fits


def test_silencing_a_copy_zeroes_exactly_the_units():
    model = build("resnet20", 10, DIGITS_SHAPE)
    found = found_in("resnet20", model)
    channels.silence(model, found, [[1, 3] for _ in found])
    assert model.layer1[0].conv1.weight.flatten(1).abs().sum(1).eq(
        0
    ).nonzero().flatten().tolist() == [1, 3]
    assert model.layer1[0].bn1.weight.eq(0).nonzero().flatten().tolist() == [1, 3]
    assert not model.layer1[0].conv2.weight.eq(0).any()


def test_penalties_are_what_their_papers_say():
    model = build("resnet20", 10, DIGITS_SHAPE)
    found = found_in("resnet20", model)
    doomed = [(group, [0, 2]) for group in found]
    inner = [model.get_submodule(group.name) for group in found]
    norms = [model.get_submodule(group.name.replace("conv", "bn")) for group in found]
    with torch.no_grad():
        for norm in norms:
            norm.weight.normal_()
    by_hand = 0.3 * sum(float(norm.weight.detach().abs().sum()) for norm in norms)
    assert penalties.scales(doomed, 0.3)(0.5).item() == pytest.approx(by_hand, rel=1e-5)
    by_hand = sum(
        (conv.weight[0].numel() ** 0.5) * float(filter.norm())
        for conv in inner
        for filter in conv.weight.detach()
    )
    assert penalties.group_lasso(doomed, 0.1)(0.0).item() == pytest.approx(0.1 * by_hand, rel=1e-4)
    by_hand = sum(float(conv.weight.detach()[[0, 2]].square().sum()) for conv in inner)
    growing = penalties.growing_l2(doomed, 2.0)
    assert growing(0.25).item() == pytest.approx(0.25 * by_hand, rel=1e-5)
    assert growing(0.0).item() == 0
