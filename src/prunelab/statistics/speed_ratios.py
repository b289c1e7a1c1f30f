"""What a measured ratio of times shows: one rule for the benchmark and for the page."""

# Ratios of equal networks that take turns in one process were 0.996 to 1.007 (2 cores of an AMD
# EPYC): where a network lies in memory matters that much. The interval over the rounds does not
# show it, and is narrower on an idle machine. So a smaller difference counts as none.
RESOLUTION = 0.01


def shown_faster(low: float) -> bool:
    """Whether a network is faster than another, by the lower end of the interval of the ratio."""
    return low > 1 + RESOLUTION


def shown_slower(high: float) -> bool:
    """Whether a network is slower than another, by the upper end of the interval of the ratio."""
    return high < 1 / (1 + RESOLUTION)
