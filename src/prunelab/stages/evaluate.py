"""Measure one configuration on the split that `evaluate.split` names.

No other kind of stage reads the test split, and this one reads it only if that is the split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torch import nn
from typer import Option

from prunelab.artifacts.networks import Network, load_networks, seed_file, sizes
from prunelab.artifacts.predictions import load_predictions, save_predictions
from prunelab.artifacts.prepared import load_split
from prunelab.config.params import Params, load_params
from prunelab.core.errors import InputError
from prunelab.core.files import read_json, sha256, write_json
from prunelab.core.metrics_files import LAST_ENVIRONMENTS, OTHERS, split_metrics
from prunelab.core.registry import pick
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.evaluation.layers import by_layer, histogram
from prunelab.evaluation.metric_table import METRICS, measure
from prunelab.evaluation.metrics import by_class, by_seed, mean_over_seeds, over_seeds, quality
from prunelab.evaluation.predict import Predictions, predict
from prunelab.evaluation.summary import describe
from prunelab.models.cost import cost, macs
from prunelab.models.networks import build
from prunelab.runtime.device import Execution, configure, decisive, fingerprint
from prunelab.runtime.seeds import for_each_seed
from prunelab.stages.entry import run
from prunelab.statistics.scores import confusion_matrix


def main(  # noqa: PLR0913 (a parameter for each option)
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
        Path | None,
        Option(help="Where to write all other metrics, and rows by seed, class and layer."),
    ] = None,
    environment: Annotated[
        Path | None, Option(help="Where to write what this was measured on.")
    ] = None,
) -> None:
    """Measure the networks in the folder NETWORKS; the headline of the metrics goes to METRICS.

    Without --pruned and --dense they are the dense ones.
    """
    params = load_params()
    for name in params.evaluate.metrics:
        pick(METRICS, name, "metric")
    execution = configure(params.runtime)
    split = load_split(prepared, params.evaluate.split, params.data.memory_mb)

    evaluated = _evaluate(split, params, execution, networks, pruned, dense)
    after = evaluated.after

    save_predictions(
        predictions,
        labels=split.labels,
        before=evaluated.before,
        after=after.classes,
        losses=after.losses,
    )
    if confusion:
        write_json(confusion, _confusion_rows(evaluated))
    named = params.evaluate.metrics
    measured = _metrics(evaluated, params.evaluate.bootstrap_samples)
    measured |= measure(named, split.labels, after)
    headline, others = split_metrics(measured, named)
    if details:
        write_json(details, _details(evaluated, params.seeds, networks) | {OTHERS: others})
    write_json(metrics, headline)

    if environment:
        note_environment(environment, fingerprint(execution), metrics)
    print(f"{metrics.stem}: {describe(measured, params.evaluate.split)}")


def note_environment(path: Path, environment: dict[str, Any], metrics: Path) -> None:
    """Write what the file METRICS was measured on.

    This is no output of the stage: it would give other hashes on another machine. DVC therefore
    does not restore it with the metrics, and it names the metrics it belongs to. For the same
    reason a repetition that had to give these metrics leaves the file as it is. What that one ran
    on is written to a file of the same name in LAST_ENVIRONMENTS.
    """
    noted = environment | {"metrics_sha256": sha256(metrics)}
    write_json(LAST_ENVIRONMENTS / path.name, noted)

    try:
        before = read_json(path)
    except InputError:
        before = None

    if not isinstance(before, dict) or decisive(before) != decisive(noted):
        write_json(path, noted)


@dataclass(frozen=True)
class _Measured:
    """One seed's network: its predictions, the classes predicted before fine-tuning, its costs."""

    after: Predictions
    before: np.ndarray
    costs: dict[str, float]
    layers: dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Measuring:
    """What measuring needs for all seeds, and the networks by seed.

    `unpruned` is a network of the original size; its weights do not count. `networks_before` are
    the networks before fine-tuning, None for dense ones.
    """

    batches: BatchLoader
    batch_size: int
    execution: Execution
    networks: dict[int, Network]
    networks_before: dict[int, Network] | None
    unpruned: nn.Module
    unpruned_macs: int

    def run(self, seed: int) -> _Measured:
        """Measure the network of a seed."""
        network = self.networks[seed]
        after = self._predict(network)
        after.require_numbers()
        before = after.classes
        if self.networks_before is not None:
            before = self._predict(self.networks_before[seed]).classes

        model, card = network.model, network.card
        costs = (
            cost(model, self.unpruned, card.input_shape, dense_macs=self.unpruned_macs)
            | sizes(model)
            | {"train_macs": card.train_macs, "ratio_achieved": card.ratio_achieved}
        )
        return _Measured(after, before, costs, by_layer(model, self.unpruned))

    def _predict(self, network: Network) -> Predictions:
        return predict(network.model, self.batches, self.batch_size, self.execution)


@dataclass(frozen=True)
class _Evaluated:
    """The networks of all seeds and what was measured of them.

    `labels` are int64 [images]; `before` and `dense` are predicted classes, int64 [seeds, images].
    """

    labels: np.ndarray
    networks: Sequence[Network]
    measured: Sequence[_Measured]
    after: Predictions
    before: np.ndarray
    dense: np.ndarray

    @property
    def classes(self) -> int:
        return self.networks[0].card.classes


def _evaluate(
    split: Split,
    params: Params,
    execution: Execution,
    folder: Path,
    pruned: Path | None,
    dense: Path | None,
) -> _Evaluated:
    """Measure the networks of all seeds in a folder."""
    networks = load_networks(folder, params.seeds)
    networks_before = dense_classes = None
    if pruned:
        networks_before = load_networks(pruned, params.seeds)
    if dense:
        dense_classes = load_predictions(dense)["after"]

    card = networks[params.seeds[0]].card
    unpruned = build(card.model, card.classes, card.input_shape, 0, **card.options)
    measuring = _Measuring(
        BatchLoader(split, card.normalise, execution, workers=params.data.workers),
        params.evaluate.batch_size,
        execution,
        networks,
        networks_before,
        unpruned,
        unpruned_macs=macs(unpruned, card.input_shape),
    )
    measured = list(for_each_seed(params.seeds, measuring.run, execution))

    after = Predictions.stacked([each.after for each in measured])
    before = np.stack([each.before for each in measured])
    if dense_classes is None:
        dense_classes = after.classes
    return _Evaluated(split.labels, list(networks.values()), measured, after, before, dense_classes)


def _metrics(evaluated: _Evaluated, resamples: int) -> dict[str, Any]:
    """All metrics of a configuration: quality, costs and the requested ratio."""
    metrics: dict[str, Any] = dict(
        quality(
            evaluated.labels,
            after=evaluated.after,
            before=evaluated.before,
            dense=evaluated.dense,
            classes=evaluated.classes,
            resamples=resamples,
        )
    )

    metrics |= mean_over_seeds([each.costs for each in evaluated.measured])

    card = evaluated.networks[0].card
    metrics["ratio_asked"] = card.pruning.ratio if card.pruning else 0
    metrics["seeds"] = len(evaluated.networks)
    metrics["imported"] = int(card.imported is not None)
    return metrics


def _details(evaluated: _Evaluated, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Rows by seed, measure, class, layer and weight, for a file in metrics/details/."""
    labels, after, dense = evaluated.labels, evaluated.after, evaluated.dense
    classes = evaluated.classes
    measures = by_seed(labels, after=after, before=evaluated.before, dense=dense, classes=classes)
    seed_rows = []
    for seed, row in zip(seeds, measures, strict=True):
        seed_rows.append({"seed": seed, "sha256": sha256(seed_file(folder, seed))} | row)

    layers_by_seed = [each.layers for each in evaluated.measured]
    layer_rows = []
    for name in layers_by_seed[0]:
        layer = mean_over_seeds([layers[name] for layers in layers_by_seed])
        layer_rows.append({"layer": name, **layer})

    return {
        "seeds": seed_rows,
        "measures": over_seeds(measures),
        "classes": by_class(labels, after=after.classes, dense=dense, classes=classes),
        "layers": layer_rows,
        "weights": histogram([network.model for network in evaluated.networks]),
    }


def _confusion_rows(evaluated: _Evaluated) -> list[dict[str, int]]:
    """The cells of the confusion matrix over all seeds that are not 0."""
    labels = np.tile(evaluated.labels, len(evaluated.networks))
    matrix = confusion_matrix(labels, evaluated.after.classes.ravel(), evaluated.classes)

    rows = []
    for actual, predicted in np.argwhere(matrix):
        count = int(matrix[actual, predicted])
        rows.append({"actual": int(actual), "predicted": int(predicted), "count": count})
    return rows


if __name__ == "__main__":
    run(main)
