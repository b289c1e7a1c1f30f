"""Imported weights: files of every kind, ImageNet weights, and weights that do not fit."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torchvision
from helpers.damage import pickled
from helpers.data import real_data
from helpers.params import PROJECT
from torch import nn

from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.data.dataset import DataConfig
from prunelab.data.loader import BatchLoader
from prunelab.datasets.datasets import DATASETS
from prunelab.evaluation.predict import predict
from prunelab.models.catalogue import MODELS
from prunelab.models.imagenet import fetch
from prunelab.models.networks import build, build_on_meta
from prunelab.models.weights import load_imagenet, load_weights
from prunelab.models.weights_source import IMAGENET, weights_file


@pytest.mark.parametrize(
    ("name", "file", "accuracy"),
    [
        ("resnet20", "resnet20-12fca82f.th", 0.9173),
        pytest.param("resnet56", "resnet56-4bfd9763.th", 0.9339, marks=pytest.mark.slow),
    ],
)
def test_published_checkpoints_reach_their_published_accuracy(
    name, file, accuracy, cifar_folder, execution
):
    folder = real_data("PRUNELAB_WEIGHTS", PROJECT / "data/raw", "the checkpoint", file)
    test = DATASETS["cifar10"](DataConfig(cifar_folder)).read().test
    normalise = Normalise(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    model = build(name, 10, (3, 32, 32))

    load_weights(model, name, folder / file)
    predictions = predict(model, BatchLoader(test, normalise, execution), 500, execution)

    assert round(float((predictions.classes == test.labels).mean()), 4) == accuracy


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_load_plain_or_wrapped_with_or_without_prefix(tmp_path, wrapped, prefix):
    source = build("resnet8", 10, (1, 8, 8), seed=1).state_dict()
    model = build("resnet8", 10, (1, 8, 8), seed=2)
    content = {prefix + name: value for name, value in source.items()}
    if wrapped:
        content = {"state_dict": content, "epoch": 3}
    torch.save(content, tmp_path / "w.pt")

    load_weights(model, "resnet8", tmp_path / "w.pt")

    assert all(torch.equal(value, source[name]) for name, value in model.state_dict().items())


def test_weights_of_another_network_are_an_error_by_name_and_shape(tmp_path):
    torch.save(build("resnet8", 10, (1, 8, 8)).state_dict(), tmp_path / "w.pt")

    with pytest.raises(InputError, match=r"linear.weight as \(10, 64\), the network has \(5, 64\)"):
        load_weights(build("resnet8", 5, (1, 8, 8)), "resnet8", tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"lacks layer1.1.conv1.weight"):
        load_weights(build("resnet20", 10, (1, 8, 8)), "resnet20", tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda bias: bias * float("nan"), "not finite"),
        (lambda bias: bias.to(torch.complex64), "complex64"),
        (lambda bias: bias.to(torch.int8), "int8"),
        (lambda bias: bias.to_sparse(), "no plain numbers"),
        (lambda bias: bias.to("meta"), "no plain numbers"),
    ],
)
def test_tensors_that_are_not_plain_finite_weights_are_an_error(tmp_path, spoil, named):
    state = build("resnet8", 10, (1, 8, 8)).state_dict()
    torch.save(state | {"linear.bias": spoil(state["linear.bias"])}, tmp_path / "w.pt")

    with pytest.raises(InputError, match=rf"linear.bias .*{named}"):
        load_weights(build("resnet8", 10, (1, 8, 8)), "resnet8", tmp_path / "w.pt")


@pytest.mark.parametrize("content", ["malicious", "truncated", "text", "number", "missing"])
def test_a_file_without_weights_is_an_error_and_runs_no_code(tmp_path, content):
    path, witness = tmp_path / "w.pt", tmp_path / "witness"
    if content == "malicious":
        path.write_bytes(pickled(witness))
    elif content == "truncated":
        torch.save(build("resnet8", 10, (1, 8, 8)).state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "text":
        path.write_text("hello")
    elif content == "number":
        torch.save(3, path)

    with pytest.raises(InputError, match="weights:"):
        load_weights(build("resnet8", 10, (1, 8, 8)), "resnet8", path)
    assert not witness.exists()


def test_folders_and_pipes_are_an_error_and_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match=f"weights: no file {path}"):
            load_weights(build("resnet8", 10, (1, 8, 8)), "resnet8", path)


class Hub:
    """A folder that serves weights, and torch hub's cache; both start empty."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.cache = folder / "home/hub/checkpoints"
        self.server = folder / "server"
        self.server.mkdir()
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("TORCH_HOME", str(folder / "home"))

    def publish(self, state: dict[str, torch.Tensor]) -> Path:
        """Serve tensors as torchvision's weights of any network; returns the served file."""
        file = self.server / "net.pth"
        torch.save(state, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        file = file.rename(self.server / f"net-{digest[:8]}.pth")

        meta = torchvision.models.get_weight("ResNet18_Weights.IMAGENET1K_V1").meta
        weight = type("Weight", (), {"url": file.as_uri(), "meta": meta})
        self.monkeypatch.setattr(torchvision.models, "get_weight", lambda name: weight)
        return file


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    return Hub(tmp_path, monkeypatch)


def torchvision_network(name: str) -> nn.Module:
    """torchvision's own network of 1000 classes; each tensor is filled with another number."""
    name = name.removesuffix("_classic")
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(num_classes=1000)

    model = model.to_empty(device="cpu")
    for number, tensor in enumerate(model.state_dict().values(), start=1):
        tensor.fill_(number)
    return model


@dataclass
class Pretrained:
    """A network of zeros after torchvision's weights were loaded into it."""

    model: nn.Module
    fresh: list[str]  # the layers that were not loaded
    published: dict[str, torch.Tensor]


def pretrained(name: str, shape: tuple[int, ...], hub: Hub, classes: int = 10) -> Pretrained:
    published = torchvision_network(name).state_dict()
    hub.publish(published)
    model = build_on_meta(name, classes, shape).to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()

    fresh = load_imagenet(model, name, fetch(name))
    return Pretrained(model, fresh, published)


PUBLISHED = [name for name, entry in MODELS.items() if entry.imagenet]
LIGHT = [
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "vgg11_bn",
]


@pytest.mark.parametrize(
    "name",
    [name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED],
)
def test_imagenet_weights_fit_all_layers_except_the_head(name, hub):
    head = MODELS[name].head

    result = pretrained(name, (3, 224, 224), hub)

    assert result.fresh == [head]
    for key, tensor in result.model.state_dict().items():
        if key.startswith(f"{head}."):
            assert not tensor.any(), key
        else:
            assert torch.equal(tensor, result.published[key]), key


@pytest.mark.parametrize(
    ("name", "shape", "stem"),
    [
        ("resnet18", (3, 32, 32), "conv1"),
        ("densenet121", (3, 32, 32), "features.conv0"),
        ("mobilenet_v2", (1, 32, 32), "features.0.0"),
        ("mobilenet_v2", (3, 32, 32), None),  # the stem differs in its stride alone
    ],
)
def test_imagenet_weights_are_not_loaded_into_a_stem_for_other_images(name, shape, stem, hub):
    result = pretrained(name, shape, hub)

    layers = [stem, MODELS[name].head] if stem else [MODELS[name].head]
    assert result.fresh == layers
    for key, tensor in result.model.state_dict().items():
        if key.startswith(tuple(f"{layer}." for layer in layers)):
            assert not tensor.any()
        else:
            assert torch.equal(tensor, result.published[key])


def test_a_head_for_a_thousand_classes_is_imported_too(hub):
    result = pretrained("mobilenet_v3_small", (3, 224, 224), hub, classes=1000)

    assert result.fresh == []
    head = "classifier.3.weight"
    assert torch.equal(result.model.state_dict()[head], result.published[head])


@pytest.mark.slow
def test_position_embeddings_are_interpolated_for_other_numbers_of_patches(hub):
    result = pretrained("vit_b_16", (3, 32, 32), hub)

    assert result.fresh == ["conv_proj", "heads.head"]
    embedding = result.model.state_dict()["encoder.pos_embedding"]
    assert embedding.shape == (1, 8 * 8 + 1, 768)
    constant = result.published["encoder.pos_embedding"][0, 0, 0]
    torch.testing.assert_close(embedding, torch.full_like(embedding, constant))


def old_densenet_name(name: str) -> str:
    if "denselayer" not in name:
        return name
    return name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.")


def test_old_names_of_layers_are_known(hub):
    published = torchvision_network("densenet121").state_dict()
    renamed = {old_densenet_name(name): tensor for name, tensor in published.items()}
    assert set(renamed) != set(published)
    hub.publish(renamed)
    model = build("densenet121", 10, (3, 224, 224))

    fresh = load_imagenet(model, "densenet121", fetch("densenet121"))

    assert fresh == ["classifier"]
    name = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(model.state_dict()[name], published[name])


def test_imagenet_weights_of_another_network_are_an_error(hub):
    hub.publish(torchvision_network("mobilenet_v2").state_dict())

    with pytest.raises(InputError, match="does not fit: lacks bn1.weight"):
        load_imagenet(build("resnet18", 10, (3, 32, 32)), "resnet18", fetch("resnet18"))


def test_imagenet_weights_are_downloaded_once_and_checked_every_time(hub):
    file = hub.publish({"a": torch.ones(1)})
    assert weights_file(IMAGENET, "resnet18") == hub.cache / file.name

    file.unlink()  # a cached file needs no server
    assert fetch("resnet18").read_bytes()

    (hub.cache / file.name).write_bytes(b"half")
    with pytest.raises(InputError, match=rf"{file.name} is damaged: its SHA-256 .* delete it"):
        fetch("resnet18")


@pytest.mark.parametrize("how", ["missing", "other content"])
def test_a_failed_download_is_an_error_of_one_line(hub, how):
    file = hub.publish({"a": torch.ones(1)})
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"something else")

    with pytest.raises(InputError) as error:
        fetch("resnet18")

    (line,) = error.value.problems
    assert file.as_uri() in line
    assert "cannot be downloaded" in line
    assert "\n" not in line
    assert not list(hub.cache.iterdir())


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if not entry.imagenet])
def test_a_network_without_imagenet_weights_is_an_error_naming_those_with(name):
    message = rf"no imagenet weights for {name}; valid: .*resnet18.*vit_b_16"

    with pytest.raises(InputError, match=message):
        weights_file(IMAGENET, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision_knows_the_weights_by_their_names(name):
    meta = torchvision.models.get_weight(MODELS[name].imagenet).meta

    assert "acc@1" in meta["_metrics"]["ImageNet-1K"]


def test_a_file_is_a_path_and_no_weights_are_none():
    assert weights_file("some/w.pt", "resnet8") == Path("some/w.pt")
    assert weights_file("none", "resnet8") is None
