"""prunelab.prune: what goes, what stays and why, and what is refused before any work."""

import re
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from helpers.modules import (
    IMAGES,
    ResidualNet,
    TokenNet,
    image_batches,
    perceptron,
    residual_net,
)
from helpers.networks import DIGITS_SHAPE, trained
from helpers.params import prune_spec
from torch import nn
from torch.nn.utils.prune import l1_unstructured
from torch.utils.data import DataLoader, TensorDataset

import prunelab
from prunelab.config.restart import Restart
from prunelab.models.networks import prunable_weights
from prunelab.pruning.criteria import CalibrationData, wanda
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import prune as prune_registered


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


def sgd_epoch(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for images, labels in image_batches():
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


REMOVES_CHANNELS_OR_WEIGHTS = [
    name for name, method in METHODS.items() if method.kind in (None, "channel")
]


@pytest.mark.parametrize("name", REMOVES_CHANNELS_OR_WEIGHTS)
def test_every_method_prunes_a_foreign_network_or_says_what_it_lacks(name):
    method = METHODS[name]
    model = residual_net()
    before = state(model)
    trainings = []

    def train(network: nn.Module) -> None:
        trainings.append(network)
        sgd_epoch(network)

    if method.restart is not Restart.NONE:
        with pytest.raises(prunelab.InputError, match="repeats the training of the dense network"):
            prunelab.prune(model, IMAGES, name, data=image_batches(), train=train)
        return

    result = prunelab.prune(
        model, IMAGES, name, 0.5, "native", data=image_batches(), train=train, epochs=1
    )

    assert result.ratio_achieved == pytest.approx(0.5, abs=0.06)
    assert result.params_nonzero < result.params_before
    assert bool(result.masks) == method.masks
    assert (result.params < result.params_before) == (not method.masks)
    assert bool(trainings) == method.trains
    assert result.model(IMAGES).shape == (2, 10)
    assert same(state(model), before)


@pytest.mark.parametrize("name", ["l1_channel", "l1_unstructured", "random_channel_global"])
def test_a_network_of_the_table_is_pruned_to_the_bits_of_the_pipeline(name):
    model = trained("resnet20_b")
    found = prunelab.prune(model, torch.zeros(1, *DIGITS_SHAPE), name)

    expected = deepcopy(model)
    spec = prune_spec(name, 0.5, budget="macs")
    prune_registered(expected, "resnet20_b", spec, shape=DIGITS_SHAPE, seed=0)
    assert same(state(found.model), state(expected))


def test_in_place_the_model_itself_becomes_what_the_copy_would_be():
    model = residual_net()
    copy = prunelab.prune(model, IMAGES).model
    parameters = dict(model.named_parameters())

    result = prunelab.prune(model, IMAGES, inplace=True)

    assert result.model is model
    assert same(state(model), state(copy))
    assert dict(model.named_parameters()) == parameters  # the same objects
    assert (model.conv2.in_channels, model.bn2.num_features) == (copy.conv2.in_channels,) * 2
    torch.testing.assert_close(model(IMAGES), copy(IMAGES), rtol=0, atol=0)


def test_modes_and_gradients_to_be_computed_stay_as_they_were():
    model = residual_net().train()
    model.bn1.eval()
    model.conv3.weight.requires_grad_(False)

    result = prunelab.prune(model, IMAGES)

    for network in (model, result.model):
        assert (network.training, network.bn1.training, network.bn2.training) == (1, 0, 1)
        assert not network.conv3.weight.requires_grad


TABLE = """\
l1_channel: 50.0% of what it prunes removed (asked for 50.0%)
parameters: 7,514 -> 2,034 (3.69x fewer)
MACs: 453,984 -> 116,400 (3.90x fewer)

layer  outputs   weights  removed  outputs kept because
-----  --------  -------  -------  ------------------------------
conv1  16 -> 8   144      50.0%
conv2  16 -> 8   2,304    75.0%
conv3  32 -> 16  4,608    75.0%
head   10        320      50.0%    it makes the network's outputs"""


def test_a_result_prints_what_went_layer_by_layer():
    result = prunelab.prune(residual_net(), IMAGES, "l1_channel", 0.5, "native")

    assert str(result) == TABLE
    assert result.params == (72 + 8) + 16 + (576 + 8) + 16 + (1152 + 16) + (160 + 10)
    products = 64 * (72 + 576 + 1152) + 160
    assert products <= result.macs <= 1.1 * products  # norms count as well


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({}, {"head": "makes the network's outputs"}),
        ({"protect": ["conv3"]}, {"conv3": "protect names it", "head": "outputs"}),
        ({"round_to": 24}, {"conv1": "round_to", "conv2": "round_to", "head": "outputs"}),
        ({"method": "l1_filter"}, {"head": "outputs"}),
    ],
    ids=str,
)
def test_what_was_kept_is_named_with_the_reason(settings, reasons):
    result = prunelab.prune(
        residual_net(),
        IMAGES,
        **{"method": "l1_channel", "ratio": 0.25, "budget": "native"} | settings,
    )

    assert result.kept.keys() == reasons.keys()
    for layer, reason in reasons.items():
        assert reason in result.kept[layer]


@pytest.mark.parametrize(
    ("method", "layer"), [("l1_n_of_m", "conv1"), ("l1_pattern", "head"), ("l1_kernel", "head")]
)
def test_a_layer_without_such_units_is_not_said_to_rank_above_others(method, layer):
    result = prunelab.prune(residual_net(), IMAGES, method, 0.5, "native")

    assert f"{layer}.weight" not in result.masks
    assert result.kept[layer].startswith("it has no ")


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 8, 3)
        self.left = nn.Conv2d(8, 6, 1)
        self.right = nn.Conv2d(8, 6, 1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, images):
        features = torch.relu(self.body(images))
        return self.norm(self.left(features) + self.right(features)).relu().flatten(2)


def test_layers_that_are_added_to_the_outputs_all_keep_them():
    result = prunelab.prune(TwoHeads().eval(), IMAGES, ratio=0.5, budget="native")

    assert set(result.kept) == {"left", "right"}
    assert result.model.body.out_channels == 4
    assert result.model(IMAGES).shape == (2, 6, 36)


class EndsInAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, tokens):
        tokens = self.embed(tokens)
        return self.attention(tokens, tokens, tokens)[0].mean(1)


def test_attention_that_makes_the_outputs_keeps_all_rows_of_its_projection():
    tokens = torch.randn(2, 5, 6)
    masked = prunelab.prune(EndsInAttention(), tokens, "l1_filter", 0.5, "native")
    thin = prunelab.prune(EndsInAttention(), tokens, "l1_channel", 0.5, "native")

    assert set(masked.masks) == {"embed.weight", "attention.in_proj_weight"}
    for result in (masked, thin):
        assert result.kept["attention.out_proj"] == "it makes the network's outputs"
    assert thin.model.attention.num_heads == 2


def test_a_network_of_numbers_is_pruned_by_a_loss_of_its_own():
    inputs = torch.randn(32, 4)
    data = DataLoader(TensorDataset(inputs, inputs[:, :2] ** 2), batch_size=8)
    model = perceptron()

    result = prunelab.prune(model, inputs, "taylor_channel", 0.51, data=data, loss=F.mse_loss)

    assert result.macs <= 0.52 * result.macs_before
    assert result.model(inputs).shape == (32, 2)
    # The score is squared, so a loss ten times as high ranks alike.
    scaled = prunelab.prune(
        model, inputs, "taylor_channel", 0.51, data=data, loss=lambda *pair: 8 * F.mse_loss(*pair)
    )
    assert same(state(result.model), state(scaled.model))


@pytest.mark.parametrize("method", ["taylor_unstructured", "fisher_unstructured"])
def test_cross_entropy_as_a_loss_of_ones_own_scores_as_the_default_does(method):
    settings = {"ratio": 0.5, "budget": "native", "data": image_batches()}
    default = prunelab.prune(residual_net(), IMAGES, method, **settings)
    own = prunelab.prune(residual_net(), IMAGES, method, loss=F.cross_entropy, **settings)

    equal = sum(int((default.masks[name] == own.masks[name]).sum()) for name in own.masks)
    assert equal >= 0.999 * sum(mask.numel() for mask in own.masks.values())


def test_criteria_see_the_first_samples_of_the_data_alone():
    batches = image_batches(3)
    broken = [*batches[:1], (batches[1][0][:, :, :4], batches[1][1])]

    whole = prunelab.prune(residual_net(), IMAGES, "wanda_channel", data=batches[:1])
    first = prunelab.prune(residual_net(), IMAGES, "wanda_channel", data=iter(broken), samples=16)

    assert same(state(first.model), state(whole.model))


def test_recalibration_measures_norms_on_the_data_for_methods_without_any():
    batches = image_batches(1)
    result = prunelab.prune(residual_net(), IMAGES, data=batches, recalibrate=16)

    model = result.model
    features = model.conv1(batches[0][0])
    torch.testing.assert_close(model.bn1.running_mean, features.mean((0, 2, 3)))


def test_pruned_weights_stay_zero_while_a_method_trains():
    zeros = []

    def train(network: nn.Module) -> None:
        sparse = {name: weight == 0 for name, weight in prunable_weights(network).items()}
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
        for images, labels in image_batches():
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            weights = prunable_weights(network)
            zeros.append(all((weights[name][zero] == 0).all() for name, zero in sparse.items()))

    result = prunelab.prune(
        residual_net(),
        IMAGES,
        "l1_unstructured_iterative",
        0.8,
        "native",
        train=train,
        iterations=3,
        epochs=2,
    )

    assert zeros == [True] * 2 * 2 * 3  # epochs x trainings between rounds x batches
    assert [row["round"] for row in result.rounds] == [1, 2, 3]


def scales_and_their_step(norms, step):
    """The scales of norms before an epoch of sparse training, and how far `step` moves them.

    `step` gets the network. Its own gradients are to be zero, so that only the penalty counts.
    """
    seen = []

    def scales(network: nn.Module) -> torch.Tensor:
        return torch.cat([network.get_submodule(name).weight.detach() for name in norms])

    def train(network: nn.Module) -> None:
        seen.append(scales(network))
        step(network)
        seen.append(scales(network))

    prunelab.prune(
        residual_net(),
        IMAGES,
        "bn_scale_channel_sparse",
        0.3,
        "native",
        train=train,
        epochs=1,
        penalty=0.01,
    )

    before, after = seen
    return before, before - after


def test_sparse_training_adds_its_penalty_to_the_gradients():
    def step(network: nn.Module) -> None:
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        torch.optim.SGD(network.parameters(), lr=1.0).step()

    scales, moved = scales_and_their_step(["bn1"], step)

    # One step down the slope of 0.01 x |scale|.
    torch.testing.assert_close(moved, 0.01 * scales.sign(), rtol=1e-3, atol=1e-6)


def test_two_optimizers_add_the_penalty_once_to_each_parameter():
    def step(network: nn.Module) -> None:
        weights = [network.bn1.weight, network.bn2.weight]
        optimizers = [torch.optim.SGD([weight], lr=1.0) for weight in weights]
        for optimizer in optimizers:
            optimizer.step()

    scales, moved = scales_and_their_step(["bn1", "bn2"], step)

    torch.testing.assert_close(moved, 0.01 * scales.sign(), rtol=1e-3, atol=1e-6)


def test_whatever_fails_leaves_the_model_as_it_was():
    model = residual_net()
    before = state(model)

    def train(network: nn.Module) -> None:
        sgd_epoch(network)
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        prunelab.prune(model, IMAGES, "l1_channel_iterative", train=train, inplace=True)
    sgd_epoch(deepcopy(model))  # no hook of the training is left

    assert same(state(model), before)


def test_a_network_of_tokens_keeps_shared_weights_shared():
    tokens = torch.randint(20, (2, 5))

    result = prunelab.prune(TokenNet().eval(), tokens, "l1_unstructured", 0.5, "native")

    assert result.model.again is result.model.once_more
    assert result.model(tokens).shape == (2, 4)
    assert result.card.input_dtype == "int64"


class ReturnsPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, images):
        return self.conv(images), images


REFUSED = [
    ({"method": "l1_chanel"}, "unknown method 'l1_chanel' (did you mean 'l1_channel', "),
    ({"ratio": 1.0}, "ratio: must be less than 1"),
    ({"ratio": -0.1}, "ratio: must be greater than or equal to 0"),
    ({"ratio": "half"}, "ratio: must be a valid number"),
    ({"budget": "mac"}, "budget: must be 'native', 'params' or 'macs'"),
    ({"round_two": 3}, "round_two: unknown key (did you mean 'round_to'?)"),
    ({"protect": "conv1"}, "protect must be a list of layers"),
    ({"protect": ["conv9"]}, "'conv9' matches no layer"),
    ({"protect": ["*"]}, "leave no layer that it could prune"),
    ({"method": "taylor_channel"}, "pass data=, batches (inputs, targets)"),
    ({"recalibrate": 16}, "recalibrate = 16 needs examples"),
    ({"method": "l1_channel_iterative"}, "pass train=, a function"),
    ({"method": "l1_unstructured_lottery"}, "repeats the training of the dense network"),
    ({"method": "l1_head"}, "no heads to remove"),
    ({"model": 3}, "model must be an nn.Module, not 3"),
    ({"model": residual_net().state_dict()}, "load_state_dict"),
    ({"model": nn.DataParallel(residual_net())}, "pass model.module"),
    ({"model": nn.Sequential(nn.Flatten())}, "without a parameter"),
    ({"model": nn.Conv2d(1, 4, 3)}, "has no channels to remove"),
    (
        {"model": nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten())},
        "run the model on an input first",
    ),
    ({"model": ReturnsPair()}, "returns a tuple of 2 (Tensor, Tensor)"),
    ({"example_inputs": None}, "must be one tensor [B, ...], not None"),
    ({"example_inputs": [IMAGES, IMAGES]}, "several inputs needs a module around it"),
    ({"example_inputs": torch.zeros(0, 1, 8, 8)}, "at least one input"),
    ({"example_inputs": torch.zeros(8)}, "a batch [B, ...]"),
    ({"example_inputs": torch.zeros(2, 3, 8, 8)}, "of shape (1, 3, 8, 8) and type float32 do not"),
    ({"example_inputs": torch.zeros(2, 1, 8, 8).long()}, "type int64 do not fit the network"),
]
WITH_DATA = [
    (IMAGES, "data must be batches"),
    ([], "data yields no batch"),
    ([IMAGES], "must be two tensors (inputs, targets)"),
    ([(IMAGES, torch.zeros(3).long())], "of the same length"),
    ([(IMAGES[:, :, 0], torch.zeros(2).long())], "the inputs of data of shape (2, 1, 8)"),
    ([(IMAGES, torch.full((2,), 99))], "loss fails on the first batch of data"),
]


def refusal(**arguments: object) -> str:
    """The one line that refuses these arguments."""
    with pytest.raises(prunelab.InputError) as refused:
        prunelab.prune(**{"model": residual_net(), "example_inputs": IMAGES} | arguments)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[line for _, line in REFUSED])
def test_wrong_arguments_are_refused_in_one_line(arguments, message):
    assert message in refusal(**arguments)


@pytest.mark.parametrize(("data", "message"), WITH_DATA, ids=[line for _, line in WITH_DATA])
def test_wrong_data_are_refused_in_one_line(data, message):
    assert message in refusal(method="taylor_channel", data=data)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def of_series() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(
        nn.Conv1d(2, 16, 3),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, 3, groups=16),
        nn.Conv1d(16, 24, 3, stride=2, dilation=2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(24, 4),
    ), torch.randn(3, 2, 20)


def of_volumes() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(
        nn.Conv3d(1, 16, 3),
        nn.BatchNorm3d(16, affine=False),
        nn.ReLU(),
        nn.Conv3d(16, 8, 3),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ), torch.randn(3, 1, 6, 6, 6)


def of_rows() -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Linear(16, 4)]
    return nn.Sequential(*layers), torch.randn(3, 4)


def of_enlarged_series() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(
        nn.Conv1d(2, 16, 3),
        nn.ReLU(),
        nn.ConvTranspose1d(16, 6, 4, stride=2, bias=False),
        nn.Conv1d(6, 8, 3),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ), torch.randn(3, 2, 20)


def of_enlarged_images() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ConvTranspose2d(16, 16, 2, stride=2),
        nn.Conv2d(16, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ), torch.randn(3, 3, 6, 6)


def of_enlarged_volumes() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(
        nn.Conv3d(1, 16, 3),
        nn.ConvTranspose3d(16, 4, 2, dilation=2),
        nn.Conv3d(4, 8, 3),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ), torch.randn(3, 1, 6, 6, 6)


@pytest.mark.parametrize(
    "make",
    [of_series, of_volumes, of_rows, of_enlarged_series, of_enlarged_images, of_enlarged_volumes],
)
@pytest.mark.parametrize("criterion", ["l1", "wanda", "taylor", "fpgm"])
def test_layers_of_any_dimension_lose_channels_and_are_reloaded(make, criterion, tmp_path):
    torch.manual_seed(0)
    model, inputs = make()
    data = [(inputs, torch.tensor([0, 1, 2]))]

    method = f"{criterion}_channel"
    pruned = prunelab.prune(
        model, inputs[:1], method, 0.5, "native", data=data, samples=3, recalibrate=3
    )

    *hidden, _ = [path.removesuffix(".weight") for path in prunable_weights(model)]
    for path in hidden:
        thin, dense = pruned.model.get_submodule(path), model.get_submodule(path)
        assert len(thin.weight) == len(dense.weight) // 2

    prunelab.save(pruned, tmp_path / "thin.safetensors")
    loaded = prunelab.load(tmp_path / "thin.safetensors", make()[0]).model
    with torch.no_grad():
        assert torch.equal(loaded(inputs), pruned.model.eval()(inputs))


def wanda_scores(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return wanda(nn.Sequential(layer), CalibrationData(None, lambda: [(inputs, None)]))["0.weight"]


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_wanda_scores_series_and_volumes_as_images_of_one_row_and_one_slice(padding_mode):
    torch.manual_seed(0)
    shared = {"groups": 2, "padding_mode": padding_mode}
    series = nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, **shared)
    image = nn.Conv2d(4, 6, (1, 3), (1, 2), (0, 1), (1, 2), **shared)
    image.weight.data = series.weight.data.unsqueeze(2)
    rows = torch.randn(5, 4, 20)

    expected = wanda_scores(image, rows.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(wanda_scores(series, rows), expected)

    image = nn.Conv2d(4, 6, (2, 3), (1, 2), (0, 1), (2, 1), **shared)
    volume = nn.Conv3d(4, 6, (1, 2, 3), (1, 1, 2), (0, 0, 1), (1, 2, 1), **shared)
    volume.weight.data = image.weight.data.unsqueeze(2)
    images = torch.randn(5, 4, 7, 9)

    expected = wanda_scores(image, images).unsqueeze(2)
    torch.testing.assert_close(wanda_scores(volume, images.unsqueeze(2)), expected)


class Doubling(nn.Module):
    """A network that works on its inputs in place."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x *= 2
        return self.head(self.hidden(x).relu())


def test_a_network_that_works_on_its_inputs_in_place_changes_no_example():
    inputs = torch.randn(2, 4)
    before = inputs.clone()

    pruned = prunelab.prune(Doubling(), inputs, "l1_channel", 0.5, "native")

    assert pruned.model.hidden.out_features == 4
    assert torch.equal(inputs, before)


def test_weights_that_are_not_finite_are_refused_by_name():
    model = perceptron()
    name, parameter = next(iter(model.named_parameters()))
    parameter.data[0] = torch.nan

    with pytest.raises(prunelab.InputError, match=f"{name} of the model has values"):
        prunelab.prune(model, torch.randn(1, 4))


def weight_norm(layer: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(layer)


def spectral_norm(layer: nn.Module) -> None:
    nn.utils.parametrizations.spectral_norm(layer)


def torch_prune(layer: nn.Module) -> None:
    l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize("compute", [weight_norm, spectral_norm, torch_prune])
@pytest.mark.parametrize("method", ["l1_unstructured", "taylor_unstructured", "l1_n_of_m"])
def test_weights_that_are_computed_from_others_are_not_masked(compute, method):
    model = residual_net()
    compute(model.conv2)
    with torch.no_grad():
        model(IMAGES)

    assert "cannot zero the weights of conv2" in refusal(
        model=model, method=method, data=image_batches()
    )

    result = prunelab.prune(
        model, IMAGES, method, 0.5, "native", data=image_batches(), protect=["conv2"]
    )
    assert "conv2.weight" not in result.masks
    assert torch.equal(result.model.conv2.weight, model.conv2.weight)


def test_a_network_of_its_outputs_alone_is_refused_in_plain_words():
    with pytest.raises(prunelab.InputError, match="made by itself, and nothing else"):
        prunelab.prune(nn.Linear(4, 3), torch.randn(1, 4))


# torch has deprecated what people still have.
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_module_of_torchscript_is_refused():
    assert "TorchScript" in refusal(model=torch.jit.trace(residual_net(), IMAGES))


def test_a_refusal_names_methods_that_would_work_and_they_do():
    message = refusal(method="taylor_channel")
    names = re.search(r"work without: (.*) and \d+ more", message)[1].split(", ")

    assert len(names) == 5
    for name in names:
        prunelab.prune(ResidualNet(), IMAGES, name, 0.3, "native")


def test_a_ratio_that_cannot_be_met_is_refused_before_training():
    def train(network: nn.Module) -> None:
        raise AssertionError("trained")

    assert "cannot be met" in refusal(
        method="l1_channel_iterative", train=train, ratio=0.9, protect=["conv1"]
    )


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.62, 0.8])
@pytest.mark.parametrize("budget", ["macs", "params"])
def test_a_small_network_ends_at_the_nearest_ratio_that_whole_channels_allow(ratio, budget):
    model = residual_net()
    result = prunelab.prune(model, IMAGES, "l1_channel", ratio, budget)

    def remaining(widths: dict[str, int]) -> int:
        """MACs or parameters by the sizes of layers, without those of norms."""
        first, third = widths["conv1"], widths["conv3"]
        positions = 64 if budget == "macs" else 1
        return positions * 9 * (first + first * first + first * third) + third * 10

    before = {layer.name: layer.width_before for layer in result.layers}
    after = {layer.name: layer.width for layer in result.layers}
    more = [after | {"conv1": after["conv1"] + 1}, after | {"conv3": after["conv3"] + 1}]
    step = max(remaining(wider) - remaining(after) for wider in more) / remaining(before)
    removed = 1 - remaining(after) / remaining(before)

    assert result.ratio_achieved == pytest.approx(removed, abs=0.02)
    assert abs(result.ratio_achieved - ratio) <= step + 0.02


HALF = [
    name
    for name, method in METHODS.items()
    if method.masks and not method.trains and method.restart is Restart.NONE
]


@pytest.mark.parametrize("name", HALF)
def test_networks_in_bfloat16_lose_as_many_weights(name):
    data = [(images.bfloat16(), labels) for images, labels in image_batches()]
    model = residual_net().bfloat16()

    result = prunelab.prune(model, IMAGES.bfloat16(), name, 0.5, "native", data=data)

    assert result.ratio_achieved == pytest.approx(0.5, abs=0.06)
    assert all(parameter.dtype == torch.bfloat16 for parameter in result.model.parameters())


def test_weights_of_bfloat16_are_ranked_as_the_same_numbers_in_single_precision():
    half = residual_net().bfloat16()
    same_numbers = deepcopy(half).float()

    masks = prunelab.prune(half, IMAGES.bfloat16(), "l1_unstructured", 0.5, "native").masks
    expected = prunelab.prune(same_numbers, IMAGES, "l1_unstructured", 0.5, "native").masks

    assert same(dict(masks), dict(expected))


@pytest.mark.parametrize(
    "arguments",
    [{"method": "snip_unstructured"}, {"method": "grasp_unstructured"}, {"recalibrate": 9}],
    ids=str,
)
def test_norms_of_single_numbers_need_batches_of_two(arguments):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    inputs, labels = torch.randn(9, 4), torch.randint(3, (9,))
    data = DataLoader(TensorDataset(inputs, labels), batch_size=8)

    assert "one example" in refusal(model=model, example_inputs=inputs, data=data, **arguments)
    whole = DataLoader(TensorDataset(inputs, labels), batch_size=8, drop_last=True)
    prunelab.prune(model, inputs, ratio=0.5, budget="native", data=whole, **arguments)


def test_a_single_image_has_enough_values_for_norms():
    data = [(IMAGES[:1], torch.zeros(1, dtype=torch.int64))]
    prunelab.prune(residual_net(), IMAGES, "snip_unstructured", 0.5, "native", data=data)


@pytest.mark.parametrize("method", ["taylor_channel", "fisher_unstructured", "snip_unstructured"])
def test_a_loss_without_a_gradient_is_refused(method):
    def errors(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(1) != labels).float().mean()

    assert "no gradient" in refusal(method=method, data=image_batches(), loss=errors)


class WithAuxiliary(ResidualNet):
    """In training a second head reads the first features, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Conv2d(16, 10, 8)

    def forward(self, images):
        outputs = super().forward(images)
        if self.training:
            return outputs, self.auxiliary(self.conv1(images)).flatten(1)
        return outputs


def test_layers_that_only_training_uses_must_still_fit():
    model = WithAuxiliary().eval()
    before = state(model)

    assert "in training mode the network also uses auxiliary" in refusal(model=model, inplace=True)
    assert same(state(model), before)
    result = prunelab.prune(model, IMAGES, ratio=0.3, protect=["conv1"])
    assert [len(outputs) for outputs in result.model.train()(IMAGES)] == [2, 2]
    prunelab.prune(model, IMAGES, "l1_unstructured")


@pytest.mark.parametrize("method", ["taylor_channel", "taylor_channel_global", "fisher_channel"])
@pytest.mark.parametrize(
    ("factor", "message"), [(torch.nan, "is not a number"), (0.0, "all saliencies are zero")]
)
def test_channels_are_not_ranked_by_what_ranks_nothing(method, factor, message):
    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return factor * F.cross_entropy(outputs, labels)

    with pytest.raises(prunelab.InputError, match=message):
        prunelab.prune(residual_net(), IMAGES, method, data=image_batches(), loss=loss)


class OneNumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(x).relu()).squeeze(1)


def test_cross_entropy_is_not_taken_of_single_numbers():
    inputs = torch.randn(8, 4)
    arguments = {
        "model": OneNumber(),
        "example_inputs": inputs,
        "method": "taylor_channel",
        "budget": "native",
        "data": [(inputs, inputs.sum(1))],
    }

    assert "pass loss=" in refusal(**arguments)
    assert prunelab.prune(**arguments, loss=F.mse_loss).model.hidden.out_features == 4


@pytest.mark.parametrize("method", ["l1_channel", "random_unstructured", "l1_filter"])
def test_what_an_earlier_pruning_zeroed_stays_masked(method):
    first = prunelab.prune(residual_net(), IMAGES, "l1_unstructured", 0.5, "native")
    second = prunelab.prune(first, IMAGES, method, 0.4, "native")

    weights = dict(second.model.named_parameters())
    zeros = {name: int((weights[name] == 0).sum()) for name in first.masks}
    assert {name: int((~mask).sum()) for name, mask in second.masks.items()} == zeros
    assert sum(zeros.values()) > 100

    sgd_epoch(second.model)
    second.apply_masks()
    assert {name: int((weights[name] == 0).sum()) for name in first.masks} == zeros


def test_a_method_that_trains_does_not_lose_earlier_masks():
    masked = prunelab.prune(residual_net(), IMAGES, "l1_unstructured", 0.5, "native")

    with pytest.raises(prunelab.InputError, match="Use this method first"):
        prunelab.prune(masked, IMAGES, "l1_channel_iterative", 0.4, "native", train=sgd_epoch)
