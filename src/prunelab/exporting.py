"""Networks in formats that other programs read, each checked against the network it was made from."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from prunelab.artifacts.files import replacing
from prunelab.artifacts.networks import METADATA_KEY, Card
from prunelab.errors import Refused
from prunelab.measuring.backends import eager
from prunelab.measuring.speed import clock, take_turns
from prunelab.models.catalogue import reads
from prunelab.models.encoders import SMALL
from prunelab.params import Normalise
from prunelab.registry import pick
from prunelab.runtime import Execution, generator

TOLERANCE = 1e-4  # of the largest score: float32 rounds differently in another order, by about 1e-6
BATCH_SIZES = (1, 2, 7)  # on which outputs are compared
TRACED = 2  # examples to trace with: one alone would be taken for a constant
INPUT, OUTPUT = "input", "scores"
LARGEST_ONNX = 2**31 - 2**24  # bytes of one file, as protobuf limits it, with room for the graph

Runner = Callable[[Tensor], Tensor]  # inputs of any batch size to scores, both on the CPU


@dataclass(frozen=True)
class Format:
    """How a traced network becomes a file with these metadata, and how it runs from there, on so many threads."""

    runs_on: str
    write: Callable[[ExportedProgram, Path, Mapping[str, str]], None]
    load: Callable[[Path, int], Runner]
    packages: tuple[str, ...] = ()


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
            nn.Buffer(torch.tensor(values).view(1, -1, 1, 1)) for values in (normalise.mean, normalise.std)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model((pixels - self.mean) / self.std)


def with_preprocessing(model: nn.Module, card: Card) -> nn.Module:
    """The network that takes pixels scaled to 0..1; raises Refused for one that reads texts."""
    if card.normalise is None:
        raise Refused(f"{card.model} reads token ids: there is nothing to normalise")
    return Normalised(model, card.normalise).eval()


def metadata(card: Card, classes: Sequence[str] | None, *, preprocessing: bool) -> dict[str, str]:
    """What a file says of itself: the network's card, the names of its classes if known, and what it takes.

    `normalise` is there where it is left to the user.
    """
    size = ", ".join(map(str, ("batch", *card.input_shape)))
    told = {METADATA_KEY: card.text()}
    if classes:
        told["classes"] = json.dumps(list(classes))
    if card.normalise is None:
        return told | {"input": f"int64 [{size}]: token ids, filled up with {_options(card)['pad']}"}
    if preprocessing:
        return told | {"input": f"float32 [{size}]: pixels scaled to 0..1"}
    told["input"] = f"float32 [{size}]: pixels scaled to 0..1, less `mean`, over `std` of their channel"
    return told | {"normalise": card.normalise.model_dump_json()}


def _options(card: Card) -> dict[str, int]:
    return SMALL | card.options


def random_inputs(card: Card, count: int, *, preprocessing: bool = False) -> Tensor:
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
    model: nn.Module, card: Card, form: str, out: Path, *, about: Mapping[str, str], threads: int
) -> list[Agreement]:
    """Write a network in one of FORMATS, for batches of any size; returns how well the file's scores agree.

    `about` are the metadata; inputs are what `random_inputs` gives, whether or not the network normalises them.

    Raises:
        Refused: if there is no such format, its packages are missing, or what was written says something else than the
            network; then nothing is left behind, and what was there before is still there.
    """
    chosen = pick(FORMATS, form, "format")
    require(form)
    inputs = [random_inputs(card, size, preprocessing=isinstance(model, Normalised)) for size in BATCH_SIZES]
    with _quiet(), replacing(out) as partial:
        chosen.write(_traced(model, inputs[BATCH_SIZES.index(TRACED)]), partial, about)
        run = chosen.load(partial, threads)
        agreements = [_agreement(model, run, batch) for batch in inputs]
        if broken := [found.told() for found in agreements if not found.holds]:
            valid = f"valid: {TOLERANCE:g} of the largest, and the same classes"
            raise Refused(f"{out}: not written, for the {form} file does not agree: {line}; {valid}" for line in broken)
    return agreements


def require(form: str) -> None:
    """Raise Refused, with the way to install them, unless a format's packages are there."""
    packages = pick(FORMATS, form, "format").packages
    if absent := [package for package in packages if find_spec(package) is None]:
        raise Refused(f"{form} needs {', '.join(absent)}, which is not installed: pip install prunelab[{form}]")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own workings: what counts is checked here."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _traced(model: nn.Module, inputs: Tensor) -> ExportedProgram:
    traced = torch.export.export(model, (inputs,), dynamic_shapes=({0: Dim("batch")},))
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would tell the paths of this machine, and differ on the next
    return traced


def _agreement(model: nn.Module, run: Runner, inputs: Tensor) -> Agreement:
    with torch.inference_mode():
        expected, got = model(inputs), run(inputs)
    assert got.shape == expected.shape
    absolute = float((got - expected).abs().max())
    same = bool((got.argmax(1) == expected.argmax(1)).all())
    return Agreement(len(inputs), absolute, absolute / max(float(expected.abs().max()), 1e-30), same)


def _write_onnx(traced: ExportedProgram, path: Path, about: Mapping[str, str]) -> None:
    size = sum(tensor.nbytes for tensor in traced.state_dict.values())
    if size > LARGEST_ONNX:
        raise Refused(f"an ONNX file holds 2 GiB at most, and these weights are {size / 2**30:.1f} GiB")
    program = torch.onnx.export(
        traced,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: "batch"},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(about)
    program.save(path, external_data=False)


def _load_onnx(path: Path, threads: int) -> Runner:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run([OUTPUT], {INPUT: inputs.numpy()})[0])


def _write_pt2(traced: ExportedProgram, path: Path, about: Mapping[str, str]) -> None:
    with path.open("wb") as file:
        torch.export.save(traced, file, extra_files=dict(about))


def _load_pt2(path: Path, threads: int) -> Runner:
    with path.open("rb") as file:
        return torch.export.load(file).module()  # on the threads that torch is told to use


FORMATS = {
    "onnx": Format("ONNX Runtime", _write_onnx, _load_onnx, ("onnx", "onnxruntime", "onnxscript")),
    "pt2": Format("torch.export", _write_pt2, _load_pt2),
}


def latencies(
    model: nn.Module, path: Path, form: str, inputs: Tensor, execution: Execution, *, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of every call [rounds, calls], of the network in eager torch and of its exported file, in turns.

    The network is placed as `execution` says, which is on the CPU.
    """
    run = FORMATS[form].load(path, torch.get_num_threads())
    placed = inputs.contiguous(memory_format=execution.memory_format) if inputs.dim() == 4 else inputs
    plain = eager(execution.place(model), placed, execution)

    def exported() -> object:
        with torch.inference_mode():
            return run(inputs)

    arms = {"eager": plain, "exported": exported}
    seconds = take_turns(arms, clock(execution.device), rounds=rounds, round_s=0.2, warm_up_s=0.5)
    return seconds["eager"], seconds["exported"]
