"""Sealed segments become Parquet, each row once, whenever a compaction is killed.

The order is: write a part beside its name and rename it; say in ``compacted.json`` that it is whole, and up to where
each stream stands in the parts; remove the segments. A compaction that begins removes what an earlier one left: parts
that the file doesn't name, and segments that it says are in parts. So at any moment each row is in the segments that
are still to be compacted or in the parts that are named, and never in both.

Letters: R requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rankwell.data.writer import LogWriter
from rankwell.errors import LogError
from rankwell.schema import Schema
from rankwell.serving.log_folder import FolderLock, LogFolder, Segment
from rankwell.serving.log_reader import LogPosition, OnDamage, read_records
from rankwell.serving.served_record import ServedRecord

__all__ = ["CompactionReport", "Rows", "compact_rows", "compact_served", "keys_since"]

_ROWS_PER_WRITE = 4096


@final
@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did.

    Args:
        num_rows: Rows that are in Parquet now and were not before.
        num_duplicates: Rows left out, since an earlier one has their key.
        num_refused: Rows left out, since a log of this schema can't hold them.
        num_segments: Segments that are compacted.
        num_held: Sealed segments that were left, since a reader has still to read them or one before them.
        parts: The files that were written.
        errors: What was damaged or refused: what and where, the first hundred.
    """

    num_rows: int = 0
    num_duplicates: int = 0
    num_refused: int = 0
    num_segments: int = 0
    num_held: int = 0
    parts: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Rows(Protocol):
    """What a compaction must know of a log's records."""

    def keys(self, records: pa.Table) -> NDArray[Any]:
        """What may stand once: of equal keys the earliest is kept."""
        ...

    def times_us(self, records: pa.Table) -> NDArray[np.int64]:
        """By which records are ordered."""
        ...

    def known_keys(self, part: Path, since_us: int) -> NDArray[Any] | None:
        """The keys in a part, or None if all of it is older than `since_us`."""
        ...

    def write(self, part: Path, records: pa.Table, refused: Callable[[LogError], None]) -> int:
        """Write the part, whole or not at all, and say how many rows are in it; 0 leaves no file."""
        ...


def compact_served(
    folder: str | Path,
    *,
    read_by: Sequence[LogPosition] = (),
    retry_s: float = 86_400.0,
    part_bytes: int = 128 * 2**20,
    rows_per_group: int | None = None,
    on_damage: OnDamage | None = None,
) -> CompactionReport:
    """Move the sealed segments of a served log into ``folder/served/parquet``, a log that `open_log` takes.

    The rows of a part stand in the order of their times. Of rows with one request id (an answer that was asked for
    again) the first in time is kept; of two that are compacted at different times, the one that was compacted first.
    Segments of workers that are gone are sealed and taken along; those that are being written are left. Labels are null
    until `rankwell.data.attribution` writes them. A segment that was damaged gives its whole records, and stays as
    ``.damaged``.

    Args:
        folder: As the server's `ServedLog` has it; the server may be running.
        read_by: Positions of readers that have not seen everything: what one of them has still to read is left.
        retry_s: How long after the first answer a request may be asked again.
        part_bytes: So many bytes of segments go into one Parquet file.
        rows_per_group: Of the Parquet files; by default `LogWriter`'s.
        on_damage: As of `read_served`; by default damage is passed over and reported.

    Raises:
        LogError: There is no such log, or another compaction is running.
    """
    log = LogFolder(Path(folder) / "served", "served")
    rows = _ServedRows(log.schema(), rows_per_group)
    return compact_rows(log, rows, read_by=read_by, retry_s=retry_s, part_bytes=part_bytes, on_damage=on_damage)


def compact_rows(
    log: LogFolder,
    rows: Rows,
    *,
    read_by: Sequence[LogPosition],
    retry_s: float,
    part_bytes: int,
    on_damage: OnDamage | None,
) -> CompactionReport:
    """`compact_served` for rows of any kind."""
    held = f"another compaction of {str(log.path)!r} is running"
    with FolderLock.exclusive(log.path / "compaction.lock", held=held):
        _tidy(log)
        log.recover_orphans()
        ready, num_held = _ready(log, read_by)
        report = CompactionReport(num_held=num_held)
        for batch in _batches(ready, part_bytes):
            report = _compact_batch(log, rows, batch, report, round(retry_s * 1e6), on_damage)
        return report


def _tidy(log: LogFolder) -> None:
    state = log.compacted()
    for path in log.parquet.glob("part-*.parquet"):
        if path.name not in state.parts:
            path.unlink()
    for path in log.parquet.glob(".part-*.partial"):
        path.unlink()
    for one in log.list_segments():
        if one.number <= state.last.get(one.worker, (-1, 0))[0]:
            one.path.unlink()


def _ready(log: LogFolder, read_by: Sequence[LogPosition]) -> tuple[list[tuple[Segment, int]], int]:
    """Segments to compact with their bytes, and how many a reader holds back."""
    ready: list[tuple[Segment, int]] = []
    being_written: set[str] = set()  # streams of which a segment is not ready: what comes after it waits, too
    held: dict[str, int] = {}
    for one in log.list_segments():
        size = one.path.stat().st_size if one.is_sealed else 0
        if one.worker in being_written or not one.is_sealed:
            being_written.add(one.worker)
        elif one.worker in held or any(not _is_read(one, size, position) for position in read_by):
            held[one.worker] = held.get(one.worker, 0) + 1
        else:
            ready.append((one, size))
    return ready, sum(held.values())


def _batches(ready: Sequence[tuple[Segment, int]], part_bytes: int) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    num_bytes = 0
    for one, size in ready:
        batch.append(one)
        num_bytes += size
        if num_bytes >= part_bytes:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _is_read(segment: Segment, size: int, position: LogPosition) -> bool:
    return position.streams.get(segment.worker, (-1, 0)) >= (segment.number, size)


def _compact_batch(
    log: LogFolder,
    rows: Rows,
    batch: list[Segment],
    report: CompactionReport,
    retry_us: int,
    on_damage: OnDamage | None,
) -> CompactionReport:
    errors: list[str] = list(report.errors)
    num_damaged = 0

    def damaged(error: LogError) -> None:
        nonlocal num_damaged
        num_damaged += 1
        if on_damage is not None:
            on_damage(error)
        if len(errors) < 100:
            errors.append(str(error))

    num_refused = 0

    def refused(error: LogError) -> None:
        nonlocal num_refused
        num_refused += 1
        damaged(error)

    pieces: list[pa.Table] = []
    kept: set[Segment] = set()
    for one in batch:
        before = num_damaged
        pieces += [records for records, _, _ in read_records(log, None, segments=[one], on_damage=damaged)]
        if num_damaged > before:
            kept.add(one)
    state = log.compacted()
    num_rows = num_duplicates = 0
    part = f"part-{state.next_part:08d}.parquet"
    if pieces:
        records = pa.concat_tables(pieces).combine_chunks()
        first = _first_of_each(log, rows, records, state.parts, retry_us)
        num_duplicates = len(records) - len(first)
        if len(first):
            num_rows = rows.write(log.parquet / part, records.take(pa.array(first)), refused)
    last = dict(state.last)
    for one in batch:
        last[one.worker] = (one.number, one.path.stat().st_size)
    parts = (part,) if num_rows else ()
    state = replace(state, parts=(*state.parts, *parts), last=last, next_part=state.next_part + len(parts))
    log.write_compacted(state)
    for one in batch:
        if one in kept:  # somebody may want to look at what is wrong with it
            one.path.rename(one.path.with_suffix(".damaged"))
        else:
            one.path.unlink()
    return CompactionReport(
        num_rows=report.num_rows + num_rows,
        num_duplicates=report.num_duplicates + num_duplicates,
        num_refused=report.num_refused + num_refused,
        num_segments=report.num_segments + len(batch),
        num_held=report.num_held,
        parts=(*report.parts, *parts),
        errors=tuple(errors),
    )


def _first_of_each(
    log: LogFolder, rows: Rows, records: pa.Table, parts: Sequence[str], retry_us: int
) -> NDArray[np.int64]:
    """The places of the records to keep, in the order of their times."""
    times_us = rows.times_us(records)
    order = np.argsort(times_us, kind="stable")
    keys = rows.keys(records)[order]
    first = np.sort(np.unique(keys, return_index=True)[1])
    since_us = int(times_us.min()) - retry_us
    known = [found for part in parts if (found := rows.known_keys(log.parquet / part, since_us)) is not None]
    if known:
        first = first[~np.isin(keys[first], np.concatenate(known))]
    kept: NDArray[np.int64] = order[first]
    return kept


@final
class _ServedRows:
    """Records of served requests: their key is the request id."""

    def __init__(self, schema: Schema, rows_per_group: int | None) -> None:
        self._schema, self._record, self._rows_per_group = schema, ServedRecord(schema), rows_per_group

    def keys(self, records: pa.Table) -> NDArray[np.int64]:
        return self._record.request_ids_R(records)

    def times_us(self, records: pa.Table) -> NDArray[np.int64]:
        return self._record.times_us_R(records)

    def known_keys(self, part: Path, since_us: int) -> NDArray[np.int64] | None:
        return keys_since(part, str(self._schema.request_id), str(self._schema.time), since_us)

    def write(self, part: Path, records: pa.Table, refused: Callable[[LogError], None]) -> int:
        writer = LogWriter(
            str(part), self._schema, key=None, rows_per_group=self._rows_per_group,
            member_ids="already_pseudonyms", labels="to_come",
        )  # fmt: skip
        num_written = 0
        # A log without a row is an error of the writer's; here it says that all were refused.
        with suppress(_NothingWritten), writer:
            for start in range(0, len(records), _ROWS_PER_WRITE):
                _write(writer, self._record.unpacked(records.slice(start, _ROWS_PER_WRITE)), refused)
            num_written = writer.num_rows
            if num_written == 0:
                raise _NothingWritten
        return num_written


class _NothingWritten(Exception):  # noqa: N818 - it ends a block, and is no error
    pass


def _write(writer: LogWriter, rows: pa.Table, refused: Callable[[LogError], None]) -> None:
    """Write the rows; where one of them is refused, all others."""
    try:
        writer.write(rows)
    except LogError as error:
        if len(rows) == 1:
            refused(error)
            return
        half = len(rows) // 2
        _write(writer, rows.slice(0, half), refused)
        _write(writer, rows.slice(half), refused)


def keys_since(part: Path, key: str, time: str, since_us: int) -> NDArray[Any] | None:
    """The keys in a Parquet file, or None if the latest of its times is before `since_us`."""
    table = pq.read_table(part, columns=[key, time])
    if len(table) == 0 or int(table[time].to_numpy().max()) < since_us:
        return None
    return np.asarray(table[key].to_numpy())
