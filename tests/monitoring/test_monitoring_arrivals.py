"""Requests that come twice, late, out of order, or from clocks that are wrong, are counted once or put aside."""

from __future__ import annotations

import numpy as np
import pytest

from rankwell.errors import MonitoringError
from rankwell.monitoring.arrivals import Arrivals, ArrivalsReport

S = 1_000_000


def new(arrivals: Arrivals, ids: list[int], times_s: list[int], *, now_s: int) -> list[bool]:
    return arrivals.new(np.array(ids), np.array(times_s) * S, now_us=now_s * S).tolist()


def test_each_of_many_is_counted_once_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    times_s = rng.integers(0, 600, 500)
    arrivals, seen = Arrivals(remembered_s=10_000, ahead_s=0), []
    for _ in range(20):
        ids = rng.integers(0, 500, 200)
        is_new = arrivals.new(ids, times_s[ids] * S, now_us=600 * S)
        seen.extend(ids[is_new].tolist())
        assert arrivals.new(ids, times_s[ids] * S, now_us=600 * S).sum() == 0
    assert len(seen) == len(set(seen))
    assert arrivals.report == ArrivalsReport(num_counted=len(seen), num_duplicates=20 * 400 - len(seen))


def test_the_first_of_two_in_one_piece_is_new_and_a_late_one_does_not_stand_for_it() -> None:
    arrivals = Arrivals(remembered_s=10, ahead_s=0)
    assert new(arrivals, [5, 5, 5], [1, 95, 96], now_s=100) == [False, True, False]
    assert arrivals.report == ArrivalsReport(num_counted=1, num_duplicates=1, num_late=1)


def test_what_is_too_late_to_tell_is_not_counted() -> None:
    arrivals = Arrivals(remembered_s=10, ahead_s=0)
    assert new(arrivals, [1], [100], now_s=100) == [True]
    assert new(arrivals, [1, 2], [100, 110], now_s=110) == [False, True]  # remembered to the last
    assert new(arrivals, [1, 3], [100, 111], now_s=111) == [False, True]  # late
    assert arrivals.report == ArrivalsReport(num_counted=3, num_duplicates=1, num_late=1)


def test_clocks_that_are_ahead() -> None:
    arrivals = Arrivals(remembered_s=100, ahead_s=5)
    assert new(arrivals, [1, 2], [105, 106], now_s=100) == [True, False]
    assert new(arrivals, [2], [106], now_s=101) == [True]  # it was not counted before


def test_our_clock_jumps_ahead_and_back() -> None:
    arrivals = Arrivals(remembered_s=10, ahead_s=0)
    assert new(arrivals, [1], [100], now_s=100) == [True]
    assert new(arrivals, [2], [101], now_s=10**6) == [False]
    assert new(arrivals, [1, 2], [100, 101], now_s=102) == [False, True]


def test_our_clock_goes_back() -> None:
    arrivals = Arrivals(remembered_s=50, ahead_s=0)
    assert new(arrivals, [1], [100], now_s=100) == [True]
    assert new(arrivals, [1, 2], [100, 90], now_s=95) == [False, True]  # 1 has not come yet, by this clock
    assert arrivals.report.num_ahead == 1
    assert new(arrivals, [1], [100], now_s=101) == [False]


def test_nothing_came() -> None:
    arrivals = Arrivals(remembered_s=50, ahead_s=0)
    assert new(arrivals, [], [], now_s=5) == []
    assert arrivals.report == ArrivalsReport()


def test_what_cannot_be_is_refused() -> None:
    for remembered_s, ahead_s in [(0, 0), (float("nan"), 0), (1, -1)]:
        with pytest.raises(MonitoringError, match="remembered"):
            Arrivals(remembered_s=remembered_s, ahead_s=ahead_s)
    with pytest.raises(MonitoringError, match="one time"):
        Arrivals(remembered_s=1, ahead_s=0).new(np.zeros(2, np.int64), np.zeros(1, np.int64), now_us=0)
