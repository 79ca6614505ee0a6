"""What a log holds of a time, read from the newest segment back: for those who look again at what was counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from rankwell.schema import Schema
from rankwell.serving.log_folder import LogFolder, Segment
from rankwell.serving.log_reader import read_records
from rankwell.serving.served_record import ServedRecord

__all__ = ["newest_actions", "newest_served"]

_ALL: Final = 2**62


def newest_served(
    log: LogFolder, schema: Schema, since_us: int, until_us: int, *, most_segments: int, most_rows: int
) -> Iterator[Any]:
    """What was served in a time, stream by stream, as far as it lies in there and is not compacted.

    Args:
        log: Of what was served.
        schema: The log's.
        since_us, until_us: UTC microseconds.
        most_segments, most_rows: Of each stream, its newest; the segment in which the last row lies is read whole.
    """
    unpacked = ServedRecord(schema).unpacked
    return _newest(log, str(schema.time), unpacked, since_us, until_us, most_segments, most_rows)


def newest_actions(log: LogFolder, since_us: int, until_us: int) -> Iterator[Any]:
    """The actions of a time, in the same way; all of them, since a row without its action has another label."""
    return _newest(log, "time_us", lambda records: records, since_us, until_us, _ALL, _ALL)


def _newest(
    log: LogFolder,
    time: str,
    unpacked: Callable[[Any], Any],
    since_us: int,
    until_us: int,
    most_segments: int,
    most_rows: int,
) -> Iterator[Any]:
    by_worker: dict[str, list[Segment]] = {}
    for one in log.list_segments():
        by_worker.setdefault(one.worker, []).append(one)
    for mine in by_worker.values():
        num = 0
        for one in mine[: -most_segments - 1 : -1]:
            newest_us = -1
            for records, _, _ in read_records(log, None, on_damage=lambda _: None, segments=[one]):
                rows = unpacked(records)
                times = pc.cast(rows[time], pa.int64())
                newest_us = max(newest_us, pc.max(times).as_py() or 0)
                inside = rows.filter(pc.and_(pc.greater_equal(times, since_us), pc.less(times, until_us)))
                num += len(inside)
                if len(inside):
                    yield inside
            if 0 <= newest_us < since_us or num >= most_rows:
                break
