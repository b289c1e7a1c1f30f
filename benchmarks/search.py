"""A search against random tries of as many epochs, and against the default grid.

    python benchmarks/search.py                     # 5 repetitions on digits
    python benchmarks/search.py --repetitions 1 --tries 12

Run it in the project's folder. Every repetition has another seed of the sampler. Both arms choose
by the validation split, within the same drop. The networks they choose are trained again, with the
other seeds of params.yaml, and compared on the test split. Tries run in this process, with the
project's own pruning and training, since the machinery around them costs more than digits do; the
same settings under DVC are what `prunelab search` runs.

A ratio below 1 says that the search's network has fewer MACs.
"""

import argparse
import json
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from prunelab.artifacts.prepared import load_split, read_data_info
from prunelab.commands.search.engine import Engine, Limits, Strategy
from prunelab.commands.search.finals import FinalRound
from prunelab.commands.search.network import SearchedNetwork
from prunelab.commands.search.records import Measurement, SearchState
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


@dataclass
class HereRunner:
    """Measures settings in this process, one after the other."""

    base: Params
    width: int = 1
    done: dict[str, Measurement] = field(default_factory=dict)
    queue: list[Job] = field(default_factory=list)
    dense: dict[int, Any] = field(default_factory=dict)

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
        split = self.splits[params.evaluate.split]
        right, right_dense, costs, dense_costs = [], [], {}, {}
        for seed in params.seeds:
            dense = self._dense(params, seed)
            tuned = self._tuned(params, seed, dense)
            right.append(self._right(tuned, split))
            right_dense.append(self._right(dense, split))
            costs, dense_costs = self._costs(tuned), self._costs(dense)

        correct, correct_dense = np.stack(right), np.stack(right_dense)
        resamples = params.evaluate.bootstrap_samples
        return Measurement(
            accuracy=float(correct.mean()),
            accuracy_ci95=half_width(correct, resamples=resamples),
            drop=float(correct_dense.mean() - correct.mean()),
            drop_ci95=half_width(correct_dense - correct, resamples=resamples),
            costs=costs,
            dense_costs=dense_costs,
        )

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
    """The network that an arm chose, by the validation split, as measured on the test split."""

    epochs: int
    tries: int
    found: str
    macs: float
    drop: float
    drop_ci95: float


def run_arm(
    base: Mapping[str, Any], runner: HereRunner, max_drop: float, strategy: Strategy
) -> Arm | None:
    """Search, then train the smallest network again and test it; None if no network is found."""
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
            params.search, MACS, lambda name: network.problem_of_method(name, MACS.budget)
        ),
        objective=MACS,
        max_drop=max_drop,
        seeds=params.seeds,
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

    FinalRound(
        objective=MACS,
        max_drop=max_drop,
        seeds=params.seeds,
        search=params.search.model_copy(update={"runners_up": 0}),
        runner=runner,
        make_params=partial(network.params_of, MACS),
        make_job=job,
        save=lambda state: None,
        print_line=lambda line: None,
    ).run(state)
    if not state.tested:
        return None

    final, measured = state.tested[0]
    what = state.tries[final.tried].point.describe()
    return Arm(epochs, tries, what, measured.costs["macs"], measured.drop, measured.drop_ci95)


def best_of_grid(max_drop: float) -> tuple[str, float]:
    """The cell of the committed grid with the fewest MACs whose mean drop is within."""
    best = ("dense", float(json.loads(Path("metrics/base.json").read_text())["macs"]))
    for path in sorted(Path("metrics/grid").glob("*.json")):
        metrics = json.loads(path.read_text())
        if metrics["accuracy_drop"] <= max_drop and metrics["macs"] < best[1]:
            best = (path.stem, float(metrics["macs"]))
    return best


def describe(name: str, arm: Arm | None) -> str:
    if arm is None:
        return f"  {name}: nothing within the drop"
    return (
        f"  {name}: {arm.macs:,.0f} MACs, {100 * arm.drop:.2f} ± {100 * arm.drop_ci95:.2f} points "
        f"lost on test; {arm.tries} tries, {arm.epochs} epochs; {arm.found}"
    )


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
    cell, grid_macs = best_of_grid(max_drop)
    print(f"the best of the grid within {options.max_drop:g}: {cell}, {grid_macs:,.0f} MACs")

    wins, ratios, to_grid = 0, [], []
    for seed in range(options.first, options.first + options.repetitions):
        start = time.monotonic()
        base["search"]["sampler_seed"] = seed
        found = run_arm(base, runner, max_drop, Strategy())

        rival = {**base, "search": {**base["search"]}}
        longest = base["search"]["epochs"]
        epochs = found.epochs if found else longest * base["search"]["tries"]
        rival["search"]["tries"] = max(1, epochs // longest)
        rival["seeds"] = base["seeds"][:1]
        random = Strategy("random", halving=False, opening=0, passes_over=False)
        other = run_arm(rival, runner, max_drop, random)

        print(f"repetition {seed}, {time.monotonic() - start:,.0f} s", flush=True)
        print(describe("search", found))
        print(describe("random", other), flush=True)
        if found is not None:
            to_grid.append(found.macs / grid_macs)
        if found is not None and other is not None:
            ratios.append(found.macs / other.macs)
        wins += found is not None and (other is None or found.macs < other.macs)

    print(f"fewer MACs than random tries of as many epochs: {wins} of {options.repetitions}")
    if ratios:
        print(f"MACs, search ÷ random: median {median(ratios):.2f}")
    if to_grid:
        print(f"MACs, search ÷ best of the grid: median {median(to_grid):.2f}")


if __name__ == "__main__":
    main()
