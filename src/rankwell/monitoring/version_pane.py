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
from rankwell.monitoring.tick_history import TICK_US

__all__ = ["VersionPane", "VersionSpan"]

_COLUMNS: Final = pa.schema(
    {"minute": pa.int64(), "bundle_id": pa.string(), "correction_id": pa.string(), "num_requests": pa.int64()}
)
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
        """The minute from which on this bundle has answered most requests; 0 where that is all there are.

        A canary beside it does not count as long as it answers fewer, and a bundle that came back answers since then.
        The minute of the change itself, in which others answered too, is left out.

        Args:
            bundle_id: Of the bundle that answers now.

        >>> served = pa.table({"served_bundle_id": ["b", "a", "b"], "served_correction_id": pa.nulls(3, pa.string())})
        >>> pane = VersionPane.of(served, np.array([0, 61_000_000, 122_000_000]))
        >>> pane.answers_since_us("b"), pane.answers_since_us("a"), VersionPane().answers_since_us("b")
        (120000000, 180000000, 0)
        """
        minutes_N = self.table["minute"].to_numpy()
        is_own_N = pc.equal(self.table["bundle_id"], bundle_id).fill_null(False).to_numpy(zero_copy_only=False)
        minutes_M, minute_N = np.unique(minutes_N, return_inverse=True)
        signed_N = np.where(is_own_N, 1, -1) * self.table["num_requests"].to_numpy()
        more_M = np.bincount(minute_N.reshape(-1), signed_N, minlength=len(minutes_M))
        others_M = minutes_M[more_M <= 0]
        if not len(others_M):
            return 0
        first = int(others_M[-1]) + 1
        has_others = bool((~is_own_N & (minutes_N == first)).any())
        return (first + has_others) * MINUTE_US

    def trials(self, bundle_ids_R: Sequence[str | None], times_us_R: NDArray[np.int64]) -> list[str | None]:
        """Of each request the bundle that answered it beside the one that others got then; None where it was that one.

        The one that others got is that which answered most requests of the quarter-hour, from its first answer in it to
        its last. So a canary is on trial, and what answered before a deploy or behind it is not.

        Args:
            bundle_ids_R: That answered.
            times_us_R: int64, of the requests, which are in this pane.

        >>> ids, times_us = ["a", "c", "a", "b"], MINUTE_US * np.arange(4)
        >>> served = pa.table({"served_bundle_id": ids, "served_correction_id": pa.nulls(4, pa.string())})
        >>> VersionPane.of(served, times_us).trials(ids, times_us)
        [None, 'c', None, None]
        """
        if pc.count_distinct(self.table["bundle_id"]).as_py() < 2:
            return [None] * len(bundle_ids_R)
        ticks = pc.divide(pc.multiply(self.table["minute"], MINUTE_US), TICK_US)
        grouped = pa.table([ticks, *self.table.columns], ["tick", *self.table.column_names])
        grouped = grouped.group_by(["tick", "bundle_id"], use_threads=False).aggregate(
            [("num_requests", "sum"), ("minute", "min"), ("minute", "max")]
        )
        order = [("num_requests_sum", "ascending"), ("bundle_id", "descending")]
        most = {row["tick"]: row for row in grouped.sort_by(order).to_pylist()}
        found: list[str | None] = []
        for bundle_id, time_us in zip(bundle_ids_R, times_us_R.tolist(), strict=True):
            main = most.get(time_us // TICK_US)
            is_beside = main is not None and main["minute_min"] <= time_us // MINUTE_US <= main["minute_max"]
            found.append(bundle_id if is_beside and main is not None and bundle_id != main["bundle_id"] else None)
        return found

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

    @classmethod
    def _summed(cls, columns: list[Any]) -> Self:
        table = pa.table(columns, schema=_COLUMNS)
        summed = table.group_by(_KEYS, use_threads=False).aggregate([("num_requests", "sum")])
        summed = summed.rename_columns([*_KEYS, "num_requests"])
        order = [(name, "ascending") for name in _KEYS]
        return cls(summed.select(_COLUMNS.names).sort_by(order).combine_chunks())
