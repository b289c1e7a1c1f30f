"""Write a network in a format that other programs read, and check the file against the network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.artifacts.networks import ModelCard
from prunelab.benchmarking.backends import eager
from prunelab.benchmarking.checked_export import CHECKED_BATCH_SIZES, Agreement, write_agreeing
from prunelab.benchmarking.export_formats import get_format
from prunelab.benchmarking.latency import time_interleaved, timer
from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.core.model_files import METADATA_KEY
from prunelab.encoders.pretrained import SMALL
from prunelab.models.catalogue import input_kind
from prunelab.runtime.device import Execution, generator


class Normalised(nn.Module):
    """A network that takes pixels scaled to 0..1 and normalises them itself."""

    def __init__(self, model: nn.Module, normalise: Normalise) -> None:
        super().__init__()
        self.model = model
        self.mean = nn.Buffer(torch.tensor(normalise.mean).view(1, -1, 1, 1))
        self.std = nn.Buffer(torch.tensor(normalise.std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        scores: Tensor = self.model((pixels - self.mean) / self.std)
        return scores


def with_preprocessing(model: nn.Module, card: ModelCard) -> nn.Module:
    """Return the network that takes pixels scaled to 0..1.

    Raises:
        InputError: if the network reads texts.
    """
    if card.normalise is None:
        raise InputError(f"{card.model} reads token ids: there is nothing to normalise")
    return Normalised(model, card.normalise).eval()


def metadata(
    card: ModelCard, classes: Sequence[str] | None, *, preprocessing: bool
) -> dict[str, str]:
    """Return what the file says about itself.

    That is the network's card, the names of its classes if they are known, its input, and
    `normalise` if the user of the file must normalise the pixels.
    """
    entries = {METADATA_KEY: card.text()}
    if classes:
        entries["classes"] = json.dumps(list(classes))

    size = ", ".join(map(str, ("batch", *card.input_shape)))
    if card.normalise is None:
        pad = encoder_sizes(card)["pad"]
        entries["input"] = f"int64 [{size}]: token ids, filled up with {pad}"
    elif preprocessing:
        entries["input"] = f"float32 [{size}]: pixels scaled to 0..1"
    else:
        entries["input"] = (
            f"float32 [{size}]: pixels scaled to 0..1, less `mean`, over `std` of their channel"
        )
        entries["normalise"] = card.normalise.model_dump_json()
    return entries


def encoder_sizes(card: ModelCard) -> dict[str, int]:
    """Return the sizes of an encoder."""
    sizes = {name: size for name, size in card.options.items() if isinstance(size, int)}
    return SMALL | sizes


def random_inputs(card: ModelCard, count: int, *, preprocessing: bool = False) -> Tensor:
    """Return random inputs [count, *input_shape] of the kind that a network takes.

    Images are noise. Texts are random tokens; every text but one is shorter than the input and
    padded.
    """
    random = generator("export", count)
    shape = card.input_shape
    if input_kind(shape) == "images":
        draw = torch.rand if preprocessing else torch.randn
        return draw(count, *shape, generator=random)

    options = encoder_sizes(card)
    ids = torch.randint(options["vocab"], (count, *shape), generator=random)
    lengths = torch.linspace(shape[0], 1, count).long()
    is_token = torch.arange(shape[0]) < lengths[:, None]
    return ids.where(is_token, options["pad"])


def write_checked(
    model: nn.Module,
    card: ModelCard,
    form: str,
    out: Path,
    *,
    about: Mapping[str, str],
    threads: int,
) -> list[Agreement]:
    """Write a network as `onnx` or `pt2`, for batches of any size, and check the file.

    `about` is the metadata of the file.

    Returns:
        How well the scores of the file agree with the network's, at each checked batch size.

    Raises:
        InputError: if the format does not exist, its packages are missing, or the file does not
            agree with the network. Then nothing is written, and an older file `out` stays.
    """
    takes_pixels = isinstance(model, Normalised)
    batches = [
        random_inputs(card, size, preprocessing=takes_pixels) for size in CHECKED_BATCH_SIZES
    ]
    return write_agreeing(model, batches, form, out, about=about, threads=threads)


def latencies(
    model: nn.Module, path: Path, form: str, inputs: Tensor, execution: Execution, *, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Time the network in eager torch and its exported file, in turns.

    `execution` must place the network on the CPU, where `inputs` must be already.

    Returns:
        The seconds of every call [rounds, calls], of the network and of the file.
    """
    run = get_format(form).load(path, torch.get_num_threads())
    run_eager = eager(execution.place(model), inputs, execution)
    contiguous_inputs = inputs.contiguous()

    def run_exported() -> object:
        with torch.inference_mode():
            return run(contiguous_inputs)

    seconds = time_interleaved(
        {"eager": run_eager, "exported": run_exported},
        timer(execution.device),
        rounds=rounds,
        round_s=0.2,
        warm_up_s=0.5,
    )
    return seconds["eager"], seconds["exported"]
