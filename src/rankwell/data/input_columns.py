"""What a caller hands to the log writer, on its way to the columns that stand in the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankwell.data.layout import LogLayout
from rankwell.data.memory import arrow_table, map_leaves
from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.data.string_ids import hash_strings, is_stringlike
from rankwell.errors import LogError, PrivacyError

__all__ = ["input_table", "names_within", "with_labels_to_come", "written_column"]


def input_table(data: Any, path: str) -> pa.Table:
    """What was handed in, as an Arrow table: a table, a record batch, a mapping of columns, a polars or pandas frame.

    Raises:
        LogError: It is none of them.
    """
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if not isinstance(data, Mapping):
        return arrow_table(data)
    try:
        return pa.table(dict(data))
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise LogError(
            f"the input of the log {path!r} is no table",
            found=str(error).splitlines()[0],
            allowed="columns of one length, each of one type",
            do="give an Arrow, polars or pandas table, or columns of one length and type each",
        ) from None


def names_within(field: pa.Field) -> Iterable[str]:
    """The name of a column and of every field inside it, so that no name hides in a struct.

    >>> list(names_within(pa.field("who", pa.list_(pa.struct({"email": pa.string()})))))
    ['who', 'item', 'email']
    """
    yield field.name
    for i in range(field.type.num_fields):
        yield from names_within(field.type.field(i))


def with_labels_to_come(table: pa.Table, layout: LogLayout) -> pa.Table:
    """The table with a column of nulls, that is of "not observed", for each label that it lacks."""
    candidate = next((c.name for c in layout.columns if c.side == "candidate" and c.name in table.column_names), None)
    for column in layout.columns:
        if column.role == "label" and column.name not in table.column_names and candidate is not None:
            lengths = pc.list_value_length(table[candidate]) if column.depth else None
            table = table.append_column(column.name, _nulls(len(table), lengths, column.written_as))
    return table


def written_column(array: pa.ChunkedArray, field: pa.Field, layout: LogLayout, key: PseudonymKey | None) -> pa.Array:
    """The column as it is written: pseudonyms for members, ids for strings, microseconds for timestamps.

    Args:
        array: As it was handed in.
        field: Its name and the type to write.
        layout: Says what the column is read as.
        key: Makes the pseudonyms; None where members are pseudonyms already.

    Raises:
        LogError: The values don't fit the type.
        PrivacyError: Member ids are strings, and there is no key.
    """
    uses = [column for column in layout.columns if column.name == field.name]
    names_members = any(column.role == "member_id" for column in uses)
    takes_ids = any(column.takes_ids for column in uses)
    whole = array.combine_chunks()
    if names_members and key is None and is_stringlike(whole.type):
        raise PrivacyError(
            f"column {field.name!r} holds strings: raw member ids, not pseudonyms",
            found=str(whole.type),
            allowed="integers that pseudonymise() made",
            do='pass the key and member_ids="raw"',
        )
    try:
        if names_members and key is not None:
            whole = pseudonymise(whole, key)
        return map_leaves(whole, lambda leaves: _plain(leaves, hash_words=takes_ids)).cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise LogError(
            f"column {field.name!r} can't be written as {field.type}",
            found=f"{array.type}: {str(error).splitlines()[0]}",
            allowed=(uses[0].allowed if uses else str(field.type))
            + (", or strings in the place of integers" if takes_ids else ""),
            do="cast the column, or declare it as what it holds",
        ) from None


def _plain(leaves: pa.Array, *, hash_words: bool) -> pa.Array:
    if hash_words and is_stringlike(leaves.type):
        return hash_strings(leaves)
    if pa.types.is_dictionary(leaves.type):
        leaves = leaves.cast(leaves.type.value_type)
    if pa.types.is_timestamp(leaves.type):
        return leaves.cast(pa.timestamp("us", leaves.type.tz), safe=False).cast(pa.int64())
    return leaves


def _nulls(num_rows: int, lengths: pa.ChunkedArray | None, type_: pa.DataType) -> pa.Array:
    if lengths is None:
        return pa.nulls(num_rows, type_)
    offsets = np.concatenate([[0], np.cumsum(pc.fill_null(lengths, 0).to_numpy())])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.nulls(int(offsets[-1]), type_.value_type))
