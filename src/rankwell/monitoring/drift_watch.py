"""Every column and segment of the panes, quarter-hour and hour, against its baseline: readings with their limits.

Letters in names: T ticks · S segments · B bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.alarm_threshold import AlarmPromise
from rankwell.monitoring.baseline import Baseline, HeldDays
from rankwell.monitoring.judgement import (
    Judgement,
    detectable_shares,
    detectable_step,
    judged_mean,
    judged_shares,
    learned_mean,
    learned_shares,
)
from rankwell.monitoring.null_divergence import KL, PSI, Divergence
from rankwell.monitoring.null_tail import NullTail
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import CategoricalBins, PaneLayout
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import (
    TICK_US,
    ColumnHistory,
    TickHistory,
)

__all__ = ["DriftWatch"]

_HOUR: Final = 4
_WINDOWS: Final = (1, _HOUR)

_Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class _Test:
    name: str
    divergence: Divergence | None
    column: str
    num_current: int
    judgement: Judgement
    num_rows_S: _Floats
    num_reference_S: _Floats


@final
@dataclass(frozen=True, slots=True)
class DriftWatch:
    """Looks at panes every quarter-hour: PSI of every column, and of numeric ones by how much the mean has moved.

    Readings are a function of the panes alone, so nothing has to be kept for a restart but them.

    Limits are those of the null: how rows of one request hang together is learned from minutes of the last day, how
    windows differ by the hour and the day from the baseline's own windows, and the chance that each test may take from
    the promise. Windows of fewer than ten independent rows are not judged, nor
    PSI of fewer than five for each bin.

    Args:
        layout: Of the panes.
        baseline: By default the same hours of earlier days once enough are held, and the last day until then.
        promise: One false alarm of all columns, segments, statistics and both windows in so many days.
        means_too: Whether means are tested, too; else PSI alone.
        kl_too: Whether the Kullback-Leibler divergence is read beside PSI, for people to look at: with a limit of its
            own, at the same chance, but never an alarm. It is half of PSI and a little; a second test would cost much
            and find nothing.

    >>> from rankwell.monitoring.pane_layout import NumericBins
    >>> watch = DriftWatch(PaneLayout(columns=(NumericBins(name="years", edges=(2.0,)),)))
    >>> nothing = watch.readings(Pane.nothing(watch.layout), now_us=2 * 86_400_000_000)
    >>> [(reading.name, reading.is_alarm, reading.limit) for reading in nothing if reading.window_s == 900]
    [('psi', False, inf), ('mean_shift', False, inf)]
    """

    layout: PaneLayout
    baseline: Baseline = field(default_factory=HeldDays)
    promise: AlarmPromise = field(default_factory=AlarmPromise)
    means_too: bool = True
    kl_too: bool = False

    @property
    def held_us(self) -> int:
        """How long panes are needed, microseconds."""
        return self.baseline.num_ticks * TICK_US

    def readings(self, pane: Pane, now_us: int, *, num_standing: int = 0) -> list[Reading]:
        """Of the quarter-hour and of the hour that end now: two for each column, statistic and segment with rows.

        Args:
            pane: The sum of all panes held, `held_us` of them, in minutes of the last day at least; those before may
                be whole quarter-hours that end as the current one does. Fewer give what they can.
            now_us: UTC microseconds, a whole minute: rows until then are counted.
            num_standing: Alarms in force, see `AlarmPromise` and `AlarmRuns`.

        Returns:
            First all of the quarter-hour. Where nothing can be said the limit is infinite and the p-value NaN.

        Raises:
            MonitoringError: The pane is of another layout, or the time is no whole minute.
        """
        if pane.layout != self.layout:
            raise MonitoringError("the pane is of another layout", do="count with the layout that is watched")
        if now_us % MINUTE_US:
            raise MonitoringError("panes end with a minute", found=now_us, allowed="whole minutes, in microseconds")
        history = TickHistory.of_pane(pane, now_us, num_ticks=self.baseline.num_ticks)
        tests = [test for column in history.columns.values() for test in self._tests(column, now_us)]
        tests.sort(key=lambda test: test.num_current)
        num_tests = sum(int(test.judgement.is_judged_S.sum()) for test in tests if test.divergence is not KL)
        level = self.promise.level(num_tests, num_standing=num_standing)
        if not tests:
            return []
        # All at once, since a limit is looked for step by step.
        tail = NullTail.joined([test.judgement.tail for test in tests])
        p_values_S = tail.p_value(np.concatenate([test.judgement.value_S for test in tests]))
        found = zip(tests, *(np.split(each_S, len(tests)) for each_S in (tail.limit(level), p_values_S)), strict=True)
        return [
            reading
            for test, limit_S, p_value_S in found
            for reading in _readings(test, history.segments, now_us, limit_S, p_value_S)
        ]

    def _tests(self, column: ColumnHistory, now_us: int) -> Iterator[_Test]:
        counts_TSB = column.counts_TSB.astype(np.float64)
        rows_TS = counts_TSB.sum(axis=-1)
        values_TS = rows_TS - counts_TSB[..., -1]
        has_mean = self.means_too and not isinstance(column.bins, CategoricalBins)
        for num_current in _WINDOWS:
            yield from self._tests_of_shares(column, counts_TSB, rows_TS, now_us, num_current)
            if has_mean:
                yield self._test_of_mean(column, values_TS, now_us, num_current)

    def _tests_of_shares(
        self, column: ColumnHistory, counts_TSB: _Floats, rows_TS: _Floats, now_us: int, num_current: int
    ) -> Iterator[_Test]:
        compared = self.baseline.compared(counts_TSB, rows_TS, now_us, num_current=num_current)
        null = learned_shares(compared, column.shares)
        sizes = compared.num_rows_S, compared.num_reference_S
        for divergence in (PSI, KL) if self.kl_too else (PSI,):
            judgement = judged_shares(
                null, compared.current_SX, sizes[0], compared.reference_SX, sizes[1], compared.num_days_S,
                divergence=divergence,
            )  # fmt: skip
            yield _Test(divergence.name, divergence, column.bins.name, num_current, judgement, *sizes)

    def _test_of_mean(self, column: ColumnHistory, values_TS: _Floats, now_us: int, num_current: int) -> _Test:
        compared = self.baseline.compared(column.sums_TS2, values_TS, now_us, num_current=num_current)
        total_S, num_S = compared.reference_SX[:, 0], np.maximum(compared.num_reference_S, 1)
        variance_S = np.maximum(compared.reference_SX[:, 1] / num_S - (total_S / num_S) ** 2, 0.0)
        null = learned_mean(compared.first(), column.values)
        sizes = compared.num_rows_S, compared.num_reference_S
        judgement = judged_mean(
            null, compared.current_SX[:, 0], sizes[0], total_S, sizes[1], compared.num_days_S, variance_S
        )
        return _Test("mean_shift", None, column.bins.name, num_current, judgement, *sizes)


def _readings(
    test: _Test, segments: tuple[int, ...], now_us: int, limit_S: _Floats, p_value_S: _Floats
) -> Iterator[Reading]:
    judgement = test.judgement
    value_S, limit_S = judgement.value_S, np.where(judgement.is_judged_S, limit_S, np.inf)
    if test.divergence is not None:
        detectable_S, unit = detectable_shares(judgement, limit_S, divergence=test.divergence), "nats"
    else:
        detectable_S, unit = detectable_step(judgement, limit_S), "standard deviations"
        value_S, limit_S = np.sqrt(value_S), np.sqrt(limit_S)
    for place, segment in enumerate(segments):
        is_judged = bool(judgement.is_judged_S[place])
        yield Reading(
            name=test.name,
            column=test.column,
            segment=segment,
            value=float(value_S[place]) if test.num_rows_S[place] else np.nan,
            unit=unit,
            limit=float(limit_S[place]),
            p_value=float(p_value_S[place]) if is_judged else np.nan,
            minimum_detectable=float(detectable_S[place]),
            num_rows=int(test.num_rows_S[place]),
            num_reference_rows=int(test.num_reference_S[place]),
            window_start_us=now_us - test.num_current * TICK_US,
            window_end_us=now_us,
            is_alarm=is_judged and test.divergence is not KL and bool(value_S[place] > limit_S[place]),
        )
