"""What was measured of a configuration, in a few words for a log."""

from collections.abc import Mapping

from prunelab.statistics.intervals import no_drop_shown, with_interval


def describe(metrics: Mapping[str, float], split: str) -> str:
    """One line of a configuration's metrics on a split: accuracy, drop if it was pruned, costs.

    Accuracy is in per cent and drops are in points, ± half the 95 % interval. A drop whose interval
    holds 0 was not shown, and neither was a gain.
    """
    accuracy = with_interval(metrics["accuracy"], metrics["accuracy_ci95"])
    parts = [f"{split} accuracy {accuracy} %"]
    if metrics["ratio_asked"]:
        if no_drop_shown(metrics):
            verdict = "not shown to differ from dense"
        elif metrics["accuracy_drop"] > 0:
            verdict = "a drop that is shown"
        else:
            verdict = "a gain that is shown"

        drop = with_interval(metrics["accuracy_drop"], metrics["accuracy_drop_ci95"])
        parts.append(f"drop {drop} points: {verdict}")
        parts.append(f"{metrics['macs_ratio']:.2f}x fewer MACs")
        parts.append(f"{metrics['sparsity']:.1%} of the weights gone")

    parts.append(f"{metrics['size_compressed_bytes'] / 1000:,.1f} kB compressed")
    return "; ".join(parts)
