"""What each column of a request log means: declared once, validated, and carried as JSON in every bundle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self, final

from pydantic import Field, ValidationError, model_validator

from rankwell.errors import SchemaError
from rankwell.schema.actions import Action, Exposure
from rankwell.schema.columns import (
    Bag,
    Categorical,
    Cross,
    Feature,
    Name,
    Numeric,
    Place,
    Sequence,
    TableSpec,
    Vector,
)
from rankwell.schema.transforms import Declaration, Quantiles, as_schema_error

__all__ = ["Schema"]


@final
class Schema(Declaration):
    """The meaning of a request log's columns.

    Args:
        features: What a model may see, each on the request or on the candidate.
        actions: What members may do; the first is the one that probabilities are calibrated for by default.
        sequences: What the member did before.
        crosses: Conjunctions for the wide part.
        tables: Tables shared by several features, or sized apart from them.
        item: The candidate categorical that says which item it is (its ids break ties and are logged).
        request_id, member_id, time: Key columns; `member_id` and `time` may be None for a log without them.
            `request_id` None: each row of a flat log is a request.
        position, …: See `Exposure`.
        bid: Candidate column of bids in micros.
        weight: Candidate column of row weights.
        protected: Attributes of fairness audits. Kept apart from features: a model sees one only if
            `visible_protected` names it.
        visible_protected: Names of protected attributes that models may see all the same.
        pii: Columns that name a person (names, e-mail addresses): a log that holds one is refused.
        ingest_delay_s: An event enters the history only when it is more than this much older than the request.

    >>> from rankwell.schema import Action, Categorical, Numeric
    >>> schema = Schema(
    ...     features=(Categorical(name="job", num_rows=1000), Numeric(name="years", on="request")),
    ...     actions=(Action(name="click"),), item="job")
    >>> Schema.from_json(schema.to_json()) == schema
    True
    """

    features: tuple[Feature, ...]
    actions: Annotated[tuple[Action, ...], Field(min_length=1)]
    sequences: tuple[Sequence, ...] = ()
    crosses: tuple[Cross, ...] = ()
    tables: tuple[TableSpec, ...] = ()
    item: Name | None = None
    request_id: Name | None = "request_id"
    member_id: Name | None = "member_id"
    time: Name | None = "time_us"
    exposure: Exposure = Exposure()
    bid: Name | None = None
    weight: Name | None = None
    protected: tuple[Categorical, ...] = ()
    visible_protected: tuple[Name, ...] = ()
    pii: tuple[str, ...] = ()
    ingest_delay_s: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        for what, names in (
            ("features, sequences and protected attributes", self._names_of_parts()),
            ("actions", [action.name for action in self.actions]),
            ("tables", [table.name for table in self.tables]),
            ("crosses", [cross.name for cross in self.crosses]),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise SchemaError(
                    f"names of {what} stand twice",
                    found=repeated,
                    allowed="each name once",
                    do="rename one of them (`column` says which column of the log it reads); a protected attribute "
                    "that models may see goes into visible_protected, not into features",
                )
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for feature in (*self.features, *self.protected):
            if feature.on == "event":
                raise SchemaError(
                    f"feature {feature.name!r} stands on no request and no candidate",
                    found="on='event'",
                    allowed="on='request' or on='candidate'",
                    do="declare it among the fields of a sequence, or on='request'",
                )
        attributes = [attribute.name for attribute in self.protected]
        unknown = sorted(set(self.visible_protected) - set(attributes))
        if unknown:
            raise SchemaError(
                "visible_protected names what is no protected attribute",
                found=unknown,
                allowed=attributes,
                do="declare them in `protected`, or drop them: a plain feature is visible as it is",
            )
        if self.item is not None:
            ids = [f.name for f in self.features if isinstance(f, Categorical) and f.on == "candidate"]
            if self.item not in ids:
                raise SchemaError(
                    "`item` names no categorical feature on the candidate",
                    found=self.item,
                    allowed=ids,
                    do="name the feature whose ids say which item a candidate is",
                )
        return self

    @model_validator(mode="after")
    def _columns_keep_their_secrets(self) -> Self:
        uses = list(self._column_uses())
        named_pii = {column.casefold() for column in self.pii}
        private = sorted({column for column, _ in uses if column.casefold() in named_pii})
        if private:
            raise SchemaError(
                "columns declared as PII are used by the schema",
                found=private,
                allowed="columns that name no person",
                do="drop them from `pii`, or from what reads them; members are told apart by pseudonyms",
            )
        owners: dict[str, list[str]] = {}
        for column, owner in uses:
            owners.setdefault(column, []).append(owner)
        for action in self.actions:
            for column in (action.label_column, action.observed_column):
                if len(owners[column]) > 1:
                    raise SchemaError(
                        f"column {column!r} is a label, and has another use",
                        found=owners[column],
                        allowed="labels of one action and nothing else: a model that sees them has nothing to predict",
                        do="give the other one another `column`, or drop it",
                    )
        return self

    @model_validator(mode="after")
    def _crosses_are_of_ids(self) -> Self:
        visible = self._visible_by_name()
        ids = [name for name, f in visible.items() if isinstance(f, Categorical) or _is_bucketed(f)]
        for cross in self.crosses:
            for name in cross.of:
                if name in ids:
                    continue
                hidden = any(attribute.name == name for attribute in self.protected) and name not in visible
                raise SchemaError(
                    f"cross {cross.name!r}: {name!r} is not one id an entry",
                    found=visible[name].kind if name in visible else "hidden from models" if hidden else "no feature",
                    allowed=ids,
                    do="cross categoricals, or numerics with transform=Quantiles()"
                    + ("; visible_protected shows a protected attribute to models" if hidden else ""),
                )
        return self

    @model_validator(mode="after")
    def _tables_agree(self) -> Self:
        readers: dict[str, list[str]] = {}
        for column in self._id_columns(self.protected):
            readers.setdefault(column.table_name, []).append(column.name)
        unread = [table.name for table in self.tables if table.name not in readers]
        if unread:
            raise SchemaError(
                "tables are declared that no column reads",
                found=unread,
                allowed=sorted(readers),
                do="name them in the `table` of a categorical or a bag, or drop them",
            )
        bucketed = [feature.name for feature in self.visible_features if _is_bucketed(feature)]
        own = [*bucketed, *(cross.name for cross in self.crosses)]
        taken = sorted({name for name in own if name in readers or own.count(name) > 1})
        if taken:
            raise SchemaError(
                "tables of crosses or of bucketed numerics have a name that another one has",
                found={name: readers.get(name, "a cross and a bucketed numeric") for name in taken},
                allowed="a table of its own for each cross and each bucketed numeric",
                do="rename the feature, or the table that the ids read",
            )
        self.table_specs()
        return self

    @property
    def visible_features(self) -> tuple[Categorical | Bag | Numeric | Vector | Place, ...]:
        """All features that a model sees: the declared ones and the protected ones named as visible."""
        return (*self.features, *self._visible_protected())

    def feature(self, name: str) -> Categorical | Bag | Numeric | Vector | Place:
        """The visible feature called `name`.

        Raises:
            SchemaError: There is none.
        """
        known = self._visible_by_name()
        if name not in known:
            raise SchemaError(
                f"models see no feature {name!r}",
                found=sorted(known),
                do="correct the name; a protected attribute is seen only if visible_protected names it",
            )
        return known[name]

    def action_index(self, name: str) -> int:
        """The place of the action called `name` among the actions.

        Raises:
            SchemaError: There is none.
        """
        names = [action.name for action in self.actions]
        if name not in names:
            raise SchemaError(f"no action {name!r} in the schema", found=names, do="name one of these actions")
        return names.index(name)

    def table_specs(self) -> dict[str, TableSpec]:
        """Every table by name: declared ones, and those that features imply (quantile buckets and crosses included).

        The table of a bucketed numeric has a row a bucket. A table is sized once, in `tables` or by one feature.
        """
        specs = {table.name: table for table in self.tables}
        columns = list(self._id_columns(self._visible_protected()))
        for column in columns:
            own = column.own_table()
            if column.is_sized and specs.setdefault(own.name, own) != own:
                raise SchemaError(
                    f"feature {column.name!r} gives table {own.name!r} another size than was declared",
                    found=f"{_size_of(own)} and {_size_of(specs[own.name])}",
                    allowed="one size for a shared table",
                    do=f"size it once, in `tables` or by one feature, and let the others say table={own.name!r}",
                )
        for column in columns:
            specs.setdefault(column.table_name, column.own_table())
        for feature in self.visible_features:
            if isinstance(feature, Numeric) and isinstance(feature.transform, Quantiles):
                specs[feature.name] = TableSpec(name=feature.name, num_ids=feature.transform.num_buckets)
        for cross in self.crosses:
            specs[cross.name] = TableSpec(name=cross.name, num_rows=cross.num_rows)
        return specs

    def to_json(self) -> str:
        """The schema as JSON text."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """The schema that `to_json` wrote.

        Raises:
            SchemaError: The text is not a schema.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise as_schema_error(error) from None

    def _visible_by_name(self) -> dict[str, Categorical | Bag | Numeric | Vector | Place]:
        return {feature.name: feature for feature in self.visible_features}

    def _visible_protected(self) -> tuple[Categorical, ...]:
        return tuple(attribute for attribute in self.protected if attribute.name in self.visible_protected)

    def _names_of_parts(self) -> list[str]:
        return [part.name for part in (*self.features, *self.sequences, *self.protected)]

    def _id_columns(self, protected: tuple[Categorical, ...]) -> Iterator[Categorical | Bag]:
        for feature in (*self.features, *protected):
            if isinstance(feature, Categorical | Bag):
                yield feature
        for sequence in self.sequences:
            for field in sequence.fields:
                if isinstance(field, Categorical):
                    yield field

    def _column_uses(self) -> Iterator[tuple[str, str]]:
        """Every column of the log that something reads, and what reads it, in words."""
        for feature in (*self.features, *self.protected):
            names = feature.columns if isinstance(feature, Place) else (feature.column or feature.name,)
            yield from ((name, f"feature {feature.name!r}") for name in names)
        for sequence in self.sequences:
            yield from ((name, f"sequence {sequence.name!r}") for name in sequence.columns)
        for action in self.actions:
            yield action.label_column, f"action {action.name!r}"
            yield action.observed_column, f"observed of action {action.name!r}"
        keys = {"request_id": self.request_id, "member_id": self.member_id, "time": self.time}
        for use, name in (keys | dict(self.exposure) | {"bid": self.bid, "weight": self.weight}).items():
            if name is not None:
                yield name, use


def _is_bucketed(feature: object) -> bool:
    return isinstance(feature, Numeric) and isinstance(feature.transform, Quantiles)


def _size_of(table: TableSpec) -> str:
    if table.growing:
        return "growing=True"
    return f"num_rows={table.num_rows}" if table.hashed else f"num_ids={table.num_ids}"
