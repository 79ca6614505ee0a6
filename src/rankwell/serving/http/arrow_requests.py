"""Many requests as one Arrow table, in the columns of the log's request layout, and their answers as another.

Letters: R requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from rankwell.schema import Place, Schema
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.rank_service import Answer

__all__ = ["answers_table", "requests_of", "table_bytes"]

_MOST_REQUESTS: Final = 100_000


def requests_of(body: bytes, schema: Schema, max_candidates: int) -> Iterator[dict[str, Any] | RefusalError]:
    """The requests of a stream, one at a time, in the form that `batch_from_request` takes.

    Args:
        body: An Arrow stream. Columns that the server knows by id may be left out.
        schema: Names the columns.
        max_candidates: A request with more is refused by itself.

    Raises:
        RefusalError: It is no Arrow stream, or has a column that the schema doesn't.
    """
    try:
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowException, ValueError, OSError, OverflowError, MemoryError) as error:
        raise RefusalError(
            400, "the body is no Arrow stream", found=str(error)[:200], do="write it with pyarrow.ipc.new_stream"
        ) from None
    if len(table) > _MOST_REQUESTS:
        raise RefusalError(413, "there are too many requests in one table", found=len(table), allowed=_MOST_REQUESTS)
    names = _Names(schema)
    unknown = sorted(set(table.column_names) - names.known)
    if unknown or len(set(table.column_names)) < len(table.column_names):
        raise RefusalError(
            400, "the table has unknown columns, or one twice", found=unknown or table.column_names,
            allowed=sorted(names.known), do="name the columns as the log does",
        )  # fmt: skip
    return (names.request(table.slice(row, 1), max_candidates) for row in range(len(table)))


class _Names:
    """Which column of the table stands for what in a request."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.keys = {"request_id": schema.request_id, "member_id": schema.member_id, "time_us": schema.time}
        self.features = {feature.name: feature for feature in (*schema.features, *schema.protected)}
        self.known = {name for name in self.keys.values() if name is not None}
        for feature in self.features.values():
            self.known |= set(feature.columns) if isinstance(feature, Place) else {feature.column or feature.name}
        self.known |= {column for sequence in schema.sequences for column in sequence.columns}
        self.known |= {schema.bid} if schema.bid is not None else set()

    def request(self, row: Any, max_candidates: int) -> dict[str, Any] | RefusalError:
        """One row as a request."""
        names = set(row.column_names)

        def value(column: str) -> Any:
            return _plain(row[column])

        request: dict[str, Any] = {
            key: value(name) for key, name in self.keys.items() if name is not None and name in names
        }
        request |= {"context": {}, "candidates": {}, "history": {}}
        for feature in self.features.values():
            side = "context" if feature.on == "request" else "candidates"
            if isinstance(feature, Place):
                if set(feature.columns) <= names:
                    latitude, longitude = (value(column) for column in feature.columns)
                    pair = [latitude, longitude]
                    request[side][feature.name] = (
                        pair if side == "context" else [list(p) for p in zip(*pair, strict=False)]
                    )
            elif (feature.column or feature.name) in names and (
                feature.column or feature.name
            ) not in self.keys.values():
                request[side][feature.name] = value(feature.column or feature.name)
        bid = self.schema.bid
        if bid is not None and bid in names:
            request["candidates"][bid] = value(bid)
        for sequence in self.schema.sequences:
            if set(sequence.columns) <= names:
                fields = [*(f.name for f in sequence.fields), *([] if sequence.time is None else [sequence.time])]
                request["history"][sequence.name] = {
                    field: value(column) for field, column in zip(fields, sequence.columns, strict=True)
                }
        given = request["candidates"].get(self.schema.item)
        if isinstance(given, list | np.ndarray) and len(given) > max_candidates:
            return RefusalError(
                413, "the request has too many candidates", found=len(given), allowed=max_candidates,
                do="let retrieval keep fewer",
            )  # fmt: skip
        return request


def _plain(column: Any) -> Any:
    """The one entry of a column; a list of plain numbers as an array, in which nothing is touched one by one."""
    entry = column[0]
    values = getattr(entry, "values", None)
    if isinstance(values, pa.Array) and values.null_count == 0:
        kind = values.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return values.to_numpy(zero_copy_only=False)
    return entry.as_py()


def answers_table(answers: Sequence[Answer | RefusalError], schema: Schema) -> Any:
    """The answers as a table: one row a request, in their order, lists best first.

    A request that was refused has its `error`, and nothing else.
    """
    rows = [_answer_row(answer) for answer in answers]
    ints, floats = pa.list_(pa.int64()), pa.list_(pa.float64())
    return pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            {
                "request_id": pa.int64(), "error": pa.string(), "bundle_id": pa.string(), "correction_id": pa.string(),
                "is_logged": pa.bool_(), "item_id": ints, "place": ints, "propensity": floats, "utility": floats,
                **{f"probability_{action.name}": floats for action in schema.actions},
            }
        ),
    )  # fmt: skip


def _answer_row(answer: Answer | RefusalError) -> dict[str, Any]:
    if isinstance(answer, RefusalError):
        return {"error": answer.plain()["detail"]}
    columns = answer.columns()
    return {
        "request_id": answer.request_id,
        "bundle_id": answer.bundle_id,
        "correction_id": answer.correction_id,
        "is_logged": answer.is_logged,
        **{name: columns[name] for name in ("item_id", "place", "propensity", "utility")},
        **{f"probability_{name}": values for name, values in columns["probability"].items()},
    }


def table_bytes(table: Any) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
