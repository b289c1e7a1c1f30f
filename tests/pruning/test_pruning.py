"""Every method and every network through the same properties; expected values by independent derivations."""

import itertools
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.networks import (
    BERT,
    DIGITS_SHAPE,
    IMAGE_MODELS,
    KINDS,
    TOKENS,
    bases,
    shape_of,
    small_network,
    trained,
)
from helpers.params import prune_spec as spec
from helpers.params import train_params
from torch import nn

from prunelab.artifacts.networks import ModelCard, Network, load_network, save_network
from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.models.bert import Bert
from prunelab.models.catalogue import MODELS, build, prunable_weights
from prunelab.models.cost import cost
from prunelab.pruning import schedules
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import infeasible_specs, prune
from prunelab.pruning.structured import groups
from prunelab.pruning.structured.groups import target_width
from prunelab.pruning.unstructured import granularity
from prunelab.training import masking
from prunelab.training.callbacks import CallAfterStep

ONE_SHOT = [
    name
    for name, method in METHODS.items()
    if method.schedule is schedules.one_shot and method.granularity not in ("head", "hidden")
]
UNIFORM_CHANNELS = [
    name
    for name in ONE_SHOT
    if METHODS[name].granularity == "channel" and METHODS[name].scope is groups.uniform
]


# Every method on one small net; every net by one mask and one method that removes for real.
PAIRS = [(method, small_network(method)) for method in METHODS] + [
    (method, model) if model in KINDS else pytest.param(method, model, marks=pytest.mark.slow)
    for model in IMAGE_MODELS
    if model != "resnet8"
    for method in ("l1_unstructured_layerwise", "l1_channel")
]
PAIRS += [("l1_unstructured_layerwise", "bert")]


def outputs(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    if isinstance(model, Bert):
        inputs = torch.randint(1, BERT["vocab"], (3, TOKENS), generator=generator)
    else:
        inputs = torch.randn(3, *DIGITS_SHAPE, generator=generator)
    with torch.no_grad():
        return model.cpu().eval()(inputs)


def nonzero(model: nn.Module) -> int:
    return sum(int(weight.count_nonzero()) for weight in prunable_weights(model).values())


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_prune_finetune_save_reload(
    method, name, trainer, text_trainer, recipe, normalise, tmp_path, retrainer
):
    """The whole way of a network: the ratio is met, zeros or widths last, and reloading gives identical outputs."""
    model, dense = trained(name), trained(name)
    if name == "bert":
        trainer, normalise = text_trainer, None
        retrainer = replace(retrainer, trainer=text_trainer)
    ratio, settings = 0.5, spec(method, 0.5, epochs=1, iterations=2, samples=64)
    pruned = prune(
        model,
        name,
        settings,
        shape=shape_of(name),
        seed=0,
        retrainer=retrainer,
        bases=bases(name, model),
    )
    assert outputs(model).shape == (3, 10)
    assert model.get_submodule(MODELS[name].head).out_features == 10
    assert pruned.ratio_achieved == pytest.approx(ratio, abs=0.06)
    measured = cost(model, dense, shape_of(name))
    masked = {key: weight for key, weight in prunable_weights(model).items() if key in pruned.masks}
    if METHODS[method].masks:
        zeros = sum(int((weight == 0).sum()) for weight in masked.values())
        assert zeros / sum(weight.numel() for weight in masked.values()) == pytest.approx(
            pruned.ratio_achieved, abs=1e-3
        )
        assert (
            measured["macs_ratio"] == measured["params_ratio"] == 1
        )  # a mask saves nothing by itself
        if METHODS[method].granularity is granularity.WEIGHT:
            assert measured["sparsity"] == pytest.approx(ratio, abs=0.03)
    else:
        assert not pruned.masks
        assert measured["macs_ratio"] > 1.1
        assert measured["params_ratio"] > 1.1

    trainer.execution.place(model)
    one_epoch = recipe.model_copy(update={"epochs": 1, "batch_size": 128})
    trainer.fit(model, one_epoch, callback=CallAfterStep(masking.hold(model, pruned.masks)))
    for key, mask in pruned.masks.items():
        assert not prunable_weights(model)[key][~mask].any()

    card = ModelCard(
        model=name, classes=10, input_shape=shape_of(name), normalise=normalise, seed=0, imported=None,
        options=BERT if name == "bert" else {}, pruning=settings, ratio_achieved=pruned.ratio_achieved,
    )  # fmt: skip
    save_network(tmp_path / "net.safetensors", Network(model=model, card=card, masks=pruned.masks))
    reloaded = load_network(tmp_path / "net.safetensors")
    # The same memory format on both sides: another one takes other kernels, which round otherwise.
    assert torch.equal(outputs(trainer.execution.place(reloaded.model)), outputs(model))
    assert reloaded.card == card
    assert all(torch.equal(reloaded.masks[key], mask) for key, mask in pruned.masks.items())
    save_network(tmp_path / "again.safetensors", reloaded)
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "net.safetensors"
    ).read_bytes()


# What a small network has so few of, per group or in all, that no thousandth of them can go or stay.
FEW = (granularity.N_OF_M, granularity.PATTERN, granularity.FILTER)


@pytest.mark.parametrize("ratio", [0.001, 0.999])
@pytest.mark.parametrize("method", METHODS)
def test_at_the_ends_a_ratio_is_met_or_refused_and_what_is_left_empty_is_named(
    method, ratio, text_trainer, retrainer
):
    """No ratio rounds to nothing or to all in silence, and no layer loses all its units."""
    name = small_network(method)
    model, settings = trained(name), spec(method, ratio, epochs=1, iterations=2, samples=64)
    if name == "bert":
        retrainer = replace(retrainer, trainer=text_trainer)
    run = partial(
        prune,
        model,
        name,
        settings,
        shape=shape_of(name),
        seed=0,
        retrainer=retrainer,
        bases=bases(name, model),
    )
    known = nonzero(model)
    if not METHODS[method].masks or METHODS[method].granularity in FEW:
        with pytest.raises(
            InputError, match=f"ratio {ratio} (removes none|leaves none|cannot be met)"
        ):
            run()
        return
    pruned = run()
    assert 0 < nonzero(model) < known
    assert pruned.ratio_achieved == pytest.approx(ratio, abs=0.003)
    empty = {key for key, mask in pruned.masks.items() if not mask.any()}
    assert all(key in pruned.describe() for key in empty)
    assert ("nothing is left" in pruned.describe()) == bool(empty)
    assert outputs(model).isfinite().all()


@pytest.mark.parametrize("method", ONE_SHOT)
def test_the_same_seed_gives_the_same_network_and_only_controls_depend_on_it(method, retrainer):
    states = []
    for seed in (1, 1, 2):
        model = trained("resnet8")
        prune(
            model, "resnet8", spec(method, 0.5, samples=64),
            shape=DIGITS_SHAPE, seed=seed, retrainer=retrainer, bases=bases("resnet8", model),
        )  # fmt: skip
        states.append(model.state_dict())
    same, other = (
        [torch.equal(states[0][key], state[key]) for key in state] for state in states[1:]
    )
    assert all(same)
    assert all(other) == (not method.startswith("random"))


@pytest.mark.parametrize(
    "method", [name for name in ONE_SHOT if METHODS[name].restart is Restart.NONE]
)
def test_a_higher_ratio_never_keeps_more_and_zero_keeps_all(method, retrainer):
    kept = []
    for ratio in (0, 0.3, 0.5, 0.7):
        model = trained("resnet8")
        prune(
            model,
            "resnet8",
            spec(method, ratio, samples=64),
            shape=DIGITS_SHAPE,
            seed=0,
            retrainer=retrainer,
        )
        kept.append(nonzero(model))
    assert kept[0] == nonzero(trained("resnet8"))
    assert all(more > fewer for more, fewer in itertools.pairwise(kept))


def test_l1_unstructured_keeps_the_largest_weights_of_all(retrainer):
    dense, model = trained("resnet8"), trained("resnet8")
    prune(
        model,
        "resnet8",
        spec("l1_unstructured", 0.7),
        shape=DIGITS_SHAPE,
        seed=0,
        retrainer=retrainer,
    )
    kept, dropped = [], []
    for key, weight in prunable_weights(model).items():
        original = prunable_weights(dense)[key].detach().abs()
        kept.append(original[weight != 0])
        dropped.append(original[weight == 0])
    assert torch.cat(kept).min() >= torch.cat(dropped).max()


def test_layerwise_keeps_the_same_share_of_every_layer(retrainer):
    model = trained("resnet8")
    prune(
        model,
        "resnet8",
        spec("l1_unstructured_layerwise", 0.75),
        shape=DIGITS_SHAPE,
        seed=0,
        retrainer=retrainer,
    )
    for weight in prunable_weights(model).values():
        assert int(weight.count_nonzero()) == pytest.approx(0.25 * weight.numel(), abs=1)


@pytest.mark.parametrize(("method", "power"), [("l1_channel", 1), ("l2_channel", 2)])
def test_channel_methods_keep_the_filters_of_largest_norm(method, power, retrainer):
    dense, model = trained("resnet8"), trained("resnet8")
    prune(model, "resnet8", spec(method, 0.5), shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)
    filters = dense.layer2[0].conv1.weight.detach()
    order = filters.flatten(1).norm(p=power, dim=1).argsort(descending=True)
    assert torch.equal(
        model.layer2[0].conv1.weight, filters[order[: len(filters) // 2].sort().values]
    )


@pytest.mark.parametrize("method", UNIFORM_CHANNELS)
def test_option_a_networks_lose_inner_channels_only(method, retrainer):
    model = trained("resnet20")
    prune(
        model, "resnet20", spec(method, 0.5, samples=64),
        shape=DIGITS_SHAPE, seed=0, retrainer=retrainer, bases=bases("resnet20", model),
    )  # fmt: skip
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            width = 16 if name == "conv1" else {"1": 16, "2": 32, "3": 64}[name[5]]
            assert module.out_channels == (width // 2 if name.endswith(".conv1") else width)


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet20", "resnet20_b", "resnet56", "resnet18", "vgg11_bn"]
)
def test_removed_channels_are_as_if_they_had_been_silenced(name, retrainer):
    """Against hooks that silence channels after each norm: another route than the check inside the library."""
    dense, model = trained(name), trained(name)
    pruned = prune(
        model, name, spec("l1_channel", 0.5), shape=DIGITS_SHAPE, seed=0, retrainer=retrainer
    )
    widths = {layer: width for width in pruned.widths for layer in width.layers}
    followers = dict(zip(*_convolutions_and_norms(dense), strict=True))
    silenced = deepcopy(dense)
    for layer, width in widths.items():
        group = [silenced.get_submodule(name) for name in width.layers]
        norms = sum(conv.weight.detach().double().abs().flatten(1).sum(1) for conv in group)
        alive = torch.zeros(width.before)
        alive[norms.argsort(descending=True)[: width.after]] = 1
        silenced.get_submodule(followers[layer]).register_forward_hook(
            lambda module, args, output, alive=alive: output * alive.view(1, -1, 1, 1)
        )
    torch.testing.assert_close(outputs(model), outputs(silenced), rtol=1e-4, atol=1e-4)


def _convolutions_and_norms(model: nn.Module) -> tuple[list[str], list[str]]:
    """In all these networks the n-th convolution is followed by the n-th norm."""
    modules = list(model.named_modules())
    return (
        [name for name, module in modules if isinstance(module, nn.Conv2d)],
        [name for name, module in modules if isinstance(module, nn.BatchNorm2d)],
    )


@pytest.mark.parametrize(
    ("channels", "ratio", "round_to", "width"),
    [
        (64, 0.5, 1, 32),
        (64, 0.3, 8, 48),
        (64, 0.99, 1, 1),
        (16, 0.9, 8, 8),
        (10, 0, 8, 10),
        (10, 0.1, 8, 8),
    ],
)
def test_target_width_is_the_nearest_multiple_but_never_nothing(channels, ratio, round_to, width):
    assert target_width(channels, ratio, round_to) == width


def test_widths_are_multiples_of_round_to(retrainer):
    model = trained("vgg11_bn")
    pruned = prune(
        model,
        "vgg11_bn",
        spec("l1_channel", 0.3, round_to=8),
        shape=DIGITS_SHAPE,
        seed=0,
        retrainer=retrainer,
    )
    assert pruned.widths
    assert all(width.after % 8 == 0 for width in pruned.widths)
    for width in pruned.widths:
        assert [model.get_submodule(layer).out_channels for layer in width.layers] == [width.after]


def test_a_ratio_that_rounding_cannot_meet_is_refused_with_the_reason_and_nothing_is_touched(
    retrainer,
):
    model = trained("resnet8")
    before = deepcopy(model.state_dict())
    with pytest.raises(
        InputError, match=r"layer1.0.conv1, say, keeps 8 of 16, .* prune.round_to = 8"
    ):
        prune(
            model,
            "resnet8",
            spec("l1_channel", 0.9, round_to=8),
            shape=DIGITS_SHAPE,
            seed=0,
            retrainer=retrainer,
        )
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("ratio", "round_to"), [(0.6, 1000), (0.02, 16), (0.001, 1)])
def test_rounding_never_excuses_doing_nothing(ratio, round_to, retrainer):
    with pytest.raises(InputError, match="round_to"):
        prune(
            trained("resnet8"),
            "resnet8",
            spec("l1_channel", ratio, round_to=round_to),
            shape=DIGITS_SHAPE,
            seed=0,
            retrainer=retrainer,
        )


def test_no_method_name_makes_two_cells_collide():
    assert not [name for name in METHODS if "-" in name]  # cells are named <method>-<ratio>


def test_a_network_of_which_nothing_is_left_is_refused(retrainer):
    with pytest.raises(InputError, match="leaves none"):
        prune(
            trained("resnet8"),
            "resnet8",
            spec("l1_unstructured", 0.99999999),
            shape=DIGITS_SHAPE,
            seed=0,
            retrainer=retrainer,
        )


def test_an_unknown_method_lists_the_valid_ones(retrainer):
    with pytest.raises(InputError, match="l1_channel"):
        prune(
            trained("resnet8"),
            "resnet8",
            spec("l3_channel", 0.5),
            shape=DIGITS_SHAPE,
            seed=0,
            retrainer=retrainer,
        )


def test_verify_notices_a_revived_weight(retrainer):
    model = trained("resnet8")
    pruned = prune(
        model,
        "resnet8",
        spec("l1_unstructured", 0.5),
        shape=DIGITS_SHAPE,
        seed=0,
        retrainer=retrainer,
    )
    with torch.no_grad():
        model.linear.weight.fill_(1)
    with pytest.raises(AssertionError, match="linear.weight"):
        masking.verify(model, pruned.masks)


@pytest.mark.parametrize(
    ("method", "name", "settings", "named"),
    [
        ("l1_head", "resnet8", {}, ["resnet8 has no heads", "l1_channel"]),
        ("l1_channel", "bert", {}, ["bert has no channels", "l1_head", "l1_hidden"]),
        ("l1_pattern", "bert", {}, ["this network has none", "kernels"]),
        ("l1_kernel", "bert", {}, ["this network has none", "kernels"]),
        ("l1_n_of_m", "resnet8", {"group": 128}, ["this network has none", "128"]),
        ("l1_n_of_m", "resnet8", {"ratio": 0.1}, ["ratio 0.1 removes none", "0.25"]),
        ("l1_unstructured_lottery", "resnet8", {}, ["train.epochs is 0"]),
        ("l1_channel", "resnet8", {"protect": ["*"]}, ["prune.protect"]),
        (
            "l1_channel",
            "resnet8",
            {"ratio": 0.99, "budget": "macs"},
            ["nearest that can be removed"],
        ),
        (
            "l1_channel_global",
            "resnet8",
            {"ratio": 0.99, "budget": "macs"},
            ["nearest that can be removed"],
        ),
        ("l1_unstructured", "resnet8", {"protect": ["*"]}, ["prune.protect", "no layer"]),
        (
            "l1_unstructured",
            "resnet8",
            {"layer_ratios": {"*": 0.9}},
            ["prune.layer_ratios", "no layer"],
        ),
        (
            "l1_unstructured",
            "resnet8",
            {"layer_ratios": {"conv1": 0.001}},
            ["conv1", "removes none"],
        ),
        (
            "l1_unstructured",
            "resnet8",
            {"protect": ["nosuch"]},
            ["prune.protect: 'nosuch' matches no layer", "conv1"],
        ),
        (
            "l1_n_of_m",
            "resnet8",
            {"ratio": 0.6, "budget": "params"},
            ["nearest that can be removed is 0."],
        ),
        (
            "l1_block",
            "resnet8",
            {"block_rows": 10**9, "block_columns": 1000},
            ["nearest that can be removed is 0."],
        ),
        ("bn_scale_channel", "vgg11", {}, ["bn_scale: no layer"]),
        ("synflow_at_init", "bert", {}, ["synflow", "tokens"]),
        ("synflow_unstructured", "vit_tiny", {}, ["synflow", "no sums of products"]),
    ],
)
def test_a_method_that_cannot_apply_is_refused_beforehand_with_what_would_work(
    method, name, settings, named
):
    settings = {"ratio": 0.5} | settings
    train = train_params(epochs=0 if method == "l1_unstructured_lottery" else 2)
    problems = infeasible_specs(
        trained(name), name, [spec(method, **settings)], shape=shape_of(name), train=train
    )
    assert len(problems) == 1
    assert all(word in problems[0] for word in named), problems


def test_rewinding_to_the_end_is_refused():
    for method in ("l1_unstructured_lottery", "l1_unstructured_rate_rewinding"):
        train = train_params(epochs=3, rewind_epoch=3)
        (problem,) = infeasible_specs(
            trained("resnet8"), "resnet8", [spec(method, 0.5)], shape=DIGITS_SHAPE, train=train
        )
        assert "train.rewind_epoch = 3" in problem


@pytest.mark.parametrize(
    "method", ["wanda_unstructured", "l1_filter", "l1_kernel", "l1_vector", "l1_block"]
)
def test_no_layer_that_competes_by_itself_is_emptied(method, retrainer):
    model = trained("resnet8")
    prune(model, "resnet8", spec(method, 0.95), shape=DIGITS_SHAPE, seed=0, retrainer=retrainer)
    assert all(weight.any() for weight in prunable_weights(model).values())


def test_methods_at_initialisation_leave_a_transformer_that_tells_inputs_apart(retrainer):
    model = build("vit_tiny", 10, DIGITS_SHAPE)
    state = bases("vit_tiny", model)
    prune(
        model,
        "vit_tiny",
        spec("snip_at_init", 0.3),
        shape=DIGITS_SHAPE,
        seed=0,
        retrainer=retrainer,
        bases=state,
    )
    told = outputs(model)
    assert (told[0] - told[1]).abs().max() > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes_the_check_on_the_network_it_is_for(method):
    name = small_network(method)
    assert not infeasible_specs(
        trained(name), name, [spec(method, 0.5)], shape=shape_of(name), train=train_params()
    )
