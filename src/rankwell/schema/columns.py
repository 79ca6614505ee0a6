"""The kinds of feature column a request log may have."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self, final

from pydantic import Field, StringConstraints, model_validator

from rankwell.errors import SchemaError
from rankwell.schema.transforms import Declaration, Quantiles, Standardise, Transform

__all__ = [
    "Bag",
    "Categorical",
    "Cross",
    "Feature",
    "Name",
    "Numeric",
    "Place",
    "Sequence",
    "TableSpec",
    "Vector",
]

_NAME_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_]*$"
Name = Annotated[str, StringConstraints(pattern=_NAME_PATTERN, max_length=100)]
# A cross of six columns names its table with all of their names.
TableName = Annotated[str, StringConstraints(pattern=_NAME_PATTERN, max_length=700)]
Side = Literal["request", "candidate", "event"]
NumIds = Annotated[int, Field(ge=1, le=2**40)]

DEFAULT_NUM_ROWS: Final = 65_536
_AGE: Final = "age_s"


@final
class TableSpec(Declaration):
    """A table of rows, by name: all features that name it share its rows.

    One of `num_ids`, `num_rows` and `growing` is given.

    Args:
        num_ids: Ids are 0 … num_ids - 1 and each has its own row; a larger id reads the default row.
        num_rows: Ids are any int64 ≥ 0 and are hashed to this many rows.
        growing: Ids are any int64 ≥ 0, and each that training has seen has a row of its own; any other reads the
            default row. Memory follows the ids seen.
        num_remainders: m, beside `num_ids`: an id's row is composed, r[id mod m] ⊙ (1 + q[id div m]), of
            m + ⌈num_ids / m⌉ rows in all. Source: Shi et al. 2020, "Compositional embeddings using complementary
            partitions for memory-efficient recommendation systems", KDD.

    >>> TableSpec(name="member", growing=True).hashed
    False
    >>> [part.size for part in TableSpec(name="member", num_ids=1000, num_remainders=30).parts()]
    [30, 34]
    """

    name: TableName
    num_ids: NumIds | None = None
    num_rows: NumIds | None = None
    growing: bool = False
    num_remainders: NumIds | None = None

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        num_sizes = (self.num_ids is not None) + (self.num_rows is not None) + self.growing
        if num_sizes != 1:
            raise SchemaError(
                f"table {self.name!r} has {('no size', '', 'two sizes', 'three sizes')[num_sizes]}",
                found={"num_ids": self.num_ids, "num_rows": self.num_rows, "growing": self.growing},
                allowed="exactly one of num_ids, num_rows and growing",
                do="give num_ids=n where ids are 0 … n - 1 and each has its own row, num_rows, to which ids "
                "are hashed, or growing=True, where each id that training sees has its own row",
            )
        if self.num_remainders is not None and not 1 < self.num_remainders < (self.num_ids or 0):
            raise SchemaError(
                f"table {self.name!r} cannot be composed", found={"num_remainders": self.num_remainders},
                allowed="1 < num_remainders < num_ids",
                do="num_remainders near the root of num_ids takes the fewest rows",
            )  # fmt: skip
        return self

    @property
    def size(self) -> int:
        """The number of rows for ids; of a growing table it is not known beforehand."""
        size = self.num_ids if self.num_ids is not None else self.num_rows
        assert size is not None
        return size

    @property
    def hashed(self) -> bool:
        """Whether ids are hashed to rows."""
        return self.num_rows is not None

    def parts(self) -> tuple[TableSpec, ...]:
        """The tables that hold the rows: itself, or the remainders' and the quotients' where rows are composed."""
        if self.num_remainders is None:
            return (self,)
        num_quotients = -(-self.size // self.num_remainders)
        return (
            TableSpec(name=f"{self.name}_remainder", num_ids=self.num_remainders),
            TableSpec(name=f"{self.name}_quotient", num_ids=num_quotients),
        )


class _IdColumn(Declaration):
    name: Name
    on: Side = "candidate"
    column: Name | None = None
    table: Name | None = None
    num_ids: NumIds | None = None
    num_rows: NumIds | None = None

    @model_validator(mode="after")
    def _at_most_one_size(self) -> Self:
        if self.num_ids is not None and self.num_rows is not None:
            raise SchemaError(
                f"feature {self.name!r} gives its table two sizes",
                found={"num_ids": self.num_ids, "num_rows": self.num_rows},
                allowed="at most one of num_ids and num_rows",
                do="keep num_ids where each id 0 … num_ids - 1 has its own row, else num_rows, to which ids are hashed",
            )
        return self

    @property
    def table_name(self) -> str:
        """The table whose rows this column reads: the declared one, or its own."""
        return self.table or self.name

    @property
    def is_sized(self) -> bool:
        """Whether it gives its table a size."""
        return self.num_ids is not None or self.num_rows is not None

    def own_table(self) -> TableSpec:
        """The table this column implies where the schema declares none of that name."""
        if not self.is_sized:
            return TableSpec(name=self.table_name, num_rows=DEFAULT_NUM_ROWS)
        return TableSpec(name=self.table_name, num_ids=self.num_ids, num_rows=self.num_rows)


@final
class Categorical(_IdColumn):
    """One id an entry: int64 ≥ 0 (strings are hashed to 63 bits when a log is written).

    Args:
        name: The feature's name.
        on: Whether it stands on the request, on each candidate, or (inside a `Sequence`) on each event.
        column: The log's column, where it isn't called `name`.
        table: The table whose rows it reads; by default one of its own name.
        num_ids: Size of its own table when ids are 0 … num_ids - 1.
        num_rows: Size of its own table when ids are hashed to rows. With neither, 65,536 hashed rows.
        missing: "refuse" (a null is an error) or "row" (a null reads a learned row of its own).

    >>> Categorical(name="seniority", on="request", num_ids=8, missing="row").own_table().size
    8
    >>> Categorical(name="clicked_job", table="job").table_name  # rows shared with the feature `job`
    'job'
    """

    kind: Literal["categorical"] = "categorical"
    missing: Literal["refuse", "row"] = "refuse"


@final
class Bag(_IdColumn):
    """Several ids an entry (a list column), read as the mean of their rows; an empty list reads zeros.

    Args:
        name, on, column, table, num_ids, num_rows: As in `Categorical`.

    >>> Bag(name="skills", num_rows=4096).own_table().hashed
    True
    """

    kind: Literal["bag"] = "bag"


@final
class Numeric(Declaration):
    """A finite number an entry.

    Args:
        name: The feature's name.
        on: Whether it stands on the request, on each candidate, or (inside a `Sequence`) on each event.
        column: The log's column, where it isn't called `name`.
        transform: How it becomes an input; see `rankwell.schema.transforms`.
        missing: "refuse" (null or NaN is an error) or "indicator" (it becomes the mean, and a second input says so;
            with `Quantiles` it reads a learned row of its own).

    >>> from rankwell.schema import Log
    >>> Numeric(name="salary", transform=Log(), missing="indicator").transform
    Log(kind='log')
    """

    kind: Literal["numeric"] = "numeric"
    name: Name
    on: Side = "candidate"
    column: Name | None = None
    transform: Transform = Standardise()
    missing: Literal["refuse", "indicator"] = "refuse"


@final
class Vector(Declaration):
    """A given embedding: a list of exactly `width` finite floats an entry.

    Args:
        name, on, column: As in `Numeric`.
        width: How many floats.

    >>> Vector(name="title_embedding", width=384).width
    384
    """

    kind: Literal["vector"] = "vector"
    name: Name
    on: Side = "candidate"
    column: Name | None = None
    width: Annotated[int, Field(ge=1, le=65_536)]


@final
class Place(Declaration):
    """A point on the Earth in degrees, from two columns `<column>_lat` and `<column>_lon`.

    Args:
        name, on, column: As in `Numeric`.

    >>> Place(name="home", on="request").columns
    ('home_lat', 'home_lon')
    """

    kind: Literal["place"] = "place"
    name: Name
    on: Side = "candidate"
    column: Name | None = None

    @property
    def columns(self) -> tuple[str, str]:
        """The log's columns of latitude and longitude."""
        name = self.column or self.name
        return f"{name}_lat", f"{name}_lon"


@final
class Sequence(Declaration):
    """The member's recent events, oldest first; list columns `<name>_<field>` on the request.

    Args:
        name: The sequence's name, and the prefix of its columns.
        fields: What is known of an event; each ``on="event"``.
        time: The column `<name>_<time>` with the event's time in UTC microseconds (None: the log has none, and no
            leak can be looked for). The reader turns it into ``age_s``.
        max_length: Only the latest so many events are read.

    >>> Sequence(name="history", fields=(Categorical(name="item", on="event", table="job"),)).columns
    ('history_item', 'history_time_us')
    """

    kind: Literal["sequence"] = "sequence"
    name: Name
    fields: tuple[Annotated[Categorical | Numeric, Field(discriminator="kind")], ...]
    time: Name | None = "time_us"
    max_length: Annotated[int, Field(ge=1, le=65_536)] = 50

    @model_validator(mode="after")
    def _fields_are_of_events(self) -> Self:
        for field in self.fields:
            if field.on != "event":
                raise SchemaError(
                    f"sequence {self.name!r}: field {field.name!r} does not stand on the event",
                    found=f"on={field.on!r}",
                    allowed="on='event'",
                    do=f"declare {field.name!r} with on='event', or as a feature outside the sequence",
                )
            if isinstance(field, Numeric) and isinstance(field.transform, Quantiles):
                raise SchemaError(
                    f"sequence {self.name!r}: field {field.name!r} can't be bucketed",
                    found="transform=Quantiles",
                    allowed="another transform for the numerics of events",
                    do="declare another transform, or bucket it in the log and declare a categorical",
                )
        names = [field.name for field in self.fields]
        if not any(isinstance(field, Categorical) for field in self.fields):
            raise SchemaError(
                f"sequence {self.name!r} has no categorical field",
                found=names,
                allowed="at least one, such as the item that was acted on",
                do="declare it",
            )
        taken = {_AGE, self.time}
        repeated = sorted({name for name in names if names.count(name) > 1 or name in taken})
        if repeated:
            raise SchemaError(
                f"sequence {self.name!r}: names of fields stand twice, or are taken",
                found=repeated,
                allowed=f"each name once, and neither {_AGE!r} nor the time's name {self.time!r}",
                do="give the fields other names; `column` says which column of the log they read",
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The log's columns, in the order of the fields, the time last."""
        names = [field.column or field.name for field in self.fields]
        return tuple(f"{self.name}_{name}" for name in (*names, *([] if self.time is None else [self.time])))


@final
class Cross(Declaration):
    """The conjunction of two or more columns, hashed to rows of the wide part.

    Args:
        of: Names of categoricals, or of numerics with `Quantiles`.
        num_rows: How many rows the conjunctions are hashed to.

    >>> Cross(of=("member_title", "job_title"), num_rows=4096).name
    'member_title_x_job_title'
    """

    of: Annotated[tuple[Name, ...], Field(min_length=2, max_length=6)]
    num_rows: NumIds = 2**18

    @model_validator(mode="after")
    def _each_column_once(self) -> Self:
        if len(set(self.of)) < len(self.of):
            raise SchemaError(
                f"cross {self.name!r} names a column twice",
                found=list(self.of),
                allowed="two to six different columns",
                do="name each column once",
            )
        return self

    @property
    def name(self) -> str:
        """The name of the cross and of its table: the crossed names joined by "_x_"."""
        return "_x_".join(self.of)


Feature = Annotated[Categorical | Bag | Numeric | Vector | Place, Field(discriminator="kind")]
