"""Features that drifted before any model saw them, and whether they are again what they were.

Letters in names: B bins of a column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final, final

import numpy as np
from pydantic import Field

from rankwell.monitoring.column_counts import ColumnCounts
from rankwell.monitoring.divergences import psi
from rankwell.monitoring.null_divergence import PSI
from rankwell.monitoring.onset import onset_us
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.pane_layout import ALL_ROWS, CategoricalBins, NumericBins
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY
from rankwell.schema.transforms import Declaration

__all__ = ["UpstreamDrift", "known_drifts", "near", "that_are_over"]

_SERVED: Final = "served_"
_DAY_US: Final = TICKS_PER_DAY * TICK_US
_LEAST_US: Final = 2 * TICK_US
"""So long it has lasted: an alarm that chance raised has no such past."""
_NEAR_US: Final = 4 * TICK_US
"""What drifted longer before an incident is not taken for its cause."""


@final
class UpstreamDrift(Declaration):
    """One column of one segment: what it was, and what it became.

    It is over when the newest quarter-hour is nearer to what was before the onset than to what was since, and in the
    limit from that or from the present baseline. The baseline is not asked alone: once it holds the drift, it finds it
    normal. But it may know the hour better than the day before the onset does.

    Args:
        bins: The column's, as it was counted.
        segment: A value of the layout's segments, or `ALL_ROWS`.
        onset_us: When it began, UTC microseconds: see `onset_us`.
        limit: Of the PSI of a quarter-hour, when the drift was found.
        before_B: Counts of the day before the onset, and not of an earlier drift in it.
        during_B: Counts from the onset until it was found.
        returned_us: Since when it is what it was; None: it drifts.

    >>> years = NumericBins(name="years", edges=(10.0,))  # the third bin is of missing values
    >>> drift = UpstreamDrift(bins=years, segment=ALL_ROWS, onset_us=0, limit=.1, before_B=(90, 10, 0),
    ...                       during_B=(0, 100, 0))
    >>> [drift.is_over(ColumnCounts(years, np.array(now_B)), math.nan) for now_B in ([88, 12, 0], [44, 56, 0])]
    [True, False]
    """

    bins: Annotated[NumericBins | CategoricalBins, Field(discriminator="kind")]
    segment: int
    onset_us: int
    limit: float
    before_B: tuple[int, ...]
    during_B: tuple[int, ...]
    returned_us: int | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Which column of which segment."""
        return self.bins.name, self.segment

    def is_as_before(self, now: ColumnCounts) -> bool:
        """Whether there are rows, and their PSI from those before the onset is within the limit.

        Args:
            now: Of the same bins.

        Raises:
            MonitoringError: They are of others.
        """
        return now.num_rows > 0 and psi(self._before, now) <= self.limit

    def is_over(self, now: ColumnCounts, from_baseline: float) -> bool:
        """Whether they are as before, or as the baseline, and nearer to before than to what was since.

        Args:
            now: Of the same bins.
            from_baseline: Their PSI from the present baseline; NaN: it isn't known.

        Raises:
            MonitoringError: They are of others.
        """
        is_within = self.is_as_before(now) or from_baseline <= self.limit
        return now.num_rows > 0 and is_within and self._is_nearer_to_before(now)

    def is_there_again(self, now: ColumnCounts) -> bool:
        """Whether there are rows, beyond the limit from before, and nearer to what was since.

        Args:
            now: Of the same bins.

        Raises:
            MonitoringError: They are of others.
        """
        return now.num_rows > 0 and not self.is_as_before(now) and not self._is_nearer_to_before(now)

    def _is_nearer_to_before(self, now: ColumnCounts) -> bool:
        during = ColumnCounts(self.bins, np.array(self.during_B))
        return psi(self._before, now) < psi(during, now)

    @property
    def _before(self) -> ColumnCounts:
        return ColumnCounts(self.bins, np.array(self.before_B))


def known_drifts(known: Sequence[UpstreamDrift], readings: Sequence[Reading], pane: Pane) -> tuple[UpstreamDrift, ...]:
    """What is known, and what stands in alarm by now: by PSI of a quarter-hour, for half an hour at least.

    Logits, probabilities and clicks are no features. For a day after a return alarms can't be relied on, since the
    baseline holds the drift: what becomes again what it was then drifts, alarm or not; an alarm of what is as before it
    is none.

    Args:
        known: Before.
        readings: Of the newest window.
        pane: A day of minutes before an onset, and all since.

    Returns:
        One of each column and segment; those that returned a day ago are forgotten.
    """
    end_us, bins = _end_us(readings), set(pane.layout.columns)
    kept = {
        drift.key: drift
        for drift in known
        if drift.bins in bins and (drift.returned_us is None or drift.returned_us > end_us - _DAY_US)
    }
    newest = pane.between(end_us - TICK_US, end_us)
    for reading in filter(_is_of_a_quarter, readings):
        earlier = kept.get((reading.column, reading.segment))
        if reading.column.startswith(_SERVED) or (earlier is not None and earlier.returned_us is None):
            continue
        stands = reading.is_alarm
        if earlier is not None and math.isfinite(reading.limit):  # else there are too few rows
            now = _counts(newest, *earlier.key)
            stands = earlier.is_there_again(now) or (stands and not earlier.is_as_before(now))
        if stands:
            drift = _found(reading, pane, earlier)
            if drift is not None:
                kept[drift.key] = drift
    return tuple(kept.values())


def near(drifts: Sequence[UpstreamDrift], incident_us: int) -> tuple[UpstreamDrift, ...]:
    """Without those that still stand and began an hour before an incident or earlier: they are not its cause.

    Args:
        drifts: That are known.
        incident_us: When it began, UTC microseconds.
    """
    return tuple(d for d in drifts if d.returned_us is not None or d.onset_us > incident_us - _NEAR_US)


def that_are_over(
    drifts: Sequence[UpstreamDrift], readings: Sequence[Reading], pane: Pane
) -> tuple[UpstreamDrift, ...]:
    """Those that are what they were, as the newest quarter-hour of the readings has it.

    Args:
        drifts: Of bins that are no longer counted nothing is known.
        readings: Of the newest window.
        pane: Of its minutes.

    Returns:
        With the beginning of that quarter-hour as `returned_us`.
    """
    end_us, bins = _end_us(readings), set(pane.layout.columns)
    newest = pane.between(end_us - TICK_US, end_us)
    values = {(r.column, r.segment): r.value for r in readings if _is_of_a_quarter(r)}
    return tuple(
        drift.model_copy(update={"returned_us": end_us - TICK_US})
        for drift in drifts
        if drift.bins in bins and drift.is_over(_counts(newest, *drift.key), values.get(drift.key, math.nan))
    )


def _found(reading: Reading, pane: Pane, earlier: UpstreamDrift | None) -> UpstreamDrift | None:
    end_us, place = reading.window_end_us, (reading.column, reading.segment)
    since_us = end_us - _DAY_US // 4 if earlier is None or earlier.returned_us is None else earlier.returned_us
    began_us = onset_us(pane, *place, until_us=end_us, within_us=end_us - since_us)
    if began_us is None or began_us > end_us - _LEAST_US:
        return None
    before = _counts(pane.between(began_us - _DAY_US, began_us), *place).counts_B.tolist()
    during = _counts(pane.between(began_us, end_us), *place).counts_B.tolist()
    return UpstreamDrift(
        bins=pane.layout.column(reading.column), segment=reading.segment, onset_us=began_us,
        limit=reading.limit if earlier is None else earlier.limit,
        before_B=before if earlier is None else earlier.before_B, during_B=during,
    )  # fmt: skip


def _is_of_a_quarter(reading: Reading) -> bool:
    return reading.name == PSI.name and reading.window_end_us - reading.window_start_us == TICK_US


def _end_us(readings: Sequence[Reading]) -> int:
    return max((reading.window_end_us for reading in readings if _is_of_a_quarter(reading)), default=0)


def _counts(pane: Pane, column: str, segment: int) -> ColumnCounts:
    return pane.column(column, segment=None if segment == ALL_ROWS else segment)
