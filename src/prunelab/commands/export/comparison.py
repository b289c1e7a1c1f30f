"""The latency of an exported file beside the network's; a ratio only if one run supports it.

On a busy machine one of two programs may wait for the other work far longer than the other one, in
every round. The interval over the rounds does not show that.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from prunelab.benchmarking.latency import Speedup, speedup_of, summary

MAX_SPREAD = 2.0  # of a program whose calls are steady: its median call divided by its fastest
MAX_WIDTH = 1.5  # of an interval that says something: its upper end divided by its lower


def describe(seconds: Mapping[str, np.ndarray], batch_size: int, busy: Sequence[str]) -> str:
    """The latency of two programs, and how much faster the second is or why that is not known.

    Args:
        seconds: the calls of both, [rounds, calls], by what ran them. They took turns.
        batch_size: inputs of a call
        busy: other processes that computed before or after
    """
    (slow_name, slow), (fast_name, fast) = seconds.items()
    speedup = speedup_of(slow, fast)
    doubt = _doubt(seconds, speedup, busy)

    verdict = f"faster: {speedup.describe()}"
    if doubt:
        verdict = f"no ratio, because {doubt}"

    slow_ms = summary(slow, batch_size)["latency_ms_p50"]
    fast_ms = summary(fast, batch_size)["latency_ms_p50"]
    return (
        f"latency at batch {batch_size}: {slow_name} {slow_ms:.3f} ms, {fast_name} {fast_ms:.3f} "
        f"ms; {verdict}"
    )


def _doubt(seconds: Mapping[str, np.ndarray], speedup: Speedup, busy: Sequence[str]) -> str | None:
    """Why these calls support no ratio; None if they do."""
    if busy:
        return f"the machine was busy with {', '.join(busy)}"

    for name, calls in seconds.items():
        spread = float(np.median(calls) / calls.min())
        if spread > MAX_SPREAD:
            return f"the median call of {name} took {spread:.1f} times as long as its fastest"

    if speedup.high > MAX_WIDTH * speedup.low:
        interval = f"{speedup.low:.2f} to {speedup.high:.2f}"
        return f"its interval is {interval}, which more --rounds may narrow"
    return None
