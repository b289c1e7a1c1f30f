"""`prunelab export folder`: a network for a colleague who does not have prunelab."""

import json
import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from prunelab.artifacts.networks import ModelCard, Network
from prunelab.benchmarking.export_formats import FORMATS
from prunelab.commands.export.exported_file import encoder_sizes, metadata, write_checked
from prunelab.commands.export.model_card import model_card
from prunelab.commands.predict.inputs import image_shape_of, tokenizer_of
from prunelab.commands.predict.predict import class_names_of, read_network
from prunelab.core.errors import InputError

MODELS = {"pt2": "model.pt2", "onnx": "model.onnx"}
SETTINGS, CLASSES, SCRIPT, ABOUT = "preprocess.json", "classes.txt", "predict.py", "README.md"
TOKENIZER = "tokenizer.json"
OWN_FILES = frozenset({*MODELS.values(), SETTINGS, CLASSES, SCRIPT, ABOUT, TOKENIZER})


def export_folder(source: Path, out: Path) -> Iterator[str]:
    """Write a network with all that its use takes into the folder `out`; yield lines about it.

    The folder appears once it is complete. An earlier export there is replaced.

    Raises:
        InputError: if the network cannot be read or exported, or if `out` has other files in it.
    """
    check_folder(out)
    network = read_network(source)

    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield from _write_files(network, source, partial, out)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

    script = shlex.quote(str(out / SCRIPT))
    yield f"{out}: python {script} FILE... names the classes, without prunelab"


def check_folder(out: Path) -> None:
    """Raise InputError if `out` is a file, or a folder with files that no export wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out: {out} is a file; valid: a new folder, or an earlier export")

    others = sorted({path.name for path in out.iterdir()} - OWN_FILES - {"__pycache__"})
    if others:
        raise InputError(
            f"--out: {out} holds {others[0]}, which no export wrote; valid: a new folder, or an "
            "earlier export"
        )


def _write_files(network: Network, source: Path, folder: Path, out: Path) -> Iterator[str]:
    card, names = network.card, class_names_of(network.card)

    _write_text(folder / CLASSES, "\n".join(names))
    _write_text(folder / SETTINGS, json.dumps(_settings(card), indent=1))
    script = "predict_images.py"
    if card.normalise is None:
        script = "predict_texts.py"
        tokenizer_of(card).backend_tokenizer.save(str(folder / TOKENIZER))
    shutil.copyfile(Path(__file__).with_name(script), folder / SCRIPT)

    about = metadata(card, names, preprocessing=False)
    for form, name in MODELS.items():
        absent = [package for package in FORMATS[form].packages if find_spec(package) is None]
        if absent:
            yield f"{out / name}: left out, since {', '.join(absent)} is not installed"
            continue

        agreements = write_checked(
            network.model, card, form, folder / name, about=about, threads=torch.get_num_threads()
        )
        worst = max(agreements, key=lambda agreement: agreement.relative)
        yield f"{out / name}: {worst.describe()}"

    files = sorted(path.name for path in folder.iterdir())
    _write_text(folder / ABOUT, model_card(network, source, names, files).rstrip("\n"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(f"{text}\n", encoding="utf-8")


def _settings(card: ModelCard) -> dict[str, Any]:
    """What predict.py must know to make inputs."""
    if card.normalise is None:
        (tokens,) = card.input_shape
        return {"tokens": tokens, "pad": encoder_sizes(card)["pad"]}

    channels, height, width = image_shape_of(card)
    exif = "ignore"
    if card.exif:
        exif = "apply"
    return {
        "width": width,
        "height": height,
        "mode": "L" if channels == 1 else "RGB",
        "mean": card.normalise.mean,
        "std": card.normalise.std,
        "exif": exif,
        "grey_bits": card.grey_bits,
        "interpolation": card.interpolation,
    }
