"""Measure the sensitivity of every layer of the dense networks, each pruned by itself.

A curve is the accuracy on the validation split at every ratio.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prunelab.artifacts.networks import Network, load_networks, seed_files
from prunelab.artifacts.prepared import load_split, read_data_info
from prunelab.config.params import load_params
from prunelab.core.errors import InputError
from prunelab.core.files import sha256, write_json
from prunelab.core.plurals import UNITS
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.evaluation.predict import predict
from prunelab.pruning.sensitivity import (
    METHODS,
    PrunableUnit,
    Row,
    UnitKind,
    curves,
    mean_curves,
    measurable,
    prunable_units,
)
from prunelab.runtime.bars import Bar, open_bar
from prunelab.runtime.device import Execution, configure, generator
from prunelab.runtime.seeds import for_each_seed
from prunelab.stages.entry import run

UnitsByKind = dict[UnitKind, dict[int, list[PrunableUnit]]]  # of the network of every seed


def main(prepared: Path, networks: Path, out: Path) -> None:
    """Prune the layers of the networks in the folder NETWORKS in turn and write the rows to OUT."""
    params = load_params()
    execution = configure(params.runtime)
    ratios = params.sensitivity.ratios

    validation = load_split(prepared, "validation", params.data.memory_mb)
    validation = _sample(validation, params.sensitivity.samples)
    dense = load_networks(networks, params.seeds)
    card = dense[params.seeds[0]].card
    batches = BatchLoader(validation, card.normalise, execution, workers=params.data.workers)

    units, skipped = _find_units(dense, ratios)
    if not units:
        raise InputError(f"sensitivity.ratios: {reason}" for reason in skipped.values())

    batch_size = params.evaluate.batch_size
    measuring = _Measuring(dense, units, ratios, validation.labels, batches, batch_size, execution)
    measured = list(for_each_seed(params.seeds, measuring.run, execution))

    rows: list[Row] = []
    for kind in units:
        for row in mean_curves([each.rows[kind] for each in measured]):
            rows.append({"granularity": kind, **row})

    accuracies = [each.accuracy for each in measured]
    record = {
        "model": card.model,
        "dataset": read_data_info(prepared)["dataset"],
        "seeds": params.seeds,
        "networks": [sha256(file) for file in seed_files(networks, params.seeds)],
        "examples": len(validation),
        "accuracy": float(np.mean(accuracies)),
        "accuracies": accuracies,
        "rows": rows,
        "skipped": skipped,
    }
    write_json(out, record)


@dataclass(frozen=True)
class _Measured:
    """The accuracy of one seed's network, and its curves for every kind of units."""

    accuracy: float
    rows: dict[UnitKind, list[Row]]


@dataclass(frozen=True)
class _Measuring:
    """What measuring needs for all seeds, and the dense networks and their units by seed."""

    networks: dict[int, Network]
    units: UnitsByKind
    ratios: Sequence[float]
    labels: np.ndarray
    batches: BatchLoader
    batch_size: int
    execution: Execution

    def run(self, seed: int) -> _Measured:
        """Measure the network of a seed."""
        model = self.networks[seed].model
        rows: dict[UnitKind, list[Row]] = {}
        with closing(self._open_bar(seed)) as bar:
            for kind, units in self.units.items():
                rows[kind] = list(
                    curves(model, units[seed], self.ratios, self._accuracy, bar.update)
                )
        return _Measured(self._accuracy(model), rows)

    def _accuracy(self, model: nn.Module) -> float:
        predicted = predict(model, self.batches, self.batch_size, self.execution).classes
        return float((predicted == self.labels).mean())

    def _open_bar(self, seed: int) -> Bar:
        # Every unit has a curve, and every kind has one of all its units together.
        total = sum(len(units[seed]) + 1 for units in self.units.values())
        return open_bar(f"sensitivity, seed {seed}", total=total, unit=" curves")


def _sample(split: Split, samples: int) -> Split:
    """At most so many examples, the same for every network.

    They keep their order, in which a split on disk is read fastest.
    """
    chosen = torch.randperm(len(split), generator=generator("sensitivity"))[:samples]
    return split.at(chosen.sort().values.numpy())


def _find_units(
    dense: Mapping[int, Network], ratios: Sequence[float]
) -> tuple[UnitsByKind, dict[str, str]]:
    """The units to measure, and the kinds that cannot be measured with the reason."""
    units: UnitsByKind = {}
    skipped: dict[str, str] = {}

    for kind in METHODS:
        units_by_seed = {}
        try:
            for seed, network in dense.items():
                units_by_seed[seed] = prunable_units(
                    network.model, network.card.model, kind, network.card.input_shape
                )
        except InputError as error:
            skipped[kind] = str(error).partition(";")[0]
            continue

        first_units = next(iter(units_by_seed.values()))
        if measurable(first_units, ratios):
            units[kind] = units_by_seed
        else:
            skipped[kind] = f"no layer loses some of its {UNITS[kind]}, and not all, at {ratios}"
    return units, skipped


if __name__ == "__main__":
    run(main)
