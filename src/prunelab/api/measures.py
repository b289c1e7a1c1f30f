"""prunelab.evaluate, benchmark and sensitivity: how good and how fast networks are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.api.inputs import (
    Data,
    Network,
    batches_of,
    card_of,
    copy_of,
    device_of,
    example_of,
    execution_of,
    labelled_batches,
    module_of,
    require_batches,
    structure_of,
)
from prunelab.artifacts.records import ALL
from prunelab.benchmarking.backends import BACKENDS, NEEDS
from prunelab.benchmarking.suite import Benchmark
from prunelab.core.errors import InputError
from prunelab.core.plurals import UNITS
from prunelab.core.registry import pick
from prunelab.evaluation.metrics import quality
from prunelab.evaluation.predict import Predictions, predict_batches
from prunelab.pruning import sensitivity as curves
from prunelab.pruning.criteria.calibration import evaluating
from prunelab.report.text_table import aligned_table

RESAMPLES = 2000  # of the bootstrap of one network's accuracy

Score = Callable[[nn.Module], float]  # of a network; higher is better


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on some examples.

    Shares are 0 to 1. Intervals are half the width of 95 % bootstrap intervals over the examples.

    Args:
        examples: how many there were
        accuracy: the share that is right
        accuracy_ci95: half the width of its interval
        accuracy_top5: the share whose class is among the five most probable ones
        loss: the mean cross-entropy
        calibration_error: the expected calibration error, 15 bins (Guo et al. 2017)
        accuracy_drop: the accuracy of the other network less this one's; 0 without one
        accuracy_drop_ci95: half the width of its interval, paired by example
    """

    examples: int
    accuracy: float
    accuracy_ci95: float
    accuracy_top5: float
    loss: float
    calibration_error: float
    accuracy_drop: float = 0.0
    accuracy_drop_ci95: float = 0.0

    def __str__(self) -> str:
        line = (
            f"accuracy {self.accuracy:.4f} +- {self.accuracy_ci95:.4f} on {self.examples:,} "
            f"examples, loss {self.loss:.4f}"
        )
        if self.accuracy_drop or self.accuracy_drop_ci95:
            line += f"; {self.accuracy_drop:.4f} +- {self.accuracy_drop_ci95:.4f} lower than dense"
        return line


def evaluate(model: Network, data: Data, *, against: Network | None = None) -> Evaluation:
    """Measure a classifier on all examples of `data`, in one pass, where the network is.

    Args:
        model: maps inputs [B, ...] to logits [B, classes]
        data: batches (inputs [B, ...], labels int64 [B]), such as a DataLoader
        against: the network to compare with, such as the dense one, on the same device

    Raises:
        InputError: if the network is none, or cannot take the inputs, if either is not about
            classes, or if outputs are NaN or infinite.
    """
    models = [module_of(model)]
    if against is not None:
        models.append(module_of(against))

    labels: list[np.ndarray] = []
    predictions = _predict(models, data, labels)
    for each in predictions:
        each.require_numbers()
    first, last = predictions[0], predictions[-1]
    true = np.concatenate(labels)
    measured = quality(
        true,
        after=Predictions.stacked([first]),
        before=first.classes[None],
        dense=last.classes[None],
        classes=1 + int(max(true.max(), first.classes.max(), last.classes.max())),
        resamples=RESAMPLES,
    )
    names = ("accuracy", "accuracy_ci95", "accuracy_top5", "loss", "calibration_error")
    drops = ("accuracy_drop", "accuracy_drop_ci95")
    return Evaluation(len(true), **{name: float(measured[name]) for name in (*names, *drops)})


def _predict(
    models: Sequence[nn.Module], data: Data, labels: list[np.ndarray]
) -> list[Predictions]:
    """The predictions of all networks in one pass; the labels of every batch go into `labels`."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, batch_labels in labelled_batches(*models, data=data):
            labels.append(batch_labels.cpu().numpy())
            yield inputs, batch_labels

    with evaluating(nn.ModuleList(models)):
        return predict_batches(models, batches())


@dataclass(frozen=True)
class Speed:
    """How fast two networks are, measured in turns.

    `rows` has two rows for every batch size, for "dense" and "pruned". `latency_ms_p50` is the
    median of a call in milliseconds, `throughput_per_s` the number of inputs per second. For
    "pruned", `faster` is how many times faster it is, with the ends of a 95 % interval.
    """

    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        for dense, pruned in zip(self.rows[::2], self.rows[1::2], strict=True):
            size, backend = str(dense["batch_size"]), str(dense["backend"])
            times = [f"{row['latency_ms_p50']:.3f}" for row in (dense, pruned)]
            lines.append([size, backend, *times, str(pruned["told"])])
        return aligned_table(["batch size", "backend", "dense ms", "pruned ms", "faster"], lines)


def benchmark(
    dense: Network,
    pruned: Network,
    example_inputs: Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 32),
    backend: str = "eager",
    rounds: int = 20,
    seconds: float = 2.0,
) -> Speed:
    """Compare the latencies of two networks where the dense one is, in torch's current threads.

    They take turns, so that a slow machine slows both alike. Inputs are noise.

    Args:
        dense: the dense network
        pruned: the pruned one
        example_inputs: one input or more, [B, ...]
        batch_sizes: how many inputs a call has
        backend: "eager", "compiled", "cuda_graph", "onnxruntime" or "semi_structured"
        rounds: how often each network has its turn, 2 or more; a round gives one ratio
        seconds: how long each network is timed at each batch size

    Raises:
        InputError: if an argument is wrong or the machine lacks what the backend needs.
    """
    if rounds < 2 or seconds <= 0 or not batch_sizes or min(batch_sizes) < 1:
        raise InputError(
            "benchmark: rounds must be 2 or more, seconds above 0, and batch_sizes 1 or more each"
        )
    models = {"dense": module_of(dense), "pruned": module_of(pruned)}
    execution = execution_of(models["dense"])
    pick(BACKENDS, backend, "backend")
    if backend in NEEDS:
        NEEDS[backend](execution)

    examples = [example_of(model, example_inputs) for model in models.values()]
    placed = {name: execution.place(copy_of(model)).eval() for name, model in models.items()}
    suite = Benchmark(placed, {}, examples[0], execution)
    rows: list[Mapping[str, Any]] = []
    for batch_size in batch_sizes:
        rows += suite.latency(backend, batch_size, rounds=rounds, seconds=seconds)
    return Speed(rows)


@dataclass(frozen=True)
class Sensitivity:
    """How a network's score falls as single layers lose units, without any training.

    `dense` is the score of the whole network. A row of `rows` has `layer` (coupled layers go by
    the first one's name, all layers together by "all layers"), `units` in the dense layer,
    `ratio` as asked, `removed` as rounded to whole units, and `accuracy`, the score.
    """

    dense: float
    rows: Sequence[Mapping[str, Any]]

    def __str__(self) -> str:
        ratios = sorted({row["ratio"] for row in self.rows})
        scores: dict[str, dict[float, str]] = {}
        units = {}
        for row in self.rows:
            name = "all layers" if row["layer"] == ALL else row["layer"]
            scores.setdefault(name, {})[row["ratio"]] = f"{row['accuracy']:.4f}"
            units[name] = f"{row['units']:,}"

        lines = []
        for name, by_ratio in scores.items():
            lines.append([name, units[name], *(by_ratio.get(ratio, "") for ratio in ratios)])
        header = ["layer", "units", *(f"{ratio:g}" for ratio in ratios)]
        return f"dense {self.dense:.4f}\n{aligned_table(header, lines)}"


def sensitivity(
    model: Network,
    example_inputs: Tensor,
    data: Data | None = None,
    *,
    ratios: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    units: Literal["channel", "weight", "head", "hidden"] = "channel",
    samples: int = 2048,
    score: Score | None = None,
) -> Sensitivity:
    """Prune every layer by itself, and all together, by L1 norm, and measure each.

    Units are set to zero in copies; the network is as it was (Li et al. 2017, Pruning Filters for
    Efficient ConvNets, figure 2).

    Args:
        model: the dense network
        example_inputs: one input or more, [B, ...]
        data: batches (inputs [B, ...], labels int64 [B]) for the accuracy
        ratios: the shares of its units that a layer loses, each above 0 and below 1
        units: what goes; heads and hidden units are those of text encoders
        samples: how many examples of `data` are used, the first ones
        score: measures a network, higher is better, in place of the accuracy on `data`

    Raises:
        InputError: if an argument is wrong, or if the network has no such units.
    """
    network = module_of(model)
    if units not in curves.METHODS:
        raise InputError(f"unknown units {units!r}; valid: {', '.join(curves.METHODS)}")
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise InputError(f"ratios must be above 0 and below 1 each, not {list(ratios)}")
    if samples < 1:
        raise InputError(f"samples must be 1 or more, not {samples}")
    if score is None and data is None:
        raise InputError("sensitivity needs data=, batches (inputs, labels), or score=, a function")
    example = example_of(network, example_inputs)
    measure = score
    if measure is None:
        assert data is not None
        measure = _accuracy_on(list(batches_of(require_batches(data), samples)))

    copy = copy_of(network).cpu().eval()
    parts = curves.units_of(copy, structure_of(card_of(model), copy, example), units)
    if not curves.measurable(parts, ratios):
        raise InputError(
            f"no layer loses some of its {UNITS[units]}, and not all, at {list(ratios)}"
        )
    copy.to(device_of(network))
    rows = list(curves.curves(copy, parts, ratios, measure))
    return Sensitivity(measure(copy), rows)


def _accuracy_on(batches: Sequence[tuple[Tensor, Tensor]]) -> Score:
    def accuracy(network: nn.Module) -> float:
        right, total = 0, 0
        with evaluating(network), torch.inference_mode():
            for inputs, labels in labelled_batches(network, data=batches):
                right += int((network(inputs).argmax(1) == labels).sum())
                total += len(labels)
        return right / total

    return accuracy
