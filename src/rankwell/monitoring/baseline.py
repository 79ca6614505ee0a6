"""What a window is compared with: the day before it, or the same hours of earlier days once enough of them are held.

Letters in names: T ticks · D days · S segments · X what is summed, counts of bins or values · W windows of the past.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY

__all__ = ["Baseline", "Compared", "HeldDays", "LastDay", "SameHours"]

_HOUR: Final = 4
_NEIGHBOURS: Final = 2
"""Ticks before and behind the same hours that are taken with them: half an hour is the same hour still."""
_DAY_US: Final = TICKS_PER_DAY * TICK_US

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A window, its reference, and windows of the past, each with its own.

    Args:
        current_SX, num_rows_S: Sums over the window, and its rows.
        reference_SX, num_reference_S: Sums over the reference, and its rows.
        num_days_S: How many days are in the reference, or windows where it is one day; in effect, since some have
            fewer rows.
        residuals_WSX: Of windows of the past: sums − rows·mean of their reference.
        means_WSX: Those means: with bins, shares.
        num_rows_WS: Their rows.
        freedom_WS: 1 − rows / rows of their reference, which they are part of.
    """

    current_SX: _Floats
    num_rows_S: _Floats
    reference_SX: _Floats
    num_reference_S: _Floats
    num_days_S: _Floats
    residuals_WSX: _Floats
    means_WSX: _Floats
    num_rows_WS: _Floats
    freedom_WS: _Floats

    def first(self) -> Compared:
        """Of the first thing that is summed, alone."""
        return replace(
            self,
            current_SX=self.current_SX[..., :1],
            reference_SX=self.reference_SX[..., :1],
            residuals_WSX=self.residuals_WSX[..., :1],
            means_WSX=self.means_WSX[..., :1],
        )


class Baseline(Protocol):
    """Which ticks of the past a window is compared with, and which windows say how much such windows differ.

    Neither the window nor the hour that ends with it is among them: a disturbance doesn't excuse itself at once.
    """

    @property
    def num_ticks(self) -> int:
        """How many ticks up to now are looked at."""
        ...

    def compared(self, totals_TSX: _Floats, rows_TS: _Floats, until_us: int, *, num_current: int) -> Compared:
        """The window of the last `num_current` ticks, and what it is compared with.

        Args:
            totals_TSX: Sums by tick; `num_ticks` of them, up to now.
            rows_TS: Rows by tick.
            until_us: The end of the last tick, UTC microseconds.
            num_current: Ticks in the window: 1, or the 4 of an hour.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class LastDay:
    """The 24 hours before the current one. What changes with the time of day is part of what windows differ by.

    >>> LastDay().num_ticks
    100
    """

    @property
    def num_ticks(self) -> int:
        """See `Baseline`."""
        return TICKS_PER_DAY + _HOUR

    def compared(self, totals_TSX: _Floats, rows_TS: _Floats, until_us: int, *, num_current: int) -> Compared:
        """See `Baseline`."""
        _check(self, rows_TS, num_current)
        before_TSX, before_TS = totals_TSX[:-_HOUR], rows_TS[:-_HOUR]
        windows_WSX, rows_WS = _windows(before_TSX, num_current), _windows(before_TS, num_current)
        reference_SX, num_S = before_TSX.sum(axis=0), before_TS.sum(axis=0)
        mean_SX = _mean(reference_SX, num_S)
        return Compared(
            totals_TSX[-num_current:].sum(axis=0),
            rows_TS[-num_current:].sum(axis=0),
            reference_SX,
            num_S,
            _effective(rows_WS),
            windows_WSX - rows_WS[..., None] * mean_SX,
            np.broadcast_to(mean_SX, windows_WSX.shape),
            rows_WS,
            np.where(num_S > 0, 1 - rows_WS / np.maximum(num_S, 1), 0.0),
        )


@final
@dataclass(frozen=True, slots=True)
class SameHours:
    """The same hours of earlier days of the same kind, working days or days off, half an hour more on both sides.

    Where fewer than two days of the kind are among them, all are taken.

    Args:
        num_days: How many days back; 14 hold two weekends.
        days_off: By their number in the week, Monday being 0. Without any, all days are of one kind.
        utc_offset_s: When the day begins where members live.

    >>> SameHours(num_days=7).num_ticks
    768
    """

    num_days: int = 14
    days_off: tuple[int, ...] = (5, 6)
    utc_offset_s: int = 0

    def __post_init__(self) -> None:
        if self.num_days < 2 or not set(self.days_off) <= set(range(7)):
            raise MonitoringError(
                "the same hours of earlier days cannot be taken", found=[self.num_days, self.days_off],
                allowed="num_days ≥ 2, days 0 to 6",
            )  # fmt: skip

    @property
    def num_ticks(self) -> int:
        """See `Baseline`: earlier days, and the last one, which is watched."""
        return (self.num_days + 1) * TICKS_PER_DAY

    def compared(self, totals_TSX: _Floats, rows_TS: _Floats, until_us: int, *, num_current: int) -> Compared:
        """See `Baseline`."""
        _check(self, rows_TS, num_current)
        by_day = (self.num_days, TICKS_PER_DAY)
        totals_DTSX = totals_TSX[:-TICKS_PER_DAY].reshape(*by_day, *totals_TSX.shape[1:])
        rows_DTS = rows_TS[:-TICKS_PER_DAY].reshape(*by_day, *rows_TS.shape[1:])
        of_kind_DT = self.of_kind(until_us)
        reference_TSX, num_TS, days_TS = self.references(totals_DTSX, rows_DTS, of_kind_DT, num_current=num_current)
        num_now_S = num_TS[-1]

        # Past windows that end where the current one does, one behind the other; each day against its own hours.
        ends = slice(num_current - 1, None, num_current)
        mean_TSX, num_TS = _mean(reference_TSX, num_TS)[ends], num_TS[ends]
        of_kind_W = of_kind_DT[:, ends].reshape(-1)
        place_W = np.tile(np.arange(len(num_TS)), self.num_days)[of_kind_W]
        windows_WSX = _windows(totals_DTSX.reshape(-1, *totals_TSX.shape[1:]), num_current)[of_kind_W]
        rows_WS = _windows(rows_DTS.reshape(-1, rows_TS.shape[1]), num_current)[of_kind_W]
        mean_WSX, num_WS = mean_TSX[place_W], num_TS[place_W]
        return Compared(
            totals_TSX[-num_current:].sum(axis=0),
            rows_TS[-num_current:].sum(axis=0),
            reference_TSX[-1],
            num_now_S,
            days_TS[-1],
            windows_WSX - rows_WS[..., None] * mean_WSX,
            mean_WSX,
            rows_WS,
            np.where(num_WS > 0, 1 - rows_WS / np.maximum(num_WS, 1), 0.0),
        )

    def of_kind(self, until_us: int) -> _Bools:
        """Which ticks of earlier days are of the kind that they are on the last day, D × T.

        Args:
            until_us: The end of the last day.
        """
        same_DT = self.same_kind(until_us)
        return np.asarray(same_DT | (same_DT.sum(axis=0) < 2))

    def same_kind(self, until_us: int) -> _Bools:
        """`of_kind`, which may be none.

        Args:
            until_us: The end of the last day.
        """
        starts_T = until_us + self.utc_offset_s * 1_000_000 - TICK_US * np.arange(TICKS_PER_DAY, 0, -1)
        days_D1 = np.arange(self.num_days, 0, -1)[:, None]
        is_off_T, is_off_DT = self._is_off(starts_T), self._is_off(starts_T - days_D1 * _DAY_US)
        return np.asarray(is_off_DT == is_off_T)

    def references(
        self, totals_DTSX: _Floats, rows_DTS: _Floats, of_kind_DT: _Bools, *, num_current: int
    ) -> tuple[_Floats, _Floats, _Floats]:
        """What a window that ends with each tick of a day is compared with: sums, rows, and days in effect.

        Args:
            totals_DTSX: Sums of earlier days by tick.
            rows_DTS: Their rows.
            of_kind_DT: Which to take.
            num_current: Ticks in a window.
        """
        taken_DTS = rows_DTS * of_kind_DT[..., None]
        totals_TSX = np.einsum("dt,dtsx->tsx", of_kind_DT.astype(np.float64), totals_DTSX)

        def around(values_T: _Floats) -> _Floats:
            """Sums of each tick with those before and behind it, the day being a circle."""
            num = num_current + 2 * _NEIGHBOURS
            longer = np.concatenate([values_T[_NEIGHBOURS - num + 1 :], values_T, values_T[:_NEIGHBOURS]])
            total = np.concatenate([np.zeros_like(longer[:1]), np.cumsum(longer, axis=0)])
            return np.asarray(total[num:] - total[:-num])

        days_TDS = around(np.ascontiguousarray(taken_DTS.swapaxes(0, 1)))
        return around(totals_TSX), around(taken_DTS.sum(axis=0)), _effective(days_TDS.swapaxes(0, 1))

    def _is_off(self, times_us: NDArray[np.int64]) -> _Bools:
        weekday = (times_us // _DAY_US + 3) % 7  # the first of January 1970 was a Thursday
        return np.isin(weekday, self.days_off)


@final
@dataclass(frozen=True, slots=True)
class HeldDays:
    """`SameHours` where enough days of the kind are held; until then, and on the first days off, `LastDay`.

    A day is held if it has any row in the hour that ends where the current one does, so days on which nothing was
    counted are none. Which of the two it is depends on the panes alone, and not on when the watch was started.

    Args:
        num_days: How many days back at most, see `SameHours`.
        least_days: Of the kind of the current one, for `SameHours`; at least 2.
        days_off, utc_offset_s: See `SameHours`.

    >>> HeldDays().num_ticks == SameHours().num_ticks
    True
    """

    num_days: int = 14
    least_days: int = 3
    days_off: tuple[int, ...] = (5, 6)
    utc_offset_s: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.least_days <= self.num_days:
            raise MonitoringError(
                "so many days cannot be waited for", found=self.least_days, allowed=f"2 to {self.num_days}"
            )
        self._same_hours()

    @property
    def num_ticks(self) -> int:
        """See `Baseline`."""
        return self._same_hours().num_ticks

    def compared(self, totals_TSX: _Floats, rows_TS: _Floats, until_us: int, *, num_current: int) -> Compared:
        """See `Baseline`."""
        _check(self, rows_TS, num_current)
        if self.num_held(rows_TS, until_us) >= self.least_days:
            return self._same_hours().compared(totals_TSX, rows_TS, until_us, num_current=num_current)
        last = slice(-LastDay().num_ticks, None)
        return LastDay().compared(totals_TSX[last], rows_TS[last], until_us, num_current=num_current)

    def num_held(self, rows_TS: _Floats, until_us: int) -> int:
        """How many earlier days of the kind have rows in the hour that ends where the current one does.

        Args:
            rows_TS: Rows by tick, `num_ticks` of them.
            until_us: The end of the last tick.
        """
        hours_DT = rows_TS[:-TICKS_PER_DAY].sum(axis=-1).reshape(self.num_days, TICKS_PER_DAY)[:, -_HOUR:]
        same_D = self._same_hours().same_kind(until_us)[:, -1]
        return int((same_D & (hours_DT > 0).any(axis=1)).sum())

    def _same_hours(self) -> SameHours:
        return SameHours(self.num_days, self.days_off, self.utc_offset_s)


def _check(baseline: Baseline, rows_TS: _Floats, num_current: int) -> None:
    if len(rows_TS) != baseline.num_ticks or num_current not in (1, _HOUR):
        raise MonitoringError(
            "the window cannot be compared", found=[len(rows_TS), num_current],
            allowed=f"{baseline.num_ticks} ticks, windows of 1 or {_HOUR}",
        )  # fmt: skip


def _windows(values_T: _Floats, num_current: int) -> _Floats:
    """Sums over ticks one behind the other, up to the last."""
    if num_current == 1:
        return values_T
    return np.asarray(values_T.reshape(-1, num_current, *values_T.shape[1:]).sum(axis=1))


def _mean(totals_SX: _Floats, rows_S: _Floats) -> _Floats:
    return np.asarray(totals_SX / np.maximum(rows_S, 1)[..., None])


def _effective(rows_W: _Floats) -> _Floats:
    """How many windows of equal rows would differ as much: (Σ n)² / Σ n²."""
    squared = np.asarray((rows_W**2).sum(axis=0))
    return np.asarray(np.divide(rows_W.sum(axis=0) ** 2, squared, out=np.zeros(squared.shape), where=squared > 0))
