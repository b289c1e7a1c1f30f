"""metrics/speed/table.md: what was measured on a clock, one table per backend."""

from collections.abc import Mapping, Sequence
from typing import Any

from prunelab.core.escape import escape_markdown

Row = Mapping[str, Any]


def speed_table(measured: Mapping[str, Any], title: str) -> str:
    """The whole file: latency at the median and the 95th percentile, and the gain on the dense network, by batch size.

    A gain stands there only where its 95 % interval leaves out 1.
    """
    rows: Sequence[Row] = measured["latency"]
    lines = [f"# {title}", "", _machine(measured), ""]
    for backend in dict.fromkeys(row["backend"] for row in rows):
        own = [row for row in rows if row["backend"] == backend]
        sizes = list(dict.fromkeys(row["batch_size"] for row in own))
        lines += [
            f"## {backend}, {own[0]['precision']}",
            "",
            "| network | " + " | ".join(f"batch {size}" for size in sizes) + " |",
        ]
        lines.append("|:--|" + "--:|" * len(sizes))
        for name in dict.fromkeys(row["name"] for row in own):
            cells = {row["batch_size"]: _cell(row) for row in own if row["name"] == name}
            lines.append(f"| {name} | " + " | ".join(cells[size] for size in sizes) + " |")
        lines.append("")
    return (
        "\n".join(
            [*lines, *_memory(measured["memory"]), *_energy(measured["energy"]), _notes(measured)]
        )
        + "\n"
    )


def _cell(row: Row) -> str:
    told = f"{row['latency_ms_p50']:.3g} ms"
    if "latency_ms_p95" in row:
        told += f" (p95 {row['latency_ms_p95']:.3g})"
    return f"{told}, {row['told']}" if "told" in row else told


def _machine(measured: Mapping[str, Any]) -> str:
    machine, load = measured["environment"], measured["load"]
    driver = f", CUDA {machine['cuda']}" if machine["cuda"] else ""
    busy = (
        f"; busy beside this: {', '.join(map(escape_markdown, load['busy']))}"
        if load["busy"]
        else ""
    )
    return (
        f"{escape_markdown(machine['device'])}{driver}, {machine['threads']} threads of {load['cores']} cores, "
        f"{machine['precision']}, {machine['memory_format'].removeprefix('torch.')}, "
        f"torch {machine['packages']['torch']}; load {load['load_1min']:.2f} before{busy}."
    )


def _memory(rows: Sequence[Row]) -> list[str]:
    known = [row for row in rows if row["peak_bytes"] is not None]
    if not known:
        return ["Peak memory: not available on this system.", ""]
    told = ", ".join(f"{row['name']} {row['peak_bytes'] / 1e6:.1f} MB" for row in known)
    return [
        f"Peak memory of a batch of {known[0]['batch_size']}, weights and inputs left out: {told}.",
        "",
    ]


def _energy(rows: Sequence[Row] | str) -> list[str]:
    if isinstance(rows, str):
        return [f"Energy: {rows}.", ""]
    told = ", ".join(f"{row['name']} {1000 * row['joules']:.3g} mJ" for row in rows)
    return [
        f"Energy per input in batches of {rows[0]['batch_size']}, the idle machine's included: {told}.",
        "",
    ]


def _notes(measured: Mapping[str, Any]) -> str:
    return (
        f"The median of all calls, and their 95th percentile; how many times faster than the dense network, with the "
        f'95 % interval over {measured["rounds"]} rounds in which all networks took turns; "no difference" where that '
        f"interval holds 1 (each by itself: of twenty networks that are no faster, one will seem so). "
        f"Networks of seed {measured['seed']}; masked weights are zeros in dense kernels. "
        "All of this is true of this machine only."
    )
