"""Ticks of logarithmic axes."""

import pytest

from prunelab.report.ticks import MAX_TICKS, MIN_TICKS, round_ticks, short_number


@pytest.mark.parametrize("low", [0.0003, 0.21, 1, 3.4, 55_000, 9.9e8])
@pytest.mark.parametrize("factor", [1.02, 1.3, 2, 7, 40, 1e3, 1e6])
def test_ticks_are_inside_few_and_ascending(low, factor):
    ticks = round_ticks(low, low * factor)

    assert MIN_TICKS <= len(ticks) <= 11
    assert ticks == sorted(set(ticks))
    assert all(low <= tick <= low * factor for tick in ticks)


def test_ticks_of_a_wide_range_are_powers_of_ten():
    assert round_ticks(1, 1e6) == [10.0**power for power in range(7)]
    assert len(round_ticks(1, 1e6)) <= MAX_TICKS


def test_ticks_have_their_whole_value_as_text():
    assert [short_number(tick) for tick in round_ticks(4e5, 3e6)] == ["500k", "1M", "2M"]
    assert short_number(0.25) == "0.25"
