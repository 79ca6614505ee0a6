"""Each request is counted once, whatever comes twice, late, or from a clock that is wrong.

Letters in names: R requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError

__all__ = ["Arrivals", "ArrivalsReport"]

_US: Final = 1e6


@final
@dataclass(frozen=True, slots=True)
class ArrivalsReport:
    """What became of the requests that came.

    Args:
        num_counted: New ones.
        num_duplicates: That had come before.
        num_late: Older than what is remembered, so that nobody can say whether they had come before: not counted.
        num_ahead: Of a time that has not come yet, by more than clocks may differ: not counted.
    """

    num_counted: int = 0
    num_duplicates: int = 0
    num_late: int = 0
    num_ahead: int = 0


@final
class Arrivals:
    """Which requests of a stream are new, by their ids, which are remembered for some time.

    Memory is that of the ids of `remembered_s`. One that is late by more is put aside: counted twice it would do harm,
    left out it is a number in the report. Who restarts with `Arrivals` that are new reads from an exact position, as
    `LogPosition` of the served log is one, so that nothing of before comes again.

    Args:
        remembered_s: How late a request may come.
        ahead_s: By how much its clock may go before ours.

    Raises:
        MonitoringError: A time that is not above 0, or a negative one.

    >>> arrivals = Arrivals(remembered_s=3600, ahead_s=5)
    >>> arrivals.new(np.array([7, 8, 7]), np.array([0, 0, 0]), now_us=1_000_000).tolist()
    [True, True, False]
    >>> arrivals.new(np.array([8, 9]), np.array([0, 9_000_000]), now_us=1_000_000).tolist()
    [False, False]
    >>> arrivals.report
    ArrivalsReport(num_counted=2, num_duplicates=2, num_late=0, num_ahead=1)
    """

    def __init__(self, *, remembered_s: float, ahead_s: float) -> None:
        if not remembered_s > 0 or not ahead_s >= 0:
            raise MonitoringError(
                "requests can't be remembered for this long", found=f"{remembered_s=}, {ahead_s=}",
                allowed="remembered_s > 0, ahead_s ≥ 0",
            )  # fmt: skip
        self._remembered_us, self._ahead_us = round(remembered_s * _US), round(ahead_s * _US)
        self._ids, self._times_us = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._last_began_us: int | None = None
        self.report = ArrivalsReport()

    def new(
        self,
        request_ids_R: NDArray[np.int64],
        times_us_R: NDArray[np.int64],
        *,
        now_us: int,
        since_us: int | None = None,
    ) -> NDArray[np.bool_]:
        """Whether each request is to be counted; from now on it has been.

        Args:
            request_ids_R: int64, in the order in which they came.
            times_us_R: int64, when they were made, by the clock of who served them.
            now_us: UTC microseconds. One call whose clock is ahead forgets nothing; after two of them, what they made
                old may be counted again.
            since_us: When those that come now began to come: a reader that was away finds what came meanwhile, which is
                late only if it was late then. By default now.

        Raises:
            MonitoringError: The two are not of one length.
        """
        if request_ids_R.shape != times_us_R.shape:
            raise MonitoringError(
                "each request has one time", found=[request_ids_R.shape, times_us_R.shape], allowed="one length"
            )
        began_us = now_us if since_us is None else min(now_us, since_us)
        oldest_us = began_us - self._remembered_us
        is_ahead_R = times_us_R > now_us + self._ahead_us
        is_late_R = times_us_R < oldest_us
        is_in_time_R = ~is_ahead_R & ~is_late_R
        rows_in_time = np.flatnonzero(is_in_time_R)
        firsts = np.unique(request_ids_R[rows_in_time], return_index=True)[1]
        is_new_R = np.zeros(len(request_ids_R), np.bool_)
        is_new_R[rows_in_time[firsts]] = True
        is_new_R &= ~np.isin(request_ids_R, self._ids)
        # Forgotten when it is old by two clocks one after the other: one that jumps ahead and back forgets nothing.
        last_began_us = began_us if self._last_began_us is None else self._last_began_us
        self._last_began_us = began_us
        is_kept = self._times_us >= min(began_us, last_began_us) - self._remembered_us
        self._ids = np.concatenate([self._ids[is_kept], request_ids_R[is_new_R]])
        self._times_us = np.concatenate([self._times_us[is_kept], times_us_R[is_new_R]])
        num_counted, num_in_time = int(is_new_R.sum()), int(is_in_time_R.sum())
        self.report = ArrivalsReport(
            num_counted=self.report.num_counted + num_counted,
            num_duplicates=self.report.num_duplicates + num_in_time - num_counted,
            num_late=self.report.num_late + int(is_late_R.sum()),
            num_ahead=self.report.num_ahead + int(is_ahead_R.sum()),
        )
        return is_new_R
