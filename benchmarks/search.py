"""A search against random tries of as many epochs, and against the default grid.

    python benchmarks/search.py                     # 5 repetitions on digits
    python benchmarks/search.py --repetitions 1 --tries 12

Run it in the project's folder. Every repetition has another seed of the sampler. Both arms choose
by the validation split, within the same drop and by the same rule: the smallest network that is
believed, and larger ones. These are trained again, with the fresh seeds of params.yaml, and tested.
What counts is the smallest that is shown to be within the drop on the test split. Random tries are
as many as use up the search's epochs; confirming their choice with more seeds comes on top.

Tries run in this process, with the project's own pruning and training, since the machinery around
them costs more than digits do; the same settings under DVC are what `prunelab search` runs. A
network of a seed is trained once, and its epochs are counted as often as it was asked for.

The grid is compared in two ways: by its smallest network whose mean drop is within, and by the
smallest that is shown to be within, as the arms' networks must be. A ratio below 1 says that the
search's network has fewer MACs.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

from prunelab.core.lifecycle import set_load_time_variables

set_load_time_variables()  # portable bits need it before NumPy is loaded

import numpy as np

from prunelab.artifacts.prepared import load_split, read_data_info
from prunelab.commands.search.drop_error import standard_error
from prunelab.commands.search.engine import Engine, Limits, Strategy
from prunelab.commands.search.finals import FinalRound, Role, shown_within
from prunelab.commands.search.network import SearchedNetwork
from prunelab.commands.search.records import Measurement, SearchState, Try
from prunelab.commands.search.space import OBJECTIVES, Point, space_of
from prunelab.commands.studies.jobs import Job
from prunelab.config.params import Normalise, Params, parse_params, read_params
from prunelab.core.errors import InputError
from prunelab.data.loader import BatchLoader
from prunelab.evaluation.predict import predict
from prunelab.models.cost import macs, parameters
from prunelab.models.networks import build
from prunelab.project.experiments import digest
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import prune
from prunelab.pruning.schedules import DenseWeights
from prunelab.runtime.device import configure
from prunelab.stages.task import load_trainer
from prunelab.statistics.intervals import half_width
from prunelab.training.distillation import Teacher
from prunelab.training.retraining import Retrainer, retraining

PREPARED = Path("data/prepared")
MACS = OBJECTIVES["macs"]


@dataclass(frozen=True)
class Trained:
    """Which images of a split a seed's networks got right, and what they cost."""

    right: np.ndarray
    right_dense: np.ndarray
    costs: dict[str, float]
    dense_costs: dict[str, float]


@dataclass
class HereRunner:
    """Measures settings in this process, one after the other."""

    base: Params
    width: int = 1
    done: dict[str, Measurement] = field(default_factory=dict)
    queue: list[Job] = field(default_factory=list)
    dense: dict[int, Any] = field(default_factory=dict)
    trained: dict[str, Trained] = field(default_factory=dict)  # by parameters and seed

    def __post_init__(self) -> None:
        self.execution = configure(self.base.runtime)
        info = read_data_info(PREPARED)
        self.normalise = None
        if info["mean"] is not None:
            self.normalise = Normalise(mean=info["mean"], std=info["std"])
        self.classes, self.shape = len(info["classes"]), tuple(info["shape"])
        self.trainer = load_trainer(PREPARED, self.base.data, self.normalise, self.execution)

    @cached_property
    def splits(self) -> dict[str, Any]:
        memory = self.base.data.memory_mb
        return {name: load_split(PREPARED, name, memory) for name in ("validation", "test")}

    def measured(self, job: Job) -> Measurement | None:
        return self.done.get(job.name)

    def submit(self, job: Job) -> None:
        self.queue.append(job)

    def wait(self) -> tuple[Job, str | None]:
        job = self.queue.pop(0)
        try:
            self.done[job.name] = self._measure(parse_params(job.params))
        except InputError as error:
            return job, str(error)
        return job, None

    def _measure(self, params: Params) -> Measurement:
        trained = [self._trained(params, seed) for seed in params.seeds]
        correct = np.stack([one.right for one in trained])
        correct_dense = np.stack([one.right_dense for one in trained])
        lost = correct_dense - correct

        resamples = params.evaluate.bootstrap_samples
        drop_ci95 = half_width(lost, resamples=resamples)
        return Measurement(
            accuracy=float(correct.mean()),
            accuracy_ci95=half_width(correct, resamples=resamples),
            drop=float(lost.mean()),
            drop_ci95=drop_ci95,
            drop_error=standard_error(drop_ci95, lost.mean(axis=1), lost.shape[1]),
            costs=trained[-1].costs,
            dense_costs=trained[-1].dense_costs,
        )

    def _trained(self, params: Params, seed: int) -> Trained:
        """The networks of a seed, trained and measured once."""
        key = digest({**params.model_dump(mode="json"), "seeds": [seed], "search": None})
        if key not in self.trained:
            split = self.splits[params.evaluate.split]
            dense = self._dense(params, seed)
            tuned = self._tuned(params, seed, dense)
            self.trained[key] = Trained(
                self._right(tuned, split),
                self._right(dense, split),
                self._costs(tuned),
                self._costs(dense),
            )
        return self.trained[key]

    def _dense(self, params: Params, seed: int) -> Any:
        """The dense network of a seed, trained once."""
        if seed not in self.dense:
            model = build(params.model, self.classes, self.shape, seed)
            model = self.execution.place(model)
            replace(self.trainer, seed=seed).fit(model, params.train)
            self.dense[seed] = model
        return self.dense[seed]

    def _tuned(self, params: Params, seed: int, dense: Any) -> Any:
        """The pruned network of a seed, after fine-tuning."""
        model = deepcopy(dense)
        trainer = replace(self.trainer, seed=seed)
        spec = params.spec(params.method, params.ratio)
        fresh = partial(build, params.model, self.classes, self.shape, seed + 1)
        state = dense.state_dict()
        prune(
            model,
            params.model,
            spec,
            shape=self.shape,
            seed=seed,
            retrainer=Retrainer(trainer, params.finetune, params.train),
            dense_weights=DenseWeights(init=state, rewind=state, fresh=fresh),
        )

        restart = METHODS[spec.method].restart
        recipe, start = retraining(restart, params.train, params.finetune)
        if recipe is params.finetune and params.finetune.distill:
            teacher = deepcopy(dense).requires_grad_(False)
            settings = params.finetune
            trainer = replace(
                trainer, teacher=Teacher(teacher, settings.distill, settings.temperature)
            )
        trainer.fit(model, recipe, start_epoch=start)
        return model

    def _right(self, model: Any, split: Any) -> np.ndarray:
        batches = BatchLoader(split, self.normalise, self.execution, workers=0)
        predicted = predict(model, batches, self.base.evaluate.batch_size, self.execution)
        return (predicted.classes == split.labels).astype(float)

    def _costs(self, model: Any) -> dict[str, float]:
        count = parameters(model)
        return {
            "macs": macs(model, self.shape),
            "params": count,
            "params_nonzero": count,
            "size_compressed_bytes": 4 * count,
        }


@dataclass(frozen=True)
class Arm:
    """What an arm found: the tested networks, the smallest first, and which are shown."""

    epochs: int
    tries: int
    tested: list[tuple[str, Measurement]]
    shown: list[Measurement]

    @property
    def macs(self) -> float:
        """Of the smallest network that is shown to be within the drop; infinite if none is."""
        if not self.shown:
            return math.inf
        return self.shown[0].costs["macs"]


@dataclass(frozen=True)
class WithoutControls(FinalRound):
    """The candidates alone: controls say nothing about which arm is better."""

    def controls(self, smallest: Try) -> dict[Role, str | None]:
        return {}


def run_arm(
    base: Mapping[str, Any],
    runner: HereRunner,
    max_drop: float,
    strategy: Strategy,
    seeds: list[int],
) -> Arm:
    """Search with `seeds`, then train the candidates again and test them."""
    params = parse_params(base)
    network = SearchedNetwork.of(base)
    network.record = json.loads(Path("metrics/sensitivity.json").read_text())
    state = SearchState({}, {})

    def job(values: Mapping[str, Any], label: str) -> Job:
        return Job(label, digest(dict(values)), values, {}, "")

    def make_job(point: Point, epochs: int, seeds: list[int], number: int) -> Job:
        values = network.params_of(MACS, point, epochs, seeds, "validation")
        return job(values, f"{number} {epochs} {seeds}")

    Engine(
        space=space_of(
            params.search,
            MACS,
            partial(network.problem_of_method, budget=MACS.budget),
            partial(network.nearest_ratio, budget=MACS.budget),
        ),
        objective=MACS,
        max_drop=max_drop,
        seeds=seeds,
        learning_rate=params.finetune.learning_rate,
        state=state,
        runner=runner,
        make_job=make_job,
        save=lambda state: None,
        print_line=lambda line: None,
        limits=Limits(None, lambda: False),
        strategy=strategy,
    ).run()
    epochs, tries = state.epochs, len(state.tries)

    WithoutControls(
        objective=MACS,
        max_drop=max_drop,
        seeds=params.seeds,
        search=params.search,
        runner=runner,
        make_params=partial(network.params_of, MACS),
        make_job=job,
        save=lambda state: None,
        print_line=lambda line: None,
    ).run(state)

    tested = []
    for final, measurement in state.tested:
        tested.append((state.tries[final.tried].point.describe(), measurement))
    shown = shown_within([final for final, _ in state.tested], max_drop)
    measurements = [final.measurement for final in shown if final.measurement is not None]
    return Arm(epochs, tries, tested, measurements)


def best_of_grid(max_drop: float, *, shown: bool) -> tuple[str, float]:
    """The network of the committed grid with the fewest MACs within the drop.

    With `shown`, the whole interval of its drop on the test split must be within, as is asked of
    the networks of both arms; otherwise its mean drop.
    """
    best = ("dense", float(json.loads(Path("metrics/base.json").read_text())["macs"]))
    for path in sorted(Path("metrics/grid").glob("*.json")):
        metrics = json.loads(path.read_text())
        drop = metrics["accuracy_drop"]
        if shown:
            drop += metrics["accuracy_drop_ci95"]
        if drop <= max_drop and metrics["macs"] < best[1]:
            best = (path.stem, float(metrics["macs"]))
    return best


def describe(name: str, arm: Arm) -> list[str]:
    """A line for the arm, and one for every network that it tested."""
    lines = [f"  {name}: {arm.tries} tries, {arm.epochs} epochs"]
    for what, measured in arm.tested:
        verdict = "not shown"
        if measured in arm.shown:
            verdict = "shown"
        lines.append(
            f"    {measured.costs['macs']:,.0f} MACs, {100 * measured.drop:.2f} ± "
            f"{100 * measured.drop_ci95:.2f} points lost on test, {verdict}: {what}"
        )
    if not arm.tested:
        lines.append("    nothing within the drop on validation")
    return lines


def ratio_text(ratios: list[float]) -> str:
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return f"median {median(ratios):.2f} ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first repetition")
    parser.add_argument("--tries", type=int)
    parser.add_argument("--max-drop", type=float, default=1.0, help="in points")
    options = parser.parse_args()

    base = read_params()
    if options.tries:
        base["search"]["tries"] = options.tries
    max_drop = options.max_drop / 100
    runner = HereRunner(parse_params(base))
    cell, by_mean = best_of_grid(max_drop, shown=False)
    print(f"the best of the grid within {options.max_drop:g}: {cell}, {by_mean:,.0f} MACs")
    cell, by_interval = best_of_grid(max_drop, shown=True)
    print(f"the best that is shown to be within: {cell}, {by_interval:,.0f} MACs")

    wins, to_random, found_macs = 0, [], []
    for seed in range(options.first, options.first + options.repetitions):
        start = time.process_time()
        base["search"]["sampler_seed"] = seed
        found = run_arm(base, runner, max_drop, Strategy(), base["seeds"])
        print(f"repetition {seed}")
        print(*describe("search", found), sep="\n", flush=True)

        longest = base["search"]["epochs"]
        rival = {**base, "search": {**base["search"], "tries": max(1, found.epochs // longest)}}
        random = Strategy("random", halving=False, opening=0, passes_over=False)
        other = run_arm(rival, runner, max_drop, random, base["seeds"][:1])

        print(*describe("random", other), sep="\n")
        print(f"  {time.process_time() - start:,.0f} CPU seconds", flush=True)
        if found.shown:
            found_macs.append(found.macs)
            to_random.append(found.macs / other.macs)
        wins += found.macs < other.macs

    print(f"fewer MACs than random tries of as many epochs: {wins} of {options.repetitions}")
    if found_macs:
        print(f"MACs, search ÷ random, 0 where random shows none: {ratio_text(to_random)}")
        for what, macs_there in (("best", by_mean), ("best shown", by_interval)):
            ratios = [each / macs_there for each in found_macs]
            print(f"MACs, search ÷ {what} of the grid: {ratio_text(ratios)}")


if __name__ == "__main__":
    main()
