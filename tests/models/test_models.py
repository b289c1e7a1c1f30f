"""The networks of the catalogue: sizes, seeds, costs, and rebuilding thinner ones."""

from dataclasses import dataclass

import pytest
import torch
import torch_pruning
from helpers.networks import IMAGE_MODELS, zeroed
from torch import nn

from prunelab.core.errors import InputError
from prunelab.models.catalogue import MODELS
from prunelab.models.cost import macs, parameters
from prunelab.models.networks import build, build_on_meta, fixed_layers, prunable_weights
from prunelab.models.resize import resize
from prunelab.models.vit import patch_size

SMALL, LARGE = (1, 8, 8), (3, 224, 224)


LIGHT = [name for name in IMAGE_MODELS if parameters(build_on_meta(name, 10, SMALL)) < 15e6]
BUILT = [
    name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_MODELS
]


@pytest.mark.parametrize("shape", [SMALL, (1, 28, 28), (3, 32, 32), (3, 64, 64), LARGE])
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_each_model_takes_images_of_any_size_and_names_its_head(name, shape):
    model = build_on_meta(name, 7, shape).eval()

    scores = model(torch.zeros(2, *shape, device="meta"))

    assert scores.shape == (2, 7)
    head = model.get_submodule(MODELS[name].head)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 7
    assert head in fixed_layers(name, model)


@pytest.mark.parametrize("name", [*BUILT, "bert"])
def test_initial_weights_depend_on_the_seed_alone(name):
    shape = (8,) if MODELS[name].reads == "texts" else SMALL

    first, same_seed, other_seed = (build(name, 10, shape, seed).state_dict() for seed in (1, 1, 2))

    assert all(torch.equal(first[key], same_seed[key]) for key in first)
    assert any(not torch.equal(first[key], other_seed[key]) for key in first)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_a_network_on_meta_has_the_tensors_of_the_network_without_values(name):
    state = build_on_meta(name, 10, SMALL).state_dict()

    assert all(tensor.is_meta for tensor in state.values())
    if name in LIGHT:
        assert forms(state) == forms(build(name, 10, SMALL).state_dict())


def forms(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


# He et al. 2016, table 6, give these millions of parameters; layers are counted as 6n + 2.
@pytest.mark.parametrize(
    ("name", "layers", "millions"),
    [
        ("resnet20", 20, 0.27),
        ("resnet32", 32, 0.46),
        ("resnet44", 44, 0.66),
        ("resnet56", 56, 0.85),
        ("resnet110", 110, 1.73),
    ],
)
def test_cifar_resnets_are_those_of_the_paper(name, layers, millions):
    model = build_on_meta(name, 10, (3, 32, 32))

    weighted = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(weighted) == layers
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_option_b_adds_two_projections_with_their_norms(name):
    option_a, option_b = (build_on_meta(model, 10, (3, 32, 32)) for model in (name, f"{name}_b"))

    projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert parameters(option_b) - parameters(option_a) == projections


def test_the_compact_vgg_has_the_size_that_its_course_published():
    size_mib = 4 * parameters(build_on_meta("vgg_compact", 10, (3, 32, 32))) / 2**20

    assert round(size_mib, 2) == 35.20


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("_dse")])
def test_separable_variants_have_no_full_3x3_convolution_and_cost_less(name):
    model = zeroed(name, 10, (3, 32, 32))
    plain = zeroed(name.removesuffix("_dse"), 10, (3, 32, 32))

    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    _stem, *after_stem = (conv for conv in convolutions if conv.kernel_size == (3, 3))
    assert after_stem
    for conv in after_stem:
        assert conv.groups == conv.in_channels == conv.out_channels
    assert parameters(model) < 0.7 * parameters(plain)
    assert macs(model, (3, 32, 32)) < 0.7 * macs(plain, (3, 32, 32))


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.imagenet])
def test_networks_for_large_images_cost_what_torchvision_publishes(name):
    from torchvision.models import get_weight

    head = MODELS[name].head
    published = get_weight(MODELS[name].imagenet).meta

    model = zeroed(name, 1000, LARGE)

    if name.startswith("vgg") and head == "classifier":  # one layer instead of three
        classifier = parameters(model.get_submodule(head))
        published_classifier = 512 * 7 * 7 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
        assert parameters(model) - classifier == published["num_params"] - published_classifier
    else:
        assert parameters(model) == published["num_params"]
    # torchprofile also counts norms and products of tensors; the next test derives those of vit.
    assert macs(model, LARGE) / 1e9 == pytest.approx(published["_ops"], rel=0.03)


def test_macs_of_attention_include_its_projections_and_products():
    width, hidden, tokens, layers = 192, 768, 14 * 14 + 1, 12
    projections = 4 * tokens * width**2  # queries, keys, values and the output
    products = 2 * tokens**2 * width  # queries by keys, and attention by values, over all heads
    feed_forward = 2 * tokens * width * hidden
    norms = 2 * tokens * width
    block = projections + products + feed_forward + norms
    patches, last_norm, head = (tokens - 1) * 3 * 16**2 * width, tokens * width, 10 * width
    expected = layers * block + patches + last_norm + head

    assert macs(zeroed("vit_tiny", 10, LARGE), LARGE) == pytest.approx(expected, rel=1e-4)


def test_all_weights_of_attention_are_prunable():
    model = build_on_meta("vit_tiny", 10, SMALL)

    prunable = prunable_weights(model)

    matrices = {
        name for name, value in model.named_parameters() if value.dim() > 1 and "weight" in name
    }
    attention = "encoder.layers.encoder_layer_0.self_attention"
    assert set(prunable) == matrices
    assert prunable[f"{attention}.in_proj_weight"].shape == (3 * 192, 192)


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (16, 2), (28, 4), (32, 4), (64, 8), (96, 12)])
def test_small_images_are_cut_into_about_eight_by_eight_patches(side, patch):
    assert patch_size(side) == patch


@pytest.mark.parametrize("shape", [(3, 32, 24), (3, 250, 250)])
def test_images_that_cannot_be_cut_into_patches_are_an_error(shape):
    with pytest.raises(InputError, match=f"{shape[1]} x {shape[2]} pixels"):
        build("vit_tiny", 10, shape)


def test_the_grid_of_larger_images_equals_adaptive_pooling():
    model = build_on_meta("vgg16_classic", 10, (3, 256, 256))
    x = torch.rand(2, 512, 8, 8, dtype=torch.float64)

    torch.testing.assert_close(model.avgpool(x), nn.AdaptiveAvgPool2d(7)(x))


@dataclass
class Halved:
    """A network that lost half of the channels of every group."""

    name: str
    model: nn.Module
    groups: int
    fixed_widths: dict[str, list[int]]  # of the fixed layers, before pruning


@pytest.fixture(scope="module", params=BUILT)
def halved(request) -> Halved:
    torch.manual_seed(0)
    model = build(request.param, 10, SMALL).eval()
    fixed = fixed_layers(request.param, model)
    names = {module: name for name, module in model.named_modules()}
    fixed_widths = {names[layer]: widths(layer) for layer in fixed}

    graph = torch_pruning.DependencyGraph().build_dependency(
        model, (torch.zeros(1, *SMALL),), verbose=False
    )
    groups = list(
        graph.get_all_groups(ignored_layers=fixed, root_module_types=[nn.Conv2d, nn.Linear])
    )
    for group in groups:
        channels = len(group[0].idxs)
        group.prune(torch.randperm(channels)[: channels // 2].tolist())

    return Halved(request.param, model, len(groups), fixed_widths)


def widths(layer: nn.Module) -> list[int]:
    return [parameter.shape[0] for parameter in layer.parameters()]


def test_a_thinner_network_keeps_its_fixed_layers_and_loses_parameters(halved):
    head = MODELS[halved.name].head

    assert halved.groups
    for layer, fixed_widths in halved.fixed_widths.items():
        assert widths(halved.model.get_submodule(layer)) == fixed_widths
    assert halved.model.get_submodule(head).out_features == 10

    # Layers lose half of one side if others are fixed, otherwise half of both.
    share = parameters(halved.model) / parameters(build_on_meta(halved.name, 10, SMALL))
    others_fixed = halved.fixed_widths.keys() - {head}
    assert share < (0.7 if others_fixed else 0.3)


@torch.no_grad()
def test_a_thinner_network_is_rebuilt_from_its_tensors_alone(halved):
    model = halved.model
    head = model.get_submodule(MODELS[halved.name].head)
    head.weight.copy_(torch.randn_like(head.weight))  # so that all scores differ from zero
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    rebuilt = build_on_meta(halved.name, 10, SMALL).eval()
    resize(rebuilt, {key: tuple(tensor.shape) for key, tensor in state.items()})
    rebuilt.load_state_dict(state, assign=True)

    images = torch.randn(3, *SMALL)
    assert model(images).abs().sum() > 0
    assert torch.equal(rebuilt(images), model(images))
    for rebuilt_layer, layer in zip(rebuilt.modules(), model.modules(), strict=True):
        for attribute in WIDTHS:
            assert getattr(rebuilt_layer, attribute, None) == getattr(layer, attribute, None)


WIDTHS = (
    "in_channels",
    "out_channels",
    "groups",
    "in_features",
    "out_features",
    "num_features",
)


def test_resize_to_shapes_that_pruning_cannot_leave_is_an_error():
    model = build("resnet8", 10, (1, 8, 8))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    without_bias = {name: shape for name, shape in shapes.items() if name != "linear.bias"}

    with pytest.raises(InputError, match="layer1.0.conv1.weight"):
        resize(model, shapes | {"layer1.0.conv1.weight": (16, 16, 5, 5)})
    with pytest.raises(InputError, match="do not fit"):
        resize(model, without_bias)
