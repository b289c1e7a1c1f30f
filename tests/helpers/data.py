"""Small data sets on disk and in memory."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from prunelab.data.augment import Augmentation
from prunelab.data.splits import Split
from prunelab.models.networks import build


def write_image_folder(
    folder: Path, counts: dict[str, int], sizes: Sequence[tuple[int, int]] = ((9, 7), (6, 8))
) -> None:
    """Write folders of random PNG files.

    Args:
        folder: where the class folders go
        counts: number of images by class
        sizes: (width, height) of the images of a class, in turn
    """
    from PIL import Image

    random = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            width, height = sizes[index % len(sizes)]
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03}.png")


def real_data(variable: str, default: Path, what: str, file: str) -> Path:
    """The folder of real data that has `file`; if there is none, the test is skipped.

    The environment variable names the folder; without it, it is `default`.
    """
    folder = Path(os.environ.get(variable, default))
    if not (folder / file).exists():
        pytest.skip(f"{what} is not there: no {file} in {folder} (set {variable} to where it is)")
    return folder


EVERYTHING = Augmentation(crop_padding=2, flip=True, crop_scale=0.3, others=("erase", "brightness"))


def mapped(split: Split, folder: Path) -> Split:
    """The split with its inputs in a memory-mapped file in `folder`."""
    np.save(folder / "inputs.npy", split.inputs)
    return Split(np.load(folder / "inputs.npy", mmap_mode="r"), split.labels, split.size)


def encoder_folder(folder: Path, **config: object) -> Path:
    """Write a tiny encoder with its own vocabulary; `config` overrides its config.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(exist_ok=True)
    sizes = {"vocab": 9, "hidden": 8, "layers": 1, "heads": 2, "intermediate": 16, "positions": 16}
    encoder = build("bert", 2, (16,), **sizes).encoder
    save_file(encoder.state_dict(), folder / "model.safetensors")

    file_config = {
        "model_type": "bert",
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(file_config | config))

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "film", "fine", "dull"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))

    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    return folder
