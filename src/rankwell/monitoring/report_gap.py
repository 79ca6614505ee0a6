"""Until when actions have been reported, told by how many of them were to be expected.

Letters in names: R requests · E actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.pane import MINUTE_US
from rankwell.monitoring.pane_layout import ALL_ROWS
from rankwell.monitoring.reading import Reading

__all__ = ["REPORT_DELAY", "ReportGap", "report_delay"]

REPORT_DELAY: Final = "report_delay"
"""The reading's name, and its column's."""

_S_US: Final = 1_000_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReportGap:
    """A stretch of time of which next to no action is reported, though many were promised.

    Members who don't click, and clicks that are not delivered, look alike to whoever counts; but probabilities are
    rarely twenty times too high everywhere at once, and a broken pipe gives nothing. Where a gap begins, labels end:
    nothing can be said of requests whose window was open then, until the reports come or a person has looked.

    Args:
        least_expected: So many actions are to be expected of a stretch before it is judged; at low traffic it is long.
        least_rate: Of those expected; fewer are a gap.
        slack_s: How long after a request its actions and their reports may take, for the most part.

    Raises:
        MonitoringError: A setting is out of range.

    >>> minutes_us = np.arange(60) * 60_000_000
    >>> gap = ReportGap()
    >>> gap.begins_us(minutes_us, np.full(60, 20.0), minutes_us.repeat(15), now_us=3_600_000_000) is None
    True
    >>> gap.begins_us(minutes_us, np.full(60, 20.0), minutes_us[:30].repeat(15), now_us=3_600_000_000) // 60_000_000
    30
    """

    least_expected: float = 60.0
    least_rate: float = 0.05
    slack_s: float = 300.0

    def __post_init__(self) -> None:
        if not (self.least_expected >= 1 and 0 < self.least_rate < 1 and self.slack_s >= 0):
            raise MonitoringError(
                "a gap of reports can't be told so",
                found=(self.least_expected, self.least_rate, self.slack_s),
                allowed="least_expected ≥ 1, 0 < least_rate < 1, slack_s ≥ 0",
            )

    def begins_us(
        self, times_us_R: NDArray[np.int64], expected_R: NDArray[np.float64], action_times_us_E: NDArray[np.int64],
        *, now_us: int,
    ) -> int | None:  # fmt: skip
        """The minute after the last action before the first gap, UTC microseconds; None where there is none.

        Args:
            times_us_R: Of requests, in any order.
            expected_R: Σ of the probabilities that were served for what they were shown.
            action_times_us_E: When the actions happened that were reported of this time, of these and of other
                requests.
            now_us: UTC microseconds; of the last `slack_s` nothing is asked.
        """
        is_asked_R = times_us_R < now_us - round(self.slack_s * _S_US)
        if not is_asked_R.any():
            return None
        minutes_R = times_us_R[is_asked_R] // MINUTE_US
        first, num = int(minutes_R.min()), int(minutes_R.max() - minutes_R.min()) + 1
        expected_M = np.bincount(minutes_R - first, expected_R[is_asked_R], minlength=num)
        minutes_E = action_times_us_E // MINUTE_US - first
        observed_M = np.bincount(minutes_E[(minutes_E >= 0) & (minutes_E < num)], minlength=num)
        seen_M = np.flatnonzero(observed_M)
        begin, expected, observed = 0, 0.0, 0
        for minute in range(num):
            expected += float(expected_M[minute])
            observed += int(observed_M[minute])
            if expected >= self.least_expected:
                if observed < self.least_rate * expected:
                    before = seen_M[seen_M < begin]  # the stretch before this one may have ended in the gap
                    return (first + (int(before[-1]) + 1 if len(before) else begin)) * MINUTE_US
                begin, expected, observed = minute + 1, 0.0, 0
        return None


def report_delay(reported_until_us: int, now_us: int, *, num_waiting: int) -> Reading:
    """For how long actions have not been reported, in seconds: an alarm where it is any time at all.

    Args:
        reported_until_us: Where the gap begins, UTC microseconds; `now_us` where there is none.
        now_us: UTC microseconds.
        num_waiting: Requests that wait for theirs.
    """
    return Reading(
        name=REPORT_DELAY,
        column=REPORT_DELAY,
        segment=ALL_ROWS,
        value=(now_us - reported_until_us) / _S_US,
        unit="seconds",
        limit=0.0,
        p_value=math.nan,
        minimum_detectable=math.nan,
        num_rows=num_waiting,
        num_reference_rows=0,
        window_start_us=reported_until_us,
        window_end_us=now_us,
        is_alarm=reported_until_us < now_us,
    )
