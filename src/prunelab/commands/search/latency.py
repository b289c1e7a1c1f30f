"""How much faster the networks of experiments are than their dense ones, measured here in turns."""

from collections.abc import Callable, Sequence

from prunelab.commands.search.plan import Plan
from prunelab.core.errors import InputError

Speedup = tuple[float, float, float]  # and the ends of its interval
MeasureSpeedup = Callable[[str], Speedup]


def speedup_of(plan: Plan) -> MeasureSpeedup:
    """A function that measures the network of an experiment, first seed, against its dense one.

    Both take turns in one process, so that whatever slows the machine slows both.

    Raises, when called:
        InputError: if the networks are not in DVC's cache or remote.
    """

    def measure(name: str) -> Speedup:
        from prunelab.commands.compare.revision_latency import time_revisions
        from prunelab.project.revisions import read_revisions

        revisions, reasons = read_revisions(plan.root, [name])
        if not revisions:
            raise InputError(f"{name} has no networks to measure: {reasons[name]}")
        batch_size = plan.request.batch_size
        result = time_revisions(plan.root, revisions, plan.params.runtime, batch_size)
        if name in result.not_measured:
            raise InputError(f"{name} was not measured: {result.not_measured[name]}")
        row = result.faster[name]
        return row["faster"], row["faster_low"], row["faster_high"]

    return measure


def busy_programs() -> Sequence[str]:
    """The programs that keep this machine busy, besides this one."""
    from prunelab.benchmarking.machine_load import machine_load

    busy: list[str] = machine_load()["busy"]
    return busy
