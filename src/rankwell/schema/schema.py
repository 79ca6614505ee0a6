"""What each column of a request log means: declared once, validated, and carried as JSON in every bundle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from rankwell.errors import SchemaError
from rankwell.schema.columns import (
    Action,
    Bag,
    Categorical,
    Cross,
    Exposure,
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
        ingest_delay_s: An event enters the history only when it is at least this much older than the request.

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
    def _names_are_distinct_and_known(self) -> Self:
        names = [part.name for part in (*self.features, *self.sequences, *self.protected)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"names stand twice: {repeated}; a protected attribute that models may see goes into "
                "visible_protected, not into features"
            )
        actions = [action.name for action in self.actions]
        if len(set(actions)) < len(actions):
            raise ValueError(f"actions stand twice: {actions}")
        for feature in (*self.features, *self.protected):
            if feature.on == "event":
                raise ValueError(f"feature {feature.name!r}: on='event' is only for the fields of a sequence")
        unknown = set(self.visible_protected) - {attribute.name for attribute in self.protected}
        if unknown:
            raise ValueError(f"visible_protected names no protected attribute: {sorted(unknown)}")
        if self.item is not None:
            item = next((f for f in self.features if f.name == self.item), None)
            if not isinstance(item, Categorical) or item.on != "candidate":
                raise ValueError(f"item {self.item!r} must name a categorical feature on the candidate")
        named_pii = {column.casefold() for column in self.pii} & {c.casefold() for c in self._declared_columns()}
        if named_pii:
            raise ValueError(f"columns declared as PII are used by the schema: {sorted(named_pii)}")
        return self

    @model_validator(mode="after")
    def _crosses_are_of_ids(self) -> Self:
        for cross in self.crosses:
            for name in cross.of:
                feature = self._visible_by_name().get(name)
                bucketed = isinstance(feature, Numeric) and isinstance(feature.transform, Quantiles)
                if not (isinstance(feature, Categorical) or bucketed):
                    raise ValueError(
                        f"cross {cross.name!r}: {name!r} is not a categorical, nor a numeric with Quantiles"
                    )
        return self

    @model_validator(mode="after")
    def _tables_agree(self) -> Self:
        declared = [table.name for table in self.tables]
        if len(set(declared)) < len(declared):
            raise ValueError(f"tables stand twice: {declared}")
        self.table_specs()
        return self

    @property
    def visible_features(self) -> tuple[Categorical | Bag | Numeric | Vector | Place, ...]:
        """All features that a model sees: the declared ones and the protected ones named as visible."""
        return (*self.features, *(a for a in self.protected if a.name in self.visible_protected))

    def feature(self, name: str) -> Categorical | Bag | Numeric | Vector | Place:
        """The visible feature called `name`.

        Raises:
            SchemaError: There is none.
        """
        known = self._visible_by_name()
        if name not in known:
            raise SchemaError(f"no feature {name!r} in the schema", found=sorted(known))
        return known[name]

    def action_index(self, name: str) -> int:
        """The place of the action called `name` among the actions.

        Raises:
            SchemaError: There is none.
        """
        names = [action.name for action in self.actions]
        if name not in names:
            raise SchemaError(f"no action {name!r} in the schema", found=names)
        return names.index(name)

    def table_specs(self) -> dict[str, TableSpec]:
        """Every table by name: declared ones, and those that features imply (quantile buckets and crosses included).

        The table of a bucketed numeric has a row a bucket. A table is sized once, in `tables` or by one feature.
        """
        specs = {table.name: table for table in self.tables}
        columns = list(self._id_columns())
        for column in columns:
            own = column.own_table()
            if column.is_sized and specs.setdefault(own.name, own) != own:
                raise ValueError(
                    f"feature {column.name!r} gives table {own.name!r} another size than was declared: "
                    f"{own.size} and {specs[own.name].size}; size a shared table once"
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

    def _id_columns(self) -> Iterator[Categorical | Bag]:
        for feature in self.visible_features:
            if isinstance(feature, Categorical | Bag):
                yield feature
        for sequence in self.sequences:
            for field in sequence.fields:
                if isinstance(field, Categorical):
                    yield field

    def _declared_columns(self) -> Iterator[str]:
        for part in (*self.features, *self.protected, *self.actions):
            yield part.column or part.name
        for name in (self.request_id, self.member_id, self.time, self.bid, self.weight):
            if name is not None:
                yield name
