"""Nothing is served: how long ago the last request was.

Letters in names: M minutes with requests.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import ALL_ROWS
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY

__all__ = ["SILENCE", "silence"]

SILENCE: Final = "silence"
"""Name of the reading."""

_TIMES: Final = 3.0
_LEAST: Final = 10.0
"""Minutes: a quarter-hour without a request is above it."""
_LEAST_HELD: Final = 60


def silence(pane: Pane, now_us: int) -> Reading:
    """How many minutes no request has come for.

    Drift cannot be read of a window without rows, so an outage would be quiet. It is an alarm where the pause is more
    than three times as long as the longest of the day before it, and ten minutes: a service that sleeps at night may
    do so. It is no matter of chance, and not under the promise of `AlarmPromise`.

    Args:
        pane: The sum of all panes held.
        now_us: UTC microseconds, a whole minute.

    Returns:
        Of the column "requests", in minutes. Where there were no requests, or fewer than in an hour's span before the
        pause, the limit is infinite.

    >>> from rankwell.monitoring.flat_rows import FlatRows
    >>> from rankwell.monitoring.pane_layout import NumericBins, PaneLayout
    >>> layout = PaneLayout(columns=(NumericBins(name="years", edges=(2.0,)),))
    >>> minutes_C = np.arange(0, 600, 2)  # a request every other minute
    >>> held = Pane.of(layout, FlatRows(minutes_C * 60_000_000, {"years": minutes_C * 0.0}))
    >>> for now in (600, 620):
    ...     reading = silence(held, now * 60_000_000)
    ...     reading.value, reading.limit, reading.is_alarm
    (1.0, 10.0, False)
    (21.0, 10.0, True)
    """
    minutes_M = np.unique(pane.minutes_N[pane.minutes_N * MINUTE_US < now_us])
    value, limit = math.nan, math.inf
    if len(minutes_M):
        last = int(minutes_M[-1])
        value = now_us / MINUTE_US - (last + 1)
        day_M = minutes_M[minutes_M > last - TICKS_PER_DAY * (TICK_US // MINUTE_US)]
        if last - day_M[0] >= _LEAST_HELD:
            limit = max(_TIMES * float(np.diff(day_M).max() - 1), _LEAST)
    return Reading(
        name=SILENCE,
        column="requests",
        segment=ALL_ROWS,
        value=value,
        unit="minutes",
        limit=limit,
        p_value=math.nan,
        minimum_detectable=limit,
        num_rows=_num_rows(pane.between(now_us - TICK_US, now_us)),
        num_reference_rows=_num_rows(pane.between(now_us - TICKS_PER_DAY * TICK_US, now_us - TICK_US)),
        window_start_us=now_us - TICK_US,
        window_end_us=now_us,
        is_alarm=value > limit,
    )


def _num_rows(pane: Pane) -> int:
    return int(next(iter(pane.counts.values())).sum()) if pane.counts else 0
