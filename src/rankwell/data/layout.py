"""The physical columns of a request log: the one place from which reader, checker and writer take the truth.

*Request layout*: one row a request; what stands on a candidate is a list column. *Flat layout*: one row a candidate;
what stands on a candidate is a scalar column, and what stands on the request is repeated on each of its rows.
A sequence's columns are lists in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final

import pyarrow as pa
from pyarrow import types as kinds

from rankwell.errors import SchemaError
from rankwell.schema.actions import Action
from rankwell.schema.columns import Bag, Categorical, Numeric, Place, Vector
from rankwell.schema.schema import Schema

__all__ = ["FORMAT_VERSION", "Layout", "LogColumn", "LogLayout", "Role", "Side"]

FORMAT_VERSION: Final = "1"
"""In the file's metadata under ``rankwell.format_version``, beside ``rankwell.layout`` and ``rankwell.schema``."""

Layout = Literal["requests", "flat"]
Side = Literal["request", "candidate", "event"]
Role = Literal[
    "request_id",
    "member_id",
    "time",
    "categorical",
    "bag",
    "numeric",
    "vector",
    "latitude",
    "longitude",
    "event_time",
    "label",
    "observed",
    "position",
    "propensity",
    "retrieval",
    "examination",
    "bid",
    "weight",
]

_WRITTEN_AS: Final[dict[Role, Any]] = {
    "request_id": pa.int64(),
    "member_id": pa.int64(),
    "time": pa.int64(),
    "categorical": pa.int64(),
    "bag": pa.int64(),
    "numeric": pa.float32(),
    "vector": pa.float32(),
    "latitude": pa.float32(),
    "longitude": pa.float32(),
    "event_time": pa.int64(),
    "label": pa.int8(),
    "observed": pa.bool_(),
    "position": pa.int32(),
    "propensity": pa.float32(),
    "retrieval": pa.float32(),
    "examination": pa.float32(),
    "bid": pa.int64(),
    "weight": pa.float32(),
}
_IN_WORDS: Final[dict[str, str]] = {
    "integer": "integer",
    "id": "integer or bool",
    "time": "int64 (UTC microseconds) or timestamp",
    "flag": "bool",
    "number": "integer, float or bool",
}
_LIST_ROLES: Final = frozenset({"bag", "vector"})


def _family(role: Role) -> str:
    match role:
        case "time" | "event_time":
            return "time"
        case "request_id" | "member_id" | "bag" | "position" | "bid":
            return "integer"
        case "categorical":
            return "id"
        case "observed":
            return "flag"
        case _:
            return "number"


@final
@dataclass(frozen=True, slots=True)
class LogColumn:
    """One use of one physical column.

    Args:
        name: The column's name in the log.
        owner: What it belongs to, by its name in the schema: a feature, a protected attribute, an action, a field of a
            sequence; for keys, exposure, bid and weight the column's own name.
        role: What it is read as.
        side: What one entry of it belongs to.
        depth: How many list levels stand around a value: 0 a scalar, 1 a list, 2 a list of lists.
        nullable: Whether a value may be null (a list itself never may: an empty list says that there is none).
        required: Whether a log without it is refused.
        sequence: The sequence that an event's column belongs to, else None.
        width: The length of a vector, else None.
        graded: Whether a label may be any whole number ≥ 0, not only 0 and 1.
    """

    name: str
    owner: str
    role: Role
    side: Side
    depth: int
    nullable: bool = False
    required: bool = True
    sequence: str | None = None
    width: int | None = None
    graded: bool = False

    @property
    def holds_lists(self) -> bool:
        """Whether one entry (of a request, candidate or event) is itself a list: a bag or a vector."""
        return self.role in _LIST_ROLES

    @property
    def outer_depth(self) -> int:
        """How many list levels stand around one entry: 0 or 1."""
        return self.depth - int(self.holds_lists)

    @property
    def written_as(self) -> Any:
        """The Arrow type that a writer gives it."""
        value = pa.int32() if self.graded else _WRITTEN_AS[self.role]
        if self.width is not None:
            value = pa.list_(value, self.width)
        elif self.holds_lists:
            value = pa.list_(value)
        return pa.list_(value) if self.outer_depth else value

    @property
    def allowed(self) -> str:
        """The Arrow types that a reader takes, in words."""
        words = _IN_WORDS[_family(self.role)]
        for _ in range(self.depth):
            words = f"list<{words}>"
        return words

    def allows(self, arrow_type: Any) -> bool:
        """Whether a reader takes a column of this Arrow type.

        >>> column = LogColumn("click", "click", "label", "candidate", depth=1, nullable=True)
        >>> column.allows(pa.list_(pa.int8())), column.allows(pa.int8()), column.allows(pa.list_(pa.string()))
        (True, False, False)
        """
        for _ in range(self.depth):
            if not (
                kinds.is_list(arrow_type) or kinds.is_large_list(arrow_type) or kinds.is_fixed_size_list(arrow_type)
            ):
                return False
            arrow_type = arrow_type.value_type
        return _is_of_family(arrow_type, _family(self.role))

    @property
    def takes_ids(self) -> bool:
        """Whether its values are ids, so that strings may stand for them in a table in memory."""
        return self.role in ("request_id", "member_id", "categorical", "bag")


def _is_of_family(arrow_type: Any, family: str) -> bool:
    match family:
        case "time":
            return bool(kinds.is_int64(arrow_type) or kinds.is_timestamp(arrow_type))
        case "integer":
            return bool(kinds.is_integer(arrow_type))
        case "id":
            return bool(kinds.is_integer(arrow_type) or kinds.is_boolean(arrow_type))
        case "flag":
            return bool(kinds.is_boolean(arrow_type))
        case _:
            return bool(kinds.is_integer(arrow_type) or kinds.is_floating(arrow_type) or kinds.is_boolean(arrow_type))


@final
@dataclass(frozen=True, slots=True)
class LogLayout:
    """All columns of a log of one schema in one layout.

    Two uses may share a column (a bid that is also a numeric feature); `columns` then holds it twice.

    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),))
    >>> for column in LogLayout.of(schema, "requests").columns:
    ...     print(column.name, column.side, column.written_as, column.required)
    request_id request int64 True
    member_id request int64 True
    time_us request int64 True
    job candidate list<item: int64> True
    click candidate list<item: int8> True
    click_observed candidate list<item: bool> False
    """

    kind: Layout
    columns: tuple[LogColumn, ...]

    @classmethod
    def of(cls, schema: Schema, kind: Layout) -> LogLayout:
        """The layout of a log that keeps `schema`.

        Raises:
            SchemaError: One column is put to two uses of different shapes, such as on the request and on the candidate.
        """
        columns = tuple(_columns(schema, kind))
        _refuse_contradictions(columns)
        return cls(kind, columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the physical columns, each once."""
        return tuple(dict.fromkeys(column.name for column in self.columns))

    def of_role(self, role: Role) -> LogColumn | None:
        """The first column read as `role`, if there is one."""
        return next((column for column in self.columns if column.role == role), None)

    def arrow_schema(self, *, optional: bool = False) -> Any:
        """The Arrow schema that a writer gives a log; with `optional`, its optional columns too."""
        fields: dict[str, Any] = {}
        for column in self.columns:
            if column.required or optional:
                shared = fields.get(column.name)
                if shared is None or not column.allows(shared.type):
                    fields[column.name] = pa.field(column.name, column.written_as, nullable=True)
        return pa.schema(list(fields.values()))


def _columns(schema: Schema, kind: Layout) -> Iterator[LogColumn]:
    lists = int(kind == "requests")
    if schema.request_id is not None:
        yield LogColumn(schema.request_id, schema.request_id, "request_id", "request", 0)
    if schema.member_id is not None:
        yield LogColumn(schema.member_id, schema.member_id, "member_id", "request", 0, nullable=True)
    if schema.time is not None:
        yield LogColumn(schema.time, schema.time, "time", "request", 0)
    for feature in (*schema.features, *schema.protected):
        for use in _feature_columns(feature, "" if feature.column is None else feature.column, kind):
            # A request may be served without an attribute that models don't see: its log says that it isn't known.
            unseen = feature in schema.protected and feature.name not in schema.visible_protected
            yield replace(use, nullable=True) if unseen else use
    for sequence in schema.sequences:
        for field in sequence.fields:
            yield LogColumn(
                f"{sequence.name}_{field.column or field.name}",
                field.name,
                "categorical" if isinstance(field, Categorical) else "numeric",
                "event",
                1,
                nullable=field.missing != "refuse",
                sequence=sequence.name,
            )
        if sequence.time is not None:
            name = f"{sequence.name}_{sequence.time}"
            yield LogColumn(name, sequence.time, "event_time", "event", 1, sequence=sequence.name)
    for action in schema.actions:
        yield from _action_columns(action, lists)
    exposure = schema.exposure
    optional_uses: tuple[tuple[Role, str | None, bool], ...] = (
        ("position", exposure.position, True),
        ("propensity", exposure.propensity, exposure.position is not None),
        ("retrieval", exposure.retrieval, False),
        ("examination", exposure.examination, exposure.position is not None),
        ("bid", schema.bid, False),
        ("weight", schema.weight, False),
    )
    for role, column, nullable in optional_uses:
        if column is not None:
            yield LogColumn(column, column, role, "candidate", lists, nullable=nullable)


def _feature_columns(
    feature: Categorical | Bag | Numeric | Vector | Place, column: str, kind: Layout
) -> Iterator[LogColumn]:
    name = column or feature.name
    outer = int(kind == "requests" and feature.on == "candidate")
    match feature:
        case Categorical():
            yield LogColumn(name, feature.name, "categorical", feature.on, outer, feature.missing == "row")
        case Bag():
            yield LogColumn(name, feature.name, "bag", feature.on, outer + 1)
        case Numeric():
            yield LogColumn(name, feature.name, "numeric", feature.on, outer, feature.missing == "indicator")
        case Vector():
            yield LogColumn(name, feature.name, "vector", feature.on, outer + 1, width=feature.width)
        case Place():
            latitude, longitude = feature.columns
            yield LogColumn(latitude, feature.name, "latitude", feature.on, outer)
            yield LogColumn(longitude, feature.name, "longitude", feature.on, outer)


def _action_columns(action: Action, lists: int) -> Iterator[LogColumn]:
    graded = action.kind == "graded"
    yield LogColumn(action.label_column, action.name, "label", "candidate", lists, nullable=True, graded=graded)
    yield LogColumn(action.observed_column, action.name, "observed", "candidate", lists, required=False)


def _refuse_contradictions(columns: tuple[LogColumn, ...]) -> None:
    first_use: dict[str, LogColumn] = {}
    for column in columns:
        first = first_use.setdefault(column.name, column)
        if (first.side, first.depth) != (column.side, column.depth):
            raise SchemaError(
                f"column {column.name!r} is declared twice, on the {first.side} for {first.owner!r} and on the "
                f"{column.side} for {column.owner!r}",
                found=[first.allowed, column.allowed],
                allowed="one shape a column",
                do="give one of the two another `column`",
            )
