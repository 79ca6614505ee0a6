"""From the user's promise, one false alarm in so many days, to the chance that a single test may take.

Letters in names: T ticks · K directions · 2 windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, final

import numpy as np
from scipy.special import gammaincc

from rankwell.errors import MonitoringError
from rankwell.monitoring.tick_history import TICKS_PER_DAY

__all__ = ["AlarmPromise", "looks_per_alarm"]

_HOUR: Final = 4
_NUM_TICKS: Final = 200_000
_AT: Final = 1e-3
"""The chance at which looks are counted: as small as draws of a second allow."""
_GREATEST_LEVEL: Final = 0.01


@final
@dataclass(frozen=True, slots=True)
class AlarmPromise:
    """One false alarm in so many days of all that is watched together, and of further alarms no more than a share.

    A test takes the chance ``looks / (days·96·tests) · (1 + alarms in force)``. Expected false alarms add up whatever
    depends on whatever, so while nothing is wrong there is one in that many days; `looks_per_alarm` is how often one
    alarm shows itself in windows that overlap. While alarms are in force each of them pays for as much again, as in
    LOND: of many alarms few are false, and what else is wrong is found sooner.

    Why LOND: SAFFRON and LORD++ want p-values that are uniform given those before, which windows that overlap are not;
    e-values, as e-LOND takes them, are valid for anything, but to make one of a p-value of 1e-5 costs a factor of
    forty, and an alarm in 280 days breaks a promise of 7 as well.

    Args:
        days_per_false_alarm: Above 0. Promises of two watches add up by rates: 14 and 14 days are 7 of both.

    Raises:
        MonitoringError: It is no number of days.

    >>> promise = AlarmPromise(days_per_false_alarm=7)
    >>> 1e-5 < promise.level(50) < 1e-4
    True
    >>> round(promise.level(50, num_standing=3) / promise.level(50), 6)
    4.0

    Source: Javanmard and Montanari 2018, "Online rules for control of false discovery rate"; Xu and Ramdas 2024,
    "Online multiple testing with e-values"; memory that decays as in Rebjock et al. 2021, "Online false discovery rate
    control for anomaly detection in time series".
    """

    days_per_false_alarm: float = 7.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.days_per_false_alarm) and self.days_per_false_alarm > 0):
            raise MonitoringError("the promise is no number of days", found=self.days_per_false_alarm, allowed="> 0")

    def level(self, num_tests: int, *, num_standing: int = 0) -> float:
        """The chance that one test of one tick may take.

        Args:
            num_tests: Looked at in this tick, both windows of everything.
            num_standing: Alarms in force before it.
        """
        per_test = looks_per_alarm() / (self.days_per_false_alarm * TICKS_PER_DAY * max(num_tests, 1))
        return min(per_test * (1 + num_standing), _GREATEST_LEVEL)


@lru_cache(maxsize=8)
def looks_per_alarm(*, num_directions: int = 15, seed: int = 0) -> float:
    """How many tests of the quarter-hour and of the hour pass a limit for each alarm, while nothing is wrong.

    Simulated: squares of normals for each quarter-hour, and of the sum of four for the hour that ends with it. Tests
    that pass within an hour of another are one alarm, see `AlarmRuns`.

    Args:
        num_directions: Bins with rows, less one; it matters little.
        seed: Of the draws.

    >>> 1.05 < looks_per_alarm() < 1.5
    True
    """
    steps_TK = np.random.default_rng(seed).normal(size=(_NUM_TICKS, num_directions))
    summed_TK = np.cumsum(steps_TK, axis=0)
    hours_TK = (summed_TK[_HOUR:] - summed_TK[:-_HOUR]) / np.sqrt(_HOUR)
    squared_2T = np.stack([(values_TK**2).sum(axis=1) for values_TK in (steps_TK[_HOUR:], hours_TK)])
    passed_2T = gammaincc(num_directions / 2, squared_2T / 2) < _AT
    ticks = np.flatnonzero(passed_2T.any(axis=0))
    num_alarms = 1 + int((np.diff(ticks) > _HOUR).sum())
    return float(passed_2T.sum() / num_alarms)
