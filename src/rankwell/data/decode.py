"""Arrow tables into chunks of tensors, every value checked, without a copy where Arrow's memory can be lent.

R requests · C candidates, flat · H history events, flat · A actions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rankwell.data.arrow_values import (
    as_float32,
    as_ids,
    as_int64,
    as_labels,
    as_numbers,
    as_times_us,
    lent,
    list_parts,
    plain,
    whole_array,
)
from rankwell.data.check import (
    Floats,
    Ints,
    Where,
    check_equal_lists,
    check_finite,
    check_history,
    check_labels,
    check_no_nulls,
    check_not_empty,
    check_not_negative,
    check_probability,
    refuse,
)
from rankwell.data.chunk import Chunk, constant, ragged_rows
from rankwell.data.keys import Keys, decode_keys
from rankwell.data.layout import LogColumn, LogLayout
from rankwell.data.request_side import first_of_requests
from rankwell.schema.schema import Schema
from rankwell.types import MISSING_ID, Audit, Batch, Column, Events, Features, Ragged, Targets

__all__ = ["decode"]

_MICROS: Final = 1_000_000


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
        offsets = list_parts(whole_array(self._table, first), where)[0]
        check_not_empty(offsets, where)
        return offsets

    def _entries(self, column: LogColumn) -> tuple[Any, Where]:
        """The column's entries (R, C or H of them) as an Arrow array, and how to find their rows."""
        known = self._arrays.get(column.name)
        if known is not None:
            return known
        array = whole_array(self._table, column)
        if column.side == "candidate" and self._layout.kind == "flat":
            found = (array, replace(self._at_row, column=column.name))
        else:
            where = replace(self._at_request, column=column.name)
            if self._layout.kind == "flat":
                array = first_of_requests(array, where)
            if column.side == "candidate":
                offsets, array = list_parts(array, where)
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
                lent(self._keys.request_ids_R),
                constant(MISSING_ID, num_requests, torch.int64)
                if member is None
                else lent(as_ids(*self._named(member))),
                constant(0, num_requests, torch.int64)
                if self._keys.times_us_R is None
                else lent(self._keys.times_us_R),
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
                return lent(as_ids(array, column, where))
            case "numeric":
                return lent(as_numbers(array, column, where))
            case "bag":
                offsets, values = list_parts(array, where)
                return Ragged(lent(as_ids(values, column, where.within(offsets))), torch.from_numpy(offsets))
            case "vector":
                return self._vector(array, column, where)
            case _:
                longitude = next(
                    other for other in self._layout.columns if (other.owner, other.role) == (column.owner, "longitude")
                )
                degrees = [as_numbers(array, column, where), as_numbers(*self._named(longitude))]
                return torch.from_numpy(np.stack(degrees, axis=1))

    def _vector(self, array: Any, column: LogColumn, where: Where) -> Tensor:
        offsets, values = list_parts(array, where)
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
        return lent(as_numbers(values, column, where.within(offsets)).reshape(-1, width))

    def _histories(self) -> dict[str, Events]:
        return {sequence.name: self._events(sequence.name, sequence.max_length) for sequence in self._schema.sequences}

    def _events(self, name: str, max_length: int) -> Events:
        columns = [column for column in self._layout.columns if column.sequence == name]
        offsets: Ints | None = None
        fields: dict[str, npt.NDArray[Any]] = {}
        for column in columns:
            array, where = self._entries(column)
            own_offsets, values = list_parts(array, where)
            if offsets is None:
                offsets = own_offsets
            else:
                check_equal_lists(own_offsets, where, offsets, columns[0].name)
            within = where.within(own_offsets)
            if column.role == "event_time":
                times_H = as_times_us(values, within)
                delay_us = round(self._schema.ingest_delay_s * _MICROS)
                check_history(times_H, offsets, self._keys.times_us_R, delay_us, where)
                if self._keys.times_us_R is not None:
                    age_us_H = np.repeat(self._keys.times_us_R, np.diff(offsets)) - times_H
                    fields["age_s"] = (age_us_H / _MICROS).astype(np.float32)
            elif column.role == "categorical":
                fields[column.owner] = as_ids(values, column, within)
            else:
                fields[column.owner] = as_numbers(values, column, within)
        assert offsets is not None
        lengths = np.diff(offsets)
        cut_R = torch.zeros(1, dtype=torch.int64).expand(len(lengths))
        if lengths.max(initial=0) > max_length:
            cut_R = torch.from_numpy(np.maximum(lengths - max_length, 0).astype(np.int64))
            latest = np.stack([np.maximum(offsets[1:] - max_length, offsets[:-1]), offsets[1:]], axis=1)
            rows, even = ragged_rows(latest.ravel(), np.arange(0, 2 * len(lengths), 2))
            fields = {field: values.take(rows) for field, values in fields.items()}
            offsets = even
        return Events({field: lent(values) for field, values in fields.items()}, torch.from_numpy(offsets), cut_R)

    def _labels(self) -> tuple[Tensor, Tensor]:
        labels, observed = [], []
        for action in self._schema.actions:
            column = next(c for c in self._layout.columns if (c.owner, c.role) == (action.name, "label"))
            array, where = self._entries(column)
            values = as_labels(array)
            check_labels(values, where, graded=column.graded)
            labels_C = values.astype(np.float32)
            observed_C = None if array.null_count == 0 and values.dtype.kind != "f" else ~np.isnan(labels_C)
            flag = next((c for c in self._layout.columns if (c.owner, c.role) == (action.name, "observed")), None)
            if flag is not None:
                array, where = self._entries(flag)
                check_no_nulls(array, where, "null", allowed="true or false", do="drop the column if all is observed")
                flags_C = plain(array.cast(pa.uint8())).view(np.bool_)
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
                position_C = plain(pc.fill_null(array.cast(pa.int64()), 0))
                check_not_negative(position_C, where, "position")
            elif column.role in ("propensity", "retrieval", "examination"):
                array, where = self._entries(column)
                values_C = as_float32(array)
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
                    audited[column.name] = lent(values_C)
            elif column.role == "bid":
                array, where = self._entries(column)
                check_no_nulls(array, where, "null bid", allowed="micros, 0 or more", do="write 0 where there is none")
                bids_C = as_int64(array, where)
                check_not_negative(bids_C, where, "bid")
                audited[column.name] = lent(bids_C)
        return (
            constant(0, self._num_candidates, torch.int64) if position_C is None else lent(position_C),
            constant(1, self._num_candidates, torch.float32) if propensity_C is None else lent(propensity_C),
        )

    def _weights(self, column: LogColumn) -> Tensor:
        array, where = self._entries(column)
        weights_C = as_float32(array)
        check_finite(weights_C, where, nan_allowed=False)
        check_not_negative(weights_C, where, "weight")
        return lent(weights_C)


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
