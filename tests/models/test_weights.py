import hashlib
import os
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
from prunelab.models.catalogue import MODELS, build, build_on_meta
from prunelab.models.imagenet import IMAGENET, fetch
from prunelab.models.weights import load_imagenet, load_weights, weights_file


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
    model = build(name, 10, (3, 32, 32))
    load_weights(model, folder / file)
    normalise = Normalise(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    predictions = predict(model, BatchLoader(test, normalise, execution), 500, execution)
    assert round(float((predictions.classes == test.labels).mean()), 4) == accuracy


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_imported_plain_or_wrapped_with_or_without_prefix(tmp_path, wrapped, prefix):
    source, model = build("resnet8", 10, (1, 8, 8), seed=1), build("resnet8", 10, (1, 8, 8), seed=2)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert all(
        torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items()
    )


def test_weights_of_another_network_are_refused_by_name_and_shape(tmp_path):
    torch.save(build("resnet8", 10, (1, 8, 8)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"linear.weight as \(10, 64\), the network has \(5, 64\)"):
        load_weights(build("resnet8", 5, (1, 8, 8)), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"lacks layer1.1.conv1.weight"):
        load_weights(build("resnet20", 10, (1, 8, 8)), tmp_path / "w.pt")


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
def test_tensors_that_are_no_weights_are_refused(tmp_path, spoil, named):
    state = build("resnet8", 10, (1, 8, 8)).state_dict()
    torch.save(state | {"linear.bias": spoil(state["linear.bias"])}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"linear.bias .*{named}"):
        load_weights(build("resnet8", 10, (1, 8, 8)), tmp_path / "w.pt")


@pytest.mark.parametrize("content", ["malicious", "truncated", "text", "number", "missing"])
def test_files_that_are_not_weights_are_refused_and_run_nothing(tmp_path, content):
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
        load_weights(build("resnet8", 10, (1, 8, 8)), path)
    assert not witness.exists()


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match=f"weights: no file {path}"):
            load_weights(build("resnet8", 10, (1, 8, 8)), path)


class Hub:
    """A server of weights, a folder, beside torch hub's cache, both empty."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.cache, self.server = folder / "home/hub/checkpoints", folder / "server"
        self.server.mkdir()
        monkeypatch.setenv("TORCH_HOME", str(folder / "home"))
        self.patch = monkeypatch

    def publish(self, state: dict[str, torch.Tensor]) -> Path:
        """Offer tensors as torchvision would those of any network; returns the file on the server."""
        torch.save(state, self.server / "net.pth")
        digest = hashlib.sha256((self.server / "net.pth").read_bytes()).hexdigest()
        file = (self.server / "net.pth").rename(self.server / f"net-{digest[:8]}.pth")
        known = torchvision.models.get_weight("ResNet18_Weights.IMAGENET1K_V1")
        weight = type("Weight", (), {"url": file.as_uri(), "meta": known.meta})
        self.patch.setattr(torchvision.models, "get_weight", lambda name: weight)
        return file


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    return Hub(tmp_path, monkeypatch)


def torchvisions(name: str) -> nn.Module:
    """torchvision's own network of 1000 classes, with values that tell one tensor from another."""
    name = name.removesuffix("_classic")
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(num_classes=1000)
    model = model.to_empty(device="cpu")
    for number, tensor in enumerate(model.state_dict().values(), start=1):
        tensor.fill_(number)
    return model


def pretrained(
    name: str, shape: tuple[int, ...], hub: Hub, classes: int = 10
) -> tuple[nn.Module, list[str], dict]:
    """A network of zeros given torchvision's weights, what stayed fresh of it, and those weights."""
    published = torchvisions(name).state_dict()
    hub.publish(published)
    model = build_on_meta(name, classes, shape).to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model, load_imagenet(model, name, fetch(name)), published


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
    "name", [n if n in LIGHT else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED]
)
def test_imagenet_weights_fit_all_but_the_head(name, hub):
    model, fresh, published = pretrained(name, (3, 224, 224), hub)
    head = MODELS[name].head
    assert fresh == [head]
    for key, tensor in model.state_dict().items():
        assert torch.equal(
            tensor, torch.zeros_like(tensor) if key.startswith(f"{head}.") else published[key]
        ), key


@pytest.mark.parametrize(
    ("name", "shape", "stem"),
    [
        ("resnet18", (3, 32, 32), "conv1"),
        ("densenet121", (3, 32, 32), "features.conv0"),
        ("mobilenet_v2", (1, 32, 32), "features.0.0"),
        ("mobilenet_v2", (3, 32, 32), None),  # the stem differs in its stride alone
    ],
)
def test_imagenet_weights_spare_a_stem_made_for_other_images(name, shape, stem, hub):
    model, fresh, published = pretrained(name, shape, hub)
    assert fresh == [*([stem] if stem else []), MODELS[name].head]
    state = model.state_dict()
    if stem:
        assert not state[f"{stem}.weight"].any()
    loaded = [key for key in state if not key.startswith(tuple(f"{layer}." for layer in fresh))]
    assert all(torch.equal(state[key], published[key]) for key in loaded)


def test_a_head_for_a_thousand_classes_is_imported_too(hub):
    model, fresh, published = pretrained("mobilenet_v3_small", (3, 224, 224), hub, classes=1000)
    assert fresh == []
    assert torch.equal(model.state_dict()["classifier.3.weight"], published["classifier.3.weight"])


@pytest.mark.slow
def test_position_embeddings_are_interpolated_for_other_numbers_of_patches(hub):
    model, fresh, published = pretrained("vit_b_16", (3, 32, 32), hub)
    assert fresh == ["conv_proj", "heads.head"]
    embedding = model.state_dict()["encoder.pos_embedding"]
    assert embedding.shape == (1, 8 * 8 + 1, 768)
    torch.testing.assert_close(
        embedding, torch.full_like(embedding, published["encoder.pos_embedding"][0, 0, 0])
    )


def test_old_names_of_layers_are_known(hub):
    published = torchvisions("densenet121").state_dict()
    renamed = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.")
        if "denselayer" in key
        else key: value
        for key, value in published.items()
    }
    assert set(renamed) != set(published)
    hub.publish(renamed)
    model = build("densenet121", 10, (3, 224, 224))
    assert load_imagenet(model, "densenet121", fetch("densenet121")) == ["classifier"]
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(model.state_dict()[key], published[key])


def test_weights_of_another_network_are_no_imagenet_weights_for_this_one(hub):
    hub.publish(torchvisions("mobilenet_v2").state_dict())
    with pytest.raises(InputError, match="does not fit: lacks bn1.weight"):
        load_imagenet(build("resnet18", 10, (3, 32, 32)), "resnet18", fetch("resnet18"))


def test_imagenet_weights_are_downloaded_once_and_checked_every_time(hub):
    file = hub.publish({"a": torch.ones(1)})
    assert weights_file(IMAGENET, "resnet18") == hub.cache / file.name
    file.unlink()  # what is in the cache needs no server
    assert fetch("resnet18").read_bytes()
    (hub.cache / file.name).write_bytes(b"half")
    with pytest.raises(InputError, match=rf"{file.name} is damaged: its SHA-256 .* delete it"):
        fetch("resnet18")


@pytest.mark.parametrize("how", ["missing", "other content"])
def test_a_download_that_fails_is_refused_by_one_line(hub, how):
    file = hub.publish({"a": torch.ones(1)})
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"something else")
    with pytest.raises(InputError) as refused:
        fetch("resnet18")
    (line,) = refused.value.problems
    assert file.as_uri() in line
    assert "cannot be downloaded" in line
    assert "\n" not in line
    assert not list(hub.cache.iterdir())


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if not entry.imagenet])
def test_networks_without_imagenet_weights_say_which_have_some(name):
    with pytest.raises(
        InputError, match=rf"no imagenet weights for {name}; valid: .*resnet18.*vit_b_16"
    ):
        weights_file(IMAGENET, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision_knows_the_weights_by_their_names(name):
    assert (
        "acc@1"
        in torchvision.models.get_weight(MODELS[name].imagenet).meta["_metrics"]["ImageNet-1K"]
    )


def test_a_file_is_a_path_and_no_weights_are_none():
    assert weights_file("some/w.pt", "resnet8") == Path("some/w.pt")
    assert weights_file("none", "resnet8") is None
