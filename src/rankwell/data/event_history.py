"""Each request gets its member's history from an action log, as it was known when the request came.

Letters: R requests · H history events, flat · E events of the action log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rankwell.data.actions import ids_of, times_us_of
from rankwell.data.point_in_time import Int64s, num_up_to, places, ranges
from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.data.string_ids import is_stringlike
from rankwell.errors import LogError, PrivacyError, SchemaError
from rankwell.schema import Categorical, Numeric, Schema, Sequence
from rankwell.types import MISSING_ID

__all__ = ["history_from_actions"]

_NOBODY: Final = MISSING_ID - 1


def history_from_actions(
    requests: pa.Table,
    actions: pa.Table,
    schema: Schema,
    sequence: Sequence,
    *,
    columns: Mapping[str, str] | None = None,
    key: PseudonymKey | None = None,
) -> pa.Table:
    """The requests with the list columns of one sequence, filled from the members' actions, oldest first.

    An event that happened at s and arrived at a (or at once) stands in the history of a request at t when ::

        s < t - ingest_delay   and   a < t

    Of those, the `max_length` that became known last are kept. An event that was delivered twice (the same member, time
    and fields) stands once. The order of the actions changes nothing.

    Args:
        requests: With the schema's member and time columns; columns of the sequence that it has already are replaced.
        actions: With `member_id` and `time_us`, a column for each field of the sequence, and optionally `arrived_us`.
        schema: Its `ingest_delay_s` is the delay.
        sequence: One of ``schema.sequences``.
        columns: The actions' column for a field, where it isn't called as the field's own column. By default a field
            that is called `item`, or as the schema's item, reads `item_id`.
        key: Where given, the actions' member ids are raw and pseudonymised with it; so are the requests' where they are
            strings, and where they are integers they are pseudonyms already.

    Raises:
        SchemaError: The schema has no member or no time, or the sequence isn't in it.
        LogError: A column is missing or of a wrong type, or a value is null where it may not be.
        PrivacyError: Member ids are strings, and there is no key.

    >>> from rankwell.schema import Action
    >>> history = Sequence(name="history", fields=(Categorical(name="item", on="event"),), max_length=2)
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), sequences=(history,))
    >>> requests = pa.table({"member_id": [5, 6], "time_us": [400, 400]})
    >>> actions = pa.table({"member_id": [5, 5, 5, 5], "item_id": [1, 2, 3, 4], "time_us": [300, 100, 200, 400]})
    >>> history_from_actions(requests, actions, schema, history)["history_item"].to_pylist()
    [[3, 1], []]
    """
    if schema.member_id is None or schema.time is None or sequence not in schema.sequences:
        raise SchemaError(
            f"the history {sequence.name!r} can't be joined",
            found=f"member_id={schema.member_id!r}, time={schema.time!r}",
            allowed="a schema with a member, a time, and this sequence",
            do="declare member and time in the schema, and give one of its own sequences",
        )
    for name in (schema.member_id, schema.time):
        if name not in requests.column_names:
            raise LogError(f"the requests lack the column {name!r}", found=requests.column_names, do="add it")
    delay_us = round(1e6 * schema.ingest_delay_s)
    source = {
        field.name: (columns or {}).get(field.name) or _source(field, schema, actions) for field in sequence.fields
    }
    missing = [name for name in ("member_id", "time_us", *source.values()) if name not in actions.column_names]
    if missing:
        raise LogError(
            f"the actions lack the columns {missing} for the history {sequence.name!r}",
            found=actions.column_names,
            do="add them, or say with `columns` which column a field reads",
        )

    members_E = _members(actions["member_id"], "the actions", key)
    times_us_E = times_us_of(actions["time_us"], "time_us")
    # Known from then on, on the scale of the events' own times: the ingest delay is what an arrival usually takes.
    known_us_E = times_us_E
    if "arrived_us" in actions.column_names:
        arrived = pc.coalesce(actions["arrived_us"], actions["time_us"])
        known_us_E = np.maximum(times_us_E, times_us_of(arrived, "arrived_us") - delay_us)
    fields = {field.name: _plain(field, actions[source[field.name]], source[field.name]) for field in sequence.fields}
    values_E = [_sort_key(column) for column in fields.values()]

    kept = _once(members_E, times_us_E, known_us_E, values_E)
    kept = kept[np.lexsort((*(v[kept] for v in values_E), times_us_E[kept], known_us_E[kept], members_E[kept]))]
    members = requests[schema.member_id]
    members_R = _members(members, "the requests", key if is_stringlike(members.type) else None)
    times_us_R = times_us_of(requests[schema.time], schema.time)
    starts_R, stops_R = _spans(
        members_E[kept],
        known_us_E[kept],
        np.where(members_R == MISSING_ID, _NOBODY, members_R),
        times_us_R - delay_us,
        sequence.max_length,
    )
    event_H = kept[ranges(starts_R, stops_R)]
    if known_us_E is not times_us_E:
        request_H = np.repeat(np.arange(len(starts_R)), stops_R - starts_R)
        event_H = event_H[np.lexsort((np.arange(len(event_H)), times_us_E[event_H], request_H))]
    offsets = pa.array(np.concatenate([[0], np.cumsum(stops_R - starts_R)]), pa.int32())
    for field in sequence.fields:
        values = fields[field.name].take(pa.array(event_H))
        requests = _with_lists(requests, f"{sequence.name}_{field.column or field.name}", values, offsets)
    if sequence.time is not None:
        requests = _with_lists(requests, f"{sequence.name}_{sequence.time}", pa.array(times_us_E[event_H]), offsets)
    return requests


def _source(field: Categorical | Numeric, schema: Schema, actions: pa.Table) -> str:
    name = field.column or field.name
    if name not in actions.column_names and field.name in ("item", schema.item):
        return "item_id"
    return name


def _members(column: pa.ChunkedArray, whose: str, key: PseudonymKey | None) -> Int64s:
    if key is None and is_stringlike(column.type):
        raise PrivacyError(
            f"the member ids of {whose} are strings: raw ids, not pseudonyms",
            found=str(column.type),
            do="pass the key that the log was written with",
        )
    return ids_of(column if key is None else pseudonymise(column, key), "member_id", missing=True)


def _plain(field: Categorical | Numeric, column: pa.ChunkedArray, name: str) -> pa.Array:
    """The field's values as a log holds them: int64 ids or float32 numbers, null where missing."""
    if isinstance(field, Categorical):
        nulls = column.is_null().combine_chunks()
        if field.missing == "refuse" and column.null_count:
            raise LogError(
                f"column {name!r} of the actions has nulls",
                found=f"{column.null_count} of {len(column)}",
                allowed=f"a value in every row, or missing='row' for the field {field.name!r}",
                do="fill the column, or declare missing='row' for the field",
            )
        return pa.array(ids_of(column, name, missing=True), mask=nulls.to_numpy(zero_copy_only=False))
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise LogError(
            f"column {name!r} of the actions holds no numbers",
            found=str(column.type),
            allowed="a number",
            do="cast the column, or name another with `columns`",
        )
    return column.combine_chunks().cast(pa.float32())


def _sort_key(values: pa.Array) -> NDArray[np.generic]:
    filled = pc.fill_null(values, MISSING_ID if pa.types.is_integer(values.type) else float("nan"))
    # NaN differs from itself: bits don't.
    bits = filled.to_numpy().view(np.int32) if pa.types.is_floating(values.type) else filled.to_numpy()
    return np.asarray(bits)


def _once(
    members_E: Int64s,
    times_us_E: Int64s,
    known_us_E: Int64s,
    values_E: list[NDArray[np.generic]],
) -> Int64s:
    """The events without repetitions and without those of nobody; of a repeated one the first to be known stays."""
    order = np.lexsort((known_us_E, *values_E, times_us_E, members_E))
    again = np.ones(max(len(order) - 1, 0), bool)
    for column in (members_E, times_us_E, *values_E):
        again &= column[order[1:]] == column[order[:-1]]
    first: Int64s = order[np.concatenate([[True], ~again])] if len(order) else order
    known: Int64s = first[members_E[first] != MISSING_ID]
    return known


def _spans(
    members_E: Int64s, known_us_E: Int64s, members_R: Int64s, limits_us_R: Int64s, max_length: int
) -> tuple[Int64s, Int64s]:
    """Where each request's events stand among the sorted events: strictly before its limit, the last `max_length`."""
    distinct, first_E = np.unique(members_E, return_index=True)
    member_R = places(members_R, distinct)
    known = member_R >= 0
    starts_R = np.zeros(len(members_R), np.int64)
    stops_R = np.zeros(len(members_R), np.int64)
    member_E = np.repeat(np.arange(len(distinct)), np.diff(np.append(first_E, len(members_E))))
    stops_R[known] = num_up_to(member_E, known_us_E, member_R[known], limits_us_R[known], equal=False)
    starts_R[known] = np.maximum(first_E[member_R[known]], stops_R[known] - max_length)
    return starts_R, stops_R


def _with_lists(table: pa.Table, name: str, values: pa.Array, offsets: pa.Array) -> pa.Table:
    lists = pa.ListArray.from_arrays(offsets, values)
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, lists)
    return table.append_column(name, lists)
