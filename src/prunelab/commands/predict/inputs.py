"""Files and texts as arrays of inputs, by what a model file says; unreadable ones by their problem.

Nothing here runs a network.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from prunelab.artifacts.networks import ModelCard
from prunelab.core.errors import InputError, one_line
from prunelab.core.text import truncate
from prunelab.datasets.bit_depth import BitDepth
from prunelab.datasets.image_files import SUFFIXES, is_leftover_folder
from prunelab.datasets.images import Orientation, decode_to, decoding_problem
from prunelab.datasets.text import encode
from prunelab.encoders.pretrained import NO_WEIGHTS, tokenizer

CHUNK = 64  # inputs that are in memory together, and one batch of the network
TEXT_SUFFIXES = {".txt"}


@dataclass(frozen=True)
class Example:
    """What is to be predicted.

    `name` is the file of an image, the file and line of a text, or a text itself; `label` is the
    same in one line, and of a long text its beginning. `source` is what is read: the file of an
    image, or a text. With a `problem` it could not be read.
    """

    name: str
    label: str
    source: str
    problem: str = ""


@dataclass(frozen=True)
class Chunk:
    """Some examples in order. `inputs` [N, ...] are those of the ones without a problem."""

    examples: Sequence[Example]
    inputs: np.ndarray


def find_examples(files: Sequence[Path], texts: Sequence[str], *, images: bool) -> list[Example]:
    """All images below the files and folders, or all texts: a line of a file is one.

    A file that is missing, or a folder with nothing in it, is an example with a problem.
    """
    suffixes = SUFFIXES if images else TEXT_SUFFIXES
    examples: list[Example] = []
    for path in files:
        if path.is_dir():
            examples += _in_folder(path, suffixes, images=images)
        else:
            examples += _in_file(path, images=images)
    for text in texts:
        examples.append(Example(text, truncate(one_line(text)), text))
    return examples


def _in_folder(folder: Path, suffixes: set[str], *, images: bool) -> Iterator[Example]:
    paths = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not is_leftover_folder(name)
        )
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                paths.append(Path(place, name))

    if not paths:
        kinds = ", ".join(sorted(suffixes))
        yield _unreadable(folder, f"no file in it ends with {kinds}")
    for path in paths:
        yield from _in_file(path, images=images)


def _in_file(path: Path, *, images: bool) -> Iterator[Example]:
    label = one_line(str(path))
    if not path.exists():
        yield _unreadable(path, "no such file")
        return
    if not path.is_file():
        yield _unreadable(path, "not a regular file")
        return
    if images:
        yield Example(str(path), label, str(path))
        return

    try:
        # Not `splitlines`, which also splits at characters that no editor counts as a new line.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"not a text in UTF-8 that can be read ({type(error).__name__})"
        yield _unreadable(path, problem)
        return
    if not any(map(str.strip, lines)):
        yield _unreadable(path, "no text in it")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Example(f"{path}:{number}", f"{label}:{number}", line)


def _unreadable(path: Path, problem: str) -> Example:
    return Example(str(path), one_line(str(path)), "", problem)


def image_chunks(examples: Iterable[Example], card: ModelCard) -> Iterator[Chunk]:
    """Images as uint8 [N, *card.input_shape], decoded by several threads.

    Raises:
        InputError: if the network takes images of neither one nor three channels.
    """
    channels, height, width = image_shape_of(card)
    depth = BitDepth.known(card.grey_bits)
    orientation = Orientation() if card.exif else None

    def read(example: Example) -> tuple[Example, np.ndarray | None]:
        if example.problem:
            return example, None

        try:
            pixels = decode_to(
                example.source, (height, width), depth, orientation, card.interpolation
            )
        except Exception as error:  # damaged bytes make Pillow raise errors of every kind
            reason = decoding_problem(error, example.source)
            problem = one_line(f"no image that can be read ({reason})")
            return replace(example, problem=problem), None
        return example, _in_channels(pixels, channels)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in _parts(examples):
            read_examples, images = zip(*pool.map(read, part), strict=True)
            good = [image for image in images if image is not None]
            inputs = np.zeros((len(good), *card.input_shape), np.uint8)
            for row, image in zip(inputs, good, strict=True):
                row[:] = image
            yield Chunk(read_examples, inputs)


def image_shape_of(card: ModelCard) -> tuple[int, int, int]:
    """The channels, height and width of a network's inputs.

    Raises:
        InputError: if it takes images of neither one nor three channels.
    """
    channels, height, width = card.input_shape
    if channels not in (1, 3):
        raise InputError(
            f"{card.model} takes images of {channels} channels; image files have 3, or 1 if grey"
        )
    return channels, height, width


def _in_channels(rgb: np.ndarray, channels: int) -> np.ndarray:
    """The image uint8 [3, H, W] as [channels, H, W]; one channel is Pillow's grey."""
    if channels == 3:
        return rgb
    from PIL import Image

    return np.asarray(Image.fromarray(rgb.transpose(1, 2, 0)).convert("L"))[None]


def text_chunks(examples: Iterable[Example], card: ModelCard) -> Iterator[Chunk]:
    """Texts as token ids, int64 [N, tokens].

    Raises:
        InputError: if the tokenizer of the encoder is not there.
    """
    loaded = tokenizer_of(card)
    (tokens,) = card.input_shape
    for part in _parts(examples):
        texts = [example.source for example in part if not example.problem]
        inputs = np.zeros((0, tokens), np.int64)
        if texts:
            inputs = encode(loaded, texts, tokens)
        yield Chunk(part, inputs)


def tokenizer_of(card: ModelCard) -> Any:
    """The tokenizer of the encoder that a network was trained from.

    Raises:
        InputError: if it is not there.
    """
    weights = NO_WEIGHTS
    if card.imported is not None:
        weights = card.imported[0]
    return tokenizer(weights)


def _parts(examples: Iterable[Example]) -> Iterator[list[Example]]:
    remaining = iter(examples)
    while part := list(islice(remaining, CHUNK)):
        yield part
