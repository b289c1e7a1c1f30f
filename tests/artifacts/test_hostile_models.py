"""Files of networks, weights, checkpoints and encoders that are damaged or hostile are refused."""

import json
import os
import resource
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.damage import DAMAGES, FLIPS, Damage, flipped, outcome
from helpers.data import encoder_folder
from helpers.networks import CARD, DIGITS_SHAPE, IMAGE_MODELS, encoder_card
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunelab.artifacts import tensors
from prunelab.artifacts.networks import (
    ModelCard,
    Network,
    load_network,
    save_network,
    state_tensors,
)
from prunelab.artifacts.predictions import load_predictions, save_predictions
from prunelab.artifacts.tensors import save_tensors
from prunelab.core.errors import InputError
from prunelab.core.model_files import METADATA_KEY
from prunelab.encoders.pretrained import encoder_options, tokenizer
from prunelab.models.catalogue import MODELS
from prunelab.models.networks import build, build_on_meta, example_input
from prunelab.models.resize import resize
from prunelab.models.weights import load_weights, read_weights
from prunelab.models.weights_source import weights_file
from prunelab.training.checkpoints import Checkpoint

MAX_GROWTH_MB = 200  # of memory while a hostile card is read
TINY_ENCODER = {
    "vocab": 9,
    "hidden": 8,
    "layers": 1,
    "heads": 2,
    "intermediate": 16,
    "positions": 16,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def network() -> Network:
    model = build("resnet8", 10, DIGITS_SHAPE)
    magnitudes = model.state_dict()["conv1.weight"].abs()
    masks = {"conv1.weight": magnitudes > magnitudes.median()}
    return Network(model=model, card=CARD, masks=masks)


@pytest.fixture(scope="module")
def content(network, folder) -> bytes:
    """The undamaged file of the network."""
    save_network(folder / "undamaged.safetensors", network)
    return (folder / "undamaged.safetensors").read_bytes()


def equal_tensors(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    if left.keys() != right.keys():
        return False
    return all(torch.equal(left[name], right[name]) for name in left)


@given(FLIPS | DAMAGES)
def test_a_damaged_model_file_is_refused_or_equal(folder, network, content, damage: Damage):
    path = folder / "damaged.safetensors"
    path.write_bytes(damage(content))

    loaded = outcome(load_network, path)

    if loaded:
        assert loaded.card == network.card
        assert equal_tensors(loaded.model.state_dict(), network.model.state_dict())
        assert equal_tensors(loaded.masks, network.masks)


def test_every_flipped_bit_of_a_weight_is_noticed(folder, network, content):
    bias = state_tensors(network.model)["linear.bias"].numpy().tobytes()
    start = content.index(bias)

    for place in range(start, start + len(bias)):
        (folder / "bit.safetensors").write_bytes(flipped(content, place, bit=0))
        with pytest.raises(InputError, match="is damaged: SHA-256"):
            load_network(folder / "bit.safetensors")


HUGE = st.sampled_from([0, -1, 2**31, 2**40, 2**62, 2**63, 10**30])
VALUES = st.recursive(
    st.none() | st.booleans() | HUGE | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
SHAPES = st.lists(st.integers(1, 9) | HUGE, min_size=0, max_size=4)
MODEL_NAMES = st.sampled_from(["resnet8", "vgg11", "vit_tiny", "alexnet", "bert", "\n"])
CARD_CHANGES = (
    st.fixed_dictionaries(
        {"model": MODEL_NAMES, "input_shape": SHAPES, "classes": HUGE | st.integers(1, 9)}
    )
    | st.fixed_dictionaries(
        {}, optional={"input_shape": SHAPES, "classes": HUGE | st.integers(1, 10)}
    )
    | st.dictionaries(
        st.sampled_from([*ModelCard.model_fields, "more"]), VALUES, min_size=1, max_size=2
    )
)


def peak_memory_mb() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


@given(CARD_CHANGES)
def test_a_hostile_card_is_refused_or_harmless(folder, network, changes: dict):
    peak_before = peak_memory_mb()
    card = network.card.model_dump(mode="json") | changes
    save_tensors(folder / "card.safetensors", state_tensors(network.model), card)

    loaded = outcome(load_network, folder / "card.safetensors")

    if loaded and loaded.card.input_shape == DIGITS_SHAPE:
        assert loaded.model(torch.zeros(1, *DIGITS_SHAPE)).shape == (1, loaded.card.classes)
    assert peak_memory_mb() - peak_before < MAX_GROWTH_MB


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 2**30}, "layers is 1073741824; valid: 1 to 512"),
        ({"positions": 2**31}, "positions is 2147483648; valid: 1 to 1048576"),
        ({"vocab": 2**31, "hidden": 2**20, "heads": 1}, "does not hold a bert"),
    ],
)
def test_a_card_with_more_weights_than_memory_is_refused_early(tmp_path, options, message):
    sizes = TINY_ENCODER
    card = encoder_card(8, sizes)
    metadata = card.model_dump(mode="json") | {"options": sizes | options}
    model = build("bert", 2, (8,), **sizes)
    save_tensors(tmp_path / "n.safetensors", state_tensors(model), metadata)
    peak_before = peak_memory_mb()

    with pytest.raises(InputError, match=message):
        load_network(tmp_path / "n.safetensors")

    assert peak_memory_mb() - peak_before < MAX_GROWTH_MB


OPTIONS = [("resnet8", option) for option in ("name", "classes", "shape", "more")]
OPTIONS += [(model, option) for model in IMAGE_MODELS for option in MODELS[model].arguments]


@pytest.mark.parametrize(("model", "option"), OPTIONS)
def test_options_that_the_table_decides_are_refused(model, option):
    """A card could otherwise ask for a network of any size."""
    with pytest.raises(InputError, match="cannot be built with the options"):
        build_on_meta(model, 10, DIGITS_SHAPE, **{option: 2**31})


def test_a_header_that_declares_terabytes_is_refused(tmp_path):
    tensor = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}
    header = json.dumps({"t": tensor, "__metadata__": {METADATA_KEY: "{}"}}).encode()

    for length in (len(header), 2**63):
        (tmp_path / "n.safetensors").write_bytes(length.to_bytes(8, "little") + header)
        with pytest.raises(InputError, match="is damaged"):
            load_network(tmp_path / "n.safetensors")


NARROW = {"linear.bias": torch.zeros(9), "linear.weight": torch.zeros(9, 64)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear.bias": None}, "linear.bias in one but not in the other"),
        ({"linear.bias": torch.zeros(11)}, r"linear.bias has shape \(11,\)"),
        ({"linear.bias": torch.zeros(10, dtype=torch.int64)}, "is torch.int64, not"),
        ({"linear.bias": torch.zeros(10).half()}, "is torch.float16, not"),
        (NARROW, "it has 9 outputs, but its card has 10 classes"),
        ({"linear.weight": torch.zeros(10, 63)}, "does not hold a resnet8"),
        ({"bn1.weight": torch.zeros(3)}, "does not hold a resnet8"),
        ({"mask/none": torch.ones(3, dtype=torch.bool)}, "masks that fit no weights: none"),
        ({"mask/linear.bias": torch.ones(10)}, "masks that fit no weights: linear.bias"),
    ],
)
def test_tensors_of_another_network_are_refused_by_name(tmp_path, network, changes, message):
    state = state_tensors(network.model) | changes
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_tensors(tmp_path / "n.safetensors", state, network.card.model_dump(mode="json"))

    with pytest.raises(InputError, match=message) as caught:
        load_network(tmp_path / "n.safetensors")

    assert len(caught.value.problems) == 1


def narrowings(state: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """The state with one tensor that is one unit narrower, in every dimension that can shrink."""
    for name, tensor in state.items():
        for dim in range(min(2, tensor.dim())):
            width = tensor.shape[dim] - 1
            if width and not name.endswith("embeddings.weight"):
                yield state | {name: tensor.narrow(dim, 0, width).contiguous()}


def computes(model: nn.Module, card: ModelCard, state: dict[str, torch.Tensor]) -> bool:
    """Whether the network of a card computes the scores of one real example with these tensors."""
    model = deepcopy(model).eval()
    try:
        resize(model, {name: tuple(tensor.shape) for name, tensor in state.items()})
        model.load_state_dict(state)
        scores = model(example_input(card.input_shape))
    except (InputError, RuntimeError):
        return False
    return scores.shape == (1, card.classes)


@pytest.mark.parametrize(
    "card",
    [
        CARD,
        CARD.model_copy(update={"model": "mobilenet_v2", "input_shape": (3, 8, 8)}),
        CARD.model_copy(update={"model": "bert", "input_shape": (8,), "options": TINY_ENCODER}),
    ],
    ids=lambda card: card.model,
)
def test_a_network_with_one_narrower_tensor_loads_only_if_it_computes(tmp_path, card):
    path = tmp_path / "n.safetensors"
    model = build(card.model, card.classes, card.input_shape, **card.options)

    states = list(narrowings(state_tensors(model)))
    verdicts = set()
    for state in states[:: max(1, len(states) // 30)]:
        save_tensors(path, state, card.model_dump(mode="json"))
        expected = computes(model, card, state)
        assert (outcome(load_network, path) is not None) == expected
        verdicts.add(expected)

    assert False in verdicts


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_neither_written_nor_read(tmp_path, network, monkeypatch, value):
    path = tmp_path / "n.safetensors"
    save_network(path, network)
    original = path.read_bytes()
    model = build("resnet8", 10, DIGITS_SHAPE)
    with torch.no_grad():
        model.linear.bias[3] = value

    with pytest.raises(InputError, match="values of linear.bias are not finite"):
        save_network(path, Network(model=model, card=CARD))
    assert path.read_bytes() == original

    monkeypatch.setattr(tensors, "check_finite", lambda *_: None)
    save_network(path, Network(model=model, card=CARD))
    monkeypatch.undo()
    with pytest.raises(InputError, match="values of linear.bias are not finite"):
        load_network(path)


def test_a_card_does_not_mention_what_is_empty(network):
    assert not {"class_names", "dataset", "exif", "grey_bits"} & set(network.card.model_dump())


def test_names_of_other_classes_than_the_network_has_are_refused(tmp_path, network):
    card = network.card.model_dump(mode="json") | {"class_names": ["cat", "dog"]}
    save_tensors(tmp_path / "n.safetensors", state_tensors(network.model), card)

    with pytest.raises(InputError, match="2 class_names, but 10 classes"):
        load_network(tmp_path / "n.safetensors")


def test_text_from_a_file_is_shown_in_one_printable_line(tmp_path, network):
    card = network.card.model_dump(mode="json") | {"model": "a\nb\x1b[2J" + "c" * 10**5}
    save_tensors(tmp_path / "n.safetensors", state_tensors(network.model), card)

    with pytest.raises(InputError, match=r"a\\nb\\x1b") as caught:
        load_network(tmp_path / "n.safetensors")

    (line,) = caught.value.problems
    assert line.isprintable()
    assert len(line) < 5000


def test_a_pipe_instead_of_a_file_is_not_waited_for(tmp_path):
    path = tmp_path / "n.safetensors"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)  # without a writer, a reader would wait forever

    try:
        with pytest.raises(InputError, match="is missing"):
            load_network(path)
    finally:
        os.close(writer)


def test_safetensors_files_of_other_programs_are_refused(tmp_path, network):
    path, state = tmp_path / "n.safetensors", state_tensors(network.model)

    for metadata in (
        None,
        {METADATA_KEY: "[]"},
        {METADATA_KEY: "1"},
        {METADATA_KEY: network.card.text()},
    ):
        safetensors.torch.save_file(state, path, metadata=metadata)
        with pytest.raises(InputError, match="lacks the metadata key"):
            load_network(path)


@given(DAMAGES)
def test_damaged_pretrained_weights_are_refused_or_tensors(folder, damage: Damage):
    if not (folder / "w.safetensors").exists():
        state = {"a": torch.arange(40.0).reshape(8, 5), "b": torch.ones(3, dtype=torch.int64)}
        torch.save(state, folder / "w.pt")
        torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
        safetensors.torch.save_file(state, folder / "w.safetensors")

    for name in ("w.pt", "old.pt", "w.safetensors"):
        path = folder / f"damaged_{name}"
        path.write_bytes(damage((folder / name).read_bytes()))
        state = outcome(read_weights, path)
        assert state is None or all(
            isinstance(tensor, torch.Tensor) for tensor in state.tensors.values()
        )


@given(FLIPS | DAMAGES)
def test_a_damaged_checkpoint_is_dropped_or_equal(folder, network, damage: Damage):
    state = {"model": {"w": torch.arange(500.0)}, "epoch": 3}
    checkpoint = Checkpoint(folder / "0.pt")
    checkpoint.save(state)
    (folder / "0.pt").write_bytes(damage((folder / "0.pt").read_bytes()))

    loaded = checkpoint.load()

    if loaded is not None:
        assert loaded["epoch"] == 3
        assert equal_tensors(loaded["model"], state["model"])


@given(FLIPS | DAMAGES)
def test_damaged_predictions_are_refused_or_equal(folder, damage: Damage):
    arrays = {name: np.arange(6).reshape(2, 3) for name in ("before", "after", "losses")}
    arrays["labels"] = np.arange(3)
    path = folder / "predictions"
    save_predictions(path, **arrays)
    path.write_bytes(damage(path.read_bytes()))

    loaded = outcome(load_predictions, path)

    if loaded:
        assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())


def test_a_compressed_weights_file_is_not_unpacked(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb,
    ):
        for member in plain.namelist():
            bomb.writestr(member, plain.read(member), zipfile.ZIP_DEFLATED)

    with pytest.raises(InputError, match="declares more content than it has"):
        read_weights(tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
@given(damage=DAMAGES)
def test_damaged_encoder_folders_are_refused_or_used(folder, name, damage: Damage):
    place = folder / "encoder"
    if not place.exists():
        encoder_folder(place)
    original = (place / name).read_bytes()

    def load_encoder(options: dict[str, int]) -> None:
        load_weights(build("bert", 2, (4,), **options), "bert", weights_file(str(place), "bert"))

    try:
        (place / name).write_bytes(damage(original))
        tokenize = outcome(tokenizer, str(place))
        assert tokenize is None or tokenize("a film")["input_ids"] is not None
        options = outcome(encoder_options, str(place))
        if options:
            outcome(load_encoder, options)
    finally:
        (place / name).write_bytes(original)


def test_an_encoder_with_more_weights_than_its_file_is_refused_early(tmp_path):
    place = encoder_folder(tmp_path / "mine", intermediate_size=2**30)

    with pytest.raises(
        InputError, match=r"config.json declares at least \d+ weights, but .* has \d+ bytes"
    ):
        encoder_options(str(place))
