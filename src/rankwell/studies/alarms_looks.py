"""What a watch of counted days sees: every window that ends within a day, against the last day or the same hours.

Letters in names: K tests, a statistic of a column each · D days · T ticks · S segments · X what is summed, counts of
bins or values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.monitoring.baseline import Compared, HeldDays, LastDay, SameHours
from rankwell.monitoring.judgement import Judgement, judged_mean, judged_shares, learned_mean, learned_shares
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY, Looseness
from rankwell.studies.alarms_world import CountedColumn, CountedDay

__all__ = ["Looks", "Tested", "all_tested", "held_days_looks", "last_day_looks", "same_hours_looks"]

_HOUR: Final = 4
_LEARNED_EACH: Final = 8
"""Ticks: against the last day a watch learns anew at each; here every other hour, the reference going on meanwhile."""
_DAY_US: Final = TICKS_PER_DAY * TICK_US

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Tested:
    """A statistic of a column.

    Args:
        statistic: "psi" or "mean_shift".
        place: Of the column among all.
    """

    statistic: str
    place: int


@final
@dataclass(frozen=True, slots=True)
class Looks:
    """Of a day, by window, test, tick and segment.

    Args:
        p_values: 1 where nothing can be said.
        values: The statistics.
        is_judged: Whether something can.
    """

    p_values: _Floats
    values: _Floats
    is_judged: NDArray[np.bool_]


def all_tested(columns: Sequence[CountedColumn]) -> tuple[Tested, ...]:
    """Those of a watch: PSI of each column, and the mean where it has values."""
    shares = [Tested("psi", place) for place in range(len(columns))]
    return (*shares, *(Tested("mean_shift", place) for place, column in enumerate(columns) if column.has_values))


def same_hours_looks(
    tests: Sequence[Tested], history: Sequence[Sequence[CountedDay]], today: Sequence[CountedDay], number: int
) -> Looks:
    """Against the same hours of all days before it; what is learned is learned at the day's beginning.

    Args:
        tests: To make.
        history: Days before, two at least.
        today: Looked at.
        number: Of the day, the first of January 1970 being 0.
    """
    baseline = SameHours(num_days=len(history))
    until_us = (number + 1) * _DAY_US
    of_kind_DT = baseline.of_kind(until_us)
    by_day = (len(history), TICKS_PER_DAY)

    def judged(test: Tested, num_current: int) -> Judgement:
        totals_TSX, rows_TS = _summed([*history, today], test)
        compared = baseline.compared(totals_TSX, rows_TS, until_us, num_current=num_current)
        before_DTSX = totals_TSX[:-TICKS_PER_DAY].reshape(*by_day, *totals_TSX.shape[1:])
        before_DTS = rows_TS[:-TICKS_PER_DAY].reshape(*by_day, -1)
        references = baseline.references(before_DTSX, before_DTS, of_kind_DT, num_current=num_current)
        windows_TSX, num_TS = (
            _ending(values, num_current)[-TICKS_PER_DAY:] for values in (totals_TSX, rows_TS)
        )  # fmt: skip
        loose = _loose(history[-1][test.place], test)
        return _judged(test, compared, loose, windows_TSX, num_TS, *references)

    return _looks([[judged(test, num_current)] for num_current in (1, _HOUR) for test in tests], len(tests))


def last_day_looks(
    tests: Sequence[Tested], history: Sequence[Sequence[CountedDay]], today: Sequence[CountedDay]
) -> Looks:
    """Against the 24 hours before the current one.

    Args:
        tests: To make.
        history: Days before, two at least.
        today: Looked at.
    """
    days = [*history[-2:], today]
    found = [list(_last_day(test, days, num_current)) for num_current in (1, _HOUR) for test in tests]
    return _looks(found, len(tests))


def held_days_looks(
    tests: Sequence[Tested], history: Sequence[Sequence[CountedDay]], today: Sequence[CountedDay], number: int
) -> Looks:
    """As `HeldDays` chooses for the hours of the day, of as many days as are held.

    Args:
        tests: To make.
        history: Days before, two at least.
        today: Looked at.
        number: Of the day.
    """
    baseline = HeldDays()
    held_TS = np.zeros((baseline.num_ticks, 1))
    held_TS[-(len(history) + 1) * TICKS_PER_DAY :] = 1
    if baseline.num_held(held_TS, (number + 1) * _DAY_US) >= baseline.least_days:
        return same_hours_looks(tests, history, today, number)
    return last_day_looks(tests, history, today)


def _last_day(test: Tested, days: Sequence[Sequence[CountedDay]], num_current: int) -> Iterator[Judgement]:
    baseline = LastDay()
    totals_TSX, rows_TS = _summed(days, test)
    windows_TSX, num_TS = _ending(totals_TSX, num_current), _ending(rows_TS, num_current)
    day_TSX, day_TS = _ending(totals_TSX, TICKS_PER_DAY), _ending(rows_TS, TICKS_PER_DAY)
    loose_D = [_loose(day[test.place], test) for day in days]
    scatter_TS = np.concatenate([loose.scatter_TS for loose in loose_D])
    freedom_TS = np.concatenate([loose.freedom_TS for loose in loose_D])
    for first in range(2 * TICKS_PER_DAY, 3 * TICKS_PER_DAY, _LEARNED_EACH):
        held = slice(first + 1 - baseline.num_ticks, first + 1)
        before = slice(held.start, held.stop - _HOUR)
        compared = baseline.compared(totals_TSX[held], rows_TS[held], 0, num_current=num_current)
        ticks = np.arange(first, first + _LEARNED_EACH)
        yield _judged(
            test, compared, Looseness(scatter_TS[before], freedom_TS[before], loose_D[-2].outer_SXX),
            windows_TSX[ticks], num_TS[ticks], day_TSX[ticks - _HOUR], day_TS[ticks - _HOUR], compared.num_days_S,
        )  # fmt: skip


def _judged(
    test: Tested, compared: Compared, loose: Looseness, windows_TSX: _Floats, num_TS: _Floats,
    reference_TSX: _Floats, num_reference_TS: _Floats, days_TS: _Floats,
) -> Judgement:  # fmt: skip
    if test.statistic == "psi":
        null = learned_shares(compared, loose)
        return judged_shares(null, windows_TSX, num_TS, reference_TSX, num_reference_TS, days_TS)
    null = learned_mean(compared.first(), loose)
    mean_TS2 = reference_TSX / np.maximum(num_reference_TS, 1)[..., None]
    variance_TS = np.maximum(mean_TS2[..., 1] - mean_TS2[..., 0] ** 2, 0.0)
    return judged_mean(
        null, windows_TSX[..., 0], num_TS, reference_TSX[..., 0], num_reference_TS, days_TS, variance_TS
    )  # fmt: skip


def _summed(days: Sequence[Sequence[CountedDay]], test: Tested) -> tuple[_Floats, _Floats]:
    """What a test is of, by tick of all days, and its rows."""
    counts_TSB = np.concatenate([day[test.place].counts_TSB for day in days])
    if test.statistic == "psi":
        return counts_TSB, counts_TSB.sum(axis=-1)
    return np.concatenate([day[test.place].sums_TS2 for day in days]), counts_TSB[..., :-1].sum(axis=-1)


def _loose(day: CountedDay, test: Tested) -> Looseness:
    return day.looseness if test.statistic == "psi" else day.values


def _ending(values_T: _Floats, num: int) -> _Floats:
    """Sums over as many ticks, up to each; of the first ones over what there is."""
    total_T = np.cumsum(values_T, axis=0)
    total_T[num:] -= total_T[:-num].copy()
    return total_T


def _looks(found: Sequence[Sequence[Judgement]], num_tests: int) -> Looks:
    """Judgements by window and test, each of stretches of the day."""
    shape = (2, num_tests, TICKS_PER_DAY, -1)

    def stacked(values: list[list[NDArray[np.generic]]]) -> NDArray[np.generic]:
        return np.stack([np.concatenate(stretches) for stretches in values]).reshape(shape)

    return Looks(
        np.asarray(stacked([[one.p_value_S for one in each] for each in found]), np.float64),
        np.asarray(stacked([[one.value_S for one in each] for each in found]), np.float64),
        np.asarray(stacked([[one.is_judged_S for one in each] for each in found]), np.bool_),
    )
