"""Networks as files that other programs read, ONNX and torch.export's, and how they run from there."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from prunelab.core.errors import InputError
from prunelab.core.registry import pick

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


def usable(form: str) -> Format:
    """The format of this name.

    Raises:
        InputError: if there is none, or its packages are missing, with the way to install them.
    """
    found = pick(FORMATS, form, "format")
    if absent := [package for package in found.packages if find_spec(package) is None]:
        raise InputError(
            f"{form} needs {', '.join(absent)}, which is not installed: pip install prunelab[{form}]"
        )
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own workings: what counts is what the file says."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def trace(model: nn.Module, inputs: Tensor) -> ExportedProgram:
    """The network's graph for batches of any size; `inputs` hold two examples or more, as one would be a constant."""
    traced = torch.export.export(model, (inputs,), dynamic_shapes=({0: Dim("batch")},))
    for node in traced.graph.nodes:
        node.meta.pop(
            "stack_trace", None
        )  # it would tell the paths of this machine, and differ on the next
    return traced


def _write_onnx(traced: ExportedProgram, path: Path, about: Mapping[str, str]) -> None:
    size = sum(tensor.nbytes for tensor in traced.state_dict.values())
    if size > LARGEST_ONNX:
        raise InputError(
            f"an ONNX file holds 2 GiB at most, and these weights are {size / 2**30:.1f} GiB"
        )
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
