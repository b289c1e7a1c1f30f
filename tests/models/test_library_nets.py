"""Networks of torchvision and timm by name: all of them, for other classes and channels."""

import sys

import pytest
import torch
from torch import nn

from prunelab.core.errors import InputError
from prunelab.models import imagenet
from prunelab.models.catalogue import LIBRARY, TORCHVISION, network_options
from prunelab.models.cost import parameters
from prunelab.models.networks import build, build_on_meta, find_head

# What is quick to make on the meta device, one of every family.
FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v3_large",
    "regnet_y_400mf",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_32",
    "wide_resnet50_2",
)
SHAPE = (1, 224, 224)
NAMES = [
    name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION
]


def test_the_catalogue_names_every_classification_network_of_torchvision():
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)

    assert list(TORCHVISION) == names
    assert list(LIBRARY) == [f"torchvision/{name}" for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_every_network_has_a_head_and_the_size_that_torchvision_publishes(name):
    from torchvision.models import get_model_weights

    published = next(iter(get_model_weights(name))).meta["num_params"]
    if name == "inception_v3":
        published -= auxiliary_parameters()

    model = build_on_meta(f"torchvision/{name}", 1000, (3, *SHAPE[1:]))
    assert parameters(model) == published

    other = build_on_meta(f"torchvision/{name}", 7, SHAPE)
    head = other.get_submodule(find_head(f"torchvision/{name}", other))
    assert isinstance(head, nn.Conv2d | nn.Linear)
    assert head.weight.shape[0] == 7
    assert other.training


def auxiliary_parameters() -> int:
    """The parameters of the classifier that torchvision's published Inception has besides."""
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.inception_v3(aux_logits=True, init_weights=False)
    return parameters(model.AuxLogits)


@pytest.mark.parametrize("name", ["regnet_x_400mf", "shufflenet_v2_x0_5", "vit_b_32"])
def test_other_channels_are_read_and_weights_depend_on_the_seed_alone(name):
    shape = (2, 64, 64)
    first, same, other = (build(f"torchvision/{name}", 5, shape, seed) for seed in (1, 1, 2))

    states = [network.state_dict() for network in (first, same, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert first.eval()(torch.randn(3, *shape)).abs().sum(1).min() > 0


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "vgg11", "vit_b_32"])
@pytest.mark.parametrize("channels", [1, 5])
def test_a_stem_for_other_channels_has_outputs_as_large(name, channels):
    deviations = []
    for count in (3, channels):
        shape = (count, 64, 64)
        model = build(f"torchvision/{name}", 5, shape)
        stem = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
        deviations.append(stem(images).std().item())

    assert deviations[1] == pytest.approx(deviations[0], rel=0.1)


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("torchvision/resnet19", (3, 64, 64), "did you mean 'torchvision/resnet1"),
        ("torchvision/vgg11", (3, 8, 8), "cannot read images of 8 x 8 pixels"),
        ("torchvision/maxvit_t", (3, 64, 64), "cannot read images of 64 x 64 pixels"),
        ("torchvision/resnet18", (16,), "reads images"),
    ],
)
def test_an_unknown_name_or_images_that_do_not_fit_are_an_error(name, shape, problem):
    with pytest.raises(InputError, match=problem) as error:
        build_on_meta(name, 10, shape)

    assert len(error.value.problems) == 1


# --- options ---

TIMM = "timm/resnet10t"


@pytest.mark.parametrize(
    ("name", "stem", "smaller"),
    [
        ("torchvision/resnet18", "conv1", 4),
        ("torchvision/mobilenet_v2", "features.0.0", 2),
        ("torchvision/densenet121", "features.conv0", 4),
    ],
)
def test_a_small_stem_keeps_more_positions_and_the_weights_of_the_published_one(
    name, stem, smaller
):
    published, small = (
        build_on_meta(name, 5, (3, 64, 64), stem=stem) for stem in ("published", "small")
    )

    shapes = [
        {key: tensor.shape for key, tensor in model.state_dict().items()}
        for model in (published, small)
    ]
    assert shapes[0] == shapes[1]
    sides = [last_side(model) for model in (published, small)]
    assert sides[1] == smaller * sides[0]
    assert small.get_submodule(stem).stride == (1, 1)


def last_side(model: nn.Module) -> int:
    """The side of what the last convolution computes of 64 pixels."""
    sides = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda *call: sides.append(call[2].shape[-1]))
    model.eval()(torch.zeros(1, 3, 64, 64, device="meta"))
    return sides[-1]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("torchvision/convnext_tiny", {"stem": "small"}, "cuts images into patches"),
        ("torchvision/vgg11", {"stem": "small"}, "has no strided convolution"),
        ("torchvision/resnet18", {"stem": "tiny"}, "'tiny' is no stem; valid: published, small"),
        ("torchvision/resnet18", {"head": "fcc"}, "did you mean 'fc'.*valid: fc"),
        ("torchvision/resnet18", {"patch_size": 4}, "cannot be built with .*valid: head, stem"),
        (TIMM, {"patch_size": 4}, "does not take it; valid: head, stem, dropout, drop_path"),
        (TIMM, {"pretrained": 1}, "cannot be built with the options pretrained"),
        ("resnet18", {"stem": "small"}, "cannot be built with the options stem; valid: none"),
    ],
)
def test_an_option_that_a_network_does_not_take_is_refused_with_those_that_it_takes(
    name, options, problem
):
    if name == TIMM:
        pytest.importorskip("timm")

    with pytest.raises(InputError, match=problem) as error:
        build_on_meta(name, 5, (3, 64, 64), **options)
    (line,) = error.value.problems
    assert "model_options" in line


def test_the_head_that_is_chosen_keeps_its_outputs():
    name = "torchvision/resnet18"
    assert find_head(name, build_on_meta(name, 64, (3, 64, 64), head="conv1")) == "conv1"
    assert find_head(name, build_on_meta(name, 64, (3, 64, 64))) == "fc"


def test_options_of_timm_reach_its_network():
    pytest.importorskip("timm")
    model = build_on_meta("timm/vit_tiny_patch16_224", 5, (3, 32, 32), patch_size=4, dropout=0.5)

    assert model.patch_embed.proj.kernel_size == (4, 4)
    assert model.head_drop.p == 0.5


def test_options_of_the_weights_cannot_be_chosen():
    assert network_options("resnet18", "none", {"stem": "small"}) == {"stem": "small"}

    with pytest.raises(InputError, match=r"model_options\.seed: seeds has the seeds"):
        network_options("resnet18", "none", {"seed": 1})
    with pytest.raises(InputError, match=r"model_options\.layers: the weights say it of bert"):
        network_options("bert", "none", {"layers": 3})


@pytest.mark.parametrize("name", [TIMM, "timm/mobileone_s0", "timm/vit_tiny_patch16_224"])
def test_networks_of_timm_read_other_channels(name):
    pytest.importorskip("timm")
    model = build(name, 5, (1, 224, 224))

    assert model.eval()(torch.randn(2, 1, 224, 224)).shape == (2, 5)


def test_a_network_of_timm_says_how_to_install_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)

    with pytest.raises(InputError, match=r"needs timm, which is not installed: pip install"):
        build("timm/resnet18", 10, (3, 32, 32))


@pytest.mark.parametrize("name", ["resnext50_32x4d", "regnet_y_128gf", "vit_h_14"])
def test_published_weights_have_an_address(name):
    url, path = imagenet.locate(f"torchvision/{name}")

    assert url.startswith("https://download.pytorch.org/models/")
    assert path.name.startswith(name)
