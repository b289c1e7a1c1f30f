"""What `prunelab allocate` does: from params.yaml and the curves to checked ratios."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunelab.benchmarking.latency import Speedup
from prunelab.commands.allocate.curves import HOW_TO_MEASURE, read_curves, read_own_record
from prunelab.commands.allocate.latency_budget import allocate_latency
from prunelab.commands.allocate.layer_costs import AllocationTarget
from prunelab.commands.check.inputs import data_info_of
from prunelab.config.edit_params import with_values
from prunelab.config.params import PARAMS_FILE, Budget, Params, PruneSpec, load_params
from prunelab.config.problems import validate
from prunelab.core.errors import InputError
from prunelab.core.files import write
from prunelab.core.plurals import UNITS
from prunelab.models.catalogue import Shape, network_options
from prunelab.models.networks import build
from prunelab.project.paths import BASE
from prunelab.pruning.allocation import Curve, allocate
from prunelab.pruning.prune import infeasible_specs
from prunelab.pruning.pruner import BUDGET_TOLERANCE
from prunelab.pruning.sensitivity import METHODS, UnitKind
from prunelab.report.text_table import aligned_table
from prunelab.runtime.device import configure_native


@dataclass(frozen=True)
class Request:
    """What to remove: a `ratio` of the budget or a share of the `latency`, above 0 and below 1.

    `batch_size` and `rounds` are those of the latency measurement.
    """

    kind: UnitKind
    ratio: float | None
    budget: Budget
    latency: float | None
    batch_size: int
    rounds: int


@dataclass(frozen=True)
class Allocation:
    """The units that every layer with a curve keeps, and the share of the budget removed."""

    kind: UnitKind
    curves: list[Curve]
    widths: list[int]
    removed: float
    budget: Budget

    @property
    def ratios(self) -> dict[str, float]:
        """The ratio of every layer, as `prune.layer_ratios` has it."""
        return ratios_of(self.curves, self.widths)


def ratios_of(curves: Sequence[Curve], widths: Sequence[int]) -> dict[str, float]:
    """Return the ratio that prunes each layer to its width."""
    ratios = {}
    for curve, width in zip(curves, widths, strict=True):
        ratios[curve.name] = round(1 - width / curve.units, 6)
    return ratios


def allocate_ratios(request: Request, print_line: Callable[[str], None]) -> Allocation:
    """Allocate a ratio to every layer of the network in params.yaml.

    Raises:
        InputError: if the request is invalid, there are no curves of this network, the request
            cannot be met, or pruning by these ratios is impossible.
    """
    share = _requested_share(request)
    params = load_params()
    record = read_own_record(params, BASE)
    shape, network = dense_network(params)
    target = AllocationTarget.of(network, params.model, shape, request.kind)
    curves = read_curves(record, request.kind, target.units, params)
    remaining_share = target.remaining_share([curve.name for curve in curves], request.budget)

    if request.latency is None:
        widths = allocate(curves, remaining_share, 1 - share)
        _check_met(1 - remaining_share(widths), share, request.budget, curves)
    else:
        widths = _allocate_latency(request, target, curves, params, print_line)

    spec = _spec(params, request.kind, curves, widths)
    problems = infeasible_specs(network, params.model, [spec], shape=shape, train=params.train)
    if problems:
        raise InputError(problems)

    removed = 1 - remaining_share(widths)
    return Allocation(request.kind, curves, widths, removed, request.budget)


def _requested_share(request: Request) -> float:
    """Return the share that the request removes, after checking the request."""
    if (request.ratio is None) == (request.latency is None):
        raise InputError(
            "give exactly one of --ratio and --latency, the share to remove, such as --ratio 0.5"
        )
    option, share = "--ratio", request.ratio
    if share is None:
        option, share = "--latency", request.latency
    assert share is not None

    if not 0 < share < 1:
        raise InputError(f"{option}: must be above 0 and below 1, not {share}")

    if option == "--latency" and request.kind == "weight":
        raise InputError(
            "--latency: masked weights take as much time as others; "
            "valid with --granularity channel, head, hidden"
        )
    if option == "--latency" and request.budget != "native":
        raise InputError(f"--latency is a budget itself. Leave out --budget {request.budget}.")

    return share


def dense_network(params: Params) -> tuple[Shape, nn.Module]:
    """Return the input shape and an untrained network of the architecture in params.yaml."""
    data_info = data_info_of(params)
    options = network_options(params.model, params.weights, params.model_options)
    network = build(params.model, data_info.classes, data_info.shape, 0, **options)
    return data_info.shape, network


def _allocate_latency(
    request: Request,
    target: AllocationTarget,
    curves: Sequence[Curve],
    params: Params,
    print_line: Callable[[str], None],
) -> list[int]:
    """Return the widths at which the network is faster by the requested latency."""
    assert request.latency is not None
    execution = configure_native(params.runtime)

    def measure_speedup(widths: Sequence[int]) -> Speedup:
        spec = _spec(params, request.kind, curves, widths)
        return target.measure_speedup(
            spec, execution, batch_size=request.batch_size, rounds=request.rounds
        )

    return allocate_latency(curves, measure_speedup, request.latency, print_line)


def _check_met(removed: float, ratio: float, budget: Budget, curves: Sequence[Curve]) -> None:
    """Raise InputError if the share removed is too far from the ratio."""
    rounding = 0.0
    if budget == "native":
        total_units, total_round_to = 0, 0
        for curve in curves:
            total_units += curve.units
            total_round_to += curve.round_to
        rounding = total_round_to / 2 / total_units

    if abs(removed - ratio) <= max(BUDGET_TOLERANCE, rounding):
        return

    curve_end = max(curve.removed[-1] for curve in curves)
    raise InputError(
        f"--ratio {ratio} of {budget} cannot be met: the nearest is {removed:.4f}, and the curves "
        f"end at {curve_end:.4g}. Set larger sensitivity.ratios and {HOW_TO_MEASURE}, or give "
        "another ratio."
    )


def _spec(
    params: Params, kind: UnitKind, curves: Sequence[Curve], widths: Sequence[int]
) -> PruneSpec:
    """Return the spec that prunes the layers to these widths."""
    settings = {
        **params.prune.model_dump(),
        "layer_ratios": ratios_of(curves, widths),
        "method": METHODS[kind],
        "ratio": 0,
        "budget": "native",
    }

    return validate(PruneSpec, settings)


def describe(allocation: Allocation) -> str:
    """Return a table of the layers: units, ratio, and the accuracy that its curve has there."""
    rows = []
    for curve, ratio in zip(allocation.curves, allocation.ratios.values(), strict=True):
        accuracy = f"{100 * curve.accuracy(ratio):.2f}"
        rows.append([curve.name, f"{curve.units:,}", f"{ratio:.4f}", accuracy])

    units = UNITS[allocation.kind]
    header = ["layer", units, "ratio", "validation accuracy, %, if only this layer is pruned"]

    nouns = {"native": f"{units} of these layers", "params": "parameters", "macs": "MACs"}
    return (
        f"{aligned_table(header, rows)}\n\n"
        f"{allocation.removed:.2%} of the {nouns[allocation.budget]} are removed. Accuracies are "
        "of the dense network, with one layer pruned and without fine-tuning. Pruning all layers "
        "at once costs more."
    )


def write_ratios(allocation: Allocation, path: Path = PARAMS_FILE) -> None:
    """Write `prune.layer_ratios`, one line per layer; nothing else in the file changes."""
    values = {"prune": {"layer_ratios": allocation.ratios}}
    write(path, with_values(path.read_text(), values).encode())


def describe_next_steps(allocation: Allocation, path: Path = PARAMS_FILE) -> str:
    """Return how to use the ratios in params.yaml."""
    method = METHODS[allocation.kind]

    return (
        f"written to prune.layer_ratios in {path}; "
        "to prune, fine-tune and evaluate the focus with them:\n\n"
        f"  dvc exp run -S method={method} -S ratio=0 -S budget=native evaluate_focus\n\n"
        "Every layer now has its own ratio, so metrics show ratio 0; read sparsity, params_ratio "
        "and macs_ratio.\n"
        "These settings also affect the grid: "
        f"run `git checkout {path}` before reproducing the whole study."
    )
