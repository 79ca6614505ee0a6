"""Since when a column is other than it was: the change point of its minutes.

Letters in names: M minutes · B bins · N cells of a pane.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import ALL_ROWS
from rankwell.monitoring.tick_history import TICK_US

__all__ = ["onset_us"]

_DAY_US: Final = 96 * TICK_US
_HALF: Final = 0.5
_NUM_TURNS: Final = 3
"""What it changed to is learned from the newest quarter-hour, and then twice from all that came since."""


def onset_us(pane: Pane, column: str, segment: int, *, until_us: int, within_us: int = 24 * TICK_US) -> int | None:
    """The minute from which on the rows of a column fit what it has become better than what it was.

    With q the shares of its bins in the day before, p those it has now, and c_m the counts of minute m, it is the t
    that maximises Σ_{m ≥ t} Σ_b c_mb ln(p_b / q_b): the maximum likelihood estimate of the change point of
    multinomial counts. It needs no threshold, so it says when, and not whether: ask it of what has raised an alarm.

    Args:
        pane: A day and `within_us` of minutes.
        column: Of the layout.
        segment: One of the layout's, or `ALL_ROWS` of all together.
        until_us: The end of the newest window, UTC microseconds, a whole minute.
        within_us: How far back it may lie.

    Returns:
        The beginning of a minute, UTC microseconds; None where there are no rows before or after, or where they fit
        what the column was.

    Raises:
        MonitoringError: There is no such column, or a time is no whole minute.

    >>> from rankwell.monitoring.flat_rows import FlatRows
    >>> from rankwell.monitoring.pane_layout import NumericBins, PaneLayout
    >>> layout = PaneLayout(columns=(NumericBins(name="years", edges=(10.0,)),))
    >>> minutes_C = np.arange(600)  # a row a minute; from minute 590 on the years come in months
    >>> rows = FlatRows(minutes_C * 60_000_000, {"years": np.where(minutes_C < 590, 3.0, 36.0)})
    >>> found_us = onset_us(Pane.of(layout, rows), "years", ALL_ROWS, until_us=600 * 60_000_000)
    >>> found_us // 60_000_000
    590
    """
    if within_us <= 0 or within_us % MINUTE_US:
        raise MonitoringError("a change point can't be looked for", found=within_us, allowed="whole minutes, over 0")
    pane.layout.column(column)
    from_us = until_us - within_us
    before_B = _counts(pane.between(from_us - _DAY_US, from_us), column, segment).sum(axis=0)
    recent = pane.between(from_us, until_us)
    counts_MB, minutes_M = _counts(recent, column, segment), np.unique(recent.minutes_N)
    if not before_B.sum() or not counts_MB.sum():
        return None
    was_B = _log_shares(before_B)
    start = int(np.searchsorted(minutes_M, (until_us - TICK_US) // MINUTE_US))
    for _ in range(_NUM_TURNS):
        after_B = counts_MB[start:].sum(axis=0)
        if not after_B.sum():
            return None
        gained_M = counts_MB @ (_log_shares(after_B) - was_B)
        since_M = np.cumsum(gained_M[::-1])[::-1]
        start = int(np.argmax(since_M))
        if since_M[start] <= 0:
            return None
    return int(minutes_M[start]) * MINUTE_US


def _counts(pane: Pane, column: str, segment: int) -> NDArray[np.float64]:
    """By minute and bin; a minute without rows of the segment has zeros."""
    minutes_M, place_N = np.unique(pane.minutes_N, return_inverse=True)
    is_asked_N = np.full(len(pane), True) if segment == ALL_ROWS else pane.segments_N == segment
    counts_MB = np.zeros((len(minutes_M), pane.layout.column(column).num_bins))
    np.add.at(counts_MB, place_N.reshape(-1)[is_asked_N], pane.counts[column][is_asked_N])
    return counts_MB


def _log_shares(counts_B: NDArray[np.float64]) -> NDArray[np.float64]:
    smoothed_B = counts_B + _HALF
    shares_B: NDArray[np.float64] = np.log(smoothed_B / smoothed_B.sum())
    return shares_B
