"""What a log file says of itself in its metadata, held against what its reader expects."""

from __future__ import annotations

from typing import Any, Final

from rankwell.data.layout import FORMAT_VERSION, LogColumn, LogLayout, Role
from rankwell.errors import LogError, SchemaError
from rankwell.schema.schema import Schema

__all__ = ["check_stored_schema"]

_OPEN_AS_WRITTEN: Final = "open it with the schema that it was written with (`rankwell.schema` in its metadata)"


def check_stored_schema(name: str, arrow_schema: Any, schema: Schema, layout: LogLayout) -> None:
    """Refuse a file of an unknown format, of the other layout, or that declares a column as something else.

    A file that another program wrote says nothing of itself, and is taken as its reader declares it. Transforms, sizes
    of tables and what is missing may differ from one reading to the next; what a column holds (ids, numbers, times, a
    label) and what it stands on may not.

    Args:
        name: What errors call the file.
        arrow_schema: The file's, with its metadata.
        schema: The reader's.
        layout: The reader's.

    Raises:
        LogError: As above.
    """
    version = _said(arrow_schema, "format_version")
    if version is None:
        return
    if version != FORMAT_VERSION:
        raise LogError(
            f"file {name!r} has an unknown format version",
            found=version,
            allowed=FORMAT_VERSION,
            do="read it with the rankwell that wrote it, and write it again from there",
        )
    kind = _said(arrow_schema, "layout")
    if kind != layout.kind:
        raise LogError(
            f"file {name!r} has another layout",
            found=kind,
            allowed=layout.kind,
            do="open it with the layout that it has",
        )
    stored_text = _said(arrow_schema, "schema") or ""
    if stored_text == schema.to_json():
        return
    try:
        stored = LogLayout.of(Schema.from_json(stored_text), layout.kind)
    except SchemaError as error:
        raise LogError(
            f"file {name!r}: the schema in its metadata cannot be read",
            found=error.what,
            allowed="what the log writer put there",
            do="write the log again, or drop the metadata if another program changed it",
        ) from error
    _refuse_contradictions(name, stored, layout)


def _said(arrow_schema: Any, what: str) -> str | None:
    value = (arrow_schema.metadata or {}).get(f"rankwell.{what}".encode())
    return None if value is None else str(value, "utf-8", "replace")


def _refuse_contradictions(name: str, stored: LogLayout, expected: LogLayout) -> None:
    written: dict[str, list[LogColumn]] = {}
    for column in stored.columns:
        written.setdefault(column.name, []).append(column)
    for column in expected.columns:
        uses = written.get(column.name, [])
        if uses and not any(_same_kind(column, use) for use in uses):
            raise LogError(
                f"column {column.name!r} of file {name!r} was written as something else than it is declared as",
                found="; ".join(_in_words(use) for use in uses),
                allowed=_in_words(column),
                do=f"{_OPEN_AS_WRITTEN}, or declare {column.name!r} as it was written",
            )


def _same_kind(one: LogColumn, other: LogColumn) -> bool:
    return (one.side, one.depth, _holds(one.role)) == (other.side, other.depth, _holds(other.role))


def _holds(role: Role) -> str:
    match role:
        case "request_id" | "member_id" | "categorical" | "bag":
            return "ids"
        case "time" | "event_time":
            return "times"
        case "label" | "observed":
            return role
        case _:
            return "numbers"


def _in_words(column: LogColumn) -> str:
    return f"{column.role} on the {column.side} ({column.owner!r})"
