"""No file can make this program run code: not a pickle in any place, and not an archive.

The last tests read the sources for calls by which a file could run code.
"""

import ast
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.damage import Malicious, outcome, pickled
from helpers.data import encoder_folder
from helpers.params import PROJECT, edit_params
from helpers.prepared_data import write_prepared
from torchvision import datasets as torchvision_datasets

from prunelab.artifacts.networks import load_network
from prunelab.artifacts.predictions import load_predictions
from prunelab.artifacts.prepared import load_split
from prunelab.commands.studies.study_file import load_study
from prunelab.config.params import read_params
from prunelab.core.errors import InputError
from prunelab.data.dataset import DataConfig
from prunelab.datasets.datasets import DATASETS
from prunelab.encoders.pretrained import encoder_options, tokenizer
from prunelab.models import imagenet
from prunelab.models.imagenet import fetch
from prunelab.models.weights import read_weights
from prunelab.stages import prepare
from prunelab.training.checkpoints import Checkpoint


def plant_in_weights(folder: Path, content: bytes) -> None:
    for name in ("w.pt", "w.safetensors"):
        (folder / name).write_bytes(content)

        with pytest.raises(InputError, match="weights:"):
            read_weights(folder / name)


def plant_in_models(folder: Path, content: bytes) -> None:
    (folder / "0.safetensors").write_bytes(content)

    for load in (load_network, load_predictions):
        with pytest.raises(InputError, match="is damaged"):
            load(folder / "0.safetensors")


def plant_in_checkpoints(folder: Path, content: bytes) -> None:
    (folder / "0.pt").write_bytes(content)

    assert Checkpoint(folder / "0.pt").load() is None


def plant_in_prepared(folder: Path, content: bytes) -> None:
    write_prepared(folder, content)
    with pytest.raises(InputError, match="no array that can be read"):
        load_split(folder, "train")

    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        load_split(folder, "train")


def plant_in_raw_data(folder: Path, content: bytes) -> None:
    (folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    files = {
        "cifar10": "cifar-10-batches-py/data_batch_1",
        "cifar100": "cifar-100-python/train",
    }
    for name, file in files.items():
        edit_params(folder / "params.yaml", dataset=name)
        (folder / file).parent.mkdir()
        (folder / file).write_bytes(content)

        with pytest.raises(InputError, match="is damaged: its MD5"):
            prepare.main(folder, folder / "out")


def plant_in_sources(folder: Path, content: bytes) -> None:
    (folder / "t.tsv").write_bytes(content)
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for index in range(3):
            (folder / "pets" / name / f"{index}.png").write_bytes(content)

    assert DATASETS["text_tsv"](DataConfig(folder, path=str(folder / "t.tsv"))).damaged()
    pets = DATASETS["imagefolder"](DataConfig(folder, path=str(folder / "pets"), resize=8))
    with pytest.raises(InputError, match="6 of 6 images cannot be decoded"):
        list(pets.read().train.chunks())


def plant_in_hub_cache(folder: Path, content: bytes) -> None:
    _, cached = imagenet.locate("resnet18")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)

    with pytest.raises(InputError, match="is damaged: its SHA-256"):
        fetch("resnet18")
    with pytest.raises(InputError, match="weights:"):  # even if its hash were right
        read_weights(cached)


def plant_in_encoders(folder: Path, content: bytes) -> None:
    encoder = encoder_folder(folder / "mine")
    names = (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    )
    for name in names:
        original = (encoder / name).read_bytes() if (encoder / name).exists() else b""
        (encoder / name).write_bytes(content)
        outcome(tokenizer, str(encoder))
        if outcome(encoder_options, str(encoder)):
            outcome(read_weights, encoder / "model.safetensors")
        (encoder / name).write_bytes(original)

    (encoder / "model.safetensors").rename(encoder / "pytorch_model.bin")
    (encoder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match="read from safetensors, which hold no code"):
        encoder_options(str(encoder))


def plant_in_yaml(folder: Path, content: bytes) -> None:
    touch = b"dataset: !!python/object/apply:pathlib.Path.touch ['%s']"
    for text in (content, touch % bytes(folder / "witness")):
        (folder / "params.yaml").write_bytes(text)

        with pytest.raises(InputError, match="cannot be read as YAML"):
            read_params(folder / "params.yaml")
        with pytest.raises(InputError, match="cannot be read as YAML"):
            load_study("params", folder)


PLANTS = [
    plant_in_weights,
    plant_in_models,
    plant_in_checkpoints,
    plant_in_prepared,
    plant_in_raw_data,
    plant_in_sources,
    plant_in_hub_cache,
    plant_in_encoders,
    plant_in_yaml,
]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_pickle_is_refused_and_does_not_run(tmp_path, monkeypatch, plant):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    witness = tmp_path / "witness"
    zipped, array = io.BytesIO(), io.BytesIO()
    torch.save(Malicious(witness), zipped)
    np.save(array, np.array([Malicious(witness)], dtype=object), allow_pickle=True)
    contents = [pickled(witness), zipped.getvalue(), array.getvalue()]

    for number, content in enumerate(contents):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
        plant(folder, content)

    assert not list(tmp_path.rglob("witness"))
    pickle.loads(contents[0])
    assert witness.exists(), "the planted pickle does nothing"


def test_archive_members_outside_the_folder_are_not_unpacked(tmp_path, monkeypatch):
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

    with pytest.raises(InputError, match="cannot be downloaded.*its MD5"):
        DATASETS["cifar10"](DataConfig(tmp_path / "deep/raw")).download()

    for name in ("escaped", "absolute", "link", "test_batch"):
        assert not list(tmp_path.rglob(name))


FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}


def dangerous_code(tree: ast.AST) -> list[str]:
    """Every import and call by which a file could run code."""
    dangers = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            dangers += dangerous_imports(node)
        elif isinstance(node, ast.ImportFrom):
            dangers += dangerous_from_imports(node)
        elif isinstance(node, ast.Call) and is_dangerous_call(node):
            dangers.append(ast.unparse(node))
    return dangers


def dangerous_imports(node: ast.Import) -> list[str]:
    return [alias.name for alias in node.names if alias.name in FORBIDDEN_MODULES | {"pickle"}]


def dangerous_from_imports(node: ast.ImportFrom) -> list[str]:
    names = {alias.name for alias in node.names}
    if node.module in FORBIDDEN_MODULES:
        return [node.module]
    if node.module == "pickle" and names != {"UnpicklingError"}:
        return ["pickle"]
    return []


def is_dangerous_call(node: ast.Call) -> bool:
    called = ast.unparse(node.func)
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}

    if called.endswith("torch.load"):
        return arguments.get("weights_only") != "True"
    if called == "YAML":
        return arguments.get("typ", "'rt'") not in ("'rt'", "'safe'")
    for name in ("allow_pickle", "shell", "trust_remote_code"):
        if arguments.get(name, "False") != "False":
            return True
    return called in FORBIDDEN_CALLS


# Results of a stage's own forks, through pipes that nobody else can open.
OWN_PICKLES = {"runtime/seeds.py": ["pickle"]}


def test_no_source_runs_code_from_a_file():
    sources = sorted((PROJECT / "src").rglob("*.py"))
    assert len(sources) > 100

    for path in sources:
        allowed = OWN_PICKLES.get(str(path.relative_to(PROJECT / "src/prunelab")), [])
        assert dangerous_code(ast.parse(path.read_text())) == allowed, path


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "run(line, shell=True)",
        "f(x, trust_remote_code=True)",
        "YAML(typ='unsafe')",
        "import dill",
        "os.system(line)",
    ],
)
def test_the_search_for_dangerous_code_finds(line):
    assert dangerous_code(ast.parse(line))
