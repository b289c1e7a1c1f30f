"""Networks in formats that other programs read, each checked against the network it was made from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.artifacts.networks import ModelCard
from prunelab.artifacts.tensors import METADATA_KEY
from prunelab.benchmark.backends import eager
from prunelab.benchmark.export_formats import Runner, quiet, trace, usable
from prunelab.benchmark.latency import time_interleaved, timer
from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.core.files import replacing
from prunelab.encoders.pretrained import SMALL
from prunelab.models.catalogue import reads
from prunelab.runtime.device import Execution, generator

TOLERANCE = 1e-4  # of the largest score: float32 rounds differently in another order, by about 1e-6
BATCH_SIZES = (1, 2, 7)  # on which outputs are compared
TRACED = 2  # examples to trace with


@dataclass(frozen=True)
class Agreement:
    """What the file's scores and the network's differ by at one batch size: at most, and as a share of the largest."""

    batch_size: int
    absolute: float
    relative: float
    same_classes: bool

    @property
    def holds(self) -> bool:
        return self.relative <= TOLERANCE and self.same_classes  # False for NaN

    def told(self) -> str:
        return (
            f"batch {self.batch_size}: scores differ by {self.absolute:.1e} at most, {self.relative:.1e} of the "
            f"largest; {'the same classes' if self.same_classes else 'other classes'}"
        )


class Normalised(nn.Module):
    """A network that takes pixels scaled to 0..1 and normalises them itself."""

    def __init__(self, model: nn.Module, normalise: Normalise):
        super().__init__()
        self.model = model
        self.mean, self.std = (
            nn.Buffer(torch.tensor(values).view(1, -1, 1, 1))
            for values in (normalise.mean, normalise.std)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model((pixels - self.mean) / self.std)


def with_preprocessing(model: nn.Module, card: ModelCard) -> nn.Module:
    """The network that takes pixels scaled to 0..1; raises InputError for one that reads texts."""
    if card.normalise is None:
        raise InputError(f"{card.model} reads token ids: there is nothing to normalise")
    return Normalised(model, card.normalise).eval()


def metadata(
    card: ModelCard, classes: Sequence[str] | None, *, preprocessing: bool
) -> dict[str, str]:
    """What a file says of itself: the network's card, the names of its classes if known, and what it takes.

    `normalise` is there where it is left to the user.
    """
    size = ", ".join(map(str, ("batch", *card.input_shape)))
    told = {METADATA_KEY: card.text()}
    if classes:
        told["classes"] = json.dumps(list(classes))
    if card.normalise is None:
        return told | {
            "input": f"int64 [{size}]: token ids, filled up with {_options(card)['pad']}"
        }
    if preprocessing:
        return told | {"input": f"float32 [{size}]: pixels scaled to 0..1"}
    told["input"] = (
        f"float32 [{size}]: pixels scaled to 0..1, less `mean`, over `std` of their channel"
    )
    return told | {"normalise": card.normalise.model_dump_json()}


def _options(card: ModelCard) -> dict[str, int]:
    return SMALL | card.options


def random_inputs(card: ModelCard, count: int, *, preprocessing: bool = False) -> Tensor:
    """Inputs of the kind a network takes: noise, or random tokens of which every example but one has fewer."""
    random, shape = generator("export", count), card.input_shape
    if reads(shape) == "images":
        draw = torch.rand if preprocessing else torch.randn
        return draw(count, *shape, generator=random)
    options = _options(card)
    ids = torch.randint(options["vocab"], (count, *shape), generator=random)
    lengths = torch.linspace(shape[0], 1, count).long()
    return ids.where(torch.arange(shape[0]) < lengths[:, None], options["pad"])


def export(
    model: nn.Module,
    card: ModelCard,
    form: str,
    out: Path,
    *,
    about: Mapping[str, str],
    threads: int,
) -> list[Agreement]:
    """Write a network as `onnx` or `pt2`, for batches of any size; returns how well the file's scores agree.

    `about` are the metadata; inputs are what `random_inputs` gives, whether or not the network normalises them.

    Raises:
        InputError: if there is no such format, its packages are missing, or what was written says something else than the
            network; then nothing is left behind, and what was there before is still there.
    """
    chosen = usable(form)
    inputs = [
        random_inputs(card, size, preprocessing=isinstance(model, Normalised))
        for size in BATCH_SIZES
    ]
    with quiet(), replacing(out) as partial:
        chosen.write(trace(model, inputs[BATCH_SIZES.index(TRACED)]), partial, about)
        run = chosen.load(partial, threads)
        agreements = [_agreement(model, run, batch) for batch in inputs]
        if broken := [found.told() for found in agreements if not found.holds]:
            valid = f"valid: {TOLERANCE:g} of the largest, and the same classes"
            raise InputError(
                f"{out}: not written, for the {form} file does not agree: {line}; {valid}"
                for line in broken
            )
    return agreements


def _agreement(model: nn.Module, run: Runner, inputs: Tensor) -> Agreement:
    with torch.inference_mode():
        expected, got = model(inputs), run(inputs)
    assert got.shape == expected.shape
    absolute = float((got - expected).abs().max())
    same = bool((got.argmax(1) == expected.argmax(1)).all())
    return Agreement(
        len(inputs), absolute, absolute / max(float(expected.abs().max()), 1e-30), same
    )


def latencies(
    model: nn.Module, path: Path, form: str, inputs: Tensor, execution: Execution, *, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of every call [rounds, calls], of the network in eager torch and of its exported file, in turns.

    The network is placed as `execution` says, which is on the CPU, and where `inputs` already are.
    """
    run = usable(form).load(path, torch.get_num_threads())
    plain, given = eager(execution.place(model), inputs, execution), inputs.contiguous()

    def exported() -> object:
        with torch.inference_mode():
            return run(given)

    arms = {"eager": plain, "exported": exported}
    seconds = time_interleaved(
        arms, timer(execution.device), rounds=rounds, round_s=0.2, warm_up_s=0.5
    )
    return seconds["eager"], seconds["exported"]
