"""95 % intervals of means: over seeds and test images, or by bootstrap for a single seed."""

from collections.abc import Mapping

import numpy as np

CONFIDENCE = 0.95
TRIMMED = 5  # of so many values, a trimmed mean leaves out the lowest and the highest

# How many standard errors 95 % intervals reach to either side, as scipy computes it: for the normal
# distribution, and for Student's t with 1, 2, 3 and so on degrees of freedom. Stages with up to 21
# seeds need not import scipy, which would take half a second.
NORMAL_QUANTILE = 1.959963984540054
STUDENT_QUANTILES = (
    *(12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934),
    *(2.5705818356363146, 2.4469118511449786, 2.364624251592784, 2.306004135204166),
    *(2.262157162798205, 2.228138851986274, 2.200985160091639, 2.1788128296672284),
    *(2.1603686564627913, 2.144786687917804, 2.131449545559776, 2.1199052992212546),
    *(2.1098155778333156, 2.1009220402410382, 2.0930240544083087, 2.085963447265864),
)


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


def no_drop_shown(metrics: Mapping[str, float]) -> bool:
    """Whether the interval of a configuration's drop from dense includes 0."""
    return abs(metrics["accuracy_drop"]) <= metrics["accuracy_drop_ci95"]


def with_interval(share: float, half_width: float) -> str:
    """A share in per cent, ± half the width of its interval."""
    return f"{100 * share:.2f} ± {100 * half_width:.2f}"


def student_t(means: np.ndarray) -> float:
    """Half the width of Student's 95 % interval of the mean of at least two values."""
    quantile = _student_quantile(len(means) - 1)
    return float(quantile * means.std(ddof=1) / np.sqrt(len(means)))


def trimmed_mean(values: np.ndarray) -> tuple[float, float]:
    """The mean without the lowest and the highest fifth of the values, and half its 95 % interval.

    A few outliers hardly move either of them (Yuen 1974). There must be at least two values; of
    fewer than five, none is left out, and the interval is Student's.
    """
    ordered = np.sort(values)
    count = len(ordered)
    left_out = count // TRIMMED
    kept = ordered[left_out : count - left_out]

    # Outliers count as if they were the nearest value that is kept.
    winsorised = np.clip(ordered, kept[0], kept[-1])
    deviation = winsorised.std(ddof=1) * np.sqrt((count - 1) / (len(kept) - 1))
    half = _student_quantile(len(kept) - 1) * deviation / np.sqrt(len(kept))
    return float(kept.mean()), float(half)


def _student_quantile(degrees: int) -> float:
    if degrees <= len(STUDENT_QUANTILES):
        return STUDENT_QUANTILES[degrees - 1]

    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def _normal(means: np.ndarray) -> float:
    if len(means) < 2:
        return 0.0
    return float(NORMAL_QUANTILE * means.std(ddof=1) / np.sqrt(len(means)))


def _bootstrap(values: np.ndarray, resamples: int, seed: int) -> float:
    # Images differ only by their value, and there are few distinct values. Drawing how often each
    # value occurs is equivalent to drawing images, and cheap.
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(values), counts / len(values), size=resamples)

    means = drawn @ distinct / len(values)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float((high - low) / 2)
