"""Alarms as causes, the likeliest first: what is other than it was, where, and how much money goes through there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

from rankwell.monitoring.pane_layout import ALL_ROWS
from rankwell.monitoring.reading import Reading

__all__ = ["Cause", "ranked_causes"]

_GREATEST: Final = 1e3
"""So many times its limit an alarm counts at most: a column that is gone altogether is not the only cause there is."""


@final
@dataclass(frozen=True, slots=True)
class Cause:
    """A segment and a column in which something is other than it was.

    Args:
        reading: The worst alarm of the two.
        spend_rate: The segment's share of the spend.
        score: How many times its limit the reading is, times that share.
    """

    reading: Reading
    spend_rate: float
    score: float

    @property
    def segment(self) -> int:
        """Where."""
        return self.reading.segment

    @property
    def column(self) -> str:
        """The feature, logit, probability or action."""
        return self.reading.column

    @property
    def times(self) -> float:
        """How many times its limit the reading is; ∞ where nothing at all is allowed."""
        return self.reading.value / self.reading.limit if self.reading.limit > 0 else math.inf


def ranked_causes(readings: Iterable[Reading], spend_micros: Mapping[int, int]) -> list[Cause]:
    """The alarms of a round, one for each segment and column.

    An alarm of all rows together is named where no segment has one of its own: what moves all of them a little.

    Args:
        readings: Of one time.
        spend_micros: By segment, of those that are watched; where nothing was spent, they count alike.

    >>> def alarm(column, segment, value):
    ...     return Reading(
    ...         name="psi", column=column, segment=segment, value=value, unit="nats", limit=0.1, p_value=0.0,
    ...         minimum_detectable=0.2, num_rows=500, num_reference_rows=9_000, window_start_us=0,
    ...         window_end_us=900_000_000, is_alarm=True,
    ...     )
    >>> causes = ranked_causes([alarm("years", 3, 0.9), alarm("salary", 7, 0.4)], {3: 10, 7: 90})
    >>> [(cause.column, cause.segment, round(cause.score, 2)) for cause in causes]
    [('salary', 7, 3.6), ('years', 3, 0.9)]
    """
    alarms = [reading for reading in readings if reading.is_alarm]
    of_segments = [reading for reading in alarms if reading.segment in spend_micros]
    total = sum(spend_micros.values())
    found: dict[tuple[int, str], Cause] = {}
    for reading in of_segments or [reading for reading in alarms if reading.segment == ALL_ROWS]:
        rate = spend_micros.get(reading.segment, total) / total if total else 1.0
        times = min(reading.value / reading.limit, _GREATEST) if reading.limit > 0 else _GREATEST
        key = reading.segment, reading.column
        if key not in found or times * rate > found[key].score:
            found[key] = Cause(reading, rate, times * rate)
    return sorted(found.values(), key=lambda cause: -cause.score)
