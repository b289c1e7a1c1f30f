"""Files of networks, weights, checkpoints and arrays, damaged or made to harm: refused, and nothing in them runs.

The last test reads the sources for calls by which a file could run code.
"""

import ast
import io
import json
import os
import pickle
import resource
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.damage import DAMAGES, FLIPS, Damage, Malicious, flipped, outcome, pickled
from helpers.data import encoder_folder
from helpers.networks import CARD, DIGITS_SHAPE
from helpers.params import PROJECT, edit_params
from hypothesis import given
from hypothesis import strategies as st
from torchvision import datasets as torchvision_datasets

from prunelab.artifacts.networks import (
    ModelCard,
    Network,
    load_network,
    save_network,
    state_tensors,
)
from prunelab.artifacts.predictions import load_predictions, save_predictions
from prunelab.artifacts.prepared import load_split
from prunelab.artifacts.tensors import METADATA_KEY, save_tensors
from prunelab.commands.studies.study_file import load_study
from prunelab.config.params import read_params
from prunelab.core.errors import InputError
from prunelab.core.files import sha256
from prunelab.data.dataset import DataConfig
from prunelab.data.splits import Split
from prunelab.datasets.datasets import DATASETS
from prunelab.encoders.pretrained import encoder_options, tokenizer
from prunelab.models import imagenet
from prunelab.models.catalogue import build
from prunelab.models.imagenet import fetch
from prunelab.models.weights import load_weights, read_weights, weights_file
from prunelab.stages import prepare
from prunelab.training.checkpoints import Checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def network() -> Network:
    model = build("resnet8", 10, DIGITS_SHAPE)
    weight = model.state_dict()["conv1.weight"]
    return Network(
        model=model, card=CARD, masks={"conv1.weight": weight.abs() > weight.abs().median()}
    )


@pytest.fixture(scope="module")
def whole(network, folder) -> bytes:
    save_network(folder / "whole.safetensors", network)
    return (folder / "whole.safetensors").read_bytes()


def same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return state.keys() == other.keys() and all(
        torch.equal(state[name], other[name]) for name in state
    )


@given(FLIPS | DAMAGES)
def test_a_damaged_model_file_is_refused_or_still_says_the_same(
    folder, network, whole, damage: Damage
):
    path = folder / "damaged.safetensors"
    path.write_bytes(damage(whole))
    loaded = outcome(load_network, path)
    if loaded:
        assert loaded.card == network.card
        assert same(loaded.model.state_dict(), network.model.state_dict())
        assert same(loaded.masks, network.masks)


def test_every_flipped_bit_of_a_weight_is_noticed(folder, network, whole):
    bias = state_tensors(network.model)["linear.bias"].numpy().tobytes()
    for start in range(whole.index(bias), whole.index(bias) + len(bias)):
        (folder / "bit.safetensors").write_bytes(flipped(whole, start, bit=0))
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
SPOILED = (
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


def peak() -> int:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


@given(SPOILED)
def test_a_card_made_to_harm_is_refused_or_harmless(folder, network, spoiled: dict):
    before = peak()
    told = network.card.model_dump(mode="json") | spoiled
    save_tensors(folder / "card.safetensors", state_tensors(network.model), told)
    loaded = outcome(load_network, folder / "card.safetensors")
    if loaded and loaded.card.input_shape == DIGITS_SHAPE:
        assert loaded.model(torch.zeros(1, *DIGITS_SHAPE)).shape == (1, loaded.card.classes)
    assert peak() - before < 200


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"layers": 2**30}, "layers is 1073741824; valid: 1 to 512"),
        ({"positions": 2**31}, "positions is 2147483648; valid: 1 to 1048576"),
        ({"vocab": 2**31, "hidden": 2**20, "heads": 1}, "does not hold a bert"),
    ],
)
def test_a_card_that_speaks_of_more_weights_than_memory_is_refused_before_they_are_made(
    tmp_path, options, named
):
    sizes = {"vocab": 9, "hidden": 8, "layers": 1, "heads": 2, "intermediate": 16, "positions": 16}
    card = ModelCard(
        model="bert",
        classes=2,
        input_shape=(8,),
        options=sizes,
        normalise=None,
        seed=0,
        imported=None,
    )
    told, before = card.model_dump(mode="json") | {"options": sizes | options}, peak()
    save_tensors(tmp_path / "n.safetensors", state_tensors(build("bert", 2, (8,), **sizes)), told)
    with pytest.raises(InputError, match=named):
        load_network(tmp_path / "n.safetensors")
    assert peak() - before < 200


def test_a_header_that_declares_terabytes_is_refused(tmp_path):
    told = {"t": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    header = json.dumps(told | {"__metadata__": {METADATA_KEY: "{}"}}).encode()
    for length in (len(header), 2**63):
        (tmp_path / "n.safetensors").write_bytes(length.to_bytes(8, "little") + header)
        with pytest.raises(InputError, match="is damaged"):
            load_network(tmp_path / "n.safetensors")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda state: state.pop("linear.bias"), "linear.bias in one but not in the other"),
        (lambda state: state.update({"linear.bias": torch.zeros(11)}), r"linear.bias has shape \(11,\)"),
        (lambda state: state.update({"linear.bias": torch.zeros(10, dtype=torch.int64)}), "is torch.int64, not"),
        (lambda state: state.update({"linear.bias": torch.zeros(10).half()}), "is torch.float16, not"),
        (
            lambda state: state.update({"linear.bias": torch.zeros(9), "linear.weight": torch.zeros(9, 64)}),
            "tells 9 classes apart, its card speaks of 10",
        ),
        (lambda state: state.update({"linear.weight": torch.zeros(10, 63)}), "does not hold a resnet8"),
        (lambda state: state.update({"bn1.weight": torch.zeros(3)}), "does not hold a resnet8"),
        (lambda state: state.update({"mask/none": torch.ones(3, dtype=torch.bool)}), "masks that fit no weights: none"),
        (lambda state: state.update({"mask/linear.bias": torch.ones(10)}), "masks that fit no weights: linear.bias"),
    ],
)  # fmt: skip
def test_tensors_of_another_network_are_refused_by_name(tmp_path, network, spoil, named):
    state = state_tensors(network.model)
    spoil(state)
    save_tensors(tmp_path / "n.safetensors", state, network.card.model_dump(mode="json"))
    with pytest.raises(InputError, match=named) as refused:
        load_network(tmp_path / "n.safetensors")
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(
    tmp_path, network, monkeypatch, value
):
    path = tmp_path / "n.safetensors"
    save_network(path, network)
    before = path.read_bytes()
    model = build("resnet8", 10, DIGITS_SHAPE)
    with torch.no_grad():
        model.linear.bias[3] = value
    with pytest.raises(InputError, match="values of linear.bias are not finite"):
        save_network(path, Network(model=model, card=CARD))
    assert path.read_bytes() == before
    monkeypatch.setattr("prunelab.artifacts.tensors._assert_finite", lambda *_: None)
    save_network(path, Network(model=model, card=CARD))
    monkeypatch.undo()
    with pytest.raises(InputError, match="values of linear.bias are not finite"):
        load_network(path)


def test_what_a_file_says_can_neither_break_a_line_nor_speak_to_the_terminal(tmp_path, network):
    told = network.card.model_dump(mode="json") | {"model": "a\nb\x1b[2J" + "c" * 10**5}
    save_tensors(tmp_path / "n.safetensors", state_tensors(network.model), told)
    with pytest.raises(InputError, match=r"a\\nb\\x1b") as refused:
        load_network(tmp_path / "n.safetensors")
    (line,) = refused.value.problems
    assert line.isprintable()
    assert len(line) < 5000


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "n.safetensors")
    written_to = os.open(
        tmp_path / "n.safetensors", os.O_RDWR
    )  # else whoever opens it to read waits without end
    try:
        with pytest.raises(InputError, match="is missing"):
            load_network(tmp_path / "n.safetensors")
    finally:
        os.close(written_to)


def test_files_of_others_are_not_taken_for_ours(tmp_path, network):
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
def test_damaged_weights_of_others_are_refused_or_tensors(folder, damage: Damage):
    if not (folder / "w.safetensors").exists():
        state = {"a": torch.arange(40.0).reshape(8, 5), "b": torch.ones(3, dtype=torch.int64)}
        torch.save(state, folder / "w.pt")
        torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
        safetensors.torch.save_file(state, folder / "w.safetensors")
    for name in ("w.pt", "old.pt", "w.safetensors"):
        path = folder / f"damaged_{name}"
        path.write_bytes(damage((folder / name).read_bytes()))
        state = outcome(read_weights, path)
        assert state is None or all(isinstance(tensor, torch.Tensor) for tensor in state.values())


@given(FLIPS | DAMAGES)
def test_a_damaged_checkpoint_is_dropped_or_still_says_the_same(folder, network, damage: Damage):
    state = {"model": {"w": torch.arange(500.0)}, "epoch": 3}
    checkpoint = Checkpoint(folder / "0.pt")
    checkpoint.save(state)
    (folder / "0.pt").write_bytes(damage((folder / "0.pt").read_bytes()))
    found = checkpoint.load()
    assert found is None or (found["epoch"] == 3 and same(found["model"], state["model"]))


@given(FLIPS | DAMAGES)
def test_damaged_predictions_are_refused_or_still_say_the_same(folder, damage: Damage):
    arrays = {name: np.arange(6).reshape(2, 3) for name in ("before", "after", "losses")} | {
        "labels": np.arange(3)
    }
    path = folder / "predictions"
    save_predictions(path, **arrays)
    path.write_bytes(damage(path.read_bytes()))
    if loaded := outcome(load_predictions, path):
        assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())


def test_a_compressed_file_of_weights_is_not_unpacked(tmp_path):
    import zipfile

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
    content = (place / name).read_bytes()
    try:
        (place / name).write_bytes(damage(content))
        words = outcome(tokenizer, str(place))
        assert words is None or words("a film")["input_ids"] is not None
        if options := outcome(encoder_options, str(place)):
            outcome(
                lambda: load_weights(
                    build("bert", 2, (4,), **options), weights_file(str(place), "bert")
                )
            )
    finally:
        (place / name).write_bytes(content)


def test_an_encoder_of_more_weights_than_its_file_is_refused_before_it_is_built(tmp_path):
    place = encoder_folder(tmp_path / "mine", intermediate_size=2**30)
    with pytest.raises(
        InputError, match=r"config.json speaks of \d+ weights and more, but .* has \d+ bytes"
    ):
        encoder_options(str(place))


def described(folder: Path, inputs: bytes, labels: np.ndarray, **changes: object) -> Path:
    """Prepared data with a description that agrees with these files, whatever they hold."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train/inputs.npy").write_bytes(inputs)
    np.save(folder / "train/labels.npy", labels)
    hashes = {name: sha256(folder / f"train/{name}.npy") for name in ("inputs", "labels")}
    told = {
        "dataset": "any", "classes": ["a", "b"], "shape": [1, 2, 2], "mean": [0.5], "std": [0.2],
        "counts": {"train": 4}, "sha256": {"train": hashes},
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(told | changes))
    return folder


def stored(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


IMAGES = stored(np.zeros((4, 1, 2, 2), np.uint8))
LABELS = np.array([0, 1, 1, 0])


@given(DAMAGES)
def test_arrays_that_are_none_are_refused_even_if_their_hash_is_told(folder, damage: Damage):
    split = outcome(load_split, described(folder / "prepared", damage(IMAGES), LABELS), "train")
    assert split is None or (split.inputs.shape == (4, 1, 2, 2) and split.dtype == np.uint8)


@given(DAMAGES)
def test_a_damaged_description_is_refused_or_describes(folder, damage: Damage):
    place = described(folder / "told", IMAGES, LABELS)
    told = (place / "dataset.json").read_bytes()
    (place / "dataset.json").write_bytes(damage(told))
    assert isinstance(outcome(load_split, place, "train"), Split | None)


@pytest.mark.parametrize(
    ("inputs", "labels", "changes", "named"),
    [
        (stored(np.zeros((4, 1, 2, 2), np.float32)), LABELS, {}, "inputs are float32"),
        (stored(np.zeros((4, 3, 2, 2), np.uint8)), LABELS, {}, r"inputs are uint8 \(4, 3, 2, 2\)"),
        (IMAGES, LABELS[:3], {}, "one for each of the inputs"),
        (IMAGES, LABELS.astype(float), {}, "labels are float64"),
        (IMAGES, LABELS + 1, {}, "labels go from 1 to 2, but there are 2 classes"),
        (IMAGES, LABELS - 1, {}, "labels go from -1 to 0"),
        (stored(np.full((4, 3), -1)), LABELS, {"shape": [3]}, "negative token id"),
        (IMAGES, LABELS, {"shape": [1, 2]}, "is damaged: shape"),
        (IMAGES, LABELS, {"classes": []}, "is damaged: classes"),
        (IMAGES, LABELS, {"sha256": {"train": {"inputs": "0"}}}, "is damaged: sha256.train.labels"),
        (IMAGES, LABELS, {"sha256": {}}, "does not describe train"),
    ],
)
def test_arrays_that_contradict_their_description_are_refused(
    tmp_path, inputs, labels, changes, named
):
    with pytest.raises(InputError, match=named):
        load_split(described(tmp_path, inputs, labels, **changes), "train")


def test_an_array_that_declares_terabytes_is_refused(tmp_path):
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**13, 1, 2, 2)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with pytest.raises(InputError, match="no array that can be read: mmap length is greater"):
        load_split(described(tmp_path, buffer.getvalue(), LABELS), "train")


def in_weights(folder: Path, content: bytes) -> None:
    for name in ("w.pt", "w.safetensors"):
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match="weights:"):
            read_weights(folder / name)


def in_models(folder: Path, content: bytes) -> None:
    (folder / "0.safetensors").write_bytes(content)
    for load in (load_network, load_predictions):
        with pytest.raises(InputError, match="is damaged"):
            load(folder / "0.safetensors")


def in_checkpoints(folder: Path, content: bytes) -> None:
    (folder / "0.pt").write_bytes(content)
    assert Checkpoint(folder / "0.pt").load() is None


def in_prepared(folder: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="no array that can be read"):
        load_split(described(folder, content, LABELS), "train")
    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        load_split(folder, "train")


def in_raw_data(folder: Path, content: bytes) -> None:
    (folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    for name, inner in (
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
    ):
        edit_params(folder / "params.yaml", dataset=name)
        (folder / inner).parent.mkdir()
        (folder / inner).write_bytes(content)
        with pytest.raises(InputError, match="is damaged: its MD5"):
            prepare.main(folder, folder / "out")


def in_sources(folder: Path, content: bytes) -> None:
    (folder / "t.tsv").write_bytes(content)
    assert DATASETS["text_tsv"](DataConfig(folder, str(folder / "t.tsv"))).damaged()
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for index in range(3):
            (folder / "pets" / name / f"{index}.png").write_bytes(content)
    pets = DATASETS["imagefolder"](DataConfig(folder, str(folder / "pets"), resize=8))
    with pytest.raises(InputError, match="6 of 6 images cannot be decoded"):
        list(pets.read().train.chunks())


def in_hub_cache(folder: Path, content: bytes) -> None:
    _, cached = imagenet.place("resnet18")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    with pytest.raises(InputError, match="is damaged: its SHA-256"):
        fetch("resnet18")
    with pytest.raises(InputError, match="weights:"):  # even if its hash were right
        read_weights(cached)


def in_encoders(folder: Path, content: bytes) -> None:
    whole = encoder_folder(folder / "mine")
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ):
        kept = (whole / name).read_bytes() if (whole / name).exists() else b""
        (whole / name).write_bytes(content)
        outcome(tokenizer, str(whole))
        if outcome(encoder_options, str(whole)):
            outcome(read_weights, whole / "model.safetensors")
        (whole / name).write_bytes(kept)
    (whole / "model.safetensors").rename(whole / "pytorch_model.bin")
    (whole / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match="read from safetensors, which hold no code"):
        encoder_options(str(whole))


def in_yaml(folder: Path, content: bytes) -> None:
    for text in (
        content,
        b"dataset: !!python/object/apply:pathlib.Path.touch ['%s']" % bytes(folder / "witness"),
    ):
        (folder / "params.yaml").write_bytes(text)
        for read in (
            lambda: read_params(folder / "params.yaml"),
            lambda: load_study("params", folder),
        ):
            with pytest.raises(InputError, match="cannot be read as YAML"):
                read()


PLACES = [
    *(
        in_weights,
        in_models,
        in_checkpoints,
        in_prepared,
        in_raw_data,
        in_sources,
        in_hub_cache,
        in_encoders,
        in_yaml,
    )
]


@pytest.mark.parametrize("plant", PLACES)
def test_a_pickle_is_refused_wherever_it_is_planted_and_nothing_in_it_runs(
    tmp_path, monkeypatch, plant
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    witness = tmp_path / "witness"
    zipped, array = io.BytesIO(), io.BytesIO()
    torch.save(Malicious(witness), zipped)
    np.save(array, np.array([Malicious(witness)], dtype=object), allow_pickle=True)
    contents = [pickled(witness), zipped.getvalue(), array.getvalue()]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / str(number) / "torch"))
        plant(tmp_path / str(number), content)
    assert not list(tmp_path.rglob("witness"))
    pickle.loads(contents[0])
    assert witness.exists(), "what was planted does nothing"


def test_an_archive_whose_members_leave_its_folder_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch
):
    url = (tmp_path / "cifar-10-python.tar.gz").as_uri()
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name in ("../escaped", str(tmp_path / "absolute"), "cifar-10-batches-py/test_batch"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("cifar-10-batches-py/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "url", url)
    raw = tmp_path / "deep/raw"
    with pytest.raises(InputError, match="cannot be downloaded.*its MD5"):
        DATASETS["cifar10"](DataConfig(raw)).download()
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.name in ("escaped", "absolute", "link", "test_batch")
    ]


FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def forbidden(tree: ast.AST) -> list[str]:
    """Every way in which a file could run code."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [
                alias.name for alias in node.names if alias.name in FORBIDDEN_MODULES | {"pickle"}
            ]
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            found += [node.module] if node.module in FORBIDDEN_MODULES else []
            found += ["pickle"] if node.module == "pickle" and names != {"UnpicklingError"} else []
        elif isinstance(node, ast.Call):
            called, given = (
                ast.unparse(node.func),
                {word.arg: ast.unparse(word.value) for word in node.keywords},
            )
            harmful = (
                called in FORBIDDEN_CALLS
                or called in ("os.system", "os.popen")
                or (called.endswith("torch.load") and given.get("weights_only") != "True")
                or given.get("allow_pickle", "False") != "False"
                or given.get("shell", "False") != "False"
                or given.get("trust_remote_code", "False") != "False"
                or (called == "YAML" and given.get("typ", "'rt'") not in ("'rt'", "'safe'"))
            )
            found += [ast.unparse(node)] if harmful else []
    return found


def test_no_source_runs_what_a_file_says():
    sources = sorted((PROJECT / "src").rglob("*.py"))
    assert len(sources) > 100
    assert {
        str(path): found for path in sources if (found := forbidden(ast.parse(path.read_text())))
    } == {}


@pytest.mark.parametrize(
    "line",
    [
        *(
            "import pickle",
            "from pickle import loads",
            "import yaml",
            "eval(text)",
            "exec(text)",
            "torch.load(path)",
        ),
        *(
            "torch.load(path, weights_only=False)",
            "np.load(path, allow_pickle=True)",
            "run(line, shell=True)",
        ),
        *("f(x, trust_remote_code=True)", "YAML(typ='unsafe')", "import dill", "os.system(line)"),
    ],
)
def test_the_search_for_such_sources_finds_them(line):
    assert forbidden(ast.parse(line))
