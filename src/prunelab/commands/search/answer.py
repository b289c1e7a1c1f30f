"""The answer of a search: three lines, the command that makes the network, and how to read it."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prunelab.commands.search.finals import lies_within, shown_within
from prunelab.commands.search.plan import Request
from prunelab.commands.search.records import (
    Final,
    Measurement,
    SearchState,
    Try,
    best_within,
)
from prunelab.commands.studies.study_file import dotted_keys
from prunelab.encoders.pretrained import NO_WEIGHTS
from prunelab.project.paths import TARGET
from prunelab.statistics.intervals import with_interval

POINTS = 100
NEAR_THE_END = 0.02  # of the range of ratios
# Texts that Hydra takes for what they are. It reads true, null, nan, inf and numbers as values.
UNQUOTED = re.compile(r"(?!(?i:true|false|null|nan|inf)$)[A-Za-z_][\w.:/-]*", re.ASCII)


def answer(
    state: SearchState, request: Request, tree: Mapping[str, Any], limits: Sequence[str]
) -> list[str]:
    """All lines of the answer.

    `tree` are the parameters in params.yaml, from which the command departs. `limits` says which
    layers tolerate least, for a target out of reach.
    """
    measured = [final for final, _ in state.tested]
    if not measured:
        return [*_nothing_found(state, request, limits), *_method(state, request)]

    smallest = measured[0]
    shown = shown_within(measured, request.max_drop_share)
    tried = state.tries[smallest.tried]
    return [
        f"It is {_what(smallest, tried)}.",
        f"It saves: {_savings(smallest)}.",
        f"It loses {_loss(smallest, request, is_shown=smallest in shown)}.",
        "",
        f"  {reproducing_command(tree, smallest.params)}",
        "",
        *_next_larger(state, measured, shown, request, tree),
        *_controls(state, smallest),
        *_edges(state, smallest, tried, request),
        *_imported(smallest),
        *_method(state, request),
    ]


def _what(final: Final, tried: Try) -> str:
    """The network in words."""
    epochs = tried.runs[-1].epochs
    return f"{tried.point.describe()}, {epochs} epochs of fine-tuning (try {tried.number + 1})"


def _savings(final: Final) -> str:
    """What the network saves, as measured."""
    measurement = final.measurement
    assert measurement is not None
    costs, dense = measurement.costs, measurement.dense_costs

    parts = []
    for metric, noun in (("macs", "MACs"), ("params_nonzero", "parameters")):
        times = dense[metric] / costs[metric]
        parts.append(f"{times:.2f}x fewer {noun} ({costs[metric]:,.0f} of {dense[metric]:,.0f})")
    size, dense_size = costs["size_compressed_bytes"], dense["size_compressed_bytes"]
    parts.append(f"{size / 1000:,.1f} kB compressed, of {dense_size / 1000:,.1f}")
    if measurement.faster:
        value, low, high = measurement.faster
        parts.append(f"{value:.2f}x faster here ({low:.2f} to {high:.2f})")
    return "; ".join(parts)


def _loss(final: Final, request: Request, *, is_shown: bool) -> str:
    """What the network loses on the test split, and whether that is shown to be little enough."""
    measurement = final.measurement
    assert measurement is not None
    drop = with_interval(measurement.drop, measurement.drop_ci95)
    accuracy = with_interval(measurement.accuracy, measurement.accuracy_ci95)
    verdict = f"shown to be within {request.max_drop:g}"
    if not is_shown:
        verdict = f"not shown to be within {request.max_drop:g}"
    return f"{drop} points on the test split ({accuracy} %): {verdict}"


def _next_larger(
    state: SearchState,
    measured: Sequence[Final],
    shown: Sequence[Final],
    request: Request,
    tree: Mapping[str, Any],
) -> Iterator[str]:
    """If the smallest is not shown to be within the drop: the next larger one that is."""
    if measured[0] in shown:
        return
    if lies_within(measured[0], request.max_drop_share):
        yield (
            "Its own interval lies within, but that of a larger network that was tested beside it "
            "does not, and the best of several intervals may be luck."
        )

    if shown:
        larger = shown[0]
        what = _what(larger, state.tries[larger.tried])
        yield f"The next larger one that is shown to be within {request.max_drop:g}: {what}."
        yield f"It saves: {_savings(larger)}. It loses {_loss(larger, request, is_shown=True)}."
        yield ""
        yield f"  {reproducing_command(tree, larger.params)}"
        yield ""
        return

    largest = measured[-1]
    yield (
        f"None of the {len(measured)} networks that were trained again is shown to be within "
        f"{request.max_drop:g}; the largest loses {_loss(largest, request, is_shown=False)}. More "
        "of search.final_seeds make intervals narrower; more of search.runners_up test larger ones."
    )


def reproducing_command(tree: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """The `dvc exp run` that makes a network from nothing, with the parameters that differ.

    No stage reads those of the search, which may have been overridden too.
    """
    changes = []
    before = dotted_keys(tree)
    for key, value in dotted_keys(params).items():
        if before.get(key) != value and not key.startswith("search."):
            # Hydra adds entries to a mapping only after a plus.
            plus = "+" if isinstance(value, Mapping) else ""
            changes.append(f"-S {shlex.quote(f'{plus}{key}={_override(value)}')}")
    return " ".join(["dvc exp run", *changes, TARGET])


def _override(value: Any) -> str:
    """A value in the grammar of `dvc exp run -S`."""
    if isinstance(value, Mapping):
        inner = ",".join(f"{key}:{_override(entry)}" for key, entry in value.items())
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_override, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, str) and not UNQUOTED.fullmatch(value):
        # In quotes, a backslash escapes a quote, and another backslash before one.
        escaped = re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + (end[2] and "\\'"), value)
        return f"'{escaped}'"
    return str(value)


def _controls(state: SearchState, smallest: Final) -> Iterator[str]:
    """One line per control: what the same cost gives without the method's choice or weights."""
    words = {"random": "units removed at random", "scratch": "trained from scratch instead"}
    done = set()
    for final in state.finals:
        if final.role == "candidate":
            continue

        done.add(final.role)
        measurement = final.measurement
        if measurement is None:
            yield f"Control, {words[final.role]}: failed ({final.failure})."
            continue

        drop = with_interval(measurement.drop, measurement.drop_ci95)
        yield (
            f"Control, {words[final.role]} ({final.method}, {measurement.costs['macs']:,.0f} "
            f"MACs): loses {drop} points on the test split."
        )

    for role in words.keys() - done:
        yield f"Control, {words[role]}: there is none for {smallest.method}."


def _edges(state: SearchState, smallest: Final, tried: Try, request: Request) -> Iterator[str]:
    """What ended the search if the drop did not: the range of ratios, or too few tries."""
    for other in state.tries:
        if other.state != "failed" and other.runs and other.last.drop > request.max_drop_share:
            return

    highest = smallest.params["search"]["ratio"]["high"]
    if tried.point.ratio >= highest - NEAR_THE_END:
        yield (
            "Every try was within the drop, so the range of ratios is what limits this: set a "
            f"larger search.ratio.high than {highest:g}."
        )
    else:
        yield (
            "Every try was within the drop, so that more of search.tries may find a smaller "
            "network, or a method that can remove more."
        )


def _imported(smallest: Final) -> Iterator[str]:
    """A caution where others trained the dense network, maybe on images of the validation split."""
    if smallest.params["weights"] != NO_WEIGHTS:
        yield (
            "The dense weights were imported, and may have seen the validation split in training: "
            "what tries lost there says less. The test split decides."
        )


def _method(state: SearchState, request: Request) -> Iterator[str]:
    """How the answer came about: what was asked of which split, and how optimistic choosing was."""
    networks = state.validation_networks
    complete = sum(tried.state == "complete" for tried in state.tries)
    stopped = sum(tried.state == "stopped" for tried in state.tries)
    failed = sum(tried.state == "failed" for tried in state.tries)
    yield (
        f"{len(state.tries)} tries ({complete} complete, {stopped} stopped early, {failed} "
        f"failed), {state.epochs:,} epochs; ended: {state.ended}. The validation split was asked "
        f"{networks:,} times, the test split {_tested(state):,} times, after the choice."
    )

    if state.tested:
        smallest, measurement = state.tested[0]
        validation = state.tries[smallest.tried].last
        yield f"Optimism of choosing: {_optimism(validation, measurement)}."
    for name, reason in state.skipped.items():
        yield f"Skipped: {name} ({reason})."


def _tested(state: SearchState) -> int:
    """How many networks were measured on the test split."""
    tested = 0
    for final in state.finals:
        if final.measurement is not None:
            tested += len(final.params["seeds"])
    return tested


def _optimism(validation: Measurement, test: Measurement) -> str:
    """What was lost on validation, when it was chosen, against what is lost on test."""
    difference = POINTS * (test.drop - validation.drop)
    return (
        f"the drop was {POINTS * validation.drop:.2f} points on validation (standard error "
        f"{POINTS * validation.drop_error:.2f}), and is "
        f"{POINTS * test.drop:.2f} on test with fresh seeds, {difference:+.2f}"
    )


def _nothing_found(state: SearchState, request: Request, limits: Sequence[str]) -> Iterator[str]:
    """What a search says that has no network to show."""
    if state.candidates:
        yield "Training the networks again failed; the same command tries again:"
        for final in state.candidates:
            yield f"{final.name}: {final.failure}"
        return

    measured = [tried for tried in state.tries if tried.runs]
    if not measured:
        yield f"No try came to a result ({state.ended}); the first failed: {_first_reason(state)}"
        yield from _failed_runs(state)
        return

    best = best_within(measured, request.objective, request.max_drop_share)
    if best is not None:
        yield "A try was within the drop with one seed, and none with all seeds."
    nearest = min(measured, key=lambda tried: tried.last.drop)
    share = nearest.last.share(request.objective.metric)
    none = "No try"
    if nearest.last.drop <= request.max_drop_share:
        none = "No try that came to its end"  # this one failed after a short run, or was stopped
    yield (
        f"{none} is within {request.max_drop:g} points. The nearest is {nearest.point.describe()}:"
        f" {POINTS * nearest.last.drop:.2f} points lost on validation with {share:.1%} of the "
        f"{request.objective.noun} left."
    )
    yield from _failed_runs(state)
    if limits:
        yield f"What limits it: {'; '.join(limits)}. prune.protect leaves layers alone."
    yield "A smaller search.ratio.low, a larger search.epochs or a larger --max-drop may reach it."


def _failed_runs(state: SearchState) -> Iterator[str]:
    """A line on tries that failed although the network can be pruned so."""
    failed = [tried for tried in state.tries if tried.run_failed]
    if failed:
        yield (
            f"A run failed in {len(failed)} of {len(state.tries)} tries, first with: "
            f"{failed[0].reason}. The same command tries them again."
        )


def _first_reason(state: SearchState) -> str:
    for tried in state.tries:
        if tried.reason:
            return tried.reason
    return "none began"
