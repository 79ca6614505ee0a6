"""Arrow tables into chunks of tensors, every value checked, without a copy where Arrow's memory can be lent.

R requests · C candidates, flat · H history events, flat · A actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rankwell.data.check import (
    Floats,
    Ints,
    Where,
    check_equal_lists,
    check_finite,
    check_history,
    check_ids,
    check_labels,
    check_no_nulls,
    check_not_empty,
    check_not_negative,
    check_probability,
    refuse,
)
from rankwell.data.chunk import Chunk, constant, ragged_rows
from rankwell.data.layout import LogColumn, LogLayout
from rankwell.schema.schema import Schema
from rankwell.types import MISSING_ID, Audit, Batch, Column, Events, Features, Ragged, Targets

__all__ = ["Keys", "decode", "decode_keys"]

_MICROS: Final = 1_000_000


@final
@dataclass(frozen=True, slots=True)
class Keys:
    """What splits are made by.

    Args:
        request_ids_R: The request ids, or the rows' numbers in the log where it has none.
        times_us_R: The request times; None where the log has none.
        rows_R: The row at which each request begins; None where each row is a request.
    """

    request_ids_R: Ints
    times_us_R: Ints | None
    rows_R: Ints | None


def decode_keys(table: Any, layout: LogLayout, *, file: str, first_row: int, row_number: int) -> Keys:
    """The keys of the requests in an Arrow table of whole requests.

    Args:
        table: At least the request id and time columns.
        layout: The log's layout.
        file: What errors call the source.
        first_row: The table's first row in its file, for errors.
        row_number: The table's first row in the whole log.
    """
    id_column, time_column = layout.of_role("request_id"), layout.of_role("time")
    rows_R: Ints | None = None
    if id_column is None:
        ids_R = np.arange(row_number, row_number + table.num_rows)
    else:
        where = Where(id_column.name, file, first_row)
        ids_R = _ids(_array(table, id_column), id_column, where)
        if layout.kind == "flat" and len(ids_R):
            rows_R = np.concatenate([[0], np.flatnonzero(ids_R[1:] != ids_R[:-1]) + 1])
            if len(rows_R) == len(ids_R):
                rows_R = None
            else:
                ids_R = ids_R[rows_R]
            _check_adjacent(ids_R, replace(where, rows_R=rows_R))
    times_R = None
    if time_column is not None:
        where = Where(time_column.name, file, first_row, rows_R, ids_R if id_column is not None else None)
        times_R = _times(_of_requests(_array(table, time_column), rows_R), where)
    return Keys(ids_R, times_R, rows_R)


def _check_adjacent(ids_R: Ints, where: Where) -> None:
    order = np.argsort(ids_R, kind="stable")
    again = np.zeros(len(ids_R), bool)
    again[order[1:]] = ids_R[order[1:]] == ids_R[order[:-1]]
    if again.any():
        refuse(
            where,
            again,
            "the request id comes again after other requests",
            ids_R,
            allowed="consecutive rows for each request in a flat log",
            do="sort the log by request id, or declare request_id=None if each row is a request",
        )


def decode(table: Any, schema: Schema, layout: LogLayout, *, file: str, first_row: int, row_number: int) -> Chunk:
    """A chunk of the requests in an Arrow table of whole requests, with every value checked.

    Args:
        table: The layout's columns.
        schema: The log's schema.
        layout: The log's layout, with only the columns that the log has.
        file: What errors call the source.
        first_row: The table's first row in its file, for errors.
        row_number: The table's first row in the whole log, which stands for the request id where the log has none.

    Raises:
        LogError: A value does not keep the schema.
        LeakError: A history holds what was not yet known.
    """
    keys = decode_keys(table, layout, file=file, first_row=first_row, row_number=row_number)
    return _Decoder(table, schema, layout, keys, file, first_row).chunk()


@final
class _Decoder:
    """One table on its way to a chunk: the offsets of its requests are found first, then each column is read."""

    def __init__(self, table: Any, schema: Schema, layout: LogLayout, keys: Keys, file: str, first_row: int) -> None:
        self._table, self._schema, self._layout, self._keys = table, schema, layout, keys
        known = keys.request_ids_R if layout.of_role("request_id") is not None else None
        self._at_request = Where("", file, first_row, keys.rows_R, known)
        self._at_row = Where("", file, first_row, keys.rows_R, known, on_request=False)
        self._arrays: dict[str, tuple[Any, Where]] = {}
        self._num_requests = len(keys.request_ids_R)
        self._lists_of = ""
        self._offsets = self._candidate_offsets()
        self._num_candidates = int(self._offsets[-1])

    def _candidate_offsets(self) -> Ints:
        if self._layout.kind == "flat":
            rows_R = self._keys.rows_R
            if rows_R is None:
                return np.arange(self._num_requests + 1)
            return np.append(rows_R, self._table.num_rows)
        first = next(column for column in self._layout.columns if column.side == "candidate")
        self._lists_of = first.name
        where = replace(self._at_request, column=first.name)
        offsets = _list_parts(_array(self._table, first), where)[0]
        check_not_empty(offsets, where)
        return offsets

    def _entries(self, column: LogColumn) -> tuple[Any, Where]:
        """The column's entries (R, C or H of them) as an Arrow array, and how to find their rows."""
        known = self._arrays.get(column.name)
        if known is not None:
            return known
        array = _array(self._table, column)
        if column.side == "candidate" and self._layout.kind == "flat":
            found = (array, replace(self._at_row, column=column.name))
        else:
            where = replace(self._at_request, column=column.name)
            if self._layout.kind == "flat":
                array = _of_requests(array, self._keys.rows_R)
            if column.side == "candidate":
                offsets, array = _list_parts(array, where)
                check_equal_lists(offsets, where, self._offsets, self._lists_of)
                where = where.within(offsets)
            found = (array, where)
        self._arrays[column.name] = found
        return found

    def chunk(self) -> Chunk:
        schema, columns = self._schema, self._layout.columns
        context: dict[str, Column] = {}
        candidates: dict[str, Column] = {}
        audited: dict[str, Tensor] = {}
        on_request: set[str] = set()
        protected = {attribute.name for attribute in schema.protected}
        for column in columns:
            if column.role in ("categorical", "bag", "numeric", "vector", "latitude") and column.sequence is None:
                values = self._feature(column)
                if column.owner in protected:
                    assert isinstance(values, Tensor)
                    audited[column.owner] = values
                    if column.side == "request":
                        on_request.add(column.owner)
                if column.owner not in protected or column.owner in schema.visible_protected:
                    (context if column.side == "request" else candidates)[column.owner] = values
        position_C, propensity_C = self._exposure(audited)
        single = self._num_candidates == self._num_requests
        offsets = torch.from_numpy(self._offsets)
        request_C = np.arange(self._num_requests)
        if not single:
            request_C = np.repeat(request_C, np.diff(self._offsets))
        item_C = candidates[schema.item] if schema.item is not None else None
        num_requests, num_candidates = self._num_requests, self._num_candidates
        member = self._layout.of_role("member_id")
        labels_CA, observed_CA = self._labels()
        weight = self._layout.of_role("weight")
        whole = Batch(
            Features(context, self._histories(), candidates, offsets, torch.from_numpy(request_C)),
            Targets(
                labels_CA,
                observed_CA,
                constant(1, num_candidates, torch.float32) if weight is None else self._weights(weight),
                position_C,
                propensity_C,
            ),
            Audit(
                _lent(self._keys.request_ids_R),
                constant(MISSING_ID, num_requests, torch.int64)
                if member is None
                else _lent(_ids(*self._named(member))),
                constant(0, num_requests, torch.int64)
                if self._keys.times_us_R is None
                else _lent(self._keys.times_us_R),
                item_C if isinstance(item_C, Tensor) else constant(0, num_candidates, torch.int64),
                audited,
            ),
        )
        return Chunk(whole, frozenset(on_request), single)

    def _named(self, column: LogColumn) -> tuple[Any, LogColumn, Where]:
        array, where = self._entries(column)
        return array, column, where

    def _feature(self, column: LogColumn) -> Column:
        array, where = self._entries(column)
        match column.role:
            case "categorical":
                return _lent(_ids(array, column, where))
            case "numeric":
                return _lent(_numbers(array, column, where))
            case "bag":
                offsets, values = _list_parts(array, where)
                return Ragged(_lent(_ids(values, column, where.within(offsets))), torch.from_numpy(offsets))
            case "vector":
                return self._vector(array, column, where)
            case _:
                longitude = next(
                    other for other in self._layout.columns if (other.owner, other.role) == (column.owner, "longitude")
                )
                degrees = [_numbers(array, column, where), _numbers(*self._named(longitude))]
                return torch.from_numpy(np.stack(degrees, axis=1))

    def _vector(self, array: Any, column: LogColumn, where: Where) -> Tensor:
        offsets, values = _list_parts(array, where)
        width = column.width
        assert width is not None
        lengths = np.diff(offsets)
        if (lengths != width).any():
            refuse(
                where,
                lengths != width,
                "a vector of another width",
                lengths,
                allowed=f"{width} numbers",
                do="mend the column, or declare another width",
            )
        return _lent(_numbers(values, column, where.within(offsets)).reshape(-1, width))

    def _histories(self) -> dict[str, Events]:
        return {sequence.name: self._events(sequence.name, sequence.max_length) for sequence in self._schema.sequences}

    def _events(self, name: str, max_length: int) -> Events:
        columns = [column for column in self._layout.columns if column.sequence == name]
        offsets: Ints | None = None
        fields: dict[str, npt.NDArray[Any]] = {}
        for column in columns:
            array, where = self._entries(column)
            own_offsets, values = _list_parts(array, where)
            if offsets is None:
                offsets = own_offsets
            else:
                check_equal_lists(own_offsets, where, offsets, columns[0].name)
            within = where.within(own_offsets)
            if column.role == "event_time":
                times_H = _times(values, within)
                delay_us = round(self._schema.ingest_delay_s * _MICROS)
                check_history(times_H, offsets, self._keys.times_us_R, delay_us, where)
                if self._keys.times_us_R is not None:
                    age_us_H = np.repeat(self._keys.times_us_R, np.diff(offsets)) - times_H
                    fields["age_s"] = (age_us_H / _MICROS).astype(np.float32)
            elif column.role == "categorical":
                fields[column.owner] = _ids(values, column, within)
            else:
                fields[column.owner] = _numbers(values, column, within)
        assert offsets is not None
        lengths = np.diff(offsets)
        if lengths.max(initial=0) > max_length:
            latest = np.stack([np.maximum(offsets[1:] - max_length, offsets[:-1]), offsets[1:]], axis=1)
            rows, even = ragged_rows(latest.ravel(), np.arange(0, 2 * len(lengths), 2))
            fields = {field: values.take(rows) for field, values in fields.items()}
            offsets = even
        return Events({field: _lent(values) for field, values in fields.items()}, torch.from_numpy(offsets))

    def _labels(self) -> tuple[Tensor, Tensor]:
        labels, observed = [], []
        for action in self._schema.actions:
            column = next(c for c in self._layout.columns if (c.owner, c.role) == (action.name, "label"))
            array, where = self._entries(column)
            values = _label_values(array)
            check_labels(values, where, graded=column.graded)
            labels_C = values.astype(np.float32)
            observed_C = None if array.null_count == 0 and values.dtype.kind != "f" else ~np.isnan(labels_C)
            flag = next((c for c in self._layout.columns if (c.owner, c.role) == (action.name, "observed")), None)
            if flag is not None:
                array, where = self._entries(flag)
                check_no_nulls(array, where, "null", allowed="true or false", do="drop the column if all is observed")
                flags_C = _plain(array.cast(pa.uint8())).view(np.bool_)
                _check_happened_is_observed(labels_C, flags_C, where)
                observed_C = flags_C if observed_C is None else observed_C & flags_C
            if observed_C is not None and not observed_C.all():
                labels_C[~observed_C] = np.nan
            else:
                observed_C = None
            labels.append(labels_C)
            observed.append(observed_C)
        num_actions = len(labels)
        labels_CA = labels[0][:, None] if num_actions == 1 else np.stack(labels, axis=1)
        if all(observed_C is None for observed_C in observed):
            seen_CA = torch.ones(1, num_actions, dtype=torch.bool).expand(self._num_candidates, num_actions)
            return torch.from_numpy(labels_CA), seen_CA
        filled = [np.ones(self._num_candidates, bool) if part is None else part for part in observed]
        return torch.from_numpy(labels_CA), torch.from_numpy(np.stack(filled, axis=1))

    def _exposure(self, audited: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        position_C: Ints | None = None
        propensity_C: Floats | None = None
        for column in self._layout.columns:
            if column.role == "position":
                array, where = self._entries(column)
                position_C = _plain(pc.fill_null(array.cast(pa.int64()), 0))
                check_not_negative(position_C, where, "position")
            elif column.role in ("propensity", "retrieval", "examination"):
                array, where = self._entries(column)
                values_C = _as_float32(array)
                missing_C = np.isnan(values_C)
                if missing_C.any():
                    shown_C = missing_C if position_C is None or not column.nullable else missing_C & (position_C > 0)
                    if shown_C.any():
                        refuse(
                            where,
                            shown_C,
                            f"no {column.role} where the candidate was shown",
                            None,
                            allowed="a probability in (0, 1]; null only where position is null or 0",
                            do="mend the column",
                        )
                check_probability(values_C, where, column.role, nan_allowed=True)
                if column.role == "propensity":
                    propensity_C = np.where(missing_C, np.float32(1), values_C) if missing_C.any() else values_C
                else:
                    audited[column.name] = _lent(values_C)
            elif column.role == "bid":
                array, where = self._entries(column)
                check_no_nulls(array, where, "null bid", allowed="micros, 0 or more", do="write 0 where there is none")
                bids_C = _as_int64(array, where)
                check_not_negative(bids_C, where, "bid")
                audited[column.name] = _lent(bids_C)
        return (
            constant(0, self._num_candidates, torch.int64) if position_C is None else _lent(position_C),
            constant(1, self._num_candidates, torch.float32) if propensity_C is None else _lent(propensity_C),
        )

    def _weights(self, column: LogColumn) -> Tensor:
        array, where = self._entries(column)
        weights_C = _as_float32(array)
        check_finite(weights_C, where, nan_allowed=False)
        check_not_negative(weights_C, where, "weight")
        return _lent(weights_C)


def _check_happened_is_observed(labels_C: Floats, observed_C: npt.NDArray[np.bool_], where: Where) -> None:
    contrary = (labels_C > 0) & ~observed_C
    if contrary.any():
        refuse(
            where,
            contrary,
            "not observed, though the action happened",
            labels_C,
            allowed="true wherever the action happened or its window has closed",
            do="mend the column: leaving such rows out would count only the actions that did not happen",
        )


def _array(table: Any, column: LogColumn) -> Any:
    """The column as one Arrow array."""
    chunks = table.column(column.name)
    if chunks.num_chunks == 1:
        return chunks.chunk(0)
    return pa.concat_arrays(chunks.chunks) if chunks.num_chunks else pa.array([], chunks.type)


def _of_requests(array: Any, rows_R: Ints | None) -> Any:
    return array if rows_R is None else array.take(pa.array(rows_R))


def _list_parts(array: Any, where: Where) -> tuple[Ints, Any]:
    """Offsets from 0 and the flat values of an Arrow list array."""
    check_no_nulls(
        array, where, "null list", allowed="a list in every row", do="write an empty list where there is none"
    )
    if pa.types.is_fixed_size_list(array.type):
        return np.arange(len(array) + 1) * array.type.list_size, array.flatten()
    offsets = array.offsets.to_numpy()
    values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    if offsets[0]:
        offsets = offsets - offsets[0]
    return offsets.astype(np.int64, copy=True), values


def _plain(array: Any) -> npt.NDArray[Any]:
    """Arrow's memory as a (read-only) NumPy array."""
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=True)
    return values


def _as_int64(array: Any, where: Where) -> Ints:
    """Integers of any width, or bools, without nulls."""
    kind = array.type
    if pa.types.is_boolean(kind):
        return _plain(array.cast(pa.uint8())).astype(np.int64)
    values = _plain(array)
    if values.dtype == np.uint64:
        beyond = values > np.uint64(2**63 - 1)
        if beyond.any():
            refuse(
                where,
                beyond,
                "id of 2^63 or more",
                values,
                allowed="0 to 2^63 - 1",
                do="hash the column to 63 bits where the log is written",
            )
        return values.view(np.int64)
    return values if values.dtype == np.int64 else values.astype(np.int64)


def _ids(array: Any, column: LogColumn, where: Where) -> Ints:
    num_missing = array.null_count
    if num_missing:
        if not column.nullable:
            check_no_nulls(
                array,
                where,
                "null id",
                allowed="ids from 0 to 2^63 - 1, since missing values are not declared here",
                do="declare missing='row' for a categorical feature, or fill the column",
            )
        filled = pc.fill_null(array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array, 0)
        ids = _as_int64(filled, where).copy()
        nulls = array.is_null().to_numpy(zero_copy_only=False)
        check_ids(ids, where)
        ids[nulls] = MISSING_ID
        return ids
    ids = _as_int64(array, where)
    check_ids(ids, where)
    return ids


def _as_float32(array: Any) -> Floats:
    """Numbers of any type as float32, null as NaN."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if array.null_count == 0:
        values = _plain(array)
        if values.dtype == np.float32:
            return values
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    with np.errstate(over="ignore"):
        return _plain(pc.fill_null(array.cast(pa.float64(), safe=False), np.nan)).astype(np.float32)


def _numbers(array: Any, column: LogColumn, where: Where) -> Floats:
    values = _as_float32(array)
    check_finite(values, where, nan_allowed=column.nullable)
    return values


def _label_values(array: Any) -> npt.NDArray[Any]:
    if array.null_count:
        return _as_float32(array)
    return _plain(array.cast(pa.uint8())) if pa.types.is_boolean(array.type) else _plain(array)


def _times(array: Any, where: Where) -> Ints:
    check_no_nulls(array, where, "null time", allowed="UTC microseconds or a timestamp", do="fill the column")
    if pa.types.is_timestamp(array.type):
        if array.type.unit != "us":
            array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
        array = array.view(pa.int64())
    times: Ints = _plain(array)
    if len(times) and times.min() < 0:
        refuse(where, times < 0, "time before 1970", times, allowed="UTC microseconds", do="mend the column")
    return times


def _lent(values: npt.NDArray[Any]) -> Tensor:
    """A tensor on the array's memory.

    Arrow lends read-only memory, at which `torch.from_numpy` warns; nothing here ever writes to a batch.
    """
    if values.flags.writeable:
        return torch.from_numpy(values)
    flat = values.reshape(-1)
    kind = pa.from_numpy_dtype(flat.dtype)
    lent = torch.utils.dlpack.from_dlpack(pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)]))
    return lent.reshape(values.shape)
