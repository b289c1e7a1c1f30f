"""Measure one configuration on the test split: the only kind of stage that reads it."""

from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Option

from prunelab.artifacts.networks import Network, load_network, seed_file, sizes
from prunelab.artifacts.predictions import load_predictions, save_predictions
from prunelab.artifacts.prepared import load_split
from prunelab.config.params import load_params
from prunelab.core.files import sha256, write_json
from prunelab.data.loader import BatchLoader
from prunelab.evaluation.layers import by_layer, histogram
from prunelab.evaluation.metrics import by_class, by_seed, mean_over_seeds, over_seeds, quality
from prunelab.evaluation.predict import Predictions, predict
from prunelab.models.catalogue import build
from prunelab.models.cost import cost
from prunelab.runtime.device import configure, fingerprint
from prunelab.stages.entry import run
from prunelab.statistics.scores import confusion_matrix


def main(
    prepared: Path,
    networks: Path,
    metrics: Path,
    predictions: Path,
    pruned: Annotated[Path | None, Option(help="The networks before fine-tuning.")] = None,
    dense: Annotated[Path | None, Option(help="Predictions of the dense networks.")] = None,
    confusion: Annotated[
        Path | None, Option(help="Where to write rows of the confusion matrix.")
    ] = None,
    details: Annotated[
        Path | None, Option(help="Where to write rows by seed, class and layer.")
    ] = None,
    environment: Annotated[
        Path | None, Option(help="Where to write what this was measured on.")
    ] = None,
) -> None:
    """Measure the networks in the folder NETWORKS; without --pruned and --dense they are the dense ones."""
    params = load_params()
    execution = configure(params.runtime)
    test = load_split(prepared, "test", params.data.memory_mb)

    def said(folder: Path) -> tuple[list[Network], Predictions]:
        """The networks of all seeds, and what they say [seeds, images]."""
        loaded = [load_network(seed_file(folder, seed)) for seed in params.seeds]
        batches = BatchLoader(
            test, loaded[0].card.normalise, execution, workers=params.data.workers
        )
        told = [
            predict(network.model, batches, params.evaluate.batch_size, execution)
            for network in loaded
        ]
        return loaded, Predictions.stacked(told)

    loaded, after = said(networks)
    before = said(pruned)[1].classes if pruned else after.classes
    unpruned = load_predictions(dense)["after"] if dense else after.classes
    card = loaded[0].card
    reference = build(card.model, card.classes, card.input_shape, **card.options)
    measured = quality(
        test.labels,
        after=after,
        before=before,
        dense=unpruned,
        classes=card.classes,
        resamples=params.evaluate.bootstrap_samples,
    )
    measured |= mean_over_seeds(
        [
            cost(network.model, reference, card.input_shape)
            | sizes(network.model)
            | {"train_macs": network.card.train_macs, "ratio_achieved": network.card.ratio_achieved}
            for network in loaded
        ]
    )
    measured |= {
        "ratio_asked": card.pruning.ratio if card.pruning else 0,
        "seeds": len(params.seeds),
    }
    measured |= {"imported": int(card.imported is not None)}
    save_predictions(
        predictions, labels=test.labels, before=before, after=after.classes, losses=after.losses
    )
    if confusion:
        every_seed = np.tile(test.labels, len(loaded))
        write_json(
            confusion, _rows(confusion_matrix(every_seed, after.classes.ravel(), card.classes))
        )
    if details:
        rows = by_seed(
            test.labels, after=after, before=before, dense=unpruned, classes=card.classes
        )
        seeds = [
            {"seed": seed, "sha256": sha256(seed_file(networks, seed))} | row
            for seed, row in zip(params.seeds, rows, strict=True)
        ]
        classes = by_class(test.labels, after=after.classes, dense=unpruned, classes=card.classes)
        every = [by_layer(network.model, reference) for network in loaded]
        layers = [
            {"layer": name, **mean_over_seeds([one[name] for one in every])} for name in every[0]
        ]
        spread = histogram([network.model for network in loaded])
        told = {
            "seeds": seeds,
            "measures": over_seeds(rows),
            "classes": classes,
            "layers": layers,
            "weights": spread,
        }
        write_json(details, told)
    write_json(metrics, measured)
    if environment:
        # No output of the stage, or another machine's name would change hashes; so DVC does not restore it with the
        # metrics either, and it says itself which ones it belongs to.
        write_json(environment, fingerprint(execution) | {"metrics_sha256": sha256(metrics)})


def _rows(matrix: np.ndarray) -> list[dict[str, int]]:
    return [
        {
            "actual": int(actual),
            "predicted": int(predicted),
            "count": int(matrix[actual, predicted]),
        }
        for actual, predicted in np.ndindex(*matrix.shape)
        if matrix[actual, predicted]
    ]


if __name__ == "__main__":
    run(main)
