"""Blocks: the row ranges in which a log is read, cut from metadata so that every plan is made before a byte is decoded.

A block is a row group, or a piece of a row group that is too long, and never cuts a request in two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rankwell.data.files import FileCache, broken_file, open_parquet

__all__ = ["Block", "BlockReader", "FileSource", "TableSource", "cut_at_requests", "cut_rows"]

_LONGEST_BLOCK: Final = 131_072
_LONGEST_IN_CANDIDATES: Final = 1_048_576
_STREAM_ROWS: Final = 32_768
_OPEN_FILES: Final = 8


@final
@dataclass(frozen=True, slots=True)
class FileSource:
    """A Parquet file of the log.

    Args:
        url: Where it is.
        first_row: How many rows of the log stand in the files before it.
        bounds: The row at which each row group begins, and the number of rows.
    """

    url: str
    first_row: int
    bounds: tuple[int, ...]

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.url


@final
@dataclass(frozen=True, slots=True, eq=False)
class TableSource:
    """An Arrow table in memory."""

    table: Any
    first_row: int = 0
    name: str = "the table in memory"


@final
@dataclass(frozen=True, slots=True)
class Block:
    """Rows `start` to `stop` of a source.

    Args:
        source: The source's index.
        start: The first row.
        stop: The row after the last.
        row_group: The row group in which it begins; blocks of one row group are best read in order.
        num_requests: How many requests it holds.
        num_candidates: How many candidates, or None where the metadata doesn't say.
        times_us: The earliest and the latest request time, or None where the metadata doesn't say.
    """

    source: int
    start: int
    stop: int
    row_group: int
    num_requests: int
    num_candidates: int | None
    times_us: tuple[int, int] | None

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start


def cut_rows(bounds: Sequence[int], candidates: Sequence[int | None] | None = None) -> list[int]:
    """Cuts at every row group, and inside those that are too long.

    >>> cut_rows([0, 100, 400_000])
    [0, 100, 100075, 200050, 300025, 400000]
    """
    cuts = [bounds[0]]
    for group, (start, stop) in enumerate(pairwise(bounds)):
        num_pieces = -(-(stop - start) // _LONGEST_BLOCK)
        known = None if candidates is None else candidates[group]
        if known is not None:
            num_pieces = max(num_pieces, min(stop - start, -(-known // _LONGEST_IN_CANDIDATES)))
        cuts.extend(start + (stop - start) * piece // num_pieces for piece in range(1, num_pieces + 1))
    return cuts


def cut_at_requests(cuts: Sequence[int], id_parts: Iterable[npt.NDArray[np.int64]]) -> tuple[list[int], list[int]]:
    """Each cut moved on to the next row that begins a request, with the number of requests up to each cut.

    Args:
        cuts: Ascending rows, from 0 to the number of rows.
        id_parts: The request id of every row, in parts.

    >>> cut_at_requests([0, 2, 4, 6], [np.array([7, 7, 7]), np.array([7, 8, 9])])
    ([0, 4, 4, 6], [0, 1, 1, 3])
    """
    moved, requests_before = [0], [0]
    pending = list(cuts[1:-1])
    row, num_requests, last_id = 0, 0, None
    for ids in id_parts:
        if not len(ids):
            continue
        begins = np.empty(len(ids), bool)
        begins[0] = last_id is None or ids[0] != last_id
        np.not_equal(ids[1:], ids[:-1], out=begins[1:])
        starts = np.flatnonzero(begins)
        while pending:
            index = int(np.searchsorted(starts, pending[0] - row))
            if index == len(starts):
                break
            moved.append(row + int(starts[index]))
            requests_before.append(num_requests + index)
            pending.pop(0)
        num_requests += len(starts)
        row += len(ids)
        last_id = ids[-1]
    for _ in [*pending, None]:
        moved.append(row)
        requests_before.append(num_requests)
    return moved, requests_before


@final
class BlockReader:
    """Reads blocks as Arrow tables; keeps the last few files open, and a long row group streaming.

    Use it in a ``with`` statement, from one thread.

    Args:
        sources: The log's sources.
        names: The physical columns to read.
        cache: Local copies of remote files.
    """

    def __init__(
        self, sources: Sequence[FileSource | TableSource], names: Sequence[str], cache: FileCache | None
    ) -> None:
        self._sources, self._names, self._cache = sources, list(names), cache
        self._files: dict[int, Any] = {}
        self._stream: _Stream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files that are open."""
        self._stream = None
        for file in self._files.values():
            file.close(force=True)
        self._files.clear()

    def read(self, block: Block) -> Any:
        """The block's rows as a `pyarrow.Table`.

        Raises:
            LogError: The file cannot be read.
        """
        source = self._sources[block.source]
        if isinstance(source, TableSource):
            return source.table.slice(block.start, block.num_rows).select(self._names)
        try:
            parts = []
            for group in range(block.row_group, len(source.bounds) - 1):
                start, stop = source.bounds[group], source.bounds[group + 1]
                if start >= block.stop:
                    break
                first, after = max(block.start, start) - start, min(block.stop, stop) - start
                if first < after:
                    parts.append(self._rows(block.source, group, first, after, stop - start))
            return parts[0] if len(parts) == 1 else pa.concat_tables(parts)
        except (pa.ArrowInvalid, OSError) as error:
            raise broken_file(source.url, error) from error

    def _rows(self, source: int, group: int, first: int, after: int, num_rows: int) -> Any:
        wanted = after - first
        if num_rows <= _LONGEST_BLOCK and 4 * wanted >= num_rows:
            table = self._file(source).read_row_group(group, columns=self._names)
            return table if wanted == num_rows else table.slice(first, wanted)
        if first == 0 and 4 * wanted < min(num_rows, _LONGEST_BLOCK):
            # The tail of a request that began in the row group before: a look at the head, not a stream.
            return _Stream(self._batches(source, group, wanted), source, group).take(first, wanted)
        if self._stream is None or not self._stream.stands_before(source, group, first):
            self._stream = _Stream(self._batches(source, group, _STREAM_ROWS), source, group)
        return self._stream.take(first, wanted)

    def _batches(self, source: int, group: int, batch_size: int) -> Iterator[Any]:
        batches: Iterator[Any] = self._file(source).iter_batches(
            batch_size=batch_size, row_groups=[group], columns=self._names
        )
        return batches

    def _file(self, source: int) -> Any:
        file = self._files.pop(source, None)
        if file is None:
            if len(self._files) >= _OPEN_FILES:
                self._files.pop(next(iter(self._files))).close(force=True)
            named = self._sources[source]
            assert isinstance(named, FileSource)
            file = open_parquet(named.url, self._cache)
        self._files[source] = file  # the last used stands last
        return file


@final
class _Stream:
    """A row group decoded bit by bit, so that no more of it than asked for is ever held."""

    def __init__(self, batches: Iterator[Any], source: int, group: int) -> None:
        self._batches, self._place = batches, (source, group)
        self._row = 0
        self._left: Any = None

    def stands_before(self, source: int, group: int, row: int) -> bool:
        return self._place == (source, group) and self._row <= row

    def take(self, first: int, num_rows: int) -> Any:
        """Rows `first` to `first + num_rows` of the row group, as a table."""
        self._next(first - self._row, keep=False)
        return pa.Table.from_batches(self._next(num_rows, keep=True))

    def _next(self, num_rows: int, *, keep: bool) -> list[Any]:
        kept = []
        while num_rows > 0:
            batch = self._left if self._left is not None else next(self._batches)
            used = min(num_rows, batch.num_rows)
            if keep:
                kept.append(batch.slice(0, used))
            self._left = batch.slice(used) if used < batch.num_rows else None
            self._row += used
            num_rows -= used
        return kept
