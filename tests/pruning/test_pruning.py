"""Every method and every network through the same properties.

Expected values are derived in another way than the library computes them.
"""

import itertools
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.networks import (
    BERT,
    DIGITS_SHAPE,
    IMAGE_MODELS,
    KINDS,
    TOKENS,
    dense_weights,
    make_trainer,
    shape_of,
    small_network,
    trained,
)
from helpers.params import prune_spec, train_params
from torch import nn

from prunelab.artifacts.networks import (
    ModelCard,
    Network,
    load_network,
    plugins_of,
    save_network,
)
from prunelab.config.params import PruneSpec
from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.data.augment import Augmentation
from prunelab.models.bert import Bert
from prunelab.models.catalogue import MODELS
from prunelab.models.cost import cost
from prunelab.models.networks import build, prunable_weights
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import infeasible_specs, prune
from prunelab.pruning.pruner import PruneResult
from prunelab.pruning.structured.groups import target_width
from prunelab.training import masking
from prunelab.training.callbacks import CallAfterStep
from prunelab.training.retraining import Retrainer
from prunelab.training.trainer import Trainer

ONE_SHOT = [
    name
    for name, method in METHODS.items()
    if method.schedule == "one_shot" and method.granularity not in ("head", "hidden")
]
UNIFORM_CHANNELS = [
    name
    for name in ONE_SHOT
    if METHODS[name].granularity == "channel" and METHODS[name].scope == "uniform"
]


# Every method on one small network; every network by a mask method and by a channel method.
PAIRS = [(method, small_network(method)) for method in METHODS] + [
    (method, model) if model in KINDS else pytest.param(method, model, marks=pytest.mark.slow)
    for model in IMAGE_MODELS
    if model != "resnet8"
    for method in ("l1_unstructured_layerwise", "l1_channel")
]
PAIRS += [("l1_unstructured_layerwise", "bert")]


@pytest.fixture
def trainer(digits, normalise, execution) -> Trainer:
    """64 digits to train on and 32 others to validate: what is asked here depends on no score."""
    numbers = np.arange(96)
    return make_trainer(
        digits.at(numbers[:64]),
        digits.at(numbers[64:]),
        normalise=normalise,
        augmentation=Augmentation(crop_padding=1),
        execution=execution,
    )


def prune_by(
    model: nn.Module, name: str, spec: PruneSpec, retrainer: Retrainer, seed: int = 0
) -> PruneResult:
    return prune(
        model,
        name,
        spec,
        shape=shape_of(name),
        seed=seed,
        retrainer=retrainer,
        dense_weights=dense_weights(name, model),
    )


def outputs(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    if isinstance(model, Bert):
        inputs = torch.randint(1, BERT["vocab"], (3, TOKENS), generator=generator)
    else:
        inputs = torch.randn(3, *DIGITS_SHAPE, generator=generator)

    with torch.no_grad():
        return model.cpu().eval()(inputs)


def count_nonzero(model: nn.Module) -> int:
    return sum(int(weight.count_nonzero()) for weight in prunable_weights(model).values())


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_prune_finetune_save_reload(
    method, name, trainer, text_trainer, recipe, normalise, tmp_path, retrainer
):
    """The ratio is met, zeros and widths last, and a reloaded network gives the same outputs."""
    model, dense = trained(name), trained(name)
    if name == "bert":
        trainer, normalise = text_trainer, None
        retrainer = replace(retrainer, trainer=text_trainer)
    spec = prune_spec(method, 0.5, epochs=1, iterations=2, samples=64)

    pruned = prune_by(model, name, spec, retrainer)
    assert outputs(model).shape == (3, 10)
    assert model.get_submodule(MODELS[name].head).out_features == 10
    assert pruned.ratio_achieved == pytest.approx(0.5, abs=0.06)
    check_costs(method, model, pruned, cost(model, dense, shape_of(name)))

    trainer.execution.place(model)
    one_epoch = recipe.model_copy(update={"epochs": 1, "batch_size": 32})
    trainer.fit(model, one_epoch, callback=CallAfterStep(masking.hold(model, pruned.masks)))
    for key, mask in pruned.masks.items():
        assert not prunable_weights(model)[key][~mask].any()

    card = ModelCard(
        model=name,
        classes=10,
        input_shape=shape_of(name),
        normalise=normalise,
        seed=0,
        imported=None,
        options=BERT if name == "bert" else {},
        pruning=spec,
        ratio_achieved=pruned.ratio_achieved,
        plugins=plugins_of(model=name),
    )
    file, second_file = tmp_path / "net.safetensors", tmp_path / "again.safetensors"
    save_network(file, Network(model=model, card=card, masks=pruned.masks))
    reloaded = load_network(file)

    # Both networks are placed: another memory format takes other kernels, which round differently.
    assert torch.equal(outputs(trainer.execution.place(reloaded.model)), outputs(model))
    assert reloaded.card == card
    assert all(torch.equal(reloaded.masks[key], mask) for key, mask in pruned.masks.items())
    save_network(second_file, reloaded)
    assert second_file.read_bytes() == file.read_bytes()


def check_costs(
    method: str, model: nn.Module, pruned: PruneResult, costs: dict[str, float]
) -> None:
    """Masks zero the share achieved and save nothing by themselves; removed units do save."""
    if not METHODS[method].masks:
        assert not pruned.masks
        assert costs["macs_ratio"] > 1.1
        assert costs["params_ratio"] > 1.1
        return

    weights = prunable_weights(model)
    zeros = sum(int((weights[key] == 0).sum()) for key in pruned.masks)
    total = sum(weights[key].numel() for key in pruned.masks)
    assert zeros / total == pytest.approx(pruned.ratio_achieved, abs=1e-3)
    assert costs["macs_ratio"] == costs["params_ratio"] == 1
    if METHODS[method].granularity == "weight":
        assert costs["sparsity"] == pytest.approx(0.5, abs=0.03)


# A small network has so few of these, per group or in all, that no thousandth can go or stay.
FEW = ("n_of_m", "pattern", "filter")
METHODS_OF_FEW = [
    name for name, method in METHODS.items() if not method.masks or method.granularity in FEW
]
METHODS_OF_MANY = [name for name in METHODS if name not in METHODS_OF_FEW]


@pytest.mark.parametrize("ratio", [0.001, 0.999])
@pytest.mark.parametrize("method", METHODS_OF_FEW)
def test_a_ratio_that_rounds_to_nothing_or_all_is_an_error(method, ratio, text_trainer, retrainer):
    name = small_network(method)
    if name == "bert":
        retrainer = replace(retrainer, trainer=text_trainer)
    spec = prune_spec(method, ratio, epochs=1, iterations=2, samples=64)

    with pytest.raises(InputError, match=f"ratio {ratio} (removes none|leaves none|cannot be met)"):
        prune_by(trained(name), name, spec, retrainer)


@pytest.mark.parametrize("ratio", [0.001, 0.999])
@pytest.mark.parametrize("method", METHODS_OF_MANY)
def test_extreme_ratios_are_met_and_empty_layers_are_named(method, ratio, retrainer):
    name = small_network(method)
    model = trained(name)
    dense_count = count_nonzero(model)
    spec = prune_spec(method, ratio, epochs=1, iterations=2, samples=64)

    pruned = prune_by(model, name, spec, retrainer)

    assert 0 < count_nonzero(model) < dense_count
    assert pruned.ratio_achieved == pytest.approx(ratio, abs=0.003)
    empty = {key for key, mask in pruned.masks.items() if not mask.any()}
    assert all(key in pruned.describe() for key in empty)
    assert ("nothing is left" in pruned.describe()) == bool(empty)
    assert outputs(model).isfinite().all()


@pytest.mark.parametrize("method", ONE_SHOT)
def test_the_seed_decides_the_network_and_only_random_methods_depend_on_it(method, retrainer):
    states = []
    for seed in (1, 1, 2):
        model = trained("resnet8")
        prune_by(model, "resnet8", prune_spec(method, 0.5, samples=64), retrainer, seed=seed)
        states.append(model.state_dict())

    first, repeated, other_seed = states
    assert all(torch.equal(first[key], value) for key, value in repeated.items())
    independent = all(torch.equal(first[key], value) for key, value in other_seed.items())
    assert independent == (not method.startswith("random"))


@pytest.mark.parametrize(
    "method", [name for name in ONE_SHOT if METHODS[name].restart is Restart.NONE]
)
def test_a_higher_ratio_keeps_less_and_ratio_zero_keeps_all(method, retrainer):
    kept = []
    for ratio in (0, 0.3, 0.5, 0.7):
        model = trained("resnet8")
        prune_by(model, "resnet8", prune_spec(method, ratio, samples=64), retrainer)
        kept.append(count_nonzero(model))

    assert kept[0] == count_nonzero(trained("resnet8"))
    assert all(more > fewer for more, fewer in itertools.pairwise(kept))


def test_l1_unstructured_keeps_the_largest_weights_of_all(retrainer):
    dense, model = trained("resnet8"), trained("resnet8")

    prune_by(model, "resnet8", prune_spec("l1_unstructured", 0.7), retrainer)

    kept, dropped = [], []
    dense_weights_by_name = prunable_weights(dense)
    for key, weight in prunable_weights(model).items():
        magnitudes = dense_weights_by_name[key].detach().abs()
        kept.append(magnitudes[weight != 0])
        dropped.append(magnitudes[weight == 0])
    assert torch.cat(kept).min() >= torch.cat(dropped).max()


def test_layerwise_keeps_the_same_share_of_every_layer(retrainer):
    model = trained("resnet8")

    prune_by(model, "resnet8", prune_spec("l1_unstructured_layerwise", 0.75), retrainer)

    for weight in prunable_weights(model).values():
        assert int(weight.count_nonzero()) == pytest.approx(0.25 * weight.numel(), abs=1)


@pytest.mark.parametrize(("method", "power"), [("l1_channel", 1), ("l2_channel", 2)])
def test_channel_methods_keep_the_filters_of_largest_norm(method, power, retrainer):
    dense, model = trained("resnet8"), trained("resnet8")

    prune_by(model, "resnet8", prune_spec(method, 0.5), retrainer)

    filters = dense.layer2[0].conv1.weight.detach()
    by_norm = filters.flatten(1).norm(p=power, dim=1).argsort(descending=True)
    largest = by_norm[: len(filters) // 2].sort().values
    assert torch.equal(model.layer2[0].conv1.weight, filters[largest])


@pytest.mark.parametrize("method", UNIFORM_CHANNELS)
def test_resnets_with_option_a_shortcuts_lose_inner_channels_only(method, retrainer):
    model = trained("resnet20")

    prune_by(model, "resnet20", prune_spec(method, 0.5, samples=64), retrainer)

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            width = 16 if name == "conv1" else {"1": 16, "2": 32, "3": 64}[name[5]]
            assert module.out_channels == (width // 2 if name.endswith(".conv1") else width)


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet20", "resnet20_b", "resnet56", "resnet18", "vgg11_bn"]
)
def test_removing_channels_equals_silencing_them_after_their_norms(name, retrainer):
    """Hooks silence the channels, which is another way than the library checks itself by."""
    dense, model = trained(name), trained(name)

    pruned = prune_by(model, name, prune_spec("l1_channel", 0.5), retrainer)

    silenced = deepcopy(dense)
    norm_after = norm_after_convolution(dense)
    for width in pruned.widths:
        alive = largest_channels(silenced, width.layers, width.before, width.after)
        for layer in width.layers:
            silenced.get_submodule(norm_after[layer]).register_forward_hook(
                lambda module, args, output, alive=alive: output * alive.view(1, -1, 1, 1)
            )
    torch.testing.assert_close(outputs(model), outputs(silenced), rtol=1e-4, atol=1e-4)


def largest_channels(
    model: nn.Module, layers: tuple[str, ...], count: int, kept: int
) -> torch.Tensor:
    """1 for the channels of largest L1 norm over coupled layers, 0 for the others, [count]."""
    convolutions = [model.get_submodule(layer) for layer in layers]
    norms = sum(conv.weight.detach().double().abs().flatten(1).sum(1) for conv in convolutions)
    alive = torch.zeros(count)
    alive[norms.argsort(descending=True)[:kept]] = 1
    return alive


def norm_after_convolution(model: nn.Module) -> dict[str, str]:
    """In all these networks the n-th convolution is followed by the n-th norm."""
    modules = list(model.named_modules())
    convolutions = [name for name, module in modules if isinstance(module, nn.Conv2d)]
    norms = [name for name, module in modules if isinstance(module, nn.BatchNorm2d)]
    return dict(zip(convolutions, norms, strict=True))


@pytest.mark.parametrize(
    ("count", "ratio", "round_to", "width"),
    [
        (64, 0.5, 1, 32),
        (64, 0.3, 8, 48),
        (64, 0.99, 1, 1),
        (16, 0.9, 8, 8),
        (10, 0, 8, 10),
        (10, 0.1, 8, 8),
    ],
)
def test_target_width_is_the_nearest_multiple_but_never_nothing(count, ratio, round_to, width):
    assert target_width(count, ratio, round_to) == width


def test_widths_are_multiples_of_round_to(retrainer):
    model = trained("vgg11_bn")

    pruned = prune_by(model, "vgg11_bn", prune_spec("l1_channel", 0.3, round_to=8), retrainer)

    assert pruned.widths
    for width in pruned.widths:
        assert width.after % 8 == 0
        assert [model.get_submodule(layer).out_channels for layer in width.layers] == [width.after]


def test_a_ratio_that_rounding_cannot_meet_is_an_error_before_any_change(retrainer):
    model = trained("resnet8")
    before = deepcopy(model.state_dict())
    spec = prune_spec("l1_channel", 0.9, round_to=8)

    example = r"layer1.0.conv1 keeps 8 of 16, .* prune.round_to = 8"
    with pytest.raises(InputError, match=example):
        prune_by(model, "resnet8", spec, retrainer)

    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("ratio", "round_to"), [(0.6, 1000), (0.02, 16), (0.001, 1)])
def test_rounding_never_excuses_doing_nothing(ratio, round_to, retrainer):
    spec = prune_spec("l1_channel", ratio, round_to=round_to)

    with pytest.raises(InputError, match="round_to"):
        prune_by(trained("resnet8"), "resnet8", spec, retrainer)


def test_no_method_name_has_a_dash():
    assert not [name for name in METHODS if "-" in name]  # cells are named <method>-<ratio>


def test_a_ratio_that_leaves_no_weight_is_an_error(retrainer):
    spec = prune_spec("l1_unstructured", 0.99999999)

    with pytest.raises(InputError, match="leaves none"):
        prune_by(trained("resnet8"), "resnet8", spec, retrainer)


def test_an_unknown_method_lists_the_valid_ones(retrainer):
    with pytest.raises(InputError, match="l1_channel"):
        prune_by(trained("resnet8"), "resnet8", prune_spec("l3_channel", 0.5), retrainer)


def test_verify_notices_a_revived_weight(retrainer):
    model = trained("resnet8")
    pruned = prune_by(model, "resnet8", prune_spec("l1_unstructured", 0.5), retrainer)

    with torch.no_grad():
        model.linear.weight.fill_(1)

    with pytest.raises(AssertionError, match="linear.weight"):
        masking.verify(model, pruned.masks)


@pytest.mark.parametrize(
    ("method", "name", "settings", "words"),
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
        ("bn_scale_channel", "vgg11", {}, ["bn_scale does not support"]),
        ("synflow_at_init", "bert", {}, ["synflow", "tokens"]),
        ("synflow_unstructured", "vit_tiny", {}, ["synflow does not support"]),
    ],
)
def test_a_method_that_cannot_be_applied_is_one_problem_with_what_would_work(
    method, name, settings, words
):
    spec = prune_spec(method, **({"ratio": 0.5} | settings))
    train = train_params(epochs=0 if method == "l1_unstructured_lottery" else 2)

    problems = infeasible_specs(trained(name), name, [spec], shape=shape_of(name), train=train)

    assert len(problems) == 1
    assert all(word in problems[0] for word in words), problems


@pytest.mark.parametrize("method", ["l1_unstructured_lottery", "l1_unstructured_rate_rewinding"])
def test_rewinding_to_the_last_epoch_is_a_problem(method):
    spec, train = prune_spec(method, 0.5), train_params(epochs=3, rewind_epoch=3)

    (problem,) = infeasible_specs(
        trained("resnet8"), "resnet8", [spec], shape=DIGITS_SHAPE, train=train
    )

    assert "train.rewind_epoch = 3" in problem


@pytest.mark.parametrize(
    "method", ["wanda_unstructured", "l1_filter", "l1_kernel", "l1_vector", "l1_block"]
)
def test_a_layer_whose_units_compete_alone_is_never_emptied(method, retrainer):
    model = trained("resnet8")

    prune_by(model, "resnet8", prune_spec(method, 0.95), retrainer)

    assert all(weight.any() for weight in prunable_weights(model).values())


def test_pruning_a_transformer_at_init_leaves_outputs_that_depend_on_the_input(retrainer):
    model = build("vit_tiny", 10, DIGITS_SHAPE)

    prune_by(model, "vit_tiny", prune_spec("snip_at_init", 0.3), retrainer)

    first, second, _ = outputs(model)
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_feasible_on_the_network_it_is_for(method):
    name = small_network(method)
    specs = [prune_spec(method, 0.5)]

    problems = infeasible_specs(
        trained(name), name, specs, shape=shape_of(name), train=train_params()
    )

    assert not problems
