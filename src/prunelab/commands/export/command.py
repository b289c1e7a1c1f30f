"""What `prunelab export` does: find the network, write it in another format, tell what came out and how fast it is."""

import zlib
from collections.abc import Iterator
from pathlib import Path

from prunelab.artifacts.networks import ModelCard, load_network, seed_file, sizes
from prunelab.artifacts.prepared import read_data_info
from prunelab.benchmark.backends import inputs_of
from prunelab.benchmark.export_formats import usable
from prunelab.benchmark.latency import ratio, summary
from prunelab.commands.export.export import export, latencies, metadata, with_preprocessing
from prunelab.config.params import load_params
from prunelab.core.errors import InputError
from prunelab.project.paths import FOCUS
from prunelab.runtime.device import configure

DATASET = Path("data/prepared/dataset.json")
FOLDER = Path("exports")  # not beside the network: DVC hashes the folders it keeps
BATCH_SIZES = (1, 32)


def deliver(
    form: str, source: Path | None, out: Path | None, *, preprocessing: bool, rounds: int
) -> Iterator[str]:
    """Write the network of the file `source` as `form`; yields lines that tell how it went, as it goes.

    Raises:
        InputError: for what `export` and `load_network` refuse, and an `out` that cannot be meant.
    """
    target = usable(form)
    if rounds == 1:
        raise InputError(
            "--rounds: 1 is too few for an interval; valid: 0 (no comparison), or 2 and more"
        )
    params = load_params()
    source = source or seed_file(FOCUS, params.seeds[0])
    out = out or own_name(source, form)
    if out.is_dir() or out.resolve() == source.resolve():
        raise InputError(
            f"--out: {out} is {'a folder' if out.is_dir() else 'the network itself'}; valid: another file"
        )
    network = load_network(source)
    card, model = network.card, network.model
    execution = configure(params.runtime.model_copy(update={"device": "cpu", "precision": "fp32"}))
    whole = with_preprocessing(model, card) if preprocessing else model
    about = metadata(card, _class_names(card), preprocessing=preprocessing)
    for agreement in export(whole, card, form, out, about=about, threads=params.runtime.threads):
        yield agreement.told()
    content, weights = out.read_bytes(), sizes(model)
    yield (
        f"{out}: {_kilobytes(len(content))}, compressed {_kilobytes(len(zlib.compress(content, 6)))}; "
        f"the weights alone {_kilobytes(weights['size_bytes'])}, "
        f"compressed {_kilobytes(weights['size_compressed_bytes'])}"
    )
    for batch_size in BATCH_SIZES if rounds else ():
        inputs = inputs_of(card.input_shape, batch_size, execution)
        eager, exported = latencies(whole, out, form, inputs, execution, rounds=rounds)
        slow, fast = (
            summary(seconds, batch_size)["latency_ms_p50"] for seconds in (eager, exported)
        )
        yield (
            f"latency at batch {batch_size}: eager torch {slow:.3f} ms, {target.runs_on} {fast:.3f} ms; "
            f"faster: {ratio(eager, exported).told()}"
        )


def own_name(source: Path, form: str) -> Path:
    """Where the file goes if nobody says: named after the network and the two folders above it."""
    named = source.with_suffix("").relative_to(source.anchor).parts[-3:]
    return FOLDER / f"{'-'.join(named)}.{form}"


def _class_names(card: ModelCard) -> list[str] | None:
    """Those of the prepared data, if the network was made for such."""
    if not DATASET.exists():
        return None
    facts = read_data_info(DATASET.parent)
    fits = len(facts["classes"]) == card.classes and tuple(facts["shape"]) == card.input_shape
    return facts["classes"] if fits else None


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.0f} kB"
