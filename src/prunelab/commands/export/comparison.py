"""The latency of an exported file beside the network's; a ratio only if one run supports it."""

from collections.abc import Mapping, Sequence

import numpy as np

from prunelab.benchmarking.latency import doubt, speedup_of, summary


def describe(seconds: Mapping[str, np.ndarray], batch_size: int, busy: Sequence[str]) -> str:
    """The latency of two programs, and how much faster the second is or why that is not known.

    Args:
        seconds: the calls of both, [rounds, calls], by what ran them. They took turns.
        batch_size: inputs of a call
        busy: other processes that computed before or after
    """
    (slow_name, slow), (fast_name, fast) = seconds.items()
    speedup = speedup_of(slow, fast)
    reason = doubt(seconds, speedup)
    if busy:
        reason = f"the machine was busy with {', '.join(busy)}"

    verdict = f"faster: {speedup.describe()}"
    if reason:
        verdict = f"no ratio, because {reason}"

    slow_ms = summary(slow, batch_size)["latency_ms_p50"]
    fast_ms = summary(fast, batch_size)["latency_ms_p50"]
    return (
        f"latency at batch {batch_size}: {slow_name} {slow_ms:.3f} ms, {fast_name} {fast_ms:.3f} "
        f"ms; {verdict}"
    )
