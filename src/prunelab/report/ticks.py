"""Round ticks of logarithmic axes, for pictures and for the page.

This module may not import matplotlib: the page needs none.
"""

from math import ceil, floor, log10

MAX_TICKS, MIN_TICKS = 7, 3


def round_ticks(low: float, high: float, most: int = MAX_TICKS) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`, which is more than `low`.

    There are fewer digits if these are more than `most`, and even steps if they are hardly any.
    """
    first, last = floor(log10(low)), ceil(log10(high))

    ticks: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = []
        for decade in range(first, last + 1):
            for digit in digits:
                tick = digit * 10.0**decade
                if low <= tick <= high:
                    ticks.append(tick)

        if len(ticks) <= most:
            break

    if len(ticks) < MIN_TICKS:
        return _even_ticks(low, high)
    return ticks


def _even_ticks(low: float, high: float) -> list[float]:
    """A few multiples of a round step, for a range too narrow for the digits 1, 2 and 5."""
    power = 10.0 ** floor(log10(high - low))
    for step in (power, power / 2, power / 5, power / 10):
        ticks = [index * step for index in range(ceil(low / step), floor(high / step) + 1)]
        if len(ticks) >= MIN_TICKS:
            break
    return [float(f"{tick:.12g}") for tick in ticks]


def short_number(value: float) -> str:
    """A number as a tick shows it: three digits and a unit, for example 1.25M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
