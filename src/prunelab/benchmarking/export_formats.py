"""Networks as files that other programs read (ONNX and torch.export), and how these files run."""

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
MAX_ONNX_BYTES = 2**31 - 2**24  # protobuf's limit of a file, with room for the graph

Runner = Callable[[Tensor], Tensor]  # inputs of any batch size to scores, both on the CPU


@dataclass(frozen=True)
class Format:
    """How a traced network becomes a file, and how it runs from there.

    `write` takes the network, the path and metadata. `load` takes the path and a number of threads.
    `packages` must be installed; `runs_on` names the program that runs the file.
    """

    runs_on: str
    write: Callable[[ExportedProgram, Path, Mapping[str, str]], None]
    load: Callable[[Path, int], Runner]
    packages: tuple[str, ...] = ()


def get_format(name: str) -> Format:
    """The format of this name.

    Raises:
        InputError: if there is none, or its packages are not installed.
    """
    chosen = pick(FORMATS, name, "format")
    missing = [package for package in chosen.packages if find_spec(package) is None]
    if missing:
        raise InputError(
            f"{name} needs {', '.join(missing)}, which is not installed: "
            f"pip install {' '.join(chosen.packages)}"
        )
    return chosen


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' warnings and log messages below errors."""
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
    """The network's graph for batches of any size.

    `inputs` must hold at least two examples: the tracer would take a batch of one for a constant.
    """
    traced = torch.export.export(model, (inputs,), dynamic_shapes=({0: Dim("batch")},))

    # Stack traces contain paths of this machine, so the file would differ on the next one.
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)

    return traced


def _write_onnx(traced: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    size = sum(tensor.nbytes for tensor in traced.state_dict.values())
    if size > MAX_ONNX_BYTES:
        raise InputError(
            f"an ONNX file holds at most 2 GiB, and these weights are {size / 2**30:.1f} GiB"
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

    program.model.metadata_props.update(metadata)
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


def _write_pt2(traced: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    with path.open("wb") as file:
        torch.export.save(traced, file, extra_files=dict(metadata))


def _load_pt2(path: Path, threads: int) -> Runner:
    with path.open("rb") as file:
        return torch.export.load(file).module()  # it runs on torch's threads


FORMATS = {
    "onnx": Format("ONNX Runtime", _write_onnx, _load_onnx, ("onnx", "onnxruntime", "onnxscript")),
    "pt2": Format("torch.export", _write_pt2, _load_pt2),
}
