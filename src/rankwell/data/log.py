"""Request logs: opened from Parquet files near or far, or from a table in memory, and checked against their schema."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, final

from rankwell.data.blocks import Block, BlockReader, FileSource, TableSource
from rankwell.data.chunk import Chunk
from rankwell.data.decode import decode
from rankwell.data.files import FileCache, find_files, open_parquet
from rankwell.data.footers import (
    Footer,
    blocks_of,
    check_same_columns,
    checked_types,
    footer_of,
    refuse_private,
    refuse_requests_over_files,
)
from rankwell.data.keys import Keys, decode_keys
from rankwell.data.layout import Layout, LogLayout
from rankwell.data.memory import arrow_table, sorted_by_request, with_hashed_strings
from rankwell.errors import LogError
from rankwell.schema.schema import Schema

__all__ = ["LogReader", "RequestLog", "log_from_table", "open_log"]

_Result = TypeVar("_Result")


@final
@dataclass(frozen=True, slots=True, eq=False)
class RequestLog:
    """A log of requests that keeps its schema, cut into blocks; made by `open_log` and `log_from_table`.

    Args:
        schema: What its columns mean.
        layout: Its physical columns; of the optional ones, those that it has.
        sources: The files, or the table in memory.
        blocks: The row ranges in which it is read, in file order.
        cache: Local copies of remote files.
    """

    schema: Schema
    layout: LogLayout
    sources: tuple[FileSource | TableSource, ...]
    blocks: tuple[Block, ...]
    cache: FileCache | None = None
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def num_rows(self) -> int:
        """The number of physical rows: requests in the request layout, candidates in the flat one."""
        return sum(block.num_rows for block in self.blocks)

    @property
    def num_requests(self) -> int:
        """The number of requests."""
        return sum(block.num_requests for block in self.blocks)

    @property
    def num_candidates(self) -> int | None:
        """The number of candidates, or None where the metadata doesn't say."""
        known = [block.num_candidates for block in self.blocks if block.num_candidates is not None]
        return sum(known) if len(known) == len(self.blocks) else None

    def shard(self, index: int, count: int) -> RequestLog:
        """The row groups of reader `index` out of `count`: together the shards hold every request exactly once.

        Row groups are dealt to the reader that has the fewest requests so far, so that readers have about equally much.
        Where there are fewer row groups than readers, pieces of row groups are dealt.

        Raises:
            LogError: There is no such reader, or nothing left for one.
        """
        if not 0 <= index < count:
            raise LogError(f"no shard {index} of {count}", allowed=f"0 to {count - 1}", do="number the readers from 0")
        groups: dict[tuple[int, int], list[Block]] = {}
        for block in self.blocks:
            groups.setdefault((block.source, block.row_group), []).append(block)
        dealt = list(groups.values()) if len(groups) >= count else [[block] for block in self.blocks]
        if len(dealt) < count:
            raise LogError(
                f"the log cannot be read by {count} readers",
                found=f"{len(dealt)} row groups",
                allowed="at least one row group for each reader",
                do="write it with smaller row groups, or use fewer readers",
            )
        loads = [0] * count
        mine: list[Block] = []
        for group in dealt:
            lightest = loads.index(min(loads))
            loads[lightest] += sum(block.num_requests for block in group)
            if lightest == index:
                mine.extend(group)
        return replace(self, blocks=tuple(mine), _known={})

    def time_range_us(self) -> tuple[int, int]:
        """The earliest and the latest request time, from Parquet's statistics where there are any.

        Raises:
            LogError: The log has no time.
        """
        return self.remembered("time_range_us", self._time_range_us)

    def _time_range_us(self) -> tuple[int, int]:
        if self.schema.time is None:
            raise LogError("the log has no time", do="declare schema.time, if it has such a column")
        ranges = [block.times_us for block in self.blocks if block.times_us is not None]
        if len(ranges) < len(self.blocks):
            ranges = []
            for keys in self.scan_keys():
                assert keys.times_us_R is not None
                ranges.append((int(keys.times_us_R.min()), int(keys.times_us_R.max())))
        return min(first for first, _ in ranges), max(last for _, last in ranges)

    def reader(self) -> LogReader:
        """A reader of all columns, for a ``with`` statement."""
        return LogReader(self, keys_only=False)

    def scan_keys(self, blocks: Sequence[Block] | None = None) -> Iterator[Keys]:
        """Request ids and times of each block, by default of all; no other column is read."""
        with LogReader(self, keys_only=True) as reader:
            for block in self.blocks if blocks is None else blocks:
                yield reader.keys(block)

    def remembered(self, question: Hashable, answer: Callable[[], _Result]) -> _Result:
        """What `answer()` says, asked once for the life of this log: the log doesn't change, and scans cost."""
        if question not in self._known:
            self._known[question] = answer()
        known: _Result = self._known[question]
        return known


@final
class LogReader:
    """Reads blocks of a log as chunks; use it in a ``with`` statement, from one thread."""

    def __init__(self, log: RequestLog, *, keys_only: bool) -> None:
        keys = {column.name for column in log.layout.columns if column.role in ("request_id", "time")}
        names = [name for name in log.layout.names if not keys_only or name in keys]
        self._log = log
        # Of a log without any key the number of rows is all that is read.
        self._blocks = BlockReader(log.sources, names or log.layout.names[:1], log.cache)

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks.close()

    def keys(self, block: Block) -> Keys:
        """The block's request ids and times."""
        source = self._log.sources[block.source]
        return decode_keys(
            self._blocks.read(block),
            self._log.layout,
            file=source.name,
            first_row=block.start,
            row_number=source.first_row + block.start,
        )

    def read(self, block: Block) -> Chunk:
        """The block, checked and decoded.

        Raises:
            LogError: The file cannot be read, or a value does not keep the schema.
        """
        source = self._log.sources[block.source]
        return decode(
            self._blocks.read(block),
            self._log.schema,
            self._log.layout,
            file=source.name,
            first_row=block.start,
            row_number=source.first_row + block.start,
        )


def open_log(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    schema: Schema,
    *,
    layout: Layout = "requests",
    cache: FileCache | None = None,
) -> RequestLog:
    """Open a log of Parquet files: footers are read and columns checked, values only when they are used.

    Of a flat log with request ids in more than one row group the id column is read once, because a request may begin in
    one row group and end in the next.

    Args:
        paths: A file, a folder of ``*.parquet``, a glob, an fsspec URL (``s3://…``, ``memory://…``), or several.
        schema: What the columns mean.
        layout: "requests" (one row a request, candidates in lists) or "flat" (one row a candidate).
        cache: Local copies of remote files.

    Raises:
        LogError: No such file, an empty, truncated or foreign one, an unknown format version, a column that was
            written as something else, a missing one, one of a wrong type, files that differ in their columns, a request
            that spans two files.
        PrivacyError: A file holds a column declared as PII.

    >>> import pyarrow as pa, pyarrow.parquet as pq, fsspec
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None, time=None)
    >>> table = pa.table({"request_id": [1, 2], "job": [[7, 8], [9]], "click": [[0, 1], [0]]})
    >>> with fsspec.open("memory://doctest/day.parquet", "wb") as file:
    ...     pq.write_table(table, file)
    >>> log = open_log("memory://doctest/day.parquet", schema)
    >>> log.num_requests, log.num_candidates
    (2, 3)
    """
    whole = LogLayout.of(schema, layout)
    opened: list[Footer] = []
    for url in find_files(paths):
        with open_parquet(url, cache) as file:
            opened.append(footer_of(url, file, whole, schema))
    first = opened[0]
    for other in opened[1:]:
        check_same_columns(first, other)
    present = replace(whole, columns=tuple(column for column in whole.columns if column.name in first.types))
    sources: list[FileSource] = []
    first_row = 0
    for one in opened:
        sources.append(FileSource(one.url, first_row, one.bounds))
        first_row += one.bounds[-1]
    if first_row == 0:
        raise LogError(
            f"file {first.url!r} has no rows" if len(opened) == 1 else f"the {len(opened)} files have no rows",
            found="0 rows",
            allowed="at least one request",
            do="give a log of at least one request, or leave the empty files out",
        )
    blocks: list[Block] = []
    edges: list[tuple[str, tuple[int, int] | None]] = []
    for index, one in enumerate(opened):
        found, ids = blocks_of(index, one, sources, present, cache)
        blocks.extend(found)
        edges.append((one.url, ids))
    refuse_requests_over_files(edges)
    return RequestLog(schema, present, tuple(sources), tuple(blocks), cache)


def log_from_table(table: object, schema: Schema, *, layout: Layout = "flat") -> RequestLog:
    """A log from a table in memory: pyarrow, polars, pandas, or anything that speaks the Arrow C stream protocol.

    Ids may be strings (hashed to 63 bits). In a flat table with request ids the rows of one request need not be
    adjacent: the table is then sorted by request id, stably.

    Args:
        table: The table; its memory is lent, not copied, where its columns are already as a log has them.
        schema: What the columns mean.
        layout: "flat" (one row a candidate) or "requests" (one row a request, candidates in lists).

    Raises:
        LogError: No rows, a missing column, or a column of a wrong type.
        PrivacyError: The table holds a column declared as PII.

    >>> import polars
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None, time=None)
    >>> log = log_from_table(
    ...     polars.DataFrame({"request_id": [2, 1, 2], "job": ["cook", "clerk", "pilot"], "click": [0, 0, 1]}), schema)
    >>> log.num_requests, log.num_candidates
    (2, 3)
    """
    whole = LogLayout.of(schema, layout)
    arrow = arrow_table(table)
    name = "the table in memory"
    refuse_private(name, arrow.schema, schema)
    arrow = with_hashed_strings(arrow, whole)
    types = checked_types(name, arrow.schema, whole)
    present = replace(whole, columns=tuple(column for column in whole.columns if column.name in types))
    arrow = arrow.select(list(types)).combine_chunks()
    if arrow.num_rows == 0:
        raise LogError(
            f"{name} has no rows",
            found="0 rows",
            allowed="at least one request",
            do="give a log of at least one request, or leave the empty files out",
        )
    if layout == "flat" and schema.request_id is not None:
        arrow = sorted_by_request(arrow, schema.request_id)
    source = TableSource(arrow)
    opened = Footer(name, types, (0, arrow.num_rows), (None,), (None,))
    return RequestLog(schema, present, (source,), tuple(blocks_of(0, opened, [source], present, None)[0]))
