"""metrics/speed/table.md: what was measured with a clock, one table per backend."""

from collections.abc import Mapping, Sequence
from typing import Any

from prunelab.core.escape import escape_markdown
from prunelab.statistics.speed_ratios import RESOLUTION

Row = Mapping[str, Any]


def speed_table(record: Mapping[str, Any], title: str) -> str:
    """The whole file, from the content of metrics/speed/benchmark.json.

    Cells have the median latency, its 95th percentile, and the gain on the dense network. A gain is
    a number only if its 95 % interval excludes 1.
    """
    lines = [f"# {title}", "", _machine(record["environment"], record["load"]), ""]

    by_backend: dict[str, list[Row]] = {}
    for row in record["latency"]:
        by_backend.setdefault(row["backend"], []).append(row)
    for rows in by_backend.values():
        lines += [*_backend_table(rows), ""]

    lines += [_memory(record["memory"]), ""]
    lines += [_energy(record["energy"]), ""]
    lines.append(_notes(record["rounds"], record["seed"]))
    return "\n".join(lines) + "\n"


def _backend_table(rows: Sequence[Row]) -> list[str]:
    """One line per network, one column per batch size."""
    by_network: dict[str, dict[int, str]] = {}
    for row in rows:
        cells = by_network.setdefault(row["name"], {})
        cells[row["batch_size"]] = _cell(row)

    batch_sizes = list(dict.fromkeys(row["batch_size"] for row in rows))
    header = [f"batch {batch_size}" for batch_size in batch_sizes]

    lines = [
        f"## {rows[0]['backend']}, {rows[0]['precision']}",
        "",
        "| network | " + " | ".join(header) + " |",
        "|:--|" + "--:|" * len(batch_sizes),
    ]
    for name, cells in by_network.items():
        line = [cells[batch_size] for batch_size in batch_sizes]
        lines.append(f"| {name} | " + " | ".join(line) + " |")

    if "sparse_layers" in rows[0]:
        lines += ["", _sparse_layers(rows)]
    return lines


def _sparse_layers(rows: Sequence[Row]) -> str:
    """Which layers of which network ran by sparse kernels."""
    by_network = {row["name"]: row["sparse_layers"] for row in rows}
    texts = []
    for name, layers in by_network.items():
        if layers:
            texts.append(f"{name}: {escape_markdown(', '.join(layers))}")

    if not texts:
        return (
            "No network has layers that sparse kernels can run: 2:4 sparse weights, outputs a "
            "multiple of 32 and inputs of 64."
        )
    return f"Layers run by 2:4 sparse kernels: {'; '.join(texts)}. All others are dense."


def _cell(row: Row) -> str:
    text = f"{row['latency_ms_p50']:.3g} ms"
    if "latency_ms_p95" in row:
        text += f" (p95 {row['latency_ms_p95']:.3g})"
    if "told" in row:
        text += f", {row['told']}"
    return text


def _machine(environment: Row, load: Row) -> str:
    """What was measured on, as one sentence."""
    device = escape_markdown(environment["device"])
    if environment["cuda"]:
        device += f", CUDA {environment['cuda']}"

    memory_format = environment["memory_format"].removeprefix("torch.")
    line = (
        f"{device}, {environment['threads']} threads of {load['cores']} cores, "
        f"{environment['precision']}, {memory_format}, torch {environment['packages']['torch']}; "
        f"load {load['load_1min']:.2f} before"
    )
    if load["busy"]:
        line += f"; busy beside this: {', '.join(map(escape_markdown, load['busy']))}"
    return f"{line}."


def _memory(rows: Sequence[Row]) -> str:
    known = [row for row in rows if row["peak_bytes"] is not None]
    if not known:
        return "Peak memory: not available on this system."

    peaks = ", ".join(f"{row['name']} {row['peak_bytes'] / 1e6:.1f} MB" for row in known)
    batch_size = known[0]["batch_size"]
    return f"Peak memory of a batch of {batch_size}, weights and inputs left out: {peaks}."


def _energy(rows: Sequence[Row] | str) -> str:
    if isinstance(rows, str):
        return f"Energy: {rows}."

    joules = ", ".join(f"{row['name']} {1000 * row['joules']:.3g} mJ" for row in rows)
    batch_size = rows[0]["batch_size"]
    return f"Energy per input in batches of {batch_size}, the idle machine's included: {joules}."


def _notes(rounds: int, seed: int) -> str:
    return (
        "The median of all calls, and their 95th percentile; how many times faster than the dense "
        f"network, with the 95 % interval over {rounds} rounds in which all networks took turns "
        "(of trimmed means, so that a few disturbed rounds do not count); "
        f'"no difference" where that interval comes within {RESOLUTION:.0%} of 1 (each by itself: '
        "of twenty networks that are no faster, one will seem so). "
        f"Networks of seed {seed}; masked weights are zeros in dense "
        "kernels. All of this is true of this machine only."
    )
