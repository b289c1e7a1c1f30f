"""What every layer of the dense networks bears, by itself: accuracy on the validation split against ratio."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from prunelab.artifacts.networks import load_network, seed_file
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


def main(prepared: Path, networks: Path, out: Path) -> None:
    """Prune the layers of the networks in the folder NETWORKS in turn and write the rows to OUT."""
    params = load_params()
    execution = configure(params.runtime)
    validation = _drawn(
        load_split(prepared, "validation", params.data.memory_mb), params.sensitivity.samples
    )
    files = [seed_file(networks, seed) for seed in params.seeds]
    dense = [load_network(file) for file in files]
    card = dense[0].card
    batches = BatchLoader(validation, card.normalise, execution, workers=params.data.workers)

    def accuracy(model: nn.Module) -> float:
        predicted = predict(model, batches, params.evaluate.batch_size, execution).classes
        return float((predicted == validation.labels).mean())

    found: dict[UnitKind, list[list[PrunableUnit]]] = {}
    skipped = {}
    for what in METHODS:
        try:
            found[what] = [
                prunable_units(network.model, card.model, what, card.input_shape)
                for network in dense
            ]
        except InputError as refused:
            skipped[what] = str(refused).partition(";")[0]
    for what in [
        what for what, (own, *_) in found.items() if not measurable(own, params.sensitivity.ratios)
    ]:
        del found[what]
        skipped[what] = (
            f"no layer loses some of its {what}s, and not all, at {params.sensitivity.ratios}"
        )
    if not found:
        raise InputError(f"sensitivity.ratios: {line}" for line in skipped.values())
    rows = []
    total = sum(len(every[0]) + 1 for every in found.values())
    with tqdm(
        total=total,
        desc="sensitivity",
        unit=" curves",
        disable=not sys.stderr.isatty(),
        leave=False,
    ) as bar:
        for what, own in found.items():
            models = [network.model for network in dense]
            for row in curves(
                list(zip(models, own, strict=True)), params.sensitivity.ratios, accuracy, bar.update
            ):
                rows.append({"granularity": what, **row})
    accuracies = [accuracy(network.model) for network in dense]
    write_json(
        out,
        {
            "model": card.model,
            "dataset": read_data_info(prepared)["dataset"],
            "seeds": params.seeds,
            "networks": [sha256(file) for file in files],
            "examples": len(validation),
            "accuracy": float(np.mean(accuracies)),
            "accuracies": accuracies,
            "rows": rows,
            "skipped": skipped,
        },
    )


def _drawn(split: Split, samples: int) -> Split:
    """At most so many examples, the same for every network; in their order, which a split on disk is read in."""
    chosen = torch.randperm(len(split), generator=generator("sensitivity"))[:samples]
    return split.at(chosen.sort().values.numpy())


if __name__ == "__main__":
    run(main)
