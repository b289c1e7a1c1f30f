import pickle
from pathlib import Path

import pytest
import torch
from conftest import IMAGE_MODELS, PROJECT, real_data
from torch import nn

from prunelab.data.batches import Batches
from prunelab.data.datasets import DATASETS
from prunelab.data.protocol import Source
from prunelab.errors import Refused
from prunelab.measuring.quality import predict
from prunelab.models.catalogue import MODELS, build, fixed_layers
from prunelab.models.resize import resize
from prunelab.models.weights import load_weights
from prunelab.params import Normalise


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_model_takes_small_images_and_names_its_head(name, shape):
    model = build(name, classes=7, shape=shape).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 7)
    head = model.get_submodule(MODELS[name].head)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 7
    assert head in fixed_layers(name, model)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_depend_on_the_seed_alone(name):
    shape = (8,) if MODELS[name].reads == "texts" else (1, 8, 8)
    first, again, other = (build(name, 10, shape, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


# He et al. 2016, table 6, say 0.27 M and 0.85 M parameters; layers counted as 6n + 2.
@pytest.mark.parametrize(("name", "layers", "millions"), [("resnet20", 20, 0.27), ("resnet56", 56, 0.85)])
def test_cifar_resnets_are_those_of_the_paper(name, layers, millions):
    model = build(name, 10, (3, 32, 32))
    weighted = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(weighted) == layers
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    ("name", "file", "accuracy"),
    [("resnet20", "resnet20-12fca82f.th", 0.9173), ("resnet56", "resnet56-4bfd9763.th", 0.9339)],
)
def test_published_checkpoints_reach_their_published_accuracy(name, file, accuracy, cifar_folder, execution):
    folder = real_data("PRUNELAB_WEIGHTS", PROJECT / "data/raw", "the checkpoint", file)
    test = DATASETS["cifar10"](Source(cifar_folder)).read().test
    model = build(name, 10, (3, 32, 32))
    load_weights(model, folder / file)
    normalise = Normalise(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    predictions = predict(model, Batches(test, normalise, execution), 500, execution)
    assert round(float((predictions.classes == test.labels).mean()), 4) == accuracy


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_imported_plain_or_wrapped_with_or_without_prefix(tmp_path, wrapped, prefix):
    source, model = build("resnet8", 10, (1, 8, 8), seed=1), build("resnet8", 10, (1, 8, 8), seed=2)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())


def test_weights_of_another_network_are_refused_by_name_and_shape(tmp_path):
    torch.save(build("resnet8", 10, (1, 8, 8)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(Refused, match=r"linear.weight as \(10, 64\), the network has \(5, 64\)"):
        load_weights(build("resnet8", 5, (1, 8, 8)), tmp_path / "w.pt")
    with pytest.raises(Refused, match=r"lacks layer1.1.conv1.weight"):
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
    with pytest.raises(Refused, match=rf"linear.bias .*{named}"):
        load_weights(build("resnet8", 10, (1, 8, 8)), tmp_path / "w.pt")


class Malicious:
    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("content", ["malicious", "truncated", "text", "number", "missing"])
def test_files_that_are_not_weights_are_refused_and_run_nothing(tmp_path, content):
    path, witness = tmp_path / "w.pt", tmp_path / "witness"
    if content == "malicious":
        path.write_bytes(pickle.dumps({"state_dict": Malicious(witness)}))
    elif content == "truncated":
        torch.save(build("resnet8", 10, (1, 8, 8)).state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "text":
        path.write_text("hello")
    elif content == "number":
        torch.save(3, path)
    with pytest.raises(Refused, match="weights:"):
        load_weights(build("resnet8", 10, (1, 8, 8)), path)
    assert not witness.exists()


def test_resize_refuses_what_no_pruning_could_have_left():
    model = build("resnet8", 10, (1, 8, 8))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    with pytest.raises(Refused, match="layer1.0.conv1.weight"):
        resize(model, shapes | {"layer1.0.conv1.weight": (16, 16, 5, 5)})
    with pytest.raises(Refused, match="do not fit"):
        resize(model, {name: shape for name, shape in shapes.items() if name != "linear.bias"})
