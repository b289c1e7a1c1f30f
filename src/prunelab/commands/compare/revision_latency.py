"""How fast the focus of revisions is: their networks, from DVC's cache, measured here and now in one process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from prunelab.artifacts.networks import load_network, seed_file
from prunelab.benchmark.machine_load import machine_load
from prunelab.benchmark.suite import Benchmark, Row
from prunelab.config.params import Runtime
from prunelab.core.errors import InputError
from prunelab.core.files import sha256
from prunelab.models.catalogue import Shape
from prunelab.project.paths import BASE, FOCUS
from prunelab.project.revisions import Revision
from prunelab.runtime.device import Execution, configure, fingerprint

DENSE_NAME = ""  # which no revision has
GAIN = ("faster", "faster_low", "faster_high", "told")
ROUNDS, SECONDS = 10, 1.0
Fetch = Callable[
    [Revision, Path, Path], Path
]  # a revision's file, put into a folder if it is not there already


@dataclass(frozen=True)
class Timed:
    """How much faster than its dense network each revision's is, by name; why others were not measured; where."""

    faster: Mapping[str, Row]
    without: Mapping[str, str]
    where: str


def time_revisions(
    root: Path, revisions: Sequence[Revision], runtime: Runtime, batch_size: int
) -> Timed:
    """Measure the focus of each revision, first seed, against the dense network it was pruned from.

    All that share a dense network take turns with it, so that what slows the machine slows all of them.
    """
    execution = configure(runtime)
    seen = machine_load()
    busy = f", beside {', '.join(seen['busy'])}" if seen["busy"] else ""
    where = (
        f"{fingerprint(execution)['device']}, {runtime.threads} threads, {runtime.precision}{busy}"
    )
    faster: dict[str, Row] = {}
    with TemporaryDirectory() as folder:
        families, without = _families(revisions, fetch_from(root), Path(folder))
        for family in families:
            faster |= family.measured(execution, batch_size)
    return Timed(faster, without, where)


@dataclass(frozen=True)
class _Family:
    """A dense network and what revisions made of it, by their names."""

    dense: nn.Module
    shape: Shape
    pruned: dict[str, nn.Module]

    def measured(self, execution: Execution, batch_size: int) -> dict[str, Row]:
        models = {DENSE_NAME: self.dense} | self.pruned
        placed = {name: execution.place(model) for name, model in models.items()}
        rows = Benchmark(placed, {}, self.shape, execution).latency(
            "eager", batch_size, rounds=ROUNDS, seconds=SECONDS
        )
        return {
            row["name"]: {key: row[key] for key in GAIN}
            for row in rows
            if row["name"] != DENSE_NAME
        }


def _families(
    revisions: Sequence[Revision], fetch: Fetch, folder: Path
) -> tuple[list[_Family], dict[str, str]]:
    families: dict[str, _Family] = {}
    without: dict[str, str] = {}
    for revision in revisions:
        try:
            dense, focus = (
                fetch(revision, seed_file(which, revision.params["seeds"][0]), folder)
                for which in (BASE, FOCUS)
            )
            digest, pruned = sha256(dense), load_network(focus).model
            if digest not in families:
                network = load_network(dense)
                families[digest] = _Family(network.model, network.card.input_shape, {})
        except (InputError, OSError) as error:
            without[revision.name] = " ".join(str(error).split())
            continue
        families[digest].pruned[revision.name] = pruned
    return list(families.values()), without


def fetch_from(root: Path) -> Fetch:
    """Reads the workspace, and DVC's cache or remote for what was committed."""

    def fetch(revision: Revision, path: Path, folder: Path) -> Path:
        if revision.commit is None:
            return root / path
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException

        target = folder / revision.commit / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            DVCFileSystem(str(root), rev=revision.commit).get_file(path.as_posix(), str(target))
        except (DvcException, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{path} is neither in DVC's cache nor in a remote ({reason})"
            ) from None
        return target

    return fetch
