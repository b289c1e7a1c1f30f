"""95 % intervals of means: over seeds and test images, or by bootstrap for a single seed."""

import numpy as np

CONFIDENCE = 0.95


def half_width(values: np.ndarray, *, resamples: int, seed: int = 0) -> float:
    """Half the width of the 95 % interval of the mean of `values`, float [seeds, images].

    Several seeds: the interval combines two parts in quadrature. One is Student's t over the means
    of the seeds. The other is a normal interval over the images' means across seeds, for the finite
    test set. Both parts contain the noise of single images in single seeds, so the interval is a
    little too wide rather than too narrow.

    One seed: half the width of the percentile bootstrap interval over test images, from `resamples`
    resamples (Efron 1979). `seed` seeds the bootstrap.
    """
    if len(values) == 1:
        return _bootstrap(values[0], resamples, seed)

    over_seeds = student_t(values.mean(axis=1))
    over_images = _normal(values.mean(axis=0))
    return float(np.hypot(over_seeds, over_images))


def student_t(means: np.ndarray) -> float:
    """Half the width of Student's 95 % interval of the mean of at least two values."""
    from scipy.special import stdtrit

    quantile = stdtrit(len(means) - 1, (1 + CONFIDENCE) / 2)
    return float(quantile * means.std(ddof=1) / np.sqrt(len(means)))


def _normal(means: np.ndarray) -> float:
    from scipy.special import ndtri

    if len(means) < 2:
        return 0.0
    return float(ndtri((1 + CONFIDENCE) / 2) * means.std(ddof=1) / np.sqrt(len(means)))


def _bootstrap(values: np.ndarray, resamples: int, seed: int) -> float:
    # Images differ only by their value, and there are few distinct values. Drawing how often each
    # value occurs is equivalent to drawing images, and cheap.
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(values), counts / len(values), size=resamples)

    means = drawn @ distinct / len(values)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float((high - low) / 2)
