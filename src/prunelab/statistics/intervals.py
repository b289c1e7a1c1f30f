"""95 % intervals: over seeds and the finite test set where there are several seeds, by bootstrap where there is one."""

import numpy as np

CONFIDENCE = 0.95


def half_width(values: np.ndarray, *, resamples: int, seed: int = 0) -> float:
    """Half the width of the 95 % interval of the mean of `values`, [seeds, images].

    Several seeds: the part of the seeds (Student's t on their means) and the part of the test images (normal, on the
    images' means over seeds) are added in quadrature; both hold the noise that is particular to a seed and an image, so
    the interval is a little wide rather than too narrow. One seed: half the width of the
    percentile bootstrap interval over test images (Efron 1979).
    """
    if len(values) == 1:
        return _bootstrap(values[0], resamples, seed)
    return float(np.hypot(student_t(values.mean(axis=1)), _normal(values.mean(axis=0))))


def student_t(means: np.ndarray) -> float:
    """Half the width of Student's 95 % interval of the mean of two values or more."""
    from scipy.special import stdtrit

    quantile = stdtrit(len(means) - 1, (1 + CONFIDENCE) / 2)
    return float(quantile * means.std(ddof=1) / np.sqrt(len(means)))


def _normal(means: np.ndarray) -> float:
    from scipy.special import ndtri

    if len(means) < 2:
        return 0.0
    return float(ndtri((1 + CONFIDENCE) / 2) * means.std(ddof=1) / np.sqrt(len(means)))


def _bootstrap(values: np.ndarray, resamples: int, seed: int) -> float:
    # Images only differ by their value, of which there are few: drawing how often each occurs is the same and cheap.
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(
        len(values), counts / len(values), size=resamples
    )
    low, high = np.quantile(
        drawn @ distinct / len(values), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    )
    return float((high - low) / 2)
