"""Every criterion through the same properties, and each against an independent small computation."""

import itertools
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.networks import DIGITS_SHAPE
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.models.catalogue import build, prunable_weights
from prunelab.pruning import criteria
from prunelab.pruning.criteria import CRITERIA, CalibrationData, activations
from prunelab.runtime.device import generator


@pytest.fixture(autouse=True)
def one_thread(execution):
    """The networks here are so small that a second thread costs more time than it spares."""
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


NETWORKS = {
    "resnet8": lambda: build("resnet8", 10, DIGITS_SHAPE),
    "mlp": mlp,
    "attention": Attention,
}
REFUSED = {("bn_scale", "mlp"), ("bn_scale", "attention"), ("synflow", "attention")}


def network(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shaken(NETWORKS[name]()).to(dtype)


def shaken(model: nn.Module) -> nn.Module:
    """No tensor at its initial value, where a forgotten bias or scale would not show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return model


def evidence(
    inputs: Tensor, classes: int, seed: int = 0, sizes: tuple[int, int] = (5, 3)
) -> CalibrationData:
    """Two batches of different sizes, always the same."""
    labels = torch.randint(classes, (sum(sizes),), generator=generator("labels"))
    batches = list(zip(inputs.split(sizes), labels.split(sizes), strict=True))
    return CalibrationData(
        generator("criterion", seed),
        lambda: [(one.clone(), label.clone()) for one, label in batches],
    )


def evidence_for(name: str, seed: int = 0) -> CalibrationData:
    if name == "attention":
        return evidence(torch.randint(20, (8, 6), generator=generator("tokens")), 10, seed)
    return evidence(torch.randn(8, *DIGITS_SHAPE, generator=generator("images")), 10, seed)


CASES = [(criterion, name) for criterion in CRITERIA for name in NETWORKS]


@pytest.mark.parametrize(("criterion", "name"), [case for case in CASES if case not in REFUSED])
def test_every_criterion_judges_whole_tensors_and_leaves_the_model_alone(criterion, name):
    model = network(name).train()
    next(model.children()).eval()  # a mixture of modes, which must come back
    next(model.parameters()).requires_grad_(False)
    identities = {
        key: (id(tensor), tensor._version)
        for key, tensor in model.state_dict(keep_vars=True).items()
    }
    before, modes = deepcopy(model.state_dict()), [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random_state = torch.get_rng_state()

    saliency = CRITERIA[criterion](model, evidence_for(name))

    weights = prunable_weights(model)
    assert saliency
    assert list(saliency) == [key for key in weights if key in saliency]
    for key, score in saliency.items():
        assert score.shape == weights[key].shape
        assert score.dtype in (torch.float32, torch.float64)
        assert score.device.type == "cpu"
        assert not score.requires_grad
        assert score.isfinite().all()
        assert score.count_nonzero() > 0
    after = model.state_dict(keep_vars=True)
    assert identities == {key: (id(tensor), tensor._version) for key, tensor in after.items()}
    assert all(torch.equal(before[key], value) for key, value in after.items())
    assert modes == [module.training for module in model.modules()]
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize(("criterion", "name"), [case for case in CASES if case not in REFUSED])
def test_the_same_evidence_gives_the_same_saliency_and_only_the_control_depends_on_the_seed(
    criterion, name
):
    first, same, other = (
        CRITERIA[criterion](network(name), evidence_for(name, seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert all(torch.equal(first[key], other[key]) for key in first) == (criterion != "random")


@pytest.mark.parametrize(("criterion", "name"), sorted(REFUSED))
def test_a_criterion_that_cannot_judge_a_network_says_so(criterion, name):
    with pytest.raises(InputError, match=f"^{criterion} ") as refusal:
        CRITERIA[criterion](network(name), evidence_for(name))
    assert len(refusal.value.problems) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("criterion", "name"), [case for case in CASES if case not in REFUSED])
def test_a_gpu_judges_as_the_cpu_does(criterion, name):
    near = evidence_for(name)
    far = CalibrationData(
        generator("criterion", 0), lambda: [(x.cuda(), y.cuda()) for x, y in near.batches()]
    )
    expected = CRITERIA[criterion](
        network(name).double() if name != "attention" else network(name), _as(name, near)
    )
    got = CRITERIA[criterion](network(name).cuda(), far)
    for key, score in expected.items():
        assert got[key].device.type == "cpu"
        torch.testing.assert_close(
            got[key].double(), score.double(), rtol=1e-2, atol=1e-4 * float(score.abs().max())
        )


def _as(name: str, shown: CalibrationData) -> CalibrationData:
    if name == "attention":
        return shown
    return CalibrationData(
        shown.generator, lambda: [(inputs.double(), labels) for inputs, labels in shown.batches()]
    )


# --- a net so small that every weight can be varied by itself


def tiny() -> nn.Module:
    """Smooth, in float64, 8 + 24 weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = (nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
        return shaken(nn.Sequential(*layers)).double().eval()


def tiny_evidence() -> CalibrationData:
    return evidence(torch.randn(8, 1, 3, 3, generator=generator("tiny"), dtype=torch.float64), 3)


def mean_loss(model: nn.Module, shown: CalibrationData, temperature: float = 1.0) -> Tensor:
    losses = [
        F.cross_entropy(model(inputs) / temperature, labels, reduction="sum")
        for inputs, labels in shown.batches()
    ]
    return torch.stack(losses).sum() / 8


def slopes(model: nn.Module, value, step: float = 1e-5) -> dict[str, Tensor]:
    """The derivative of value() by the factor that multiplies each single weight, by central differences."""
    found = {}
    for name, weight in prunable_weights(model).items():
        found[name] = torch.zeros_like(weight.detach())
        for index in np.ndindex(*weight.shape):
            original, ends = weight.data[index].item(), []
            for factor in (1 + step, 1 - step):
                weight.data[index] = original * factor
                ends.append(value().item())
            weight.data[index] = original
            found[name][index] = (ends[0] - ends[1]) / (2 * step)
    return found


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-5) -> None:
    assert set(got) == set(expected)
    for name, score in expected.items():
        atol = rtol * float(score.abs().max())
        torch.testing.assert_close(got[name].double(), score.double(), rtol=rtol, atol=atol)


def test_taylor_is_the_change_of_the_loss_to_first_order():
    model, shown = tiny(), tiny_evidence()
    expected = slopes(model, lambda: mean_loss(model, shown))
    assert_close(
        criteria.taylor(model, shown), {name: slope.abs() for name, slope in expected.items()}
    )


def test_snip_is_each_connections_share_of_the_sensitivity_under_batch_statistics():
    model, shown = tiny(), tiny_evidence()
    got = criteria.snip(model, shown)
    expected = {
        name: slope.abs()
        for name, slope in slopes(model, lambda: mean_loss(model.train(), shown)).items()
    }
    total = sum(slope.sum() for slope in expected.values())
    assert_close(got, {name: slope / total for name, slope in expected.items()})
    assert float(sum(score.sum() for score in got.values())) == pytest.approx(1)


def test_taylor_filter_is_the_squared_change_when_a_whole_filter_shrinks():
    model, shown = tiny(), tiny_evidence()
    got = criteria.taylor_filter(model, shown)
    step = 1e-5
    for name, weight in prunable_weights(model).items():
        for index in range(len(weight)):
            original, squares = weight.data[index].clone(), []
            for inputs, labels in shown.batches():
                ends = []
                for factor in (1 + step, 1 - step):
                    weight.data[index] = original * factor
                    ends.append(F.cross_entropy(model(inputs), labels).item())
                weight.data[index] = original
                squares.append(((ends[0] - ends[1]) / (2 * step)) ** 2)
            assert float(got[name][index].sum()) == pytest.approx(
                sum(squares) / 2, rel=1e-4, abs=1e-12
            )
            assert len(got[name][index].unique()) == 1


def test_fisher_averages_squared_gradients_of_single_examples():
    model, shown = tiny(), tiny_evidence()
    expected = {name: torch.zeros_like(weight) for name, weight in prunable_weights(model).items()}
    for inputs, labels in shown.batches():
        for index in range(len(labels)):
            model.zero_grad()
            F.cross_entropy(model(inputs[index : index + 1]), labels[index : index + 1]).backward()
            for name, weight in prunable_weights(model).items():
                expected[name] += 0.5 * weight.detach() ** 2 * weight.grad**2 / 8
    got = criteria.fisher(tiny(), shown)
    assert_close(got, {name: score.detach() for name, score in expected.items()}, rtol=1e-9)


def test_grasp_is_the_weight_times_the_explicit_hessian_times_the_gradient():
    model, shown = tiny(), tiny_evidence()
    weights = {name: weight.detach() for name, weight in prunable_weights(model).items()}

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([weight.numel() for weight in weights.values()])
        tensors = {
            name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)
        }
        return mean_loss(
            lambda inputs: torch.func.functional_call(model.train(), tensors, (inputs,)), shown, 200
        )

    flat = torch.cat([weight.flatten() for weight in weights.values()])
    hessian = torch.autograd.functional.hessian(loss, flat)
    gradient = torch.autograd.functional.jacobian(loss, flat)
    got = criteria.grasp(tiny(), shown)
    found = torch.cat([got[name].flatten() for name in weights])
    torch.testing.assert_close(
        found, flat * (hessian @ gradient), rtol=1e-7, atol=1e-9 * float(found.abs().max())
    )


def test_grasp_keeps_the_weights_without_which_the_gradient_would_shrink():
    model, shown = tiny(), tiny_evidence()
    got = criteria.grasp(model, shown)
    leaves = list(prunable_weights(model).values())

    def squared_norm() -> Tensor:
        gradients = torch.autograd.grad(mean_loss(model.train(), shown, 200), leaves)
        return sum(gradient.square().sum() for gradient in gradients)

    # The slope by a weight's own factor: positive where the norm shrinks as the weight does.
    assert_close(
        got, {name: slope / 2 for name, slope in slopes(model, squared_norm).items()}, rtol=1e-4
    )


# --- synaptic flow


def test_synflow_is_the_share_of_all_path_products_through_a_weight():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2)
        )
    first, second, third = (
        model[index].weight.detach().abs().double().numpy() for index in (0, 2, 4)
    )
    through = [np.zeros_like(layer) for layer in (first, second, third)]
    for i, j, k, o in itertools.product(range(3), range(4), range(2), range(2)):
        product = first[j, i] * second[k, j] * third[o, k]
        through[0][j, i] += product
        through[1][k, j] += product
        through[2][o, k] += product
    expected = {
        f"{index}.weight": paths / through[0].sum()
        for index, paths in zip((0, 2, 4), through, strict=True)
    }
    got = criteria.synflow(model, evidence(torch.randn(8, 3), 2))
    assert_close(
        got, {name: torch.from_numpy(paths) for name, paths in expected.items()}, rtol=1e-12
    )


def test_all_synaptic_flow_passes_every_layer_of_a_chain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolutions = (
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 4, 2),
        )
        model = shaken(
            nn.Sequential(
                *convolutions, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
            )
        )
    got = criteria.synflow(model, evidence_for("images"))
    assert len(got) == 3
    assert {name: float(score.sum()) for name, score in got.items()} == pytest.approx(
        dict.fromkeys(got, 1.0)
    )
    # ... and through the first and the last layer of a network with shortcuts, but not all through those between.
    got = criteria.synflow(network("resnet8"), evidence_for("resnet8"))
    shares = {name: float(score.sum()) for name, score in got.items()}
    assert shares["conv1.weight"] == pytest.approx(1)
    assert shares["linear.weight"] == pytest.approx(1)
    assert all(0 < share < 1 for name, share in shares.items() if name.startswith("layer"))


def test_synflow_is_not_stopped_by_activations_that_saturate():
    plain, saturating = (
        nn.Sequential(
            nn.Conv2d(1, 8, 3),
            activation,
            nn.Conv2d(8, 8, 3),
            activation,
            nn.Flatten(),
            nn.Linear(128, 2),
        )
        for activation in (nn.ReLU(), nn.ReLU6())
    )
    for parameter in plain.parameters():
        nn.init.constant_(parameter, 3)
    saturating.load_state_dict(plain.state_dict())
    shown = evidence_for("images")
    assert_close(criteria.synflow(saturating, shown), criteria.synflow(plain, shown), rtol=1e-12)


def test_synflow_refuses_what_is_no_sum_of_path_products():
    normed = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 10))
    with pytest.raises(InputError, match="Layer norm is not supported"):
        criteria.synflow(normed, evidence_for("mlp"))
    severed = mlp()
    nn.init.zeros_(severed[1].weight)
    with pytest.raises(InputError, match="no path"):
        criteria.synflow(severed, evidence_for("mlp"))


# --- magnitudes


def test_synflow_says_nothing_of_gates():
    model = build("resnet26_dse", 10, DIGITS_SHAPE)
    judged = CRITERIA["synflow"](model, evidence_for("resnet26_dse"))
    gates = {
        name for name in prunable_weights(model) if ".se." in name or "fc" in name.split(".")[-2]
    } - {"fc.weight"}
    assert gates
    assert prunable_weights(model).keys() - judged.keys() == gates


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_grasp_judges_networks_with_hard_activations(name):
    model = build(name, 10, DIGITS_SHAPE)
    saliency = CRITERIA["grasp"](model, evidence_for(name))
    assert saliency.keys() == prunable_weights(model).keys()
    assert all(score.isfinite().all() for score in saliency.values())


def test_lamp_is_the_weights_square_over_that_of_all_no_smaller():
    model = network("mlp")
    for name, score in criteria.lamp(model, evidence_for("mlp")).items():
        values = prunable_weights(model)[name].detach().double().flatten().tolist()
        assert len({abs(value) for value in values}) == len(
            values
        )  # no ties, so that the definition is plain
        expected = [
            value**2 / sum(other**2 for other in values if abs(other) >= abs(value))
            for value in values
        ]
        assert score.flatten().tolist() == pytest.approx(expected)


def test_lamp_of_a_layer_of_zeros_is_zero():
    model = network("mlp")
    nn.init.zeros_(model[1].weight)
    assert not criteria.lamp(model, evidence_for("mlp"))["1.weight"].any()


def test_fpgm_sums_the_distances_to_all_other_filters():
    model = network("resnet8")
    got = criteria.fpgm(model, evidence_for("resnet8"))
    for name in ("conv1.weight", "layer2.0.conv1.weight", "linear.weight"):
        filters = prunable_weights(model)[name].detach().double().flatten(1).tolist()
        expected = [sum(math.dist(one, other) for other in filters) for one in filters]
        assert got[name].flatten(1).sum(1).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["bn_scale", "fpgm", "taylor_filter"])
def test_scores_of_whole_filters_are_spread_evenly(name):
    for score in CRITERIA[name](network("resnet8"), evidence_for("resnet8")).values():
        assert torch.equal(
            score, score.flatten(1)[:, 0].view(-1, *[1] * (score.dim() - 1)).expand(score.shape)
        )


# --- norms


class Crooked(nn.Module):
    """Norms that module order would assign wrongly, one of them behind an activation in place, and one unused."""

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


def test_bn_scale_finds_the_norm_that_takes_in_a_convolutions_output():
    model = shaken(Crooked())
    got = criteria.bn_scale(model, evidence_for("images"))
    assert set(got) == {"a.weight", "b.weight"}
    for name, norm in (("a", model.norm_of_a), ("b", model.norm_of_b)):
        torch.testing.assert_close(
            got[f"{name}.weight"].flatten(1).sum(1).float(), norm.weight.detach().abs()
        )


def test_bn_scale_leaves_out_the_head():
    got = criteria.bn_scale(network("resnet8"), evidence_for("resnet8"))
    assert set(prunable_weights(network("resnet8"))) - set(got) == {"linear.weight"}


# --- inputs


def test_wanda_multiplies_by_the_norm_of_the_inputs_of_linear_layers():
    model, shown = network("mlp").eval(), evidence_for("mlp")
    got = criteria.wanda(model, shown)
    images = torch.cat([inputs for inputs, _ in shown.batches()])
    with torch.no_grad():
        received = {"1.weight": model[:1](images).numpy(), "4.weight": model[:4](images).numpy()}
    for name, inputs in received.items():
        weight = prunable_weights(model)[name].detach().numpy()
        for row, column in np.ndindex(*weight.shape):
            expected = abs(weight[row, column]) * math.sqrt(
                sum(float(value) ** 2 for value in inputs[:, column])
            )
            assert float(got[name][row, column]) == pytest.approx(expected, rel=1e-5)


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
def test_wanda_multiplies_by_the_norm_of_the_inputs_under_each_element_of_a_kernel(options):
    conv = nn.Conv2d(4, 8, 3, **options)
    images = torch.randn(8, 4, 7, 6, generator=generator("conv"))
    got = criteria.wanda(nn.Sequential(conv), evidence(images, 2))["0.weight"]
    stride, dilation = conv.stride[0], conv.dilation[0]
    pad = (2, 2) if options.get("padding") == "same" else conv.padding
    mode = {"zeros": "constant"}.get(conv.padding_mode, conv.padding_mode)
    padded = np.pad(
        images.double().numpy(), [(0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])], mode=mode
    )
    height, width = conv(images).shape[2:]
    per_group = (4 // conv.groups, 8 // conv.groups)
    for out, channel, row, column in np.ndindex(*conv.weight.shape):
        source = out // per_group[1] * per_group[0] + channel
        total = sum(
            (
                padded[:, source, y * stride + row * dilation, x * stride + column * dilation] ** 2
            ).sum()
            for y, x in np.ndindex(height, width)
        )
        expected = abs(conv.weight[out, channel, row, column].item()) * math.sqrt(total)
        assert float(got[out, channel, row, column]) == pytest.approx(expected, rel=1e-5)


def test_wanda_sees_into_attention(monkeypatch):
    model, shown = network("attention"), evidence_for("attention")
    attention = model.attention
    key = "attention.in_proj_weight"
    monkeypatch.setattr(
        activations,
        "prunable_weights",
        lambda model: prunable_weights(model) | {key: attention.in_proj_weight},
    )
    got = criteria.wanda(model, shown)
    embedded = model.embedding(
        torch.cat([tokens for tokens, _ in shown.batches()])
    ).detach()  # [B, T, 8]
    weight = attention.in_proj_weight.detach()
    torch.testing.assert_close(got[key], weight.abs() * embedded.flatten(0, 1).norm(dim=0))
    queries, keys, values = (
        (embedded @ part.T + bias).unflatten(2, (2, 4)).transpose(1, 2)  # [B, heads, T, 4]
        for part, bias in zip(
            weight.chunk(3), attention.in_proj_bias.detach().chunk(3), strict=True
        )
    )
    attended = ((queries @ keys.transpose(2, 3) / 2).softmax(3) @ values).transpose(1, 2).flatten(2)
    expected = attention.out_proj.weight.detach().abs() * attended.flatten(0, 1).norm(dim=0)
    torch.testing.assert_close(got["attention.out_proj.weight"], expected)


def test_layers_that_the_loss_does_not_depend_on_are_absent():
    model = network("resnet8")
    model.spare = nn.Linear(3, 3)
    for name in (
        "taylor",
        "taylor_filter",
        "fisher",
        "snip",
        "grasp",
        "synflow",
        "wanda",
        "bn_scale",
    ):
        assert "spare.weight" not in CRITERIA[name](model, evidence_for("resnet8"))
