"""prunelab.export: a network as a file that other programs read."""

import json

import torch
from torch import Tensor

from prunelab.api.inputs import Network, copy_of, example_of, first_line, module_of
from prunelab.api.result import LoadedNetwork, PrunedNetwork
from prunelab.benchmarking.backends import inputs_like
from prunelab.benchmarking.checked_export import CHECKED_BATCH_SIZES, Agreement, write_agreeing
from prunelab.benchmarking.export_formats import get_format
from prunelab.core.errors import InputError
from prunelab.core.files import PathLike, user_path
from prunelab.core.model_files import METADATA_KEY
from prunelab.runtime.device import Execution


def export(
    network: Network, path: PathLike, example_inputs: Tensor, *, format: str | None = None
) -> list[Agreement]:
    """Write a network as ONNX or in torch.export's format, for batches of any size, and check it.

    The outputs of the file are compared with the network's on batches of several sizes. A file that
    differs by more than 1e-4 of the largest output, or has its largest output elsewhere, is not
    kept, and an older file stays as it was.

    Args:
        network: a module, or what `prune` or `load` returned; it is copied to the CPU
        path: the file; its suffix, .onnx or .pt2, names the format
        example_inputs: one input or more, [B, ...]
        format: "onnx" or "pt2", if the suffix does not say it

    Returns:
        How well the outputs agree, one entry for each of the checked batch sizes.

    Raises:
        InputError: if the format is unknown, its packages are missing, the network cannot be
            traced, or the file does not agree with it.
    """
    path = user_path(path)
    module = module_of(network)
    form = format or path.suffix.removeprefix(".")
    get_format(form)

    example = example_of(module, example_inputs)
    cpu = Execution(torch.device("cpu"), None, torch.contiguous_format)
    batches = [inputs_like(example, size, cpu) for size in CHECKED_BATCH_SIZES]
    copy = copy_of(module).cpu().eval()
    about = _metadata(network, example)
    threads = torch.get_num_threads()
    try:
        return write_agreeing(copy, batches, form, path, about=about, threads=threads)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise InputError(f"the network cannot be written as {form}: {first_line(error)}") from error


def _metadata(network: Network, example: Tensor) -> dict[str, str]:
    """What the file says about itself: the card, if there is one, its input and its classes."""
    size = ", ".join(map(str, ("batch", *example.shape[1:])))
    entries = {"input": f"{str(example.dtype).removeprefix('torch.')} [{size}]"}
    if isinstance(network, PrunedNetwork | LoadedNetwork):
        entries[METADATA_KEY] = network.card.text()
    if isinstance(network, LoadedNetwork) and network.classes:
        entries["classes"] = json.dumps(list(network.classes))
    return entries
