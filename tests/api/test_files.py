"""prunelab.save and prunelab.load: thin networks survive as files without code."""

import json

import numpy as np
import pytest
import torch
from helpers.modules import IMAGES, ResidualNet, TokenNet, image_batches, perceptron, residual_net
from helpers.networks import CARD, DIGITS_SHAPE, trained
from safetensors import safe_open
from torch import nn

import prunelab
from prunelab.artifacts.networks import Network, load_network, save_network
from prunelab.artifacts.tensors import load_tensors, save_tensors
from prunelab.core.model_files import METADATA_KEY
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.models.networks import build


class Mixed(nn.Module):
    """Layers that hold numbers about their widths, of which some follow from no other layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm = nn.BatchNorm2d(12)
        self.wide = nn.Conv2d(12, 24, 1)
        self.act = nn.PReLU(24)
        self.head = nn.Linear(24, 10)

    def forward(self, images):
        features = self.norm(self.depthwise(self.stem(images)))
        return self.head(self.act(self.wide(features)).mean((2, 3)))


NETWORKS = {
    "residual": (residual_net, ResidualNet, IMAGES),
    "numbers": (perceptron, lambda: perceptron(seed=9), torch.randn(3, 4)),
    "tokens": (TokenNet, TokenNet, torch.randint(20, (3, 5))),
}


def error_of(call, *arguments: object, **keywords: object) -> str:
    with pytest.raises(prunelab.InputError) as refused:
        call(*arguments, **keywords)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.fixture
def file(tmp_path):
    return tmp_path / "thin.safetensors"


@pytest.mark.parametrize("method", ["l1_channel", "l1_unstructured"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_comes_back_with_the_same_outputs_to_the_bit(file, name, method):
    make, fresh, inputs = NETWORKS[name]
    result = prunelab.prune(make(), inputs, method, 0.5, "native")

    prunelab.save(result, file)
    loaded = prunelab.load(file, fresh())

    assert type(loaded.model) is type(result.model)
    assert not loaded.model.training
    assert torch.equal(loaded.model(inputs), result.model.eval()(inputs))
    assert loaded.card.pruning == result.spec
    assert loaded.masks.keys() == result.masks.keys()


def test_numbers_that_layers_hold_come_back_too(file):
    result = prunelab.prune(Mixed().eval(), IMAGES, ratio=0.3, budget="native")
    prunelab.save(result, file)

    loaded = prunelab.load(file, Mixed()).model

    assert str(loaded) == str(result.model)  # the layers with their numbers
    assert torch.equal(loaded(IMAGES), result.model(IMAGES))


def test_shared_weights_come_back_shared(file):
    tokens = torch.randint(20, (2, 5))
    result = prunelab.prune(TokenNet().eval(), tokens, "l1_unstructured", 0.5, "native")
    prunelab.save(result, file)

    loaded = prunelab.load(file, TokenNet()).model

    assert loaded.once_more.weight is loaded.again.weight


def test_a_network_may_be_trained_and_pruned_again_between_files(file):
    first = prunelab.prune(residual_net(), IMAGES, ratio=0.32)
    prunelab.save(first, file)
    loaded = prunelab.load(file, ResidualNet())

    second = prunelab.prune(loaded, IMAGES, "l2_channel", 0.3, "native")
    with torch.no_grad():
        second.model.head.bias.add_(1)
    prunelab.save(second, file)

    again = prunelab.load(file, ResidualNet())
    assert torch.equal(again.model(IMAGES), second.model(IMAGES))
    assert again.card.pruning.method == "l2_channel"


def test_equal_networks_give_equal_bytes(file, tmp_path):
    for path in (file, tmp_path / "again"):
        prunelab.save(prunelab.prune(residual_net(), IMAGES), path)

    assert file.read_bytes() == (tmp_path / "again").read_bytes()


def test_a_registered_network_needs_no_module_and_the_pipeline_reads_it(file):
    save_network(
        file,
        Network(model=trained("resnet20_b"), card=CARD.model_copy(update={"model": "resnet20_b"})),
    )
    dense = prunelab.load(file)

    result = prunelab.prune(dense, method="l1_channel", ratio=0.5)
    prunelab.save(result, file)

    inputs = torch.randn(2, *DIGITS_SHAPE)
    expected = result.model(inputs)
    assert torch.equal(prunelab.load(file).model(inputs), expected)
    network = load_network(file)
    assert torch.equal(network.model(inputs), expected)
    assert network.card.pruning == result.spec
    assert "own mean and std" in error_of(prunelab.save, result, file, mean=[0.5])

    prunelab.save(result, file, classes=list("abcdefghij"))
    assert prunelab.load(file).classes == tuple("abcdefghij")
    assert "has 2 names" in error_of(prunelab.save, result, file, classes=["a", "b"])


def test_layers_that_a_network_of_the_table_must_keep_are_kept():
    network = prunelab.LoadedNetwork(build("resnet8", 10, DIGITS_SHAPE), CARD)

    result = prunelab.prune(network, ratio=0.3, budget="native")

    assert "fixed width" in result.kept["conv1"]
    assert result.model(torch.randn(2, *DIGITS_SHAPE)).shape == (2, 10)


def test_the_transform_makes_the_inputs_that_training_saw(file, digits, execution):
    network = Network(model=build("resnet8", 10, DIGITS_SHAPE), card=CARD)
    save_network(file, network)
    images = digits.inputs[:5]
    loader = BatchLoader(Split(images, digits.labels[:5]), CARD.normalise, execution)
    ((inputs, _),) = loader.ordered(5)

    assert torch.equal(prunelab.load(file).preprocess(torch.from_numpy(images)), inputs)

    result = prunelab.prune(residual_net(), IMAGES)
    prunelab.save(result, file, mean=[0.3], std=[0.4], classes=["even", "odd"])
    loaded = prunelab.load(file, ResidualNet())
    assert torch.equal(loaded.preprocess(torch.from_numpy(images)), inputs)
    assert loaded.classes == ("even", "odd")
    resized = loaded.preprocess(torch.zeros(2, 1, 20, 30, dtype=torch.uint8))
    assert resized.shape == (2, 1, 8, 8)
    assert resized.eq(-0.75).all()  # (0 - 0.3) / 0.4


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_means_and_deviations_may_be_arrays(file, kind):
    result = prunelab.prune(residual_net(), IMAGES)

    prunelab.save(result, file, mean=kind([0.0]), std=kind([0.5]))

    normalise = prunelab.load(file, ResidualNet()).card.normalise
    assert (list(normalise.mean), list(normalise.std)) == ([0.0], [0.5])


def test_masks_hold_while_a_network_is_tuned_or_saving_is_refused(file):
    result = prunelab.prune(residual_net(), IMAGES, "l1_unstructured", 0.8, "native")
    optimizer = torch.optim.SGD(result.model.parameters(), 0.1)
    for images, labels in image_batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(result.model(images), labels).backward()
        optimizer.step()

    assert "call apply_masks() after every optimizer step" in error_of(prunelab.save, result, file)
    assert not file.exists()
    result.apply_masks()
    prunelab.save(result, file)
    loaded = prunelab.load(file, ResidualNet())
    assert all(
        (loaded.model.get_parameter(name)[~mask] == 0).all() for name, mask in loaded.masks.items()
    )


@pytest.fixture
def saved(file):
    prunelab.save(prunelab.prune(residual_net(), IMAGES), file)
    return file


def test_a_file_that_cannot_be_used_is_refused_in_one_line(saved, tmp_path):
    assert "is missing" in error_of(prunelab.load, tmp_path / "none")
    assert "prunelab.load(path, model)" in error_of(prunelab.load, saved)
    assert "does not fit this Sequential" in error_of(prunelab.load, saved, perceptron())
    assert "prunelab.load(path, model) reads it" in error_of(load_network, saved)
    assert "must be an nn.Module" in error_of(prunelab.load, saved, ResidualNet)

    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    assert "is damaged" in error_of(prunelab.load, saved, ResidualNet())
    saved.write_bytes(b"nothing")
    assert "is damaged" in error_of(prunelab.load, saved, ResidualNet())


def test_the_module_that_is_passed_stays_as_it_was(saved):
    dense = ResidualNet()
    weight = dense.conv1.weight.clone()

    prunelab.load(saved, dense)

    assert torch.equal(dense.conv1.weight, weight)


@pytest.mark.parametrize(
    "widths",
    [
        {"conv1": {"out_channels": 10**9}},  # memory for a network that grows
        {"conv1": {"stride": (0, 0)}},
        {"conv1": {"_parameters": 1}},
        {"conv1": {"bias": 1}},
        {"": {"training": 1}},
        {"nothing": {"out_channels": 1}},
        {"conv1": {"out_channels": "os.system"}},
        {"conv1": {"__class__": 1}},
    ],
    ids=str,
)
def test_a_card_can_only_make_numbers_of_layers_smaller(saved, widths):
    tensors, metadata = load_tensors(saved, recovery_hint="")
    save_tensors(
        saved,
        {name: tensor.clone() for name, tensor in tensors.items()},
        metadata | {"widths": widths},
    )

    message = error_of(prunelab.load, saved, ResidualNet())

    assert "cannot be" in message


def test_a_file_holds_tensors_and_one_entry_of_json(saved):
    with safe_open(saved, framework="pt") as opened:
        metadata = opened.metadata()

    assert list(metadata) == [METADATA_KEY]
    assert json.loads(metadata[METADATA_KEY])["module"] == "ResidualNet"


def test_what_cannot_be_saved_is_refused_and_an_older_file_stays(saved):
    older = saved.read_bytes()
    result = prunelab.prune(residual_net(), IMAGES)

    assert "what prunelab.prune" in error_of(prunelab.save, result.model, saved)
    assert "one number for each of the 1 channels" in error_of(
        prunelab.save, result, saved, mean=[0.1, 0.2], std=[1.0, 1.0]
    )
    assert "std" in error_of(prunelab.save, result, saved, mean=[0.1])
    with torch.no_grad():
        result.model.head.bias[0] = torch.nan
    assert "not finite" in error_of(prunelab.save, result, saved)

    assert saved.read_bytes() == older
