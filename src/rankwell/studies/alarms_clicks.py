"""Clicks as counts, and what watches of calibration make of them: quiet days, and days on which a segment is off.

Letters in names: T quarter-hours · G segments of all marketplaces, one after the other · K clicks of a request, 0 to 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.monitoring.alarm_threshold import AlarmPromise
from rankwell.monitoring.calibration_watch import CalibrationWatch
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY

__all__ = ["ClickedWorld", "click_alarms", "click_delays"]

_ROWS: Final = 8
_RATE: Final = 0.05
_SAME: Final = 3.0
"""a + b of the beta distribution of a request's own rate: rows of one request correlate by 1 / (1 + a + b) = .25."""
_TRAFFIC: Final = 0.6
_SHARES: Final = np.array([0.4, 0.3, 0.2, 0.1])
_HURT: Final = 2
_DAYS_EACH: Final = 10
_HOUR: Final = 4


@final
class ClickedWorld:
    """Marketplaces of four segments, whose requests have eight rows of p = .05 and clicks that depend on each other.

    Args:
        num: How many marketplaces, all alike and independent.
        size: Rows in a quarter-hour, on average.
        seed: Of the draws.

    >>> sums = ClickedWorld(5, size=8_000, seed=0).sums(0)
    >>> len(sums.observed_G), bool(abs(sums.observed_G.sum() / sums.predicted_G.sum() - 1) < .1)
    (20, True)
    """

    def __init__(self, num: int, *, size: int, seed: int) -> None:
        self.num_segments = num * len(_SHARES)
        self._requests_G = np.tile(size / _ROWS * _SHARES, num)
        self._rng = np.random.default_rng([seed, size])

    def sums(self, tick: int, *, promised: float = 1.0) -> CalibrationSums:
        """One quarter-hour.

        Args:
            tick: Of the day: traffic has a daily cycle.
            promised: What one segment of each marketplace promises, of what is true there.
        """
        traffic = 1 + _TRAFFIC * np.sin(2 * np.pi * tick / TICKS_PER_DAY)
        num_G = self._rng.poisson(self._requests_G * traffic)
        clicks_K = np.arange(_ROWS + 1)
        chance_K = betabinom.pmf(clicks_K, _ROWS, _RATE * _SAME, (1 - _RATE) * _SAME)
        counts_GK = self._rng.multinomial(num_G, chance_K / chance_K.sum())
        p_G = np.full(self.num_segments, _ROWS * _RATE)
        p_G[_HURT :: len(_SHARES)] *= promised
        observed_G = (counts_GK @ clicks_K).astype(np.float64)
        squared_G = (counts_GK @ clicks_K**2).astype(np.float64)
        return CalibrationSums(
            p_G * num_G, observed_G, p_G**2 * num_G, p_G * observed_G, squared_G, num_G.astype(np.float64)
        )


def click_alarms(size: int, num_days: int, *, days_per_false_alarm: float, seed: int) -> tuple[float, int]:
    """Quiet days of calibration watches, four segments each: the days between alarms, and how many alarms there were.

    Args:
        size: Rows in a quarter-hour.
        num_days: In sum: ten of each marketplace.
        days_per_false_alarm: The promise to each of them.
        seed: Of the draws.
    """
    num = max(1, num_days // _DAYS_EACH)
    world, watch = ClickedWorld(num, size=size, seed=seed), _watch(days_per_false_alarm)
    held = [world.sums(tick) for tick in range(TICKS_PER_DAY)]
    last_G = np.full(world.num_segments, -_HOUR - 1)
    num_alarms, num_each = 0, num_days // num
    for tick in range(num_each * TICKS_PER_DAY):
        held = [*held[1:], world.sums(tick)]
        is_alarm_G = _alarms(watch, held)
        num_alarms += int((is_alarm_G & (tick - last_G > _HOUR)).sum())
        last_G[is_alarm_G] = tick
    return num * num_each / max(num_alarms, 1), num_alarms


def click_delays(
    size: int, promised: float, *, days_per_false_alarm: float, seed: int, num: int = 15
) -> NDArray[np.float64]:
    """Quarter-hours of known labels until a segment of a fifth of the traffic is found out; ∞ where not within a day.

    Args:
        size: Rows in a quarter-hour.
        promised: Over true.
        days_per_false_alarm: The promise.
        seed: Of the draws.
        num: Marketplaces.
    """
    world, watch = ClickedWorld(num, size=size, seed=seed), _watch(days_per_false_alarm)
    held = [world.sums(tick) for tick in range(TICKS_PER_DAY)]
    delays = np.full(num, np.inf)
    for tick in range(TICKS_PER_DAY):
        held = [*held[1:], world.sums(tick, promised=promised)]
        is_found = _alarms(watch, held)[_HURT :: len(_SHARES)]
        delays[is_found & np.isinf(delays)] = tick + 1.0
        if np.isfinite(delays).all():
            break
    return delays


def _watch(days_per_false_alarm: float) -> CalibrationWatch:
    return CalibrationWatch(len(_SHARES), AlarmPromise(days_per_false_alarm))


def _alarms(watch: CalibrationWatch, held: Sequence[CalibrationSums]) -> NDArray[np.bool_]:
    readings = watch.readings(
        held, action="click", view="served", segments=range(len(held[0].observed_G)), now_us=TICKS_PER_DAY * TICK_US
    )
    return np.array([reading.is_alarm for reading in readings])
