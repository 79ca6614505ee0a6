"""Where reports of clicks end: found where a pipe breaks, and nowhere else; and nothing is settled beyond it."""

from __future__ import annotations

import numpy as np
import pytest

from rankwell.errors import MonitoringError
from rankwell.monitoring.pane import MINUTE_US
from rankwell.monitoring.report_gap import ReportGap

NOW = 120


def begins(rate: float, *, until: int = NOW, expected: float = 20.0, seed: int = 0, now: int = NOW) -> int | None:
    """The minute of the gap; clicks are Poisson, at a rate of those expected, until a minute."""
    minutes_us = np.arange(NOW) * MINUTE_US
    clicks = np.random.default_rng(seed).poisson(rate * expected, NOW)
    clicks[until:] = 0
    found = ReportGap().begins_us(
        minutes_us, np.full(NOW, expected), np.repeat(minutes_us, clicks), now_us=now * MINUTE_US
    )
    return None if found is None else found // MINUTE_US


@pytest.mark.parametrize("rate", [0.3, 1.0, 3.0])
def test_few_clicks_are_no_gap(rate: float) -> None:
    assert all(begins(rate, seed=seed) is None for seed in range(50))


@pytest.mark.parametrize("until", [30, 60, 100])
def test_a_pipe_that_breaks_is_found_at_its_minute(until: int) -> None:
    for seed in range(20):
        found = begins(1.0, until=until, seed=seed)
        assert found is not None
        assert found == until


def test_at_low_traffic_a_stretch_is_as_long_as_it_takes() -> None:
    assert begins(1.0, until=60, expected=2.0) in range(55, 61)
    assert begins(1.0, until=60, expected=0.4) is None  # 48 clicks in all are too few to be missed


def test_the_newest_minutes_may_still_be_on_their_way() -> None:
    assert begins(1.0, until=115) is None
    assert begins(1.0, until=100, now=104) is None


def test_the_order_of_requests_is_nothing_and_none_are_no_gap() -> None:
    order = np.random.default_rng(0).permutation(NOW)
    minutes_us, actions_us = np.arange(NOW)[order] * MINUTE_US, np.repeat(np.arange(40) * MINUTE_US, 20)
    found = ReportGap().begins_us(minutes_us, np.full(NOW, 20.0), actions_us, now_us=NOW * MINUTE_US)
    assert found == 40 * MINUTE_US
    none = np.zeros(0, np.int64)
    assert ReportGap().begins_us(none, np.zeros(0), none, now_us=NOW * MINUTE_US) is None
    # actions of other times, of requests that were settled before, are not of this one
    early_us = np.full(10_000, -5 * MINUTE_US)
    assert ReportGap().begins_us(minutes_us, np.full(NOW, 20.0), early_us, now_us=NOW * MINUTE_US) == 0


@pytest.mark.parametrize("setting", [{"least_expected": 0.0}, {"least_rate": 1.0}, {"slack_s": -1.0}])
def test_settings_that_say_nothing_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(MonitoringError):
        ReportGap(**setting)
