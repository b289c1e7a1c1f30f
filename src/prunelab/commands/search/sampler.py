"""What proposes tries and stops short runs: Optuna. No other module imports it."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from prunelab.commands.search.records import Try
from prunelab.config.params import Search

RANDOM_TRIES = 8  # before the sampler has seen enough to model
ATTEMPTS = 60  # at a proposal that is wanted
RANDOM_ATTEMPTS = 20  # after so many, proposals are random
SEED_STEP = 7919  # a prime: seeds of different tries and attempts do not meet

STATES = {
    "running": TrialState.RUNNING,
    "stopped": TrialState.PRUNED,
    "complete": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
}
Kind = Literal["tpe", "random"]
Raw = dict[str, Any]


class Sampler:
    """Proposals by Optuna's TPE sampler, and Optuna's successive halving over epochs.

    Every proposal has a seed of its own, from the search's and the try's number. What is proposed
    thus depends on nothing but the tries before it: a search that was killed goes on as it would
    have.

    Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization (TPE). Jamieson and Talwalkar
    2016 and Li et al. 2020 (successive halving, in its asynchronous form).
    """

    def __init__(
        self, search: Search, methods: Iterable[str], tries: Iterable[Try], kind: Kind = "tpe"
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search = search
        self._kind = kind
        self._distributions = _distributions(search, list(methods))

        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=search.first_epochs, reduction_factor=search.reduction
        )
        self._study = optuna.create_study(direction="minimize", pruner=pruner)

        self._trials: dict[int, optuna.trial.Trial] = {}
        for tried in tries:
            self._restore(tried)

    def _restore(self, tried: Try) -> None:
        """Add a try of an earlier start of the command."""
        state = STATES[tried.state]
        trial = create_trial(
            state=state,
            value=tried.value if state is TrialState.COMPLETE else None,
            params=tried.raw,
            distributions=self._distributions,
            intermediate_values=tried.reports,
            system_attrs=dict(tried.marks),
        )

        self._study.add_trial(trial)
        if state is TrialState.RUNNING:
            newest = self._study.get_trials(deepcopy=False)[-1]
            self._trials[tried.number] = optuna.trial.Trial(self._study, newest._trial_id)

    def propose(
        self, number: int, fixed: Raw | None, is_wanted: Callable[[Raw], bool]
    ) -> Raw | None:
        """The values of try `number`: those given, or the first proposal that is wanted.

        None if no proposal of many is wanted: the space has nothing else.
        """
        for attempt in range(ATTEMPTS):
            self._study.sampler = self._sampler(number, attempt)
            if fixed is not None:
                self._study.enqueue_trial(fixed)
            trial = self._study.ask(self._distributions)
            if fixed is not None or is_wanted(trial.params):
                self._trials[number] = trial
                return dict(trial.params)

            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _sampler(self, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        seed = (self._search.sampler_seed + SEED_STEP * (number * ATTEMPTS + attempt)) % 2**32
        if self._kind == "random" or attempt >= RANDOM_ATTEMPTS:
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=RANDOM_TRIES, multivariate=True
        )

    def report(self, tried: Try, epochs: int, score: float) -> bool:
        """Note the score of a short run; return whether the try is not worth going on."""
        trial = self._trials[tried.number]
        trial.report(score, epochs)
        tried.reports[epochs] = score
        stops = trial.should_prune()

        attributes = self._study._storage.get_trial_system_attrs(trial._trial_id)
        for key, value in attributes.items():
            if key.startswith("completed_rung"):
                tried.marks[key] = float(value)
        return stops

    def finish(self, tried: Try) -> None:
        """Note how a try ended: `tried.state` and, if it is complete, `tried.value`."""
        trial = self._trials.pop(tried.number)
        state = STATES[tried.state]
        if state is TrialState.COMPLETE:
            self._study.tell(trial, tried.value)
        else:
            self._study.tell(trial, state=state)


def _distributions(search: Search, methods: list[str]) -> dict[str, BaseDistribution]:
    rates = search.learning_rate
    return {
        "method": CategoricalDistribution(methods),
        "ratio": FloatDistribution(search.ratio.low, search.ratio.high),
        "layers": CategoricalDistribution(search.layers),
        "round_to": CategoricalDistribution(search.round_to),
        "learning_rate": FloatDistribution(rates.low, rates.high, log=True),
        "distill": CategoricalDistribution(search.distill),
        "recalibrate": CategoricalDistribution(search.recalibrate),
    }


def importances(search: Search, methods: Iterable[str], tries: Iterable[Try]) -> dict[str, float]:
    """How much of the differences between complete tries each choice explains, summing to 1.

    By Optuna's importances (PED-ANOVA or fANOVA, as it has it); empty if there are too few tries
    or nothing differs.
    """
    complete = [tried for tried in tries if tried.state == "complete"]
    sampler = Sampler(search, methods, complete)
    if len({tried.value for tried in complete}) < 2:
        return {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(sampler._study)
        except (RuntimeError, ValueError):
            return {}
    return {name: float(share) for name, share in found.items()}
