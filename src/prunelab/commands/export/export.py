"""What `prunelab export` does: find the network, write the file, report its size and latency."""

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from prunelab.artifacts.networks import (
    ModelCard,
    compressed_size,
    seed_file,
    sizes,
)
from prunelab.artifacts.prepared import read_data_info
from prunelab.benchmarking.backends import inputs_of
from prunelab.benchmarking.export_formats import FORMATS, get_format
from prunelab.benchmarking.machine_load import machine_load
from prunelab.commands.export.comparison import describe
from prunelab.commands.export.exported_file import (
    latencies,
    metadata,
    with_preprocessing,
    write_checked,
)
from prunelab.commands.export.folder import export_folder
from prunelab.commands.predict.predict import read_network
from prunelab.config.params import load_params
from prunelab.core.errors import InputError
from prunelab.core.registry import require
from prunelab.project.paths import FOCUS
from prunelab.runtime.device import configure_native

DATASET = Path("data/prepared/dataset.json")
FOLDER_FORM = "folder"
FOLDER = Path("exports")  # not beside the network: DVC hashes the folders it keeps
BATCH_SIZES = (1, 32)  # at which latency is compared


def export_network(
    form: str, source: Path | None, out: Path | None, *, preprocessing: bool, rounds: int
) -> Iterator[str]:
    """Write the network in the file `source` as `onnx`, `pt2` or `folder`; yield lines about it.

    `source` is the first seed of the focus by default, and `out` is named after it. A folder has
    both formats and what their use takes; no latency is measured for it. With
    `preprocessing` the file takes pixels in 0..1 and normalises them itself. `rounds` is the number
    of rounds of the latency comparison, 2 or more, or 0 for no comparison.

    Raises:
        InputError: if the network cannot be read or exported, or `rounds` or `out` is invalid.
    """
    if form == FOLDER_FORM:
        yield from _export_folder(source, out, preprocessing=preprocessing)
        return
    require({**FORMATS, FOLDER_FORM: None}, form, "format")
    exporter = get_format(form)
    if rounds == 1:
        raise InputError(
            "--rounds: 1 is too few for an interval; valid: 0 (no comparison), or 2 and more"
        )
    params = load_params()
    source = source or seed_file(FOCUS, params.seeds[0])
    out = out or default_out(source, form)
    _check_out(out, source)

    network = read_network(source)
    card, model = network.card, network.model
    runtime = params.runtime.model_copy(update={"device": "cpu", "precision": "fp32"})
    execution = configure_native(runtime)  # sets the threads of everything below
    exported_model = with_preprocessing(model, card) if preprocessing else model
    agreements = write_checked(
        exported_model,
        card,
        form,
        out,
        about=metadata(card, _class_names(card), preprocessing=preprocessing),
        threads=runtime.threads,
    )
    for agreement in agreements:
        yield agreement.describe()
    yield _describe_size(out, model)

    if not rounds:
        return
    busy_before = machine_load()["busy"]
    for batch_size in BATCH_SIZES:
        inputs = inputs_of(card.input_shape, batch_size, execution)
        eager, exported = latencies(exported_model, out, form, inputs, execution, rounds=rounds)
        busy_after = machine_load()["busy"]
        seconds = {"eager torch": eager, exporter.runs_on: exported}
        yield describe(seconds, batch_size, busy_before or busy_after)


def _export_folder(source: Path | None, out: Path | None, *, preprocessing: bool) -> Iterator[str]:
    if preprocessing:
        raise InputError(
            "--with-preprocessing: predict.py of a folder prepares the pixels; valid with onnx and "
            "pt2"
        )
    if source is None:
        source = seed_file(FOCUS, load_params().seeds[0])
    yield from export_folder(source, out or default_out(source, ""))


def _check_out(out: Path, source: Path) -> None:
    if out.is_dir():
        raise InputError(f"--out: {out} is a folder; valid: another file")
    if out.resolve() == source.resolve():
        raise InputError(f"--out: {out} is the network itself; valid: another file")


def default_out(source: Path, form: str) -> Path:
    """Return the place in exports/ named after the network and the two folders above it.

    It is a file with the suffix `form`, or a folder if that is empty.
    """
    names = source.with_suffix("").relative_to(source.anchor).parts[-3:]
    name = "-".join(names)
    if form:
        name = f"{name}.{form}"
    return FOLDER / name


def _class_names(card: ModelCard) -> list[str] | None:
    """Return the class names of the network, or of the prepared data if it was made for such."""
    if card.class_names:
        return list(card.class_names)
    if not DATASET.exists():
        return None

    data_info = read_data_info(DATASET.parent)
    class_names: list[str] = data_info["classes"]
    same_count = len(class_names) == card.classes
    same_shape = tuple(data_info["shape"]) == card.input_shape
    if not (same_count and same_shape):
        return None
    return class_names


def _describe_size(out: Path, model: nn.Module) -> str:
    """Return the sizes of the file and of the weights in it."""
    content = out.read_bytes()
    weights = sizes(model)

    return (
        f"{out}: {_kilobytes(len(content))}, compressed {_kilobytes(compressed_size(content))}; "
        f"the weights alone {_kilobytes(weights['size_bytes'])}, "
        f"compressed {_kilobytes(weights['size_compressed_bytes'])}"
    )


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.0f} kB"
