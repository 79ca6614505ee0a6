"""Request logs are written here: ids for strings, pseudonyms for members, no names, and no half file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import fields
from types import TracebackType
from typing import Any, Final, Literal, Self, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankwell.data.atomic_file import AtomicFile
from rankwell.data.decode import decode
from rankwell.data.input_columns import input_table, names_within, with_labels_to_come, written_column
from rankwell.data.layout import FORMAT_VERSION, Layout, LogLayout
from rankwell.data.memory import ArrowStream
from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.served_columns import check_served_columns, served_fields
from rankwell.errors import LogError, PrivacyError
from rankwell.schema import Schema
from rankwell.types import Impression

__all__ = ["FORMAT_VERSION", "LogWriter", "impressions_table", "write_log"]

_ROWS_PER_GROUP: Final[dict[Layout, int]] = {"requests": 4096, "flat": 65_536}


@final
class LogWriter:
    """Writes one Parquet file of a request log, as a context manager; the file appears when the block ends well.

    What is written is what the schema names, what serving adds to it (`rankwell.data.served_columns`), and nothing
    else. Strings in id columns become ids
    (`rankwell.data.string_ids`), member ids become pseudonyms (`rankwell.data.pseudonyms`), timestamps become UTC
    microseconds, and every value is checked before it is written, so that a log that was written can be read.

    Args:
        path: A local path or an fsspec URL. An older file there stays whole until the new one takes its place.
        schema: The meaning of the columns.
        key: Makes pseudonyms of member ids; None only for a log without members or with pseudonyms already.
        layout: "requests" (a row a request) or "flat" (a row a candidate).
        rows_per_group: Rows of a row group, the unit in which readers shuffle; by default 4,096 requests or 65,536
            flat rows. In a flat log a group ends with the request that fills it.
        member_ids: "raw", or "already_pseudonyms" where another writer with the key has made them.
        labels: "given", or "to_come" for served requests whose actions aren't known yet: absent label columns are
            written as null, that is as not observed.
        extra: "refuse" columns that the schema doesn't name, or "drop" them.
        compression: "zstd" (smaller) or "lz4" (decodes faster).

    Raises:
        PrivacyError: A column declared as PII stands in the input, or member ids would be written as they are.
        LogError: The input does not keep the schema; nothing of that `write` is kept. Or nothing was written at all.

    >>> import tempfile
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job", time=None)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with LogWriter(f"{folder}/log.parquet", schema, key=PseudonymKey(bytes(range(32)))) as writer:
    ...         writer.write({"request_id": [1], "member_id": ["ann"], "job": [["cook", "smith"]], "click": [[1, 0]]})
    ...     pq.read_table(f"{folder}/log.parquet").schema.types
    [DataType(int64), DataType(int64), ListType(list<element: int64>), ListType(list<element: int8>)]
    """

    def __init__(
        self,
        path: str,
        schema: Schema,
        *,
        key: PseudonymKey | None,
        layout: Layout = "requests",
        rows_per_group: int | None = None,
        member_ids: Literal["raw", "already_pseudonyms"] = "raw",
        labels: Literal["given", "to_come"] = "given",
        extra: Literal["refuse", "drop"] = "refuse",
        compression: Literal["zstd", "lz4"] = "zstd",
    ) -> None:
        _check_key(schema, key, member_ids)
        if rows_per_group is not None and rows_per_group < 1:
            raise LogError(
                "rows_per_group is out of range",
                found=rows_per_group,
                allowed="1 or more",
                do="leave it out, or give the rows of a row group",
            )
        self._path, self._schema, self._key = str(path), schema, key
        self._layout = LogLayout.of(schema, layout)
        self._served = served_fields(schema) if layout == "requests" else ()
        self._rows_per_group = rows_per_group or _ROWS_PER_GROUP[layout]
        self._fill_labels, self._drop_extra, self._compression = labels == "to_come", extra == "drop", compression
        self._arrow_schema: pa.Schema | None = None
        self._held: list[pa.Table] = []
        self._num_held = self._num_rows = 0
        self._broken = False
        self._open: ExitStack | None = None
        self._parquet: pq.ParquetWriter | None = None
        self._stream: Any = None

    @property
    def num_rows(self) -> int:
        """The rows taken so far."""
        return self._num_rows

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._stream = self._open.enter_context(AtomicFile(self._path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._open is not None
        stack, self._open = self._open, None
        try:
            with stack:
                # Raised inside the stack, so that the atomic file sees it and takes its bytes away.
                if error is not None:
                    raise error
                self._finish()
        finally:
            self._abandon()

    def write(self, data: pa.Table | pa.RecordBatch | ArrowStream | Mapping[str, object]) -> None:
        """Add rows.

        Args:
            data: An Arrow table or record batch, any table that speaks Arrow's C stream (polars, pandas), or a mapping
                from column name to values.

        Raises:
            PrivacyError, LogError: See the class. Rows of earlier calls stay.
        """
        if self._open is None:
            raise LogError(f"the log {self._path!r} isn't open", do="write inside `with LogWriter(...) as writer:`")
        table = self._kept_columns(input_table(data, self._path))
        if len(table) == 0:
            return
        # The reader's own eyes: what it would refuse is not written.
        present = LogLayout(self._layout.kind, tuple(c for c in self._layout.columns if c.name in table.column_names))
        decode(table, self._schema, present, file=self._path, first_row=self._num_rows, row_number=self._num_rows)
        check_served_columns(table, self._layout, file=self._path)
        self._held.append(table)
        self._num_held += len(table)
        self._num_rows += len(table)
        if self._num_held >= self._rows_per_group:
            self._flush(last=False)

    def _kept_columns(self, table: pa.Table) -> pa.Table:
        pii = {name.casefold() for name in self._schema.pii}
        named = sorted({name for field in table.schema for name in names_within(field) if name.casefold() in pii})
        if named:
            raise PrivacyError(
                f"columns declared as PII stand in the input of the log {self._path!r}",
                found=named,
                allowed="none of the columns in the schema's `pii`",
                do="leave them out before the log is written",
            )
        served = {field.name for field in self._served}
        extra = [name for name in table.column_names if name not in served and name not in self._layout.names]
        if extra and not self._drop_extra:
            raise LogError(
                f"the schema doesn't name these columns of the input of the log {self._path!r}",
                found=extra,
                allowed=list(self._layout.names),
                do='declare them in the schema, or pass extra="drop"',
            )
        repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
        if repeated:
            raise LogError(
                "columns of the input stand twice", found=repeated, allowed="distinct names", do="drop one of each"
            )
        if self._fill_labels:
            table = with_labels_to_come(table, self._layout)
        missing = [column.name for column in self._layout.columns if column.required]
        missing = [name for name in dict.fromkeys(missing) if name not in table.column_names]
        if missing:
            raise LogError(
                f"columns {missing} are in the schema but not in the input of the log {self._path!r}",
                found=table.column_names,
                allowed=list(self._layout.arrow_schema().names),
                do="add the columns, or mend the schema",
            )
        if self._arrow_schema is None:
            optional = self._layout.arrow_schema(optional=True)
            known = [*optional, *self._served]
            self._arrow_schema = pa.schema([field for field in known if field.name in table.column_names])
        elif set(self._arrow_schema.names) != set(table.column_names) & (served | set(self._layout.names)):
            raise LogError(
                "the input has other columns than the rows before it",
                found=table.column_names,
                allowed=self._arrow_schema.names,
                do="write the same columns each time",
            )
        return pa.table(
            [written_column(table[f.name], f, self._layout, self._key) for f in self._arrow_schema],
            schema=self._arrow_schema,
        )

    def _flush(self, *, last: bool) -> None:
        table = pa.concat_tables(self._held)
        start = 0
        try:
            for stop in self._group_ends(table, last=last):
                self._write_group(table.slice(start, stop - start))
                start = stop
        except BaseException:
            self._broken = True
            raise
        self._held = [table.slice(start)] if start < len(table) else []
        self._num_held = len(table) - start

    def _group_ends(self, table: pa.Table, *, last: bool) -> Iterable[int]:
        request_id = self._schema.request_id
        if self._layout.kind == "requests" or request_id is None:
            ends = np.arange(1, len(table) // self._rows_per_group + 1) * self._rows_per_group
        else:
            ids = table[request_id].to_numpy()
            starts = np.flatnonzero(ids[1:] != ids[:-1]) + 1
            ends_list: list[int] = []
            while (start := (ends_list[-1] if ends_list else 0) + self._rows_per_group) <= len(table):
                place = int(np.searchsorted(starts, start))
                if place == len(starts):
                    break  # the last request may go on in the next write
                ends_list.append(int(starts[place]))
            ends = np.array(ends_list, np.int64)
        if last and (len(ends) == 0 or ends[-1] < len(table)):
            ends = np.append(ends, len(table))
        return [int(end) for end in ends]

    def _write_group(self, table: pa.Table) -> None:
        if self._parquet is None:
            assert self._arrow_schema is not None
            metadata = {
                "rankwell.format_version": FORMAT_VERSION,
                "rankwell.layout": self._layout.kind,
                "rankwell.schema": self._schema.to_json(),
            }
            self._parquet = pq.ParquetWriter(
                self._stream,
                self._arrow_schema.with_metadata(metadata),
                compression=self._compression,
                write_page_checksum=True,
            )
        self._parquet.write_table(table, row_group_size=max(len(table), 1))

    def _finish(self) -> None:
        if self._broken:
            raise LogError(
                f"the log {self._path!r} is given up: an earlier write failed half-way", do="write it again as a whole"
            )
        if self._num_rows == 0:
            raise LogError(
                f"nothing was written to the log {self._path!r}", allowed="1 row or more", do="leave the empty log out"
            )
        if self._held:
            self._flush(last=True)
        assert self._parquet is not None
        self._parquet.close()

    def _abandon(self) -> None:
        """Let go of a Parquet writer that did not end well: collected open, it would try to write its footer."""
        if self._parquet is not None and self._parquet.is_open:
            with suppress(Exception):
                self._parquet.close()
            self._parquet.is_open = False
        self._parquet, self._stream, self._held = None, None, []


def write_log(
    table: pa.Table | pa.RecordBatch | ArrowStream | Mapping[str, object],
    path: str,
    schema: Schema,
    *,
    key: PseudonymKey | None,
    layout: Layout = "requests",
    rows_per_group: int | None = None,
    member_ids: Literal["raw", "already_pseudonyms"] = "raw",
    labels: Literal["given", "to_come"] = "given",
    extra: Literal["refuse", "drop"] = "refuse",
    compression: Literal["zstd", "lz4"] = "zstd",
) -> None:
    """Write one table as one log; see `LogWriter`.

    >>> import tempfile
    >>> from rankwell.data.log import open_log
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), member_id=None, time=None)
    >>> rows = {"request_id": [1, 1, 2], "job": ["cook", "smith", "cook"], "click": [1, 0, 0]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_log(rows, f"{folder}/log.parquet", schema, key=None, layout="flat")
    ...     open_log(f"{folder}/log.parquet", schema, layout="flat").num_requests
    2
    """
    with LogWriter(
        path,
        schema,
        key=key,
        layout=layout,
        rows_per_group=rows_per_group,
        member_ids=member_ids,
        labels=labels,
        extra=extra,
        compression=compression,
    ) as writer:
        writer.write(table)


def impressions_table(impressions: Sequence[Impression]) -> pa.Table:
    """What a ranker showed, one row an impression.

    Returns:
        A table with the fields of `Impression` as columns: int64 ids, times and positions, float64 probabilities.

    >>> impressions_table([Impression(1, 2, 3, 4, 1, 0.25, 1.0)]).to_pylist()
    [{'request_id': 1, 'member_id': 2, 'time_us': 3, 'item_id': 4, 'position': 1,
      'probability': 0.25, 'propensity': 1.0}]
    """
    floats = ("probability", "propensity")
    return pa.table(
        {
            field.name: pa.array(
                [getattr(impression, field.name) for impression in impressions],
                pa.float64() if field.name in floats else pa.int64(),
            )
            for field in fields(Impression)
        }
    )


def _check_key(schema: Schema, key: PseudonymKey | None, member_ids: str) -> None:
    if member_ids == "already_pseudonyms":
        if key is not None:
            raise PrivacyError(
                "a key is given, and the member ids are said to be pseudonyms already",
                do='pass key=None, or member_ids="raw"',
            )
    elif schema.member_id is not None and key is None:
        raise PrivacyError(
            f"column {schema.member_id!r} holds member ids, and there is no key to make pseudonyms of them",
            do='pass key=read_key(path) (make a key once with create_key), or member_ids="already_pseudonyms" if they '
            "are, or member_id=None in the schema",
        )
