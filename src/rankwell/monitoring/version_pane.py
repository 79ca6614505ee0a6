"""Which bundle and which correction answered, minute by minute: what a deploy did to traffic, by the log itself.

Letters in names: R requests · N cells, one for each minute, bundle and correction that answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rankwell.errors import MonitoringError
from rankwell.monitoring.pane import MINUTE_US

__all__ = ["VersionPane", "VersionSpan"]

_COLUMNS: Final = pa.schema(
    {"minute": pa.int64(), "bundle_id": pa.string(), "correction_id": pa.string(), "num_requests": pa.int64()}
)
_NEAR: Final = 15
"""Minutes on both sides, within which two bundles that answer do so side by side."""
_KEYS: Final = ["minute", "bundle_id", "correction_id"]


@final
@dataclass(frozen=True, slots=True)
class VersionSpan:
    """A bundle or a correction, from its first answer to its last.

    Args:
        kind: "bundle" or "correction".
        version: Its id.
        first_us, last_us: The minutes of its first and of its last request, UTC microseconds.
        num_requests: That it answered.
    """

    kind: str
    version: str
    first_us: int
    last_us: int
    num_requests: int


@final
class _Answers:
    """What one bundle answered: minutes, ascending, and how many in each."""

    def __init__(self, minutes_M: NDArray[np.int64], num_M: NDArray[np.int64]) -> None:
        self.minutes_M = minutes_M
        self._before_M = np.concatenate([[0], np.cumsum(num_M)])

    def num(self, minutes_Q: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
        """How many in [minute + first, minute + last] of each minute."""
        until_Q = np.searchsorted(self.minutes_M, minutes_Q + last, side="right")
        return np.asarray(self._before_M[until_Q] - self._before_M[np.searchsorted(self.minutes_M, minutes_Q + first)])


_NOTHING: Final = _Answers(np.zeros(0, np.int64), np.zeros(0, np.int64))


@final
@dataclass(frozen=True, slots=True, eq=False)
class VersionPane:
    """How many requests each bundle answered in each minute, with which correction; panes add up by `+`.

    Args:
        table: Columns minute (since 1970 UTC), bundle_id, correction_id (null: none was in force) and num_requests;
            ordered, each cell once.

    >>> served = pa.table({"served_bundle_id": ["a", "a", "b"], "served_correction_id": [None, None, "m1"]})
    >>> pane = VersionPane.of(served, np.array([0, 1, 61_000_000]))
    >>> [(span.kind, span.version, span.first_us, span.num_requests) for span in (pane + pane).spans()]
    [('bundle', 'a', 0, 4), ('bundle', 'b', 60000000, 2), ('correction', 'm1', 60000000, 2)]
    """

    table: Any = field(default_factory=lambda: _COLUMNS.empty_table())

    @classmethod
    def of(cls, served: Any, times_us_R: NDArray[np.int64]) -> Self:
        """The pane of served requests.

        Args:
            served: Rows of the log, with the served columns.
            times_us_R: int64, of each of them.
        """
        minutes_R = pa.array(times_us_R // MINUTE_US, pa.int64())
        ids = [served[f"served_{name}"].combine_chunks().cast(pa.string()) for name in ("bundle_id", "correction_id")]
        return cls._summed([minutes_R, *ids, pa.array(np.ones(len(times_us_R), np.int64))])

    def __add__(self, other: VersionPane) -> VersionPane:
        """The pane of the requests of both."""
        both = pa.concat_tables([self.table, other.table]).combine_chunks()
        return VersionPane._summed([both[name] for name in _COLUMNS.names])

    def __len__(self) -> int:
        """How many cells have requests."""
        return len(self.table)

    def between(self, from_us: int, until_us: int) -> VersionPane:
        """The minutes that begin in [from_us, until_us)."""
        time_us = pc.multiply(self.table["minute"], MINUTE_US)
        return VersionPane(
            self.table.filter(pc.and_(pc.greater_equal(time_us, from_us), pc.less(time_us, until_us))).combine_chunks()
        )

    def answers_since_us(self, bundle_id: str) -> int:
        """The minute from which on requests are this bundle's, but for those of bundles on trial; 0: all there are.

        What another answered counts unless this one answered more within a quarter-hour of it on both sides, and on
        both sides of it. The minute of a change, in which both answered, is left out.

        Args:
            bundle_id: Of the bundle that answers now.

        >>> served = pa.table({"served_bundle_id": ["b", "a", "b"], "served_correction_id": pa.nulls(3, pa.string())})
        >>> pane = VersionPane.of(served, np.array([0, 61_000_000, 122_000_000]))
        >>> pane.answers_since_us("b"), pane.answers_since_us("a"), VersionPane().answers_since_us("b")
        (0, 180000000, 0)
        """
        answers = self._answers()
        own = answers.pop(bundle_id, _NOTHING)
        since = 0
        for other in answers.values():
            minutes_M = other.minutes_M
            is_more_M = own.num(minutes_M, -_NEAR, _NEAR) > other.num(minutes_M, -_NEAR, _NEAR)
            is_around_M = (own.num(minutes_M, -_NEAR, -1) > 0) & (own.num(minutes_M, 0, _NEAR) > 0)
            since = max(since, int((minutes_M[~(is_more_M & is_around_M)] + 1).max(initial=0)))
        return since * MINUTE_US

    def trials(self, bundle_ids_R: Sequence[str | None], times_us_R: NDArray[np.int64]) -> list[str | None]:
        """Of each request the bundle that answered it beside the one that others got then; None where it was that one.

        The one that others got is that which answered most within a quarter-hour on both sides, if it did so before
        that minute and behind it. So a canary is on trial as long as its share is below half, and what answered before
        a deploy, or behind it, is not.

        Args:
            bundle_ids_R: That answered.
            times_us_R: int64, of the requests, which are in this pane.

        >>> ids, times_us = ["a", "c", "a", "b"], MINUTE_US * np.arange(4)
        >>> served = pa.table({"served_bundle_id": ids, "served_correction_id": pa.nulls(4, pa.string())})
        >>> VersionPane.of(served, times_us).trials(ids, times_us)
        [None, 'c', None, None]
        """
        minutes_Q, place_R = np.unique(times_us_R // MINUTE_US, return_inverse=True)
        if not len(minutes_Q):
            return []
        near_us = _NEAR * MINUTE_US
        nearby = self.between(int(times_us_R.min()) // MINUTE_US * MINUTE_US - near_us, int(times_us_R.max()) + near_us)
        answers = nearby._answers()
        if len(answers) < 2:
            return [None] * len(place_R)
        num_BQ, before_BQ, behind_BQ = (
            np.stack([one.num(minutes_Q, *around) for one in answers.values()])
            for around in ((-_NEAR, _NEAR), (-_NEAR, -1), (1, _NEAR))
        )
        most_Q = num_BQ.argmax(axis=0)
        is_around_Q = np.take_along_axis((before_BQ > 0) & (behind_BQ > 0), most_Q[None], axis=0)[0]
        ids = list(answers)
        main_Q = [ids[most] if is_around else None for most, is_around in zip(most_Q, is_around_Q, strict=True)]
        return [
            None if main_Q[q] is None or main_Q[q] == bundle_id else bundle_id
            for bundle_id, q in zip(bundle_ids_R, place_R.reshape(-1).tolist(), strict=True)
        ]

    def spans(self) -> tuple[VersionSpan, ...]:
        """Of each bundle, and of each correction, by their first request; the time without a correction is none."""
        spans = [span for kind in ("bundle", "correction") for span in self._spans_of(kind)]
        return tuple(sorted(spans, key=lambda span: (span.first_us, span.kind, span.version)))

    @classmethod
    def from_table(cls, table: Any, *, file: str = "the table") -> Self:
        """The pane whose `table` was kept.

        Raises:
            MonitoringError: It is something else.
        """
        if not table.schema.equals(_COLUMNS):
            raise MonitoringError(
                f"{file!r} does not hold which bundles answered", found=str(table.schema), do="count them again"
            )
        return cls(table.combine_chunks())

    def _spans_of(self, kind: str) -> Iterable[VersionSpan]:
        table = self.table.filter(pc.is_valid(self.table[f"{kind}_id"]))
        grouped = table.group_by(f"{kind}_id", use_threads=False).aggregate(
            [("minute", "min"), ("minute", "max"), ("num_requests", "sum")]
        )
        for row in grouped.to_pylist():
            yield VersionSpan(
                kind, row[f"{kind}_id"], row["minute_min"] * MINUTE_US, row["minute_max"] * MINUTE_US,
                row["num_requests_sum"],
            )  # fmt: skip

    def _answers(self) -> dict[str, _Answers]:
        """By bundle, in the order of their ids; those whose bundle is unknown are left out."""
        known = self.table.filter(pc.is_valid(self.table["bundle_id"]))
        ids_N = known["bundle_id"].to_numpy(zero_copy_only=False).astype(str)
        minutes_N, num_N = known["minute"].to_numpy(), known["num_requests"].to_numpy()
        return {str(one): _Answers(minutes_N[ids_N == one], num_N[ids_N == one]) for one in np.unique(ids_N)}

    @classmethod
    def _summed(cls, columns: list[Any]) -> Self:
        table = pa.table(columns, schema=_COLUMNS)
        summed = table.group_by(_KEYS, use_threads=False).aggregate([("num_requests", "sum")])
        summed = summed.rename_columns([*_KEYS, "num_requests"])
        order = [(name, "ascending") for name in _KEYS]
        return cls(summed.select(_COLUMNS.names).sort_by(order).combine_chunks())
