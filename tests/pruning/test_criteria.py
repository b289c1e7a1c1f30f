"""Every criterion through the same properties, and each against an independent computation."""

import itertools
import math
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.networks import DIGITS_SHAPE
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.models.networks import build, prunable_weights
from prunelab.pruning import criteria
from prunelab.pruning.criteria import CRITERIA, CalibrationData, activations
from prunelab.runtime.device import generator


@pytest.fixture(autouse=True)
def one_thread(execution):
    """The networks here are so small that a second thread costs more time than it saves."""
    torch.set_num_threads(1)


class Attention(nn.Module):
    """Embedding, one attention layer, the mean over the tokens, a head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens)
        attended, _ = self.attention(embedded, embedded, embedded, need_weights=False)
        return self.head(self.norm(embedded + attended).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 10)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: build("resnet8", 10, DIGITS_SHAPE),
    "mlp": mlp,
    "attention": Attention,
}
UNSUPPORTED = {("bn_scale", "mlp"), ("bn_scale", "attention"), ("synflow", "attention")}
SUPPORTED = [case for case in itertools.product(CRITERIA, NETWORKS) if case not in UNSUPPORTED]


def make_network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise_norms(NETWORKS[name]())


def randomise_norms(model: nn.Module) -> nn.Module:
    """Move norms off their initial values, which would hide a forgotten bias or scale."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return model


def make_calibration(
    inputs: Tensor, classes: int, seed: int = 0, sizes: tuple[int, int] = (5, 3)
) -> CalibrationData:
    """Two batches of different sizes, the same at every call."""
    labels = torch.randint(classes, (sum(sizes),), generator=generator("labels"))
    batches = list(zip(inputs.split(sizes), labels.split(sizes), strict=True))

    def copies() -> list[tuple[Tensor, Tensor]]:
        return [(batch.clone(), batch_labels.clone()) for batch, batch_labels in batches]

    return CalibrationData(generator("criterion", seed), copies)


def calibration_for(network: str, seed: int = 0) -> CalibrationData:
    if network == "attention":
        inputs = torch.randint(20, (8, 6), generator=generator("tokens"))
    else:
        inputs = torch.randn(8, *DIGITS_SHAPE, generator=generator("images"))
    return make_calibration(inputs, 10, seed)


def all_inputs(calibration: CalibrationData) -> Tensor:
    return torch.cat([inputs for inputs, _ in calibration.batches()])


def filter_sums(score: Tensor) -> Tensor:
    """The score of every filter: [out]."""
    return score.flatten(1).sum(1)


def assert_close(
    saliency: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-5
) -> None:
    assert set(saliency) == set(expected)
    for name, score in expected.items():
        atol = rtol * float(score.abs().max())
        torch.testing.assert_close(saliency[name].double(), score.double(), rtol=rtol, atol=atol)


# --- what all criteria share


@pytest.mark.parametrize(("criterion", "network"), SUPPORTED)
def test_a_criterion_scores_whole_tensors_on_the_cpu(criterion, network):
    model = make_network(network)

    saliency = CRITERIA[criterion](model, calibration_for(network))

    weights = prunable_weights(model)
    assert saliency
    assert list(saliency) == [name for name in weights if name in saliency]
    for name, score in saliency.items():
        assert score.shape == weights[name].shape
        assert score.dtype in (torch.float32, torch.float64)
        assert score.device.type == "cpu"
        assert not score.requires_grad
        assert score.isfinite().all()
        assert score.count_nonzero() > 0


@pytest.mark.parametrize(("criterion", "network"), SUPPORTED)
def test_a_criterion_leaves_the_model_unchanged(criterion, network):
    model = make_network(network).train()
    next(model.children()).eval()  # a mixture of modes
    next(model.parameters()).requires_grad_(False)

    tensors = model.state_dict(keep_vars=True)
    values = deepcopy(model.state_dict())
    identities = {name: (id(tensor), tensor._version) for name, tensor in tensors.items()}
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random_state = torch.get_rng_state()

    CRITERIA[criterion](model, calibration_for(network))

    after = model.state_dict(keep_vars=True)
    assert identities == {name: (id(tensor), tensor._version) for name, tensor in after.items()}
    assert all(torch.equal(values[name], tensor) for name, tensor in after.items())
    assert modes == [module.training for module in model.modules()]
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize(("criterion", "network"), SUPPORTED)
def test_scores_repeat_and_only_the_random_control_depends_on_the_seed(criterion, network):
    first, same_seed, other_seed = (
        CRITERIA[criterion](make_network(network), calibration_for(network, seed))
        for seed in (1, 1, 2)
    )

    assert all(torch.equal(first[name], same_seed[name]) for name in first)
    seed_matters = not all(torch.equal(first[name], other_seed[name]) for name in first)
    assert seed_matters == (criterion == "random")


@pytest.mark.parametrize(("criterion", "network"), sorted(UNSUPPORTED))
def test_an_unsupported_network_is_refused_by_one_line(criterion, network):
    with pytest.raises(InputError, match=f"^{criterion} does not support") as refusal:
        CRITERIA[criterion](make_network(network), calibration_for(network))

    assert len(refusal.value.problems) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("criterion", "network"), SUPPORTED)
def test_scores_on_a_gpu_agree_with_those_on_the_cpu(criterion, network):
    calibration = calibration_for(network)
    on_gpu = CalibrationData(
        generator("criterion", 0),
        lambda: [(inputs.cuda(), labels.cuda()) for inputs, labels in calibration.batches()],
    )
    in_double = CalibrationData(
        calibration.generator,
        lambda: [(inputs.double(), labels) for inputs, labels in calibration.batches()],
    )

    if network == "attention":  # its inputs are tokens
        expected = CRITERIA[criterion](make_network(network), calibration)
    else:
        expected = CRITERIA[criterion](make_network(network).double(), in_double)
    saliency = CRITERIA[criterion](make_network(network).cuda(), on_gpu)

    for name, score in expected.items():
        assert saliency[name].device.type == "cpu"
        torch.testing.assert_close(
            saliency[name].double(),
            score.double(),
            rtol=1e-2,
            atol=1e-4 * float(score.abs().max()),
        )


@pytest.mark.parametrize(
    "criterion",
    ["taylor", "taylor_filter", "fisher", "snip", "grasp", "synflow", "wanda", "bn_scale"],
)
def test_an_unused_layer_is_absent(criterion):
    model = make_network("resnet8")
    model.unused = nn.Linear(3, 3)

    saliency = CRITERIA[criterion](model, calibration_for("resnet8"))

    assert "unused.weight" not in saliency


@pytest.mark.parametrize("criterion", ["bn_scale", "fpgm", "taylor_filter"])
def test_the_score_of_a_filter_is_distributed_evenly_over_its_weights(criterion):
    saliency = CRITERIA[criterion](make_network("resnet8"), calibration_for("resnet8"))

    for score in saliency.values():
        per_filter = score.flatten(1)[:, 0].view(-1, *[1] * (score.dim() - 1))
        assert torch.equal(score, per_filter.expand(score.shape))


# --- gradients: on a network so small that every weight can be varied by itself


def tiny_network() -> nn.Module:
    """Smooth, in float64, with 8 + 24 weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = (nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
        return randomise_norms(nn.Sequential(*layers)).double().eval()


def tiny_calibration() -> CalibrationData:
    inputs = torch.randn(8, 1, 3, 3, generator=generator("tiny"), dtype=torch.float64)
    return make_calibration(inputs, 3)


def mean_loss(
    network: Callable[[Tensor], Tensor], calibration: CalibrationData, temperature: float = 1.0
) -> Tensor:
    """The mean over the 8 examples."""
    losses = []
    for inputs, labels in calibration.batches():
        logits = network(inputs) / temperature
        losses.append(F.cross_entropy(logits, labels, reduction="sum"))
    return torch.stack(losses).sum() / 8


def slope(values: Tensor, value: Callable[[], Tensor], step: float = 1e-5) -> float:
    """The derivative of value() by a factor on these weights, by central differences."""
    original = values.clone()

    values.copy_(original * (1 + step))
    above = value().item()
    values.copy_(original * (1 - step))
    below = value().item()

    values.copy_(original)
    return (above - below) / (2 * step)


def slopes(model: nn.Module, value: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The derivative of value() by a factor on every single weight."""
    derivatives = {}
    for name, weight in prunable_weights(model).items():
        derivatives[name] = torch.zeros_like(weight.detach())
        for index in np.ndindex(*weight.shape):
            derivatives[name][index] = slope(weight.data[index], value)
    return derivatives


def test_taylor_is_the_change_of_the_loss_to_first_order():
    model, calibration = tiny_network(), tiny_calibration()

    saliency = criteria.taylor(model, calibration)

    changes = slopes(model, lambda: mean_loss(model, calibration))
    assert_close(saliency, {name: change.abs() for name, change in changes.items()})


def test_snip_is_the_share_of_sensitivity_under_batch_statistics():
    model, calibration = tiny_network(), tiny_calibration()

    saliency = criteria.snip(model, calibration)

    changes = slopes(model, lambda: mean_loss(model.train(), calibration))
    total = sum(change.abs().sum() for change in changes.values())
    assert_close(saliency, {name: change.abs() / total for name, change in changes.items()})
    assert float(sum(score.sum() for score in saliency.values())) == pytest.approx(1)


def test_taylor_filter_is_the_squared_change_when_a_filter_shrinks():
    model, calibration = tiny_network(), tiny_calibration()

    saliency = criteria.taylor_filter(model, calibration)

    for name, weight in prunable_weights(model).items():
        for index in range(len(weight)):
            squares = []
            for inputs, labels in calibration.batches():
                change = slope(
                    weight.data[index],
                    lambda inputs=inputs, labels=labels: F.cross_entropy(model(inputs), labels),
                )
                squares.append(change**2)

            score = float(saliency[name][index].sum())
            assert score == pytest.approx(sum(squares) / 2, rel=1e-4, abs=1e-12)


def test_fisher_averages_squared_gradients_of_single_examples():
    model, calibration = tiny_network(), tiny_calibration()

    saliency = criteria.fisher(tiny_network(), calibration)

    weights = prunable_weights(model)
    expected = {name: torch.zeros_like(weight.detach()) for name, weight in weights.items()}
    for inputs, labels in calibration.batches():
        for index in range(len(labels)):
            model.zero_grad()
            logits = model(inputs[index : index + 1])
            F.cross_entropy(logits, labels[index : index + 1]).backward()
            for name, weight in weights.items():
                expected[name] += 0.5 * weight.detach() ** 2 * weight.grad**2 / 8
    assert_close(saliency, expected, rtol=1e-9)


def test_grasp_is_the_weight_times_the_hessian_times_the_gradient():
    model, calibration = tiny_network(), tiny_calibration()
    weights = {name: weight.detach() for name, weight in prunable_weights(model).items()}
    flat_weights = torch.cat([weight.flatten() for weight in weights.values()])

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([weight.numel() for weight in weights.values()])
        tensors = {
            name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)
        }

        def network(inputs: Tensor) -> Tensor:
            return torch.func.functional_call(model.train(), tensors, (inputs,))

        return mean_loss(network, calibration, temperature=200)

    saliency = criteria.grasp(tiny_network(), calibration)

    hessian = torch.autograd.functional.hessian(loss, flat_weights)
    gradient = torch.autograd.functional.jacobian(loss, flat_weights)
    scores = torch.cat([saliency[name].flatten() for name in weights])
    torch.testing.assert_close(
        scores,
        flat_weights * (hessian @ gradient),
        rtol=1e-7,
        atol=1e-9 * float(scores.abs().max()),
    )


def test_grasp_is_high_where_the_gradient_would_shrink_without_the_weight():
    model, calibration = tiny_network(), tiny_calibration()
    leaves = list(prunable_weights(model).values())

    def squared_gradient_norm() -> Tensor:
        loss = mean_loss(model.train(), calibration, temperature=200)
        return sum(gradient.square().sum() for gradient in torch.autograd.grad(loss, leaves))

    saliency = criteria.grasp(model, calibration)

    # The slope by a factor is positive if the norm shrinks with the weight.
    changes = slopes(model, squared_gradient_norm)
    assert_close(saliency, {name: change / 2 for name, change in changes.items()}, rtol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_grasp_supports_networks_with_hard_activations(name):
    model = build(name, 10, DIGITS_SHAPE)

    saliency = criteria.grasp(model, calibration_for(name))

    assert saliency.keys() == prunable_weights(model).keys()
    assert all(score.isfinite().all() for score in saliency.values())


# --- synaptic flow


def test_synflow_is_the_share_of_all_path_products_through_a_weight():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2)
        )

    saliency = criteria.synflow(model, make_calibration(torch.randn(8, 3), 2))

    first, second, third = (
        model[index].weight.detach().abs().double().numpy() for index in (0, 2, 4)
    )
    through = [np.zeros_like(layer) for layer in (first, second, third)]
    for i, j, k, o in itertools.product(range(3), range(4), range(2), range(2)):
        product = first[j, i] * second[k, j] * third[o, k]
        through[0][j, i] += product
        through[1][k, j] += product
        through[2][o, k] += product

    expected = {}
    for index, paths in zip((0, 2, 4), through, strict=True):
        expected[f"{index}.weight"] = torch.from_numpy(paths / through[0].sum())
    assert_close(saliency, expected, rtol=1e-12)


def test_all_synaptic_flow_passes_through_each_layer_of_a_chain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(6, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
        model = randomise_norms(nn.Sequential(*layers, nn.Linear(16, 3)))

    saliency = criteria.synflow(model, calibration_for("images"))

    shares = {name: float(score.sum()) for name, score in saliency.items()}
    assert len(shares) == 3
    assert shares == pytest.approx(dict.fromkeys(shares, 1.0))


def test_shortcuts_lead_synaptic_flow_past_the_layers_that_they_bridge():
    saliency = criteria.synflow(make_network("resnet8"), calibration_for("resnet8"))

    shares = {name: float(score.sum()) for name, score in saliency.items()}
    assert shares["conv1.weight"] == pytest.approx(1)
    assert shares["linear.weight"] == pytest.approx(1)
    assert all(0 < share < 1 for name, share in shares.items() if name.startswith("layer"))


def test_synflow_is_not_limited_by_activations_that_saturate():
    def network(activation: nn.Module) -> nn.Module:
        convolutions = (nn.Conv2d(1, 8, 3), activation, nn.Conv2d(8, 8, 3), activation)
        model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(128, 2))
        for parameter in model.parameters():
            nn.init.constant_(parameter, 3)
        return model

    calibration = calibration_for("images")

    plain = criteria.synflow(network(nn.ReLU()), calibration)
    saturating = criteria.synflow(network(nn.ReLU6()), calibration)

    assert_close(saturating, plain, rtol=1e-12)


def test_synflow_leaves_out_layers_that_only_set_gates():
    model = build("resnet26_dse", 10, DIGITS_SHAPE)

    saliency = criteria.synflow(model, calibration_for("resnet26_dse"))

    gates = set()
    for name in prunable_weights(model):
        layer = name.split(".")[-2]
        if name != "fc.weight" and (".se." in name or "fc" in layer):
            gates.add(name)
    assert gates
    assert prunable_weights(model).keys() - saliency.keys() == gates


def test_synflow_refuses_layer_norm():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 10))

    with pytest.raises(InputError, match="Layer norm is not supported"):
        criteria.synflow(model, calibration_for("mlp"))


def test_synflow_refuses_a_network_without_a_path():
    model = mlp()
    nn.init.zeros_(model[1].weight)

    with pytest.raises(InputError, match="no path"):
        criteria.synflow(model, calibration_for("mlp"))


# --- magnitudes


def test_l1_is_the_magnitude_and_l2_its_square():
    model, calibration = make_network("resnet8"), calibration_for("resnet8")
    weights = {name: weight.detach() for name, weight in prunable_weights(model).items()}

    l1 = criteria.l1(model, calibration)
    l2 = criteria.l2(model, calibration)

    assert_close(l1, {name: weight.abs() for name, weight in weights.items()}, rtol=0)
    assert_close(l2, {name: weight * weight for name, weight in weights.items()}, rtol=0)


def test_lamp_is_the_square_over_the_sum_of_squares_that_are_no_smaller():
    model = make_network("mlp")

    saliency = criteria.lamp(model, calibration_for("mlp"))

    for name, score in saliency.items():
        weights = prunable_weights(model)[name].detach().double().flatten().tolist()
        assert len({abs(weight) for weight in weights}) == len(weights)  # no ties

        expected = []
        for weight in weights:
            no_smaller = sum(other**2 for other in weights if abs(other) >= abs(weight))
            expected.append(weight**2 / no_smaller)
        assert score.flatten().tolist() == pytest.approx(expected)


def test_lamp_scores_a_layer_of_zeros_zero():
    model = make_network("mlp")
    nn.init.zeros_(model[1].weight)

    saliency = criteria.lamp(model, calibration_for("mlp"))

    assert not saliency["1.weight"].any()


def test_fpgm_sums_the_distances_to_all_other_filters():
    model = make_network("resnet8")

    saliency = criteria.fpgm(model, calibration_for("resnet8"))

    for name in ("conv1.weight", "layer2.0.conv1.weight", "linear.weight"):
        filters = prunable_weights(model)[name].detach().double().flatten(1).tolist()
        expected = [sum(math.dist(a, b) for b in filters) for a in filters]
        assert filter_sums(saliency[name]).tolist() == pytest.approx(expected)


# --- scales of norms


class NormsOutOfOrder(nn.Module):
    """Norms that the order of modules would assign to the wrong layers.

    One norm follows an activation in place, one is unused, and one has no scales.
    """

    def __init__(self):
        super().__init__()
        self.norm_of_b = nn.BatchNorm2d(4)
        self.a = nn.Conv2d(1, 4, 3)
        self.norm_of_a = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3)
        self.c = nn.Conv2d(4, 4, 3)
        self.behind_activation = nn.BatchNorm2d(4)
        self.d = nn.Conv2d(4, 4, 1)
        self.unused = nn.BatchNorm2d(4)
        self.e = nn.Conv2d(4, 4, 1)
        self.without_scale = nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_of_a(self.a(x)))
        x = F.relu(self.norm_of_b(self.b(x)))
        x = self.behind_activation(F.relu(self.c(x), inplace=True))
        return self.without_scale(self.e(self.d(x))).mean((2, 3))


def test_bn_scale_finds_the_norm_that_takes_in_the_output_of_a_layer():
    model = randomise_norms(NormsOutOfOrder())

    saliency = criteria.bn_scale(model, calibration_for("images"))

    assert set(saliency) == {"a.weight", "b.weight"}
    for name, norm in (("a.weight", model.norm_of_a), ("b.weight", model.norm_of_b)):
        scales = norm.weight.detach().abs()
        torch.testing.assert_close(filter_sums(saliency[name]).float(), scales)


def test_bn_scale_leaves_out_the_head():
    model = make_network("resnet8")

    saliency = criteria.bn_scale(model, calibration_for("resnet8"))

    assert prunable_weights(model).keys() - saliency.keys() == {"linear.weight"}


# --- norms of inputs


def test_wanda_multiplies_by_the_norm_of_the_inputs_of_a_linear_layer():
    model, calibration = make_network("mlp").eval(), calibration_for("mlp")

    saliency = criteria.wanda(model, calibration)

    images = all_inputs(calibration)
    with torch.no_grad():
        received = {"1.weight": model[:1](images).numpy(), "4.weight": model[:4](images).numpy()}
    for name, inputs in received.items():
        weight = prunable_weights(model)[name].detach().numpy()
        for row, column in np.ndindex(*weight.shape):
            norm = math.sqrt(sum(float(value) ** 2 for value in inputs[:, column]))
            score = float(saliency[name][row, column])
            assert score == pytest.approx(abs(weight[row, column]) * norm, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2},
        {"groups": 2},
        {"groups": 4, "padding": 1, "padding_mode": "reflect"},
        {"groups": 4, "stride": 3, "padding": (2, 0)},
    ],
    ids=str,
)
def test_wanda_multiplies_by_the_norm_of_the_inputs_under_a_kernel_element(options):
    conv = nn.Conv2d(4, 8, 3, **options)
    images = torch.randn(8, 4, 7, 6, generator=generator("conv"))

    saliency = criteria.wanda(nn.Sequential(conv), make_calibration(images, 2))

    stride, dilation = conv.stride[0], conv.dilation[0]
    rows, columns = (2, 2) if options.get("padding") == "same" else conv.padding
    mode = {"zeros": "constant"}.get(conv.padding_mode, conv.padding_mode)
    padding = [(0, 0), (0, 0), (rows, rows), (columns, columns)]
    padded = np.pad(images.double().numpy(), padding, mode=mode)
    height, width = conv(images).shape[2:]
    inputs_per_group, outputs_per_group = 4 // conv.groups, 8 // conv.groups

    for out, channel, row, column in np.ndindex(*conv.weight.shape):
        source = out // outputs_per_group * inputs_per_group + channel
        total = 0.0
        for y, x in np.ndindex(height, width):
            values = padded[:, source, y * stride + row * dilation, x * stride + column * dilation]
            total += (values**2).sum()

        weight = conv.weight[out, channel, row, column].item()
        score = float(saliency["0.weight"][out, channel, row, column])
        assert score == pytest.approx(abs(weight) * math.sqrt(total), rel=1e-5)


def test_wanda_scores_the_projections_of_attention(monkeypatch):
    model, calibration = make_network("attention"), calibration_for("attention")
    attention = model.attention
    extra = {"attention.in_proj_weight": attention.in_proj_weight}
    monkeypatch.setattr(
        activations, "prunable_weights", lambda model: prunable_weights(model) | extra
    )

    saliency = criteria.wanda(model, calibration)

    embedded = model.embedding(all_inputs(calibration)).detach()  # [B, T, 8]
    in_weight = attention.in_proj_weight.detach()
    in_expected = in_weight.abs() * embedded.flatten(0, 1).norm(dim=0)
    torch.testing.assert_close(saliency["attention.in_proj_weight"], in_expected)

    projected = []  # queries, keys and values: [B, heads, T, 4]
    in_bias = attention.in_proj_bias.detach()
    for weight, bias in zip(in_weight.chunk(3), in_bias.chunk(3), strict=True):
        by_head = (embedded @ weight.T + bias).unflatten(2, (2, 4))
        projected.append(by_head.transpose(1, 2))
    queries, keys, values = projected

    attended = (queries @ keys.transpose(2, 3) / 2).softmax(3) @ values
    received = attended.transpose(1, 2).flatten(2)  # [B, T, 8]
    out_weight = attention.out_proj.weight.detach()
    out_expected = out_weight.abs() * received.flatten(0, 1).norm(dim=0)
    torch.testing.assert_close(saliency["attention.out_proj.weight"], out_expected)


class NormedPositions(nn.Module):
    """A batch norm that scales positions behind a linear layer, and one that scales its outputs."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(6, 8)
        self.positions = nn.BatchNorm1d(positions)
        self.features = nn.Linear(8, 12)
        self.norm = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.positions(self.tokens(x)).relu()
        return self.head(self.norm(self.features(tokens.mean(1))).relu())


@pytest.mark.parametrize("positions", [5, 8])
def test_bn_scale_takes_no_scale_of_a_position_for_that_of_an_output(positions):
    model = NormedPositions(positions).eval()
    calibration = make_calibration(torch.randn(8, positions, 6), 10)

    saliency = criteria.bn_scale(model, calibration)

    assert set(saliency) == {"features.weight"}
    sums = saliency["features.weight"].sum(1)
    torch.testing.assert_close(sums, model.norm.weight.detach().abs().double())
