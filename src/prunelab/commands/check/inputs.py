"""The user's own data and weights as they are now: their shape, their hashes, what has changed."""

from pathlib import Path
from typing import Any

from prunelab.artifacts.prepared import read_data_info
from prunelab.config.params import Params
from prunelab.core.errors import InputError
from prunelab.core.files import sha256, user_path
from prunelab.data.dataset import DataInfo, Dataset
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.manifest import data_config, prepare_params
from prunelab.models.weights_source import is_path, is_published, weights_file
from prunelab.project.paths import BASE, RAW


def data_info_of(params: Params, raw: Path = RAW) -> DataInfo:
    """How many classes the data set of the parameters has, and the shape of its inputs.

    Raises:
        InputError: if the data set is not prepared, and its raw files cannot be read.
    """
    prepared = prepared_info(params, raw)
    if prepared:
        return DataInfo(len(prepared["classes"]), tuple(prepared["shape"]))
    return dataset_of(params, raw).info()


def named_paths(params: Params) -> dict[str, Path]:
    """What may be paths of the user's own among the parameters, by their keys in params.yaml.

    A name on the hub is among them, because only the hub can tell.
    """
    paths = {}
    if is_path(params.weights):
        paths["weights"] = user_path(params.weights)
    if params.data.source is not None:
        paths["data.source"] = user_path(params.data.source)
    if params.data.table is not None:
        paths["data.table"] = user_path(params.data.table)
    return paths


def data_changed(params: Params, raw: Path = RAW) -> bool:
    """Whether data.source differs from what was prepared from it; DVC only tracks its name."""
    prepared = prepared_info(params, raw)
    if not prepared or params.data.source is None:
        return False

    dataset = dataset_of(params, raw)
    if dataset.missing():
        return False
    return bool(prepared.get("digest") != dataset.digest())


def prepared_info(params: Params, raw: Path) -> dict[str, Any] | None:
    """The content of dataset.json, if these parameters made it: it replaces the raw files."""
    folder = raw.parent / "prepared"
    info = {}
    if (folder / "dataset.json").exists():
        info = read_data_info(folder)

    expected = prepare_params(params)
    if expected.items() <= info.items():
        return info
    return None


def dataset_of(params: Params, raw: Path) -> Dataset:
    """The data set of the parameters; making it touches no file."""
    return DATASETS[params.dataset](data_config(params, raw))


def weights_changed(params: Params, base: Path = BASE) -> bool:
    """Whether the networks in `base` started from other weights than the file has now.

    DVC only tracks the name of the file.
    """
    # The hashes of published weights are known.
    if is_published(params.weights):
        return False

    from prunelab.artifacts.networks import load_network, seed_file  # they import torch

    trained = seed_file(base, params.seeds[0])
    if not trained.exists():
        return False
    path = weights_file(params.weights, params.model)
    if path is None:
        return False

    try:
        imported = load_network(trained).card.imported
    except InputError:
        return False  # DVC notices a damaged network itself
    if not imported:
        return False
    name, digest = imported
    return name == params.weights and digest != sha256(path)


def contents(params: Params, raw: Path = RAW) -> dict[str, str | None]:
    """Hashes of the user's own data source and file of weights, by their keys in params.yaml."""
    hashes = {}
    if params.data.source is not None:
        hashes["data.source"] = dataset_of(params, raw).digest()

    if not is_published(params.weights):
        path = weights_file(params.weights, params.model)
        if path:
            hashes["weights"] = sha256(path)
    return hashes
