"""Actions that happened, one row each, as they arrive from elsewhere: late, out of order, twice, or wrong.

Letters: E events (actions that happened). An action file has the columns `item_id`, `action` (the action's name) and
`time_us`; `request_id` or `member_id` or both; `grade` where a graded action stands in it; and optionally `arrived_us`,
when the row reached us.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rankwell.data.files import broken_file, open_parquet
from rankwell.data.point_in_time import Int64s
from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.data.string_ids import hash_strings, is_stringlike
from rankwell.errors import LogError, PrivacyError
from rankwell.schema import Schema
from rankwell.types import MISSING_ID

__all__ = ["Actions", "ids_of", "read_action_files", "times_us_of"]

_NEEDED: Final = ("item_id", "action", "time_us")
_OWNERS: Final = ("request_id", "member_id")
_OPTIONAL: Final = (*_OWNERS, "grade", "arrived_us")


@final
@dataclass(frozen=True, slots=True)
class Actions:
    """Actions as columns of E entries.

    Args:
        request_ids_E: int64; `MISSING_ID` where the action names no request.
        member_ids_E: int64 pseudonyms; `MISSING_ID` where it names no member.
        item_ids_E: int64.
        kinds_E: The action's place in ``schema.actions``; -1 where the schema has none of that name.
        times_us_E: When it happened, UTC microseconds.
        known_us_E: From when on it may be used: its arrival, and never before it happened.
        grades_E: int64; 1 for a binary action.
    """

    request_ids_E: Int64s
    member_ids_E: Int64s
    item_ids_E: Int64s
    kinds_E: Int64s
    times_us_E: Int64s
    known_us_E: Int64s
    grades_E: Int64s

    def __len__(self) -> int:
        return len(self.times_us_E)

    @classmethod
    def of(cls, table: pa.Table, schema: Schema, *, key: PseudonymKey | None = None) -> Actions:
        """The actions that stand in a table.

        Args:
            table: Its columns are named in this module's docstring; others are ignored. Strings as ids are hashed.
            schema: Knows the actions' names, and which are graded.
            key: Where given, `member_id` holds raw ids and is pseudonymised with it; else it holds pseudonyms.

        Raises:
            LogError: A column is missing or of a wrong type, or a value is null or negative where it may not be.
            PrivacyError: Member ids are strings, so not yet pseudonyms, and there is no key.
        """
        _check_columns(table)
        if key is None and "member_id" in table.column_names and is_stringlike(table["member_id"].type):
            raise PrivacyError(
                "column 'member_id' of the actions holds strings: raw member ids, not pseudonyms",
                found=str(table["member_id"].type),
                do="pass the key that the log was written with",
            )
        times_us_E = times_us_of(table["time_us"], "time_us")
        kinds_E = _kinds_of(table["action"], schema)
        return cls(
            request_ids_E=_owner_ids(table, "request_id", None),
            member_ids_E=_owner_ids(table, "member_id", key),
            item_ids_E=ids_of(table["item_id"], "item_id"),
            kinds_E=kinds_E,
            times_us_E=times_us_E,
            known_us_E=_known_us(table, times_us_E),
            grades_E=_grades_of(table, kinds_E, schema),
        )

    def where(self, chosen_E: NDArray[np.bool_]) -> Actions:
        """The actions where `chosen_E` is true."""
        return Actions(
            *(
                column[chosen_E]
                for column in (
                    self.request_ids_E,
                    self.member_ids_E,
                    self.item_ids_E,
                    self.kinds_E,
                    self.times_us_E,
                    self.known_us_E,
                    self.grades_E,
                )
            )
        )


def read_action_files(paths: Iterable[str]) -> pa.Table:
    """The rows of several Parquet files of actions, one after the other, with the columns that attribution reads.

    Args:
        paths: Local paths or fsspec URLs.

    Raises:
        LogError: A file can't be read, or lacks a column.
    """
    tables = []
    for path in paths:
        try:
            with open_parquet(str(path)) as file:
                table = file.read(columns=[n for n in (*_NEEDED, *_OPTIONAL) if n in file.schema_arrow.names])
        except (pa.ArrowInvalid, OSError) as error:
            raise broken_file(str(path), error) from error
        try:
            _check_columns(table)
        except LogError as error:
            error.what = f"the action file {str(path)!r}: {error.what}"
            raise
        tables.append(_plain(table))
    if not tables:
        names = [*_NEEDED, *_OWNERS]
        return pa.table({name: pa.array([], pa.string() if name == "action" else pa.int64()) for name in names})
    return pa.concat_tables(tables, promote_options="permissive")


def ids_of(column: pa.Array | pa.ChunkedArray, name: str, *, missing: bool = False) -> Int64s:
    """The ids in a column, strings hashed; with `missing`, a null becomes `MISSING_ID`.

    Raises:
        LogError: The column holds neither integers nor strings, or an id that is null or negative.
    """
    if is_stringlike(column.type):
        column = hash_strings(column)
    elif pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        column = column.cast(pa.int64())
    if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise LogError(
            f"column {name!r} holds no ids",
            found=str(column.type),
            allowed="integer, string",
            do="give integers, or strings where the log was written from strings",
        )
    smallest = pc.min(column).as_py()
    if smallest is not None and smallest < 0:
        raise LogError(
            f"column {name!r} holds a negative id",
            found=smallest,
            allowed="0 … 2⁶³ - 1",
            do="write null where it is unknown, never a negative number",
        )
    if missing:
        column = pc.fill_null(column.cast(pa.int64()), MISSING_ID)
    return _int64s(column, name)


def times_us_of(column: pa.Array | pa.ChunkedArray, name: str) -> Int64s:
    """The times in a column in UTC microseconds.

    Raises:
        LogError: The column holds no times, or a null.
    """
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    if not pa.types.is_int64(column.type):
        raise LogError(
            f"column {name!r} holds no times",
            found=str(column.type),
            allowed="int64 (UTC microseconds) or timestamp",
            do="give UTC microseconds or timestamps",
        )
    return _int64s(column, name)


def _check_columns(table: pa.Table) -> None:
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise LogError(
            f"actions need the columns {missing}",
            found=table.column_names,
            allowed=f"{', '.join(_NEEDED)}, request_id or member_id, and optionally grade, arrived_us",
            do="add them, or rename the columns that hold them",
        )
    if not set(_OWNERS) & set(table.column_names):
        raise LogError(
            "actions need a column 'request_id' or 'member_id' to be joined by",
            found=table.column_names,
            do="log the request's id with each action",
        )


def _plain(table: pa.Table) -> pa.Table:
    """Ids of strings hashed and dictionaries decoded, so that files that were written differently go together."""
    for i, name in enumerate(table.column_names):
        column = table[name]
        if name in ("request_id", "item_id") and is_stringlike(column.type):
            table = table.set_column(i, name, hash_strings(column))
        elif pa.types.is_dictionary(column.type):
            table = table.set_column(i, name, column.cast(column.type.value_type))
        elif pa.types.is_timestamp(column.type):
            table = table.set_column(i, name, pa.array(times_us_of(column, name)))
    return table


def _owner_ids(table: pa.Table, name: str, key: PseudonymKey | None) -> Int64s:
    if name not in table.column_names:
        return np.full(len(table), MISSING_ID, np.int64)
    column = table[name]
    return ids_of(column if key is None else pseudonymise(column, key), name, missing=True)


def _kinds_of(column: pa.ChunkedArray, schema: Schema) -> Int64s:
    if pa.types.is_null(column.type):
        return np.full(len(column), -1, np.int64)
    if not is_stringlike(column.type):
        raise LogError(
            "column 'action' holds no names",
            found=str(column.type),
            allowed="string",
            do="give the names of the schema's actions",
        )
    names = pa.array([action.name for action in schema.actions], pa.string())
    return _int64s(pc.fill_null(pc.index_in(column.cast(pa.string()), value_set=names), -1), "action")


def _known_us(table: pa.Table, times_us_E: Int64s) -> Int64s:
    if "arrived_us" not in table.column_names:
        return times_us_E
    column = table["arrived_us"]
    if column.null_count:
        happened = pa.array(times_us_E).cast(column.type if pa.types.is_timestamp(column.type) else pa.int64())
        column = pc.coalesce(column, happened)
    return np.maximum(times_us_of(column, "arrived_us"), times_us_E)


def _grades_of(table: pa.Table, kinds_E: Int64s, schema: Schema) -> Int64s:
    graded = np.array([action.kind == "graded" for action in schema.actions] + [False])  # kind -1 reads the last
    graded_E = graded[kinds_E]
    grades_E = np.ones(len(kinds_E), np.int64)
    if not graded_E.any():
        return grades_E
    names = [action.name for action in schema.actions if action.kind == "graded"]
    if "grade" not in table.column_names:
        raise LogError(f"the actions {names} are graded, and the actions have no column 'grade'", do="add it")
    column = table["grade"].filter(pa.array(graded_E))
    if not pa.types.is_integer(column.type):
        raise LogError(
            "column 'grade' of the actions holds no grades",
            found=str(column.type),
            allowed="integer",
            do="give the grade of each graded action as a number",
        )
    grades = _int64s(column, "grade")
    if grades.min() < 0 or grades.max() >= 2**31:
        raise LogError(
            "column 'grade' of the actions is out of range",
            found=[grades.min(), grades.max()],
            allowed="0 … 2³¹ - 1",
            do="mend the grades; an action that did not happen is no row",
        )
    grades_E[graded_E] = grades
    return grades_E


def _int64s(column: Any, name: str) -> Int64s:
    if column.null_count:
        raise LogError(
            f"column {name!r} has nulls",
            found=f"{column.null_count} of {len(column)}",
            allowed="a value in every row",
            do="fill the column, or leave those rows out",
        )
    try:
        return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowInvalid as error:
        raise LogError(
            f"column {name!r} doesn't fit into int64", found=str(error), do="hash such ids to 63 bits, as in the log"
        ) from None
