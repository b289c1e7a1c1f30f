"""From params.yaml and the curves to an allocation, checked before it is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prunelab.commands.allocate.curves import MAKE, read_curves, read_own_record
from prunelab.commands.allocate.latency_budget import allocate_latency
from prunelab.commands.allocate.layer_costs import AllocationTarget
from prunelab.commands.allocate.write_params import write_layer_ratios
from prunelab.commands.check import data_info_of
from prunelab.config.params import PARAMS_FILE, Budget, Params, PruneSpec, load_params, validated
from prunelab.core.errors import InputError
from prunelab.models.catalogue import MODELS, build
from prunelab.project.paths import BASE
from prunelab.pruning.allocation import Curve, allocate
from prunelab.pruning.prune import infeasible_specs
from prunelab.pruning.pruner import BUDGET_TOLERANCE
from prunelab.pruning.sensitivity import METHODS, UnitKind
from prunelab.report.text_table import aligned_table
from prunelab.runtime.device import configure


@dataclass(frozen=True)
class Allocation:
    """Units kept of every part that has a curve, and the share of the budget that is gone."""

    what: UnitKind
    curves: list[Curve]
    widths: list[int]
    removed: float
    budget: Budget

    @property
    def ratios(self) -> dict[str, float]:
        """As `prune.layer_ratios` takes them."""
        return ratios(self.curves, self.widths)


def ratios(curves: Sequence[Curve], widths: Sequence[int]) -> dict[str, float]:
    """Shares that cut parts to these widths."""
    return {c.name: round(1 - width / c.units, 6) for c, width in zip(curves, widths, strict=True)}


def allocated(
    what: UnitKind,
    ratio: float | None,
    budget: Budget,
    latency: float | None,
    *,
    batch_size: int,
    rounds: int,
    tell: Callable[[str], None],
) -> Allocation:
    """The allocation for the network in params.yaml, at a share of the budget or of the latency.

    Raises:
        InputError: if there are no curves of this network, the budget cannot be met, or no cut could do what they say.
    """
    share = _asked(what, ratio, budget, latency)
    params = load_params()
    record = read_own_record(params, BASE)
    facts = data_info_of(params)
    network = build(
        params.model, facts.classes, facts.shape, **MODELS[params.model].options(params.weights)
    )
    subject = AllocationTarget.of(network, params.model, facts.shape, what)
    curves = read_curves(record, what, subject.units, params)
    names = [curve.name for curve in curves]
    if latency is None:
        kept = subject.kept(names, budget)
        widths = allocate(curves, kept, 1 - share)
        _refuse_miss(1 - kept(widths), share, budget, curves)
    else:
        measure = partial(
            subject.faster,
            execution=configure(params.runtime),
            batch_size=batch_size,
            rounds=rounds,
        )
        widths = allocate_latency(
            curves, lambda these: measure(_spec(params, what, curves, these)), share, tell
        )
    spec = _spec(params, what, curves, widths)
    if problems := infeasible_specs(
        network, params.model, [spec], shape=facts.shape, train=params.train
    ):
        raise InputError(problems)
    return Allocation(what, curves, widths, 1 - subject.kept(names, budget)(widths), budget)


def _asked(what: UnitKind, ratio: float | None, budget: Budget, latency: float | None) -> float:
    asked = {"--ratio": ratio, "--latency": latency}
    given = {option: share for option, share in asked.items() if share is not None}
    if len(given) != 1:
        raise InputError(
            "say how much is to go, by one of --ratio and --latency, such as --ratio 0.5"
        )
    ((option, share),) = given.items()
    if not 0 < share < 1:
        raise InputError(f"{option}: must be above 0 and below 1, not {share}")
    if option == "--latency" and what == "weight":
        raise InputError(
            "--latency: masked weights cost as much time as others; valid with --granularity channel, head, hidden"
        )
    if option == "--latency" and budget != "native":
        raise InputError(f"--latency is a budget of its own; leave out --budget {budget}")
    return share


def _refuse_miss(removed: float, ratio: float, budget: Budget, curves: Sequence[Curve]) -> None:
    total = sum(curve.units for curve in curves)
    steps = sum(curve.round_to for curve in curves) / 2 / total if budget == "native" else 0.0
    if abs(removed - ratio) > max(BUDGET_TOLERANCE, steps):
        ends = max(curve.removed[-1] for curve in curves)
        raise InputError(
            f"--ratio {ratio} of {budget} cannot be met: the nearest is {removed:.4f}, with curves that end at "
            f"{ends:.4g}; measure larger sensitivity.ratios ({MAKE}), or ask for another"
        )


def _spec(
    params: Params, what: UnitKind, curves: Sequence[Curve], widths: Sequence[int]
) -> PruneSpec:
    settings = params.prune.model_dump() | {"layer_ratios": ratios(curves, widths)}
    return validated(PruneSpec, method=METHODS[what], ratio=0, budget="native", **settings)


def told(found: Allocation) -> str:
    """A table of the parts: units, the ratio of each and the accuracy that its own curve has there."""
    rows = [
        [curve.name, f"{curve.units:,}", f"{ratio:.4f}", f"{100 * curve.accuracy(ratio):.2f}"]
        for curve, ratio in zip(found.curves, found.ratios.values(), strict=True)
    ]
    noun = {"native": f"{found.what}s of these layers", "params": "parameters", "macs": "MACs"}[
        found.budget
    ]
    table = aligned_table(
        ["layer", f"{found.what}s", "ratio", "validation accuracy, %, if it alone is cut"], rows
    )
    return (
        f"{table}\n\n{found.removed:.2%} of the {noun} go. Accuracies are of the dense network, each layer by itself "
        "and without fine-tuning; all cut at once cost more."
    )


def write(found: Allocation, path: Path = PARAMS_FILE) -> str:
    """Write `prune.layer_ratios`, and say how to use it."""
    write_layer_ratios(path, found.ratios)
    method = METHODS[found.what]
    return (
        f"\nwritten to prune.layer_ratios in {path}; to prune, fine-tune and evaluate the focus so:\n\n"
        f"  dvc exp run -S method={method} -S ratio=0 -S budget=native evaluate_focus\n\n"
        "ratio is for layers without one of their own, and there are none; so metrics say ratio 0, and sparsity, "
        "params_ratio and macs_ratio\ntell what went. The section prune concerns the grid as well, whose cells would "
        f"be refused or computed anew: run the focus alone,\nand `git checkout {path}` before the whole study."
    )
