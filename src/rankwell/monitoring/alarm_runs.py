"""One long disturbance is one alarm: readings above their limits, put together to runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Self, final

from rankwell.errors import MonitoringError
from rankwell.monitoring.reading import Reading

__all__ = ["AlarmRun", "AlarmRuns"]

_HOUR_US: Final = 3_600_000_000


@final
@dataclass(frozen=True, slots=True)
class AlarmRun:
    """An alarm from its first reading to its last.

    Args:
        name: The statistic.
        column: What was looked at.
        segment: Where.
        since_us: When the first window above the limit ended, UTC microseconds.
        last_us: When the last one did so far.
    """

    name: str
    column: str
    segment: int
    since_us: int
    last_us: int

    @property
    def key(self) -> tuple[str, str, int]:
        """That of its readings."""
        return self.name, self.column, self.segment


@final
@dataclass(frozen=True, slots=True)
class AlarmRuns:
    """The alarms in force; nothing is changed in place.

    A statistic of a column and segment is one alarm, whichever of its windows shows it. It goes on while any passes
    within an hour of the last, since so long the hour's window remembers, and is over after that: the next is new.

    Args:
        standing: By their beginning.
        rearm_us: After how long without a reading above the limit an alarm is over.

    >>> reading = Reading(
    ...     name="psi", column="years", segment=-4, value=0.31, unit="nats", limit=0.12, p_value=1e-9,
    ...     minimum_detectable=0.2, num_rows=500, num_reference_rows=48_000, window_start_us=0,
    ...     window_end_us=900_000_000, is_alarm=True,
    ... )
    >>> runs, new = AlarmRuns().after([reading], now_us=900_000_000)
    >>> [run.column for run in new], len(runs.after([reading], now_us=1_800_000_000)[1])
    (['years'], 0)
    >>> AlarmRuns.from_json(runs.to_json()) == runs
    True
    """

    standing: tuple[AlarmRun, ...] = field(default=())
    rearm_us: int = _HOUR_US

    def after(self, readings: Iterable[Reading], *, now_us: int) -> tuple[AlarmRuns, tuple[AlarmRun, ...]]:
        """The alarms in force after readings of one time, and those of them that are new.

        Args:
            readings: All that were made.
            now_us: When, UTC microseconds. The same or an earlier time again raises nothing anew.
        """
        standing = {
            run.key: run
            for run in self.standing
            if now_us - run.last_us <= self.rearm_us
        }  # fmt: skip
        new = []
        for reading in readings:
            key = reading.key
            if not reading.is_alarm:
                continue
            if key in standing:
                standing[key] = replace(standing[key], last_us=max(standing[key].last_us, now_us))
            else:
                standing[key] = AlarmRun(*key, since_us=now_us, last_us=now_us)
                new.append(standing[key])
        ordered = sorted(standing.values(), key=lambda run: (run.since_us, *run.key))
        return replace(self, standing=tuple(ordered)), tuple(new)

    def to_json(self) -> str:
        """For a file: all that a watch has to keep besides its panes."""
        rows = [[*run.key, run.since_us, run.last_us] for run in self.standing]
        return json.dumps({"standing": rows, "rearm_us": self.rearm_us})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote.

        Raises:
            MonitoringError: It is something else.
        """
        try:
            read = json.loads(text)
            return cls(tuple(AlarmRun(*row) for row in read["standing"]), int(read["rearm_us"]))
        except (ValueError, TypeError, KeyError) as error:
            raise MonitoringError(
                "these are no alarms in force", found=str(error), do="begin with `AlarmRuns()`"
            ) from error
