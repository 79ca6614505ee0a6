"""A few served requests that an alarm is about, out of the log's segments: for those who want to see one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankwell.data.layout import LogColumn, LogLayout
from rankwell.data.served_columns import served_probability
from rankwell.mitigation.newest_records import newest_served
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.pane_layout import ALL_ROWS, CategoricalBins
from rankwell.schema import Schema
from rankwell.serving.log_folder import LogFolder

__all__ = ["RequestToLookAt", "requests_to_look_at"]

_PRICE: Final = "served_price_micros"
_BUNDLE: Final = "served_bundle_id"
_MOST_SEGMENTS: Final = 8
"""Of each stream, its newest: a few requests are wanted, and not all there are."""
_MOST_REQUESTS: Final = 2**62


@final
@dataclass(frozen=True, slots=True)
class RequestToLookAt:
    """A candidate that was shown, and the request that it was shown in.

    Args:
        request_id, time_us, item_id, position: As in the log.
        bundle_id, correction_id: That answered.
        probability: As it was served.
        price_micros: Charged for showing it; None where nothing was.
        value: Of the column that is looked at; NaN where it is none of the log's.
    """

    request_id: int
    time_us: int
    item_id: int
    position: int
    bundle_id: str
    correction_id: str | None
    probability: float
    price_micros: int | None
    value: float


def requests_to_look_at(
    folder: str | Path,
    *,
    action: str,
    column: str,
    segments: CategoricalBins | None,
    segment: int,
    since_us: int,
    until_us: int,
    bundle_id: str | None = None,
    num: int = 5,
) -> tuple[RequestToLookAt, ...]:
    """Those that cost most, each request once.

    Args:
        folder: That a server logs to.
        action: Whose probability is told.
        column: Whose value is told, a feature's.
        segments: How rows are told apart; `segment` is one of them, or `ALL_ROWS`.
        segment: Whose rows.
        since_us, until_us: UTC microseconds.
        bundle_id: Whose answers; None: everyone's.
        num: At most so many.

    Returns:
        Fewer, or none, where the log's newest segments don't go back so far, or were compacted.

    Raises:
        LogError: There is no such log.
    """
    log = LogFolder(Path(folder) / "served", "served")
    schema = log.schema()
    best: list[RequestToLookAt] = []
    for served in newest_served(
        log, schema, since_us, until_us, most_segments=_MOST_SEGMENTS, most_rows=_MOST_REQUESTS
    ):
        if bundle_id is not None:
            served = served.filter(pc.equal(served[_BUNDLE].cast(pa.string()), bundle_id))
        more = _shown(served, schema, action, column, segments, segment)
        best = _dearest([*best, *more], num)
    return tuple(best)


def _shown(
    served: Any, schema: Schema, action: str, column: str, segments: CategoricalBins | None, segment: int
) -> list[RequestToLookAt]:
    layout = LogLayout.of(schema, "requests")
    used = (layout.of_role("request_id"), layout.of_role("position"), _column_of_item(layout, schema))
    request, position, item = (one.name for one in used if one is not None)  # a served log has all three
    p, has_value = served_probability(action), column in served.column_names
    names = [request, item, position, p, _PRICE, _BUNDLE, "served_correction_id"]
    names += [column] if has_value else []
    names += [] if segments is None else [segments.name]
    rows = FlatRows.of_table(served, schema, names, rows="shown")
    if segment != ALL_ROWS:
        rows = rows.kept(rows.segments(segments) == segment)
    prices_C = np.asarray(rows.columns[_PRICE], np.float64)
    worth_C = np.where(np.isnan(prices_C), 0.0, prices_C) * rows.columns[p]
    value_C = np.asarray(rows.columns[column], np.float64) if has_value else np.full(len(rows), np.nan)
    return [
        RequestToLookAt(
            request_id=int(rows.columns[request][c]),
            time_us=int(rows.times_us_C[c]),
            item_id=int(rows.columns[item][c]),
            position=int(rows.columns[position][c]),
            bundle_id=str(rows.columns[_BUNDLE][c]),
            correction_id=rows.columns["served_correction_id"][c],
            probability=float(rows.columns[p][c]),
            price_micros=None if np.isnan(prices_C[c]) else int(prices_C[c]),
            value=float(value_C[c]),
        )
        for c in np.lexsort((rows.columns[p], worth_C))[::-1][:200]
    ]


def _column_of_item(layout: LogLayout, schema: Schema) -> LogColumn | None:
    return next((column for column in layout.columns if column.owner == schema.item), None)


def _dearest(found: list[RequestToLookAt], num: int) -> list[RequestToLookAt]:
    kept: dict[int, RequestToLookAt] = {}
    for one in sorted(found, key=lambda one: (-(one.price_micros or 0), -one.probability, one.time_us)):
        kept.setdefault(one.request_id, one)
        if len(kept) == num:
            break
    return list(kept.values())
