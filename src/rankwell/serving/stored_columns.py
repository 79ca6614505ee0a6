"""Which columns of a schema a feature store keeps: those of an item and of its member, and not those of a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import final

from rankwell.data.layout import LogColumn, LogLayout
from rankwell.errors import SchemaError
from rankwell.schema.columns import Bag, Categorical, Numeric, Place, Sequence, Vector
from rankwell.schema.schema import Schema

__all__ = ["StoredColumns", "StoredFeature"]

StoredFeature = Categorical | Bag | Numeric | Vector | Place


@final
@dataclass(frozen=True, slots=True)
class StoredColumns:
    """What is kept by id, and what must come with a request.

    A feature of the candidate is kept by item, one of the request by member, a sequence by member. The item itself and
    the member itself are known from the ids, and kept nowhere.

    Args:
        schema: Of the log and the model.
        not_stored: Features and sequences that only a request can bring: a retrieval score, the hour.

    Raises:
        SchemaError: `not_stored` names what the schema does not have, or the item.

    >>> from rankwell.schema import Action
    >>> schema = Schema(features=(Categorical(name="job"), Numeric(name="pay"), Numeric(name="retrieval_score"),
    ...                           Numeric(name="years", on="request")), actions=(Action(name="click"),), item="job")
    >>> stored = StoredColumns(schema, not_stored=("retrieval_score",))
    >>> stored.candidate_columns, stored.context_columns
    (('job', 'pay'), ('years',))
    """

    schema: Schema
    not_stored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        schema = self.schema
        known = [*(feature.name for feature in schema.visible_features), *(s.name for s in schema.sequences)]
        unknown = sorted(set(self.not_stored) - set(known))
        if unknown:
            raise SchemaError(
                "`not_stored` names what the schema does not have", found=unknown, allowed=known,
                do="name features and sequences that come with the request",
            )  # fmt: skip
        if schema.item in self.not_stored:
            raise SchemaError(
                f"the item {schema.item!r} cannot be left out of a feature store", found=list(self.not_stored),
                allowed="any other feature", do="drop it: it is known from the ids, and takes no room",
            )  # fmt: skip

    @property
    def item_features(self) -> tuple[StoredFeature, ...]:
        """What is kept of an item; nothing where the schema names none."""
        if self.schema.item is None:
            return ()
        return tuple(f for f in self._features("candidate") if f.name != self.schema.item)

    @property
    def member_features(self) -> tuple[StoredFeature, ...]:
        """What is kept of a member, but for sequences; nothing where the log has no members."""
        if self.schema.member_id is None:
            return ()
        return tuple(f for f in self._features("request") if f.name not in self.member_columns)

    @property
    def member_sequences(self) -> tuple[Sequence, ...]:
        """The sequences that are kept of a member."""
        if self.schema.member_id is None:
            return ()
        return tuple(sequence for sequence in self.schema.sequences if sequence.name not in self.not_stored)

    @property
    def member_columns(self) -> tuple[str, ...]:
        """Features that are the member's id itself."""
        return tuple(
            f.name
            for f in self._features("request")
            if isinstance(f, Categorical) and (f.column or f.name) == self.schema.member_id
        )

    @property
    def candidate_columns(self) -> tuple[str, ...]:
        """Names of the candidate's features that a store gives, the item among them."""
        item = self.schema.item
        return () if item is None else tuple(f.name for f in self._features("candidate"))

    @property
    def context_columns(self) -> tuple[str, ...]:
        """Names of the request's features that a store gives, the member among them."""
        return () if self.schema.member_id is None else tuple(f.name for f in self._features("request"))

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the sequences that a store gives."""
        return tuple(sequence.name for sequence in self.member_sequences)

    def item_source(self) -> tuple[LogColumn, ...]:
        """The columns of a table of items, the ids first; none where the schema names no item."""
        return self._source("candidate", self.schema.item, [f.name for f in self.item_features])

    def member_source(self) -> tuple[LogColumn, ...]:
        """The columns of a table of members, the ids first; none where the log has no members."""
        return self._source("request", self.schema.member_id, [f.name for f in self.member_features])

    def _source(self, side: str, key: str | None, names: Iterable[str]) -> tuple[LogColumn, ...]:
        if key is None:
            return ()
        owners, sequences = set(names), self.sequences if side == "request" else ()
        # a column of one name may be read by the schema as something else too, such as a protected attribute
        columns = LogLayout.of(self.schema, "flat").columns
        role = "categorical" if side == "candidate" else "member_id"
        ids = next(column for column in columns if (column.owner, column.role, column.side) == (key, role, side))
        kept = (c for c in columns if (c.side == side and c.owner in owners) or c.sequence in sequences)
        is_feature = ("categorical", "bag", "numeric", "vector", "latitude", "longitude", "event_time")
        return (replace(ids, nullable=False), *(column for column in kept if column.role in is_feature))

    def _features(self, side: str) -> tuple[StoredFeature, ...]:
        return tuple(f for f in self.schema.visible_features if f.on == side and f.name not in self.not_stored)
