"""The latency of revisions: networks from DVC's cache, measured in one process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from prunelab.artifacts.networks import load_network, seed_file
from prunelab.benchmarking.machine_load import machine_load
from prunelab.benchmarking.suite import Benchmark, Row
from prunelab.config.params import PARAMS_FILE, Runtime
from prunelab.core.errors import InputError
from prunelab.core.files import sha256
from prunelab.core.plurals import counted
from prunelab.models.catalogue import Shape
from prunelab.models.networks import example_input
from prunelab.project.outputs import fetch_output
from prunelab.project.paths import BASE, FOCUS
from prunelab.project.revisions import RevisionResult
from prunelab.runtime.device import Execution, configure_native, fingerprint

DENSE_NAME = "its dense network"  # messages have it; no revision has a name with spaces
SPEEDUP_KEYS = ("faster", "faster_low", "faster_high", "told")
ROUNDS, SECONDS = 30, 0.5

# Returns a file of a revision. A committed one is first copied into the folder.
Fetch = Callable[[RevisionResult, Path, Path], Path]


@dataclass(frozen=True)
class RevisionLatency:
    """How much faster than its dense network each revision's network is, by revision.

    `not_measured` holds the reasons for revisions without a measurement; `machine` describes where
    the others were measured.
    """

    faster: Mapping[str, Row]
    not_measured: Mapping[str, str]
    machine: str


def time_revisions(
    root: Path, revisions: Sequence[RevisionResult], runtime: Runtime, batch_size: int
) -> RevisionLatency:
    """Measure the focus of each revision, first seed, against its dense network.

    Networks that were pruned from one dense network are measured in turn with it. Whatever slows
    the machine then slows all of them.
    """
    execution = configure_native(runtime)
    machine = _describe_machine(execution, runtime)

    faster: dict[str, Row] = {}
    with TemporaryDirectory() as folder:
        families, not_measured = _load_families(revisions, fetch_from(root), Path(folder))
        for family in families:
            faster.update(family.measure(execution, batch_size))
    return RevisionLatency(faster, not_measured, machine)


def _describe_machine(execution: Execution, runtime: Runtime) -> str:
    device = fingerprint(execution)["device"]
    description = f"{device}, {counted(runtime.threads, 'thread')}, {runtime.precision}"
    busy = machine_load()["busy"]
    if busy:
        description += f", beside {', '.join(busy)}"
    return description


@dataclass(frozen=True)
class _Family:
    """A dense network and the networks that revisions made of it, by revision."""

    dense: nn.Module
    shape: Shape
    pruned: dict[str, nn.Module] = field(default_factory=dict)

    def measure(self, execution: Execution, batch_size: int) -> dict[str, Row]:
        """Return how much faster than the dense network every other one is, by revision."""
        models = {DENSE_NAME: self.dense} | self.pruned
        placed = {name: execution.place(model) for name, model in models.items()}
        benchmark = Benchmark(placed, {}, example_input(self.shape), execution)
        rows = benchmark.latency("eager", batch_size, rounds=ROUNDS, seconds=SECONDS)

        faster = {}
        for row in rows:
            if row["name"] != DENSE_NAME:
                faster[row["name"]] = {key: row[key] for key in SPEEDUP_KEYS}
        return faster


def _load_families(
    revisions: Sequence[RevisionResult], fetch: Fetch, folder: Path
) -> tuple[list[_Family], dict[str, str]]:
    """Group revisions by their dense network; return also why revisions have no network."""
    families: dict[str, _Family] = {}  # by the hash of the dense network's file
    not_measured: dict[str, str] = {}

    for revision in revisions:
        try:
            seed = _first_seed(revision)
            dense_file = fetch(revision, seed_file(BASE, seed), folder)
            pruned_file = fetch(revision, seed_file(FOCUS, seed), folder)
            dense_hash = sha256(dense_file)
            pruned = load_network(pruned_file).model
            if dense_hash not in families:
                dense = load_network(dense_file)
                families[dense_hash] = _Family(dense.model, dense.card.input_shape)
        except (InputError, OSError) as error:
            not_measured[revision.name] = " ".join(str(error).split())
        else:
            families[dense_hash].pruned[revision.name] = pruned

    return list(families.values()), not_measured


def _first_seed(revision: RevisionResult) -> int:
    """The seed whose networks are measured.

    Raises:
        InputError: if the parameters name none; those of a commit may be of any age.
    """
    match revision.params.get("seeds"):
        case [int(seed), *_]:
            return seed
    raise InputError(f"seeds: {PARAMS_FILE} names no seed")


def fetch_from(root: Path) -> Fetch:
    """Return a function that reads the workspace, and DVC's cache or remote for commits."""

    def fetch(revision: RevisionResult, path: Path, folder: Path) -> Path:
        if revision.commit is None:
            return root / path
        target = folder / revision.commit / path
        fetch_output(root, revision.commit, path, target)
        return target

    return fetch
