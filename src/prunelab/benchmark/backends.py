"""BACKENDS: what runs a network for measuring, by name; each turns a network and its inputs into one call."""

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

from prunelab.benchmark.export_formats import Format, quiet, trace, usable
from prunelab.core.errors import InputError
from prunelab.models.catalogue import Shape, example_input
from prunelab.runtime.device import Execution, generator

Runnable = Callable[[], object]  # one call of what is measured
Backend = Callable[[nn.Module, Tensor, Execution], Runnable]
MOST = 2**31 - 1  # times that code may be compiled


def inputs_of(shape: Shape, batch_size: int, execution: Execution) -> Tensor:
    """A batch to measure with: noise in place of images, texts of full length; time does not depend on which."""
    one = example_input(shape)
    if not one.is_floating_point():
        return one.expand(batch_size, -1).contiguous().to(execution.device)
    noise = torch.randn(batch_size, *shape, generator=generator("benchmark", batch_size))
    return noise.to(execution.device, memory_format=execution.memory_format)


def eager(model: nn.Module, inputs: Tensor, execution: Execution) -> Runnable:
    """Inference by torch as it comes; the network must be in evaluation mode and on the device."""
    assert not model.training
    precision = nullcontext() if execution.autocast_dtype is None else execution.autocast()

    def call() -> object:
        with torch.inference_mode(), precision:
            return model(inputs)

    return call


def compiled(model: nn.Module, inputs: Tensor, execution: Execution) -> Runnable:
    """Inference by torch.compile, made for inputs of just this shape.

    Raises:
        InputError: if a CPU computes and there is no C++ compiler.
    """
    compiler(execution)
    call = eager(torch.compile(model, dynamic=False), inputs, execution)  # type: ignore[arg-type]
    # Networks of one class share the number of times that their code may be compiled, 8: torch would run all further
    # ones as they come, and say so in a warning alone.
    with torch._dynamo.config.patch(recompile_limit=MOST, accumulated_recompile_limit=MOST):
        call()
    return call


def compiler(execution: Execution) -> None:
    """Raises InputError if torch.compile would need a C++ compiler and finds none."""
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if execution.device.type == "cpu" and shutil.which(shlex.split(command)[0]) is None:
        raise InputError(
            f"benchmark.backends: compiled needs a C++ compiler on a CPU, and there is no {command}; install one "
            "(Debian: apt-get install g++), name yours in CXX, or leave it out"
        )


def cuda_graph(model: nn.Module, inputs: Tensor, execution: Execution) -> Runnable:
    """Inference as one recorded CUDA graph: without the launches of kernels, for which small networks mostly wait.

    Raises:
        InputError: if no GPU is what computes.
    """
    on_gpu(execution)
    call, beside = eager(model, inputs, execution), torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # what libraries set up at first calls must not be recorded
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()  # filled anew by every replay

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


def precision(backend: str, execution: Execution) -> str:
    """What a backend multiplies in: fp32 or bf16."""
    return "fp32" if backend in FLOAT32 or execution.autocast_dtype is None else "bf16"


def on_gpu(execution: Execution) -> None:
    """Raises InputError unless a GPU is what computes."""
    if execution.device.type != "cuda":
        raise InputError(
            "benchmark.backends: cuda_graph is measured on a GPU; set runtime.device: cuda, or leave it out"
        )


def onnxruntime(model: nn.Module, inputs: Tensor, execution: Execution) -> Runnable:
    """Inference by ONNX Runtime, in float32 and on a CPU, of the file that `prunelab export` writes.

    Raises:
        InputError: if its packages are missing, or a GPU is what computes.
    """
    onnx = onnx_format(execution)
    given = inputs.contiguous()  # its kernels take no other order, and would copy at every call
    with TemporaryDirectory() as folder, quiet():
        file = Path(folder) / "network.onnx"
        onnx.write(trace(model, torch.cat([given[:1], given[:1]])), file, {})
        run = onnx.load(file, torch.get_num_threads())
    return lambda: run(given)


def onnx_format(execution: Execution) -> Format:
    """How ONNX is written and run; raises InputError unless it is there, and a CPU is what computes."""
    if execution.device.type != "cpu":
        raise InputError(
            "benchmark.backends: onnxruntime is measured on a CPU; set runtime.device: cpu, or leave it out"
        )
    return usable("onnx")


BACKENDS: dict[str, Backend] = {
    "eager": eager,
    "compiled": compiled,
    "cuda_graph": cuda_graph,
    "onnxruntime": onnxruntime,
}
FLOAT32 = {"onnxruntime"}  # whatever runtime.precision says
NEEDS: dict[str, Callable[[Execution], object]] = {
    "compiled": compiler,
    "cuda_graph": on_gpu,
    "onnxruntime": onnx_format,
}
