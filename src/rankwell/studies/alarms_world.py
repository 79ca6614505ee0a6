"""A marketplace as counts: cycles of the day and the week, days that differ a little, and requests of eight rows.

Letters in names: T ticks of a day · M minutes of a tick · S segments, all rows together being the last ·
B bins · X what is summed, counts of bins or values · L moods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.monitoring.tick_history import TICKS_PER_DAY, Looseness

__all__ = ["CountedColumn", "CountedDay", "CountedWorld"]

_ROWS: Final = 8
_MINUTES: Final = 15
_SEGMENT_SHARES: Final = np.array([0.4, 0.3, 0.2, 0.1])
_DAILY: Final = 0.3
_WEEKEND: Final = 0.2
_BY_DAY: Final = 0.03
_DUSK: Final = 8
"""Ticks in which one day goes over into what is common to all nights, and back."""
_REACH: Final = 1.7
"""In standard deviations of a normal: how far out the outer bins are."""
_MOODS: Final = (-(3.0**0.5), 0.0, 3.0**0.5)
_MOOD_SHARES: Final = (1 / 6, 2 / 3, 1 / 6)
"""A normal's first five moments."""
_TRAFFIC: Final = 0.6
"""Traffic goes up and down by so much of its mean."""

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class CountedColumn:
    """A column to be drawn.

    Args:
        name: What it is like.
        num_bins: The last is of missing values.
        alike_rate: Which share of requests have all their rows in one bin.
        mood: By so much of their standard deviation whole requests are high or low: their rows move along the values.
        has_values: Whether its bins are of numbers, `value_B`; else of ids.
        last_share: Of the last bin, over those of all others: of missing values, nearly none.
    """

    name: str
    num_bins: int
    alike_rate: float
    mood: float = 0.0
    has_values: bool = True
    last_share: float = 0.002

    @property
    def value_B(self) -> _Floats:
        """What the rows of a bin are worth, where they are numbers; those of the last have none."""
        return np.append(np.linspace(-_REACH, _REACH, self.num_bins)[:-1], 0.0)


@final
@dataclass(frozen=True, slots=True, eq=False)
class CountedDay:
    """A day of one column.

    Args:
        counts_TSB: By quarter-hour.
        sums_TS2: Σ of values, and of their squares.
        looseness: By how much its minutes differ.
        values: By how much Σ of values does.
    """

    counts_TSB: _Floats
    sums_TS2: _Floats
    looseness: Looseness
    values: Looseness


@final
class CountedWorld:
    """Draws days of columns, whose shares go through ``exp(.3·u·sin(time) + .2·w·(weekend) + .03·day)``.

    Args:
        columns: What to draw.
        size: Rows in a quarter-hour, on average.
        seed: Of the draws.

    >>> world = CountedWorld([CountedColumn("member", 18, 1.0)], size=1000, seed=0)
    >>> [day] = world.day(0)
    >>> day.counts_TSB.shape, bool(900 < day.counts_TSB[:, -1].sum() / 96 < 1100)
    ((96, 5, 18), True)
    """

    def __init__(self, columns: list[CountedColumn], *, size: int, seed: int) -> None:
        self.columns = columns
        self._size, self._rng = size, np.random.default_rng(seed)
        self._logits, self._daily, self._weekend, self._phase = [], [], [], []
        for column in columns:
            shares_SB = self._rng.dirichlet(np.full(column.num_bins, 8.0), size=len(_SEGMENT_SHARES))
            shares_SB[:, -1] = column.last_share
            self._logits.append(np.log(shares_SB))
            self._daily.append(self._rng.normal(size=column.num_bins))
            self._weekend.append(self._rng.normal(size=column.num_bins))
            self._phase.append(self._rng.uniform(0, 2 * np.pi))

    def day(self, number: int, *, shifted: str | None = None, shift: float = 0.0, at_tick: int = 0) -> list[CountedDay]:
        """One day of each column; the fifth and the sixth of seven are days off, day 0 being a Thursday.

        Args:
            number: Of the day; every call draws anew.
            shifted: A column whose values move up.
            shift: By so many standard deviations of a normal whose bins they are.
            at_tick: From here on.
        """
        turn_T = 2 * np.pi * np.arange(TICKS_PER_DAY) / TICKS_PER_DAY
        ticks_T = np.arange(TICKS_PER_DAY)
        awake_T = np.minimum(1.0, np.minimum(ticks_T, TICKS_PER_DAY - ticks_T) / _DUSK)
        traffic_T = 1 + _TRAFFIC * np.sin(turn_T)
        mean_TS = self._size / _MINUTES / _ROWS * traffic_T[:, None] * _SEGMENT_SHARES
        requests_TMS = self._rng.poisson(mean_TS[:, None, :], (TICKS_PER_DAY, _MINUTES, len(_SEGMENT_SHARES)))
        days = []
        for place, column in enumerate(self.columns):
            common_TB = _DAILY * np.sin(turn_T + self._phase[place])[:, None] * self._daily[place]
            own_B = _WEEKEND * ((number + 3) % 7 >= 5) * self._weekend[place]
            own_B = own_B + _BY_DAY * self._rng.normal(size=column.num_bins)
            common_TB = common_TB + awake_T[:, None] * own_B
            if column.name == shifted:
                score_B = np.linspace(-_REACH, _REACH, column.num_bins)
                common_TB = common_TB + np.where(np.arange(TICKS_PER_DAY) >= at_tick, shift, 0.0)[:, None] * score_B
            shares_TSB = np.exp(self._logits[place] + common_TB[:, None, :])
            shares_TSB /= shares_TSB.sum(axis=-1, keepdims=True)
            days.append(self._drawn(column, requests_TMS, shares_TSB[:, None]))
        return days

    def _drawn(self, column: CountedColumn, requests_TMS: NDArray[np.int64], shares_T1SB: _Floats) -> CountedDay:
        alike_TMS = self._rng.binomial(requests_TMS, column.alike_rate)
        counts_TMSB = _ROWS * self._rng.multinomial(alike_TMS, shares_T1SB).astype(np.float64)
        others_TMS = requests_TMS - alike_TMS
        if column.mood:
            in_mood_TMSL = self._rng.multinomial(others_TMS, _MOOD_SHARES)
            for place, mood in enumerate(_MOODS):
                moved_T1SB = shares_T1SB * np.exp(column.mood * mood * column.value_B)
                moved_T1SB /= moved_T1SB.sum(axis=-1, keepdims=True)
                counts_TMSB += self._rng.multinomial(_ROWS * in_mood_TMSL[..., place], moved_T1SB)
        elif column.alike_rate < 1:
            counts_TMSB += self._rng.multinomial(_ROWS * others_TMS, shares_T1SB)
        counts_TMSB = np.concatenate([counts_TMSB, counts_TMSB.sum(axis=2, keepdims=True)], axis=2)
        counts_TSB, total_SB = counts_TMSB.sum(axis=1), counts_TMSB.sum(axis=(0, 1))
        weight_SB = np.divide(total_SB.sum(axis=-1, keepdims=True), total_SB, out=0 * total_SB, where=total_SB > 0)
        powers_B2 = np.stack([column.value_B, column.value_B**2], axis=-1)
        return CountedDay(
            counts_TSB,
            counts_TSB @ powers_B2,
            _looseness(counts_TMSB, counts_TMSB.sum(axis=-1), weight_SB),
            _looseness(counts_TMSB @ powers_B2[:, :1], counts_TMSB[..., :-1].sum(axis=-1), np.ones((1, 1))),
        )


def _looseness(sums_TMSX: _Floats, rows_TMS: _Floats, weight_SX: _Floats) -> Looseness:
    """By how much the minutes of each quarter-hour differ, see `Looseness`."""
    rows_TS = rows_TMS.sum(axis=1)
    mean_TSX = sums_TMSX.sum(axis=1) / np.maximum(rows_TS, 1)[..., None]
    residual_TMSX = (sums_TMSX - rows_TMS[..., None] * mean_TSX[:, None]) * np.sqrt(weight_SX)
    outer_SXX = np.stack([_outer(residual_TMSX[:, :, segment]) for segment in range(rows_TS.shape[1])])
    residual_TMSX *= residual_TMSX
    freedom_TS = rows_TS - (rows_TMS**2).sum(axis=1) / np.maximum(rows_TS, 1)
    return Looseness(residual_TMSX.sum(axis=(1, 3)), freedom_TS, outer_SXX)


def _outer(residual_TMX: _Floats) -> _Floats:
    residual_CX = residual_TMX.reshape(-1, residual_TMX.shape[-1])
    return np.asarray(residual_CX.T @ residual_CX)
