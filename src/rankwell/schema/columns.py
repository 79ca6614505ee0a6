"""The kinds of column a request log may have."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rankwell.schema.transforms import Declaration, Quantiles, Standardise, Transform

__all__ = [
    "Action",
    "Bag",
    "Categorical",
    "Cross",
    "Exposure",
    "Feature",
    "Numeric",
    "Place",
    "Sequence",
    "TableSpec",
    "Vector",
]

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]
Side = Literal["request", "candidate", "event"]
NumIds = Annotated[int, Field(ge=1, le=2**40)]

DEFAULT_NUM_ROWS = 65_536


class TableSpec(Declaration):
    """A table of rows, by name: all features that name it share its rows.

    Exactly one of the two sizes is given.

    Args:
        num_ids: Ids are 0 … num_ids - 1 and each has its own row; a larger id reads the default row.
        num_rows: Ids are any int64 ≥ 0 and are hashed to this many rows.
    """

    name: Name
    num_ids: NumIds | None = None
    num_rows: NumIds | None = None

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.num_ids is None) == (self.num_rows is None):
            raise ValueError(f"table {self.name!r}: give exactly one of num_ids (own rows) and num_rows (hashed)")
        return self

    @property
    def size(self) -> int:
        """The number of rows for ids."""
        size = self.num_ids if self.num_ids is not None else self.num_rows
        assert size is not None
        return size

    @property
    def hashed(self) -> bool:
        """Whether ids are hashed to rows."""
        return self.num_rows is not None


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
            raise ValueError(f"feature {self.name!r}: give at most one of num_ids (own rows) and num_rows (hashed)")
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
    """

    kind: Literal["categorical"] = "categorical"
    missing: Literal["refuse", "row"] = "refuse"


class Bag(_IdColumn):
    """Several ids an entry (a list column), read as the mean of their rows; an empty list reads zeros."""

    kind: Literal["bag"] = "bag"


class Numeric(Declaration):
    """A finite number an entry.

    Args:
        name: The feature's name.
        on: Whether it stands on the request, on each candidate, or (inside a `Sequence`) on each event.
        column: The log's column, where it isn't called `name`.
        transform: How it becomes an input; see `rankwell.schema.transforms`.
        missing: "refuse" (null or NaN is an error) or "indicator" (it becomes the mean, and a second input says so;
            with `Quantiles` it reads a learned row of its own).
    """

    kind: Literal["numeric"] = "numeric"
    name: Name
    on: Side = "candidate"
    column: Name | None = None
    transform: Transform = Standardise()
    missing: Literal["refuse", "indicator"] = "refuse"


class Vector(Declaration):
    """A given embedding: a list of exactly `width` finite floats an entry."""

    kind: Literal["vector"] = "vector"
    name: Name
    on: Side = "candidate"
    column: Name | None = None
    width: Annotated[int, Field(ge=1, le=65_536)]


class Place(Declaration):
    """A point on the Earth in degrees, from two columns `<column>_lat` and `<column>_lon`."""

    kind: Literal["place"] = "place"
    name: Name
    on: Side = "candidate"
    column: Name | None = None


class Sequence(Declaration):
    """The member's recent events, oldest first; list columns `<name>_<field>` on the request.

    Args:
        name: The sequence's name, and the prefix of its columns.
        fields: What is known of an event; each ``on="event"``.
        time: The column `<name>_<time>` with the event's time in UTC microseconds (None: the log has none, and no
            leak can be looked for). The reader turns it into ``age_s``.
        max_length: Only the latest so many events are read.
    """

    kind: Literal["sequence"] = "sequence"
    name: Name
    fields: tuple[Annotated[Categorical | Numeric, Field(discriminator="kind")], ...]
    time: Name | None = "time_us"
    max_length: Annotated[int, Field(ge=1, le=65_536)] = 50

    @model_validator(mode="after")
    def _fields_are_on_events(self) -> Self:
        for field in self.fields:
            if field.on != "event":
                raise ValueError(f"sequence {self.name!r}: field {field.name!r} must be declared with on='event'")
            if isinstance(field, Numeric) and isinstance(field.transform, Quantiles):
                raise ValueError(f"sequence {self.name!r}: field {field.name!r} can't be bucketed by quantiles")
        if not any(isinstance(field, Categorical) for field in self.fields):
            raise ValueError(f"sequence {self.name!r}: declare at least one categorical field")
        names = [field.name for field in self.fields]
        if len(set(names)) < len(names) or self.time in names or "age_s" in names:
            raise ValueError(f"sequence {self.name!r}: field names repeat, or use 'age_s' or the time's name")
        return self


class Cross(Declaration):
    """The conjunction of two or more columns, hashed to rows of the wide part.

    Args:
        of: Names of categoricals, or of numerics with `Quantiles`.
        num_rows: How many rows the conjunctions are hashed to.
    """

    of: Annotated[tuple[Name, ...], Field(min_length=2, max_length=6)]
    num_rows: NumIds = 2**18

    @property
    def name(self) -> str:
        """The name of the cross and of its table: the crossed names joined by "_x_"."""
        return "_x_".join(self.of)


class Action(Declaration):
    """Something a member may do with a candidate.

    Args:
        name: Its name; the log's label column is `column`, or `name`.
        kind: "binary" (0 or 1) or "graded" (0, 1, 2, …).
        column: The log's column, where it isn't called `name`.
        threshold: For log loss a graded label counts as 1 from here on.
        gains: For ranking losses and nDCG, the gain of each grade; by default 2^grade - 1.
        window_s: How long after the impression the action may still come. Until then it is not `observed`.
    """

    name: Name
    kind: Literal["binary", "graded"] = "binary"
    column: Name | None = None
    threshold: Annotated[float, Field(gt=0)] | None = None
    gains: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    window_s: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _graded_declares_its_threshold(self) -> Self:
        if self.kind == "graded" and self.threshold is None:
            raise ValueError(f"action {self.name!r} is graded: declare the threshold from which it counts as 1")
        if self.kind == "binary" and (self.threshold is not None or self.gains is not None):
            raise ValueError(f"action {self.name!r} is binary: threshold and gains belong to graded actions")
        return self


class Exposure(Declaration):
    """How each candidate came to be seen; names of candidate columns, all optional.

    Args:
        position: 1-based place in the shown list; null or 0 where it was not shown.
        propensity: Probability that the logging policy showed it at this position, in (0, 1].
        retrieval: Probability that the retrieval stage let it through, in (0, 1].
        examination: Probability that this position was looked at, in (0, 1].
    """

    position: Name | None = None
    propensity: Name | None = None
    retrieval: Name | None = None
    examination: Name | None = None


Feature = Annotated[Categorical | Bag | Numeric | Vector | Place, Field(discriminator="kind")]
