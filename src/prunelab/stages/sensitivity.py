"""Measure the sensitivity of every layer of the dense networks, each pruned by itself.

A curve is the accuracy on the validation split at every ratio.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from prunelab.artifacts.networks import Network, load_networks, seed_files
from prunelab.artifacts.prepared import load_split, read_data_info
from prunelab.config.params import load_params
from prunelab.core.errors import InputError
from prunelab.core.files import sha256, write_json
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.evaluation.predict import predict
from prunelab.pruning.sensitivity import (
    METHODS,
    PrunableUnit,
    UnitKind,
    curves,
    measurable,
    prunable_units,
)
from prunelab.runtime.device import configure, generator
from prunelab.stages.entry import run

UnitsByKind = dict[UnitKind, list[list[PrunableUnit]]]  # for each kind, the units of every network


def main(prepared: Path, networks: Path, out: Path) -> None:
    """Prune the layers of the networks in the folder NETWORKS in turn and write the rows to OUT."""
    params = load_params()
    execution = configure(params.runtime)
    ratios = params.sensitivity.ratios

    validation = load_split(prepared, "validation", params.data.memory_mb)
    validation = _sample(validation, params.sensitivity.samples)
    dense = list(load_networks(networks, params.seeds).values())
    card = dense[0].card
    batches = BatchLoader(validation, card.normalise, execution, workers=params.data.workers)

    def accuracy(model: nn.Module) -> float:
        predicted = predict(model, batches, params.evaluate.batch_size, execution).classes
        return float((predicted == validation.labels).mean())

    units, skipped = _find_units(dense, ratios)
    if not units:
        raise InputError(f"sensitivity.ratios: {reason}" for reason in skipped.values())

    rows: list[dict[str, Any]] = []
    models = [network.model for network in dense]
    with _progress_bar(units) as bar:
        for kind, units_by_network in units.items():
            pairs = list(zip(models, units_by_network, strict=True))
            for row in curves(pairs, ratios, accuracy, bar.update):
                rows.append({"granularity": kind, **row})

    accuracies = [accuracy(model) for model in models]
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


def _sample(split: Split, samples: int) -> Split:
    """At most so many examples, the same for every network.

    They keep their order, in which a split on disk is read fastest.
    """
    chosen = torch.randperm(len(split), generator=generator("sensitivity"))[:samples]
    return split.at(chosen.sort().values.numpy())


def _find_units(
    dense: Sequence[Network], ratios: Sequence[float]
) -> tuple[UnitsByKind, dict[str, str]]:
    """The units to measure, and the kinds that cannot be measured with the reason."""
    units: UnitsByKind = {}
    skipped: dict[str, str] = {}

    for kind in METHODS:
        try:
            units[kind] = [
                prunable_units(network.model, network.card.model, kind, network.card.input_shape)
                for network in dense
            ]
        except InputError as error:
            skipped[kind] = str(error).partition(";")[0]

    for kind in list(units):
        if not measurable(units[kind][0], ratios):
            del units[kind]
            skipped[kind] = f"no layer loses some of its {kind}s, and not all, at {ratios}"
    return units, skipped


def _progress_bar(units: UnitsByKind) -> "tqdm[Any]":
    # Every unit has a curve, and every kind has one of all its units together.
    total = sum(len(units_by_network[0]) + 1 for units_by_network in units.values())
    hidden = not sys.stderr.isatty()
    return tqdm(total=total, desc="sensitivity", unit=" curves", disable=hidden, leave=False)


if __name__ == "__main__":
    run(main)
