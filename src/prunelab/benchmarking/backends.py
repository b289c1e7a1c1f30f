"""BACKENDS: what runs a network for a measurement, by name.

A backend turns a network and its inputs into one call that can be timed.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from prunelab.benchmarking.export_formats import Format, get_format, quiet, trace
from prunelab.benchmarking.semi_structured import (
    require_sparse_gpu,
    semi_structured,
    sparse_layers,
)
from prunelab.core.errors import InputError
from prunelab.models.catalogue import Shape
from prunelab.models.networks import example_input
from prunelab.runtime.device import Execution, generator

Runnable = Callable[[], object]  # one call of what is measured
Backend = Callable[[nn.Module, Tensor, Execution], Runnable]

MAX_COMPILATIONS = 2**31 - 1
GRAPH_WARM_UP_CALLS = 3


def inputs_of(shape: Shape, batch_size: int, execution: Execution) -> Tensor:
    """A batch to measure with, on the device: noise for images, texts of full length.

    `shape` is that of one example. The time of a call does not depend on the values.
    """
    return inputs_like(example_input(shape), batch_size, execution)


def inputs_like(example: Tensor, batch_size: int, execution: Execution) -> Tensor:
    """A batch of inputs like `example`, [1, ...], as `inputs_of` makes it.

    Real numbers become noise; anything else, such as token ids, is repeated.
    """
    shape = example.shape[1:]
    if not example.is_floating_point():
        return example.expand(batch_size, *shape).contiguous().to(execution.device)

    noise = torch.randn(batch_size, *shape, generator=generator("benchmark", batch_size))
    return noise.to(execution.device, memory_format=execution.memory_format)


def eager(model: nn.Module, inputs: Tensor, execution: Execution) -> Runnable:
    """Plain inference by torch. The network must be in evaluation mode and on the device."""
    assert not model.training
    precision = nullcontext() if execution.autocast_dtype is None else execution.autocast()

    def call() -> object:
        with torch.inference_mode(), precision:
            return model(inputs)

    return call


def compiled(model: nn.Module, inputs: Tensor, execution: Execution) -> Runnable:
    """Inference by torch.compile, specialised to inputs of this shape.

    Raises:
        InputError: if a CPU computes and there is no C++ compiler.
    """
    require_compiler(execution)
    call = eager(torch.compile(model, dynamic=False), inputs, execution)  # type: ignore[arg-type]

    # Networks of one class share a limit of 8 compilations. Beyond it, torch would only warn and
    # run the others uncompiled.
    unlimited = torch._dynamo.config.patch(
        recompile_limit=MAX_COMPILATIONS, accumulated_recompile_limit=MAX_COMPILATIONS
    )
    with unlimited:
        call()
    return call


def require_compiler(execution: Execution) -> None:
    """Check that torch.compile has what it needs.

    Raises:
        InputError: if a CPU computes and there is no C++ compiler.
    """
    if execution.device.type != "cpu":
        return

    default = "clang++" if sys.platform == "darwin" else "g++"
    command = os.environ.get("CXX") or default
    if shutil.which(shlex.split(command)[0]) is None:
        raise InputError(
            "benchmark.backends: compiled needs a C++ compiler on a CPU, and there is no "
            f"{command}. Install one (Debian: apt-get install g++), set CXX to yours, or remove "
            "compiled"
        )


def cuda_graph(model: nn.Module, inputs: Tensor, execution: Execution) -> Runnable:
    """Inference as one recorded CUDA graph.

    A replay launches all kernels at once. Small networks mostly wait for launches.

    Raises:
        InputError: if no GPU computes.
    """
    require_gpu(execution)
    call = eager(model, inputs, execution)

    # Libraries set themselves up in the first calls, which must not be recorded.
    side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(GRAPH_WARM_UP_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(side_stream)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()

    def replay() -> object:
        graph.replay()  # writes into `outputs`
        return outputs

    return replay


def require_gpu(execution: Execution) -> None:
    """Check that a GPU computes.

    Raises:
        InputError: if it does not.
    """
    if execution.device.type != "cuda":
        raise InputError(
            "benchmark.backends: cuda_graph needs a GPU. Set runtime.device: cuda, or remove "
            "cuda_graph"
        )


def onnxruntime(model: nn.Module, inputs: Tensor, execution: Execution) -> Runnable:
    """Inference by ONNX Runtime on a CPU, in float32, of the file that `prunelab export` writes.

    Raises:
        InputError: if its packages are missing, or a GPU computes.
    """
    onnx = require_onnx(execution)

    # ONNX Runtime takes no other memory order and would copy at every call.
    contiguous = inputs.contiguous()
    two_examples = torch.cat([contiguous[:1], contiguous[:1]])

    with TemporaryDirectory() as folder, quiet():
        file = Path(folder) / "network.onnx"
        onnx.write(trace(model, two_examples), file, {})
        run = onnx.load(file, torch.get_num_threads())

    return lambda: run(contiguous)


def require_onnx(execution: Execution) -> Format:
    """The ONNX format, if it can be written and run.

    Raises:
        InputError: if its packages are missing, or a GPU computes.
    """
    if execution.device.type != "cpu":
        raise InputError(
            "benchmark.backends: onnxruntime needs a CPU. Set runtime.device: cpu, or remove "
            "onnxruntime"
        )
    return get_format("onnx")


def precision(backend: str, execution: Execution) -> str:
    """What a backend multiplies in: fp32 or bf16."""
    if backend in BFLOAT16:
        return "bf16"
    if backend in FLOAT32 or execution.autocast_dtype is None:
        return "fp32"
    return "bf16"


BACKENDS: dict[str, Backend] = {
    "eager": eager,
    "compiled": compiled,
    "cuda_graph": cuda_graph,
    "onnxruntime": onnxruntime,
    "semi_structured": semi_structured,
}
FLOAT32 = {"onnxruntime"}  # whatever runtime.precision says
BFLOAT16 = {"semi_structured"}
NEEDS: dict[str, Callable[[Execution], object]] = {
    "compiled": require_compiler,
    "cuda_graph": require_gpu,
    "onnxruntime": require_onnx,
    "semi_structured": require_sparse_gpu,
}

# What a backend says of a network beside its time.
REMARKS: dict[str, Callable[[nn.Module], dict[str, object]]] = {
    "semi_structured": lambda model: {"sparse_layers": sparse_layers(model)},
}
