import pytest
import torch
import torch_pruning
from helpers.networks import IMAGE_MODELS, zeroed
from torch import nn

from prunelab.core.errors import InputError
from prunelab.models.catalogue import MODELS, build, build_on_meta, fixed_layers, prunable_weights
from prunelab.models.cost import macs
from prunelab.models.resize import resize
from prunelab.models.vit import patch_size

SMALL, LARGE = (1, 8, 8), (3, 224, 224)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


LIGHT = [name for name in IMAGE_MODELS if parameters(build_on_meta(name, 10, SMALL)) < 15e6]
BUILT = [
    name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_MODELS
]


@pytest.mark.parametrize("shape", [SMALL, (1, 28, 28), (3, 32, 32), (3, 64, 64), LARGE])
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_model_takes_images_of_any_size_and_names_its_head(name, shape):
    model = build_on_meta(name, 7, shape).eval()
    assert model(torch.zeros(2, *shape, device="meta")).shape == (2, 7)
    head = model.get_submodule(MODELS[name].head)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 7
    assert head in fixed_layers(name, model)


@pytest.mark.parametrize("name", [*BUILT, "bert"])
def test_initial_weights_depend_on_the_seed_alone(name):
    shape = (8,) if MODELS[name].reads == "texts" else SMALL
    first, again, other = (build(name, 10, shape, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_a_skeleton_has_the_tensors_of_the_network_and_no_values(name):
    model = build_on_meta(name, 10, SMALL)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    if name in LIGHT:
        built = build(name, 10, SMALL).state_dict()
        assert {key: (v.shape, v.dtype) for key, v in model.state_dict().items()} == {
            key: (v.shape, v.dtype) for key, v in built.items()
        }


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
    plain, projected = (build_on_meta(which, 10, (3, 32, 32)) for which in (name, f"{name}_b"))
    assert parameters(projected) - parameters(plain) == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def test_the_compact_vgg_is_as_large_as_the_course_that_published_it_says():
    size = 4 * parameters(build_on_meta("vgg_compact", 10, (3, 32, 32))) / 2**20
    assert round(size, 2) == 35.20  # MiB


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("_dse")])
def test_separable_variants_have_no_full_3x3_convolution_and_cost_less(name):
    model, plain = zeroed(name, 10, (3, 32, 32)), zeroed(name.removesuffix("_dse"), 10, (3, 32, 32))
    _stem, *wide = (
        m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    )
    assert wide
    assert all(layer.groups == layer.in_channels == layer.out_channels for layer in wide)
    assert parameters(model) < 0.7 * parameters(plain)
    assert macs(model, (3, 32, 32)) < 0.7 * macs(plain, (3, 32, 32))


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.imagenet])
def test_networks_for_large_images_cost_what_torchvision_publishes(name):
    from torchvision.models import get_weight

    published = get_weight(MODELS[name].imagenet).meta
    model = zeroed(name, 1000, LARGE)
    classifier = parameters(model.get_submodule(MODELS[name].head.split(".")[0]))
    if MODELS[name].head == "classifier" and name.startswith(
        "vgg"
    ):  # one layer in the place of three
        hidden = 512 * 7 * 7 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
        assert parameters(model) - classifier == published["num_params"] - hidden
    else:
        assert parameters(model) == published["num_params"]
    # Within 3 %, since torchprofile counts norms and products of tensors too; see the derivation for attention below.
    assert macs(model, LARGE) / 1e9 == pytest.approx(published["_ops"], rel=0.03)


def test_attention_is_counted_with_its_projections_and_both_of_its_products():
    width, hidden, tokens, layers = 192, 768, 14 * 14 + 1, 12
    projections = 4 * tokens * width**2  # queries, keys, values and the output
    products = 2 * tokens**2 * width  # queries by keys, and their weights by values, over all heads
    feed_forward = 2 * tokens * width * hidden
    norms = 2 * tokens * width
    patches, head = (tokens - 1) * 3 * 16**2 * width, 10 * width
    expected = (
        layers * (projections + products + feed_forward + norms) + patches + tokens * width + head
    )
    assert macs(zeroed("vit_tiny", 10, LARGE), LARGE) == pytest.approx(expected, rel=1e-4)


def test_the_weights_of_attention_can_be_pruned_all_of_them():
    model = build_on_meta("vit_tiny", 10, SMALL)
    prunable = prunable_weights(model)
    matrices = {
        name for name, value in model.named_parameters() if value.dim() > 1 and "weight" in name
    }
    assert set(prunable) == matrices
    assert prunable["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"].shape == (
        3 * 192,
        192,
    )


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (16, 2), (28, 4), (32, 4), (64, 8), (96, 12)])
def test_small_images_are_cut_into_about_eight_by_eight_patches(side, patch):
    assert patch_size(side) == patch


@pytest.mark.parametrize("shape", [(3, 32, 24), (3, 250, 250)])
def test_images_that_no_patches_fit_are_refused(shape):
    with pytest.raises(InputError, match=f"{shape[1]} x {shape[2]} pixels"):
        build("vit_tiny", 10, shape)


def test_the_grid_behind_larger_images_is_what_adaptive_pooling_gives():
    model = build_on_meta("vgg16_classic", 10, (3, 256, 256))
    x = torch.rand(2, 512, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model.avgpool(x), nn.AdaptiveAvgPool2d(7)(x))


@pytest.fixture(params=BUILT)
def halved(request) -> tuple[str, nn.Module, list, dict[str, list[torch.Size]]]:
    """A network that lost half the channels of every group, with the groups and the shapes of its fixed layers."""
    torch.manual_seed(0)
    model = build(request.param, 10, SMALL).eval()
    fixed = fixed_layers(request.param, model)
    names = {module: name for name, module in model.named_modules()}
    before = {names[layer]: [p.shape[0] for p in layer.parameters()] for layer in fixed}
    graph = torch_pruning.DependencyGraph().build_dependency(
        model, (torch.zeros(1, *SMALL),), verbose=False
    )
    groups = list(
        graph.get_all_groups(ignored_layers=fixed, root_module_types=[nn.Conv2d, nn.Linear])
    )
    for group in groups:
        group.prune(torch.randperm(len(group[0].idxs))[: len(group[0].idxs) // 2].tolist())
    return request.param, model, groups, before


@torch.no_grad()
def test_thinner_networks_run_and_are_rebuilt_from_their_tensors_alone(halved):
    name, model, groups, fixed = halved
    assert groups
    assert {
        layer: [p.shape[0] for p in model.get_submodule(layer).parameters()] for layer in fixed
    } == fixed
    assert model.get_submodule(MODELS[name].head).out_features == 10
    share = parameters(model) / parameters(build_on_meta(name, 10, SMALL))
    assert share < (
        0.7 if fixed.keys() - {MODELS[name].head} else 0.3
    )  # half of one side, or half of both

    head = model.get_submodule(MODELS[name].head)
    head.weight.copy_(torch.randn_like(head.weight))  # that of a fresh vision transformer is zero
    rebuilt = build_on_meta(name, 10, SMALL).eval()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    resize(rebuilt, {key: tuple(tensor.shape) for key, tensor in state.items()})
    rebuilt.load_state_dict(state, assign=True)
    images = torch.randn(3, *SMALL)
    assert model(images).abs().sum() > 0
    assert torch.equal(rebuilt(images), model(images))
    attributes = (
        "in_channels",
        "out_channels",
        "groups",
        "in_features",
        "out_features",
        "num_features",
    )
    for ours, theirs in zip(rebuilt.modules(), model.modules(), strict=True):
        assert all(getattr(ours, key, None) == getattr(theirs, key, None) for key in attributes)


def test_resize_refuses_what_no_pruning_could_have_left():
    model = build("resnet8", 10, (1, 8, 8))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match="layer1.0.conv1.weight"):
        resize(model, shapes | {"layer1.0.conv1.weight": (16, 16, 5, 5)})
    with pytest.raises(InputError, match="do not fit"):
        resize(model, {name: shape for name, shape in shapes.items() if name != "linear.bias"})
