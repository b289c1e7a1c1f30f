"""What `prunelab predict` does: read a model file and inputs, and find the likeliest classes."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prunelab.artifacts.networks import ModelCard, Network, load_network, network_of
from prunelab.artifacts.tensors import load_tensors
from prunelab.commands.predict.inputs import Chunk, find_examples, image_chunks, text_chunks
from prunelab.core import plugins
from prunelab.core.errors import InputError, one_line
from prunelab.core.project_root import find_project
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.models.catalogue import input_kind
from prunelab.project.stage_outputs import writer_of
from prunelab.runtime.bars import open_bar
from prunelab.runtime.device import Execution, choose_device


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an input with their probabilities, or what is wrong with it.

    `name` is the file of an image, the file and line of a text, or a text itself; `label` is the
    same for a terminal.
    """

    name: str
    label: str
    classes: Sequence[tuple[str, float]] = ()
    problem: str = ""


def predict_inputs(
    model_file: Path, files: Sequence[Path], texts: Sequence[str], *, top: int, device: str
) -> Iterator[Prediction]:
    """Predict all images, or all texts, in order; those that cannot be read have a problem.

    Args:
        model_file: a network that stages of prunelab wrote
        files: images, or files of texts; folders of either
        texts: texts themselves
        top: how many of the likeliest classes to name; all, if there are fewer
        device: auto, cpu or cuda

    Raises:
        InputError: if the network cannot be used, or there is nothing that it could predict.
    """
    network = read_network(model_file)
    card = network.card
    reads_images = input_kind(card.input_shape) == "images"
    if texts and reads_images:
        raise InputError(f"--text: {model_file} holds a {card.model}, which takes images")
    if not files and not texts:
        wanted = "images or folders of them" if reads_images else "--text, or files of texts"
        raise InputError(f"nothing to predict: {model_file} takes {wanted}")

    execution = Execution(choose_device(device, "--device"), None, torch.contiguous_format)
    model = execution.place(network.model).eval()
    names = class_names_of(card)
    examples = find_examples(files, texts, images=reads_images)
    chunks = image_chunks if reads_images else text_chunks

    # Where results go to the terminal, they show the progress.
    shown = not sys.stdout.isatty()
    bar = open_bar("predict", total=len(examples), unit=" inputs", shown=shown)
    try:
        for chunk in chunks(examples, card):
            yield from _predictions(chunk, model, card, names, top, execution)
            bar.update(len(chunk.examples))
    finally:
        bar.close()


def read_network(path: Path) -> Network:
    """The network of a file that somebody named.

    Only a file that the project's pipeline writes can be restored by DVC. Errors about another one
    do not say so.

    Raises:
        InputError: as `load_network` does.
    """
    if _is_of_pipeline(path):
        return load_network(path)

    if not path.is_file():
        raise InputError(f"{path} is missing; name a model file that prunelab wrote")
    tensors, metadata = load_tensors(path, recovery_hint="take another copy of it")
    return network_of(path, tensors, metadata)


def _is_of_pipeline(path: Path) -> bool:
    project = find_project(Path.cwd())
    if project is None:
        return False
    try:
        return writer_of(path.absolute(), project) is not None
    except InputError:  # a dvc.yaml that cannot be read is no fault of the network
        return False


def use_plugins_of_project() -> None:
    """Let a network of a plugin be read in any folder of the project that registers it."""
    project = find_project(Path.cwd())
    if project is not None and not plugins.FOLDER.is_dir():
        plugins.FOLDER = project / plugins.FOLDER
        plugins.forget()


def class_names_of(card: ModelCard) -> list[str]:
    """The names of the classes, each in one line; numbers if the file does not have them."""
    if not card.class_names:
        return [f"class {number}" for number in range(card.classes)]
    return [one_line(name) for name in card.class_names]


def _predictions(
    chunk: Chunk,
    model: nn.Module,
    card: ModelCard,
    names: Sequence[str],
    top: int,
    execution: Execution,
) -> Iterator[Prediction]:
    probabilities = iter(_probabilities(chunk.inputs, model, card, execution))
    for example in chunk.examples:
        if example.problem:
            yield Prediction(example.name, example.label, problem=example.problem)
            continue

        row = next(probabilities)
        likeliest = np.argsort(-row, kind="stable")[:top]
        classes = [(names[index], float(row[index])) for index in likeliest]
        yield Prediction(example.name, example.label, classes)


def _probabilities(
    inputs: np.ndarray, model: nn.Module, card: ModelCard, execution: Execution
) -> np.ndarray:
    """The probabilities [N, classes] of inputs as they are stored, in float32 softmax in double.

    The batch is made as evaluation makes it.
    """
    if not len(inputs):
        return np.zeros((0, card.classes))
    split = Split(inputs, np.zeros(len(inputs), np.int64))
    loader = BatchLoader(split, card.normalise, execution)
    with torch.inference_mode():
        ((batch, _),) = loader.ordered(len(inputs))
        probabilities: np.ndarray = model(batch).double().softmax(1).cpu().numpy()
    return probabilities
