"""Id columns become rows: which columns read which table, looked up in one checkout a pass.

Letters: R requests · C candidates, flat · H history events, flat · U unique rows lent · W row width · F id columns.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from rankwell.data.statistics import NumericStatistics
from rankwell.models.layers import spread
from rankwell.models.numeric_inputs import BucketIds
from rankwell.schema import Bag, Categorical, Numeric, Quantiles, Schema, TableSpec
from rankwell.tables.hashing import cross_ids
from rankwell.tables.loan import IdColumn
from rankwell.tables.quotient_remainder import composed_rows, part_columns
from rankwell.tables.row_source import RowSource
from rankwell.types import Column, Features, Ragged

__all__ = [
    "CrossColumns",
    "FeatureColumns",
    "IdColumns",
    "RowLookup",
    "Rows",
    "SingleColumn",
    "SingleIds",
    "list_means",
]


@final
@dataclass(frozen=True, slots=True)
class Rows:
    """What the id columns of a batch read: one block of F·W columns a side, one vector a sequence field or bag.

    Args:
        request_RW: Rows of the columns on requests, side by side, then the means of their bags and history fields.
        candidate_CW: Rows of the columns on candidates, side by side, then the means of their bags.
        event_HW: By sequence, rows of its events' fields, side by side; only where history is not averaged.
    """

    request_RW: Tensor
    candidate_CW: Tensor
    event_HW: Mapping[str, Tensor]


@final
@dataclass(frozen=True, slots=True)
class SingleColumn:
    """A column of one id an entry.

    Args:
        table: That it reads.
        of: The feature whose ids they are, or the features that are crossed.
        feature: What messages call it; "" for the table's own name.
    """

    table: str
    of: tuple[str, ...]
    feature: str = ""


class IdColumns(nn.Module, abc.ABC):
    """A choice of a schema's id columns, and the tables they read."""

    ids: SingleIds
    """The features with one id an entry that they are made of."""
    specs: tuple[TableSpec, ...]
    """The tables these columns read."""
    single_columns: Mapping[str, tuple[SingleColumn, ...]]
    """By side, the columns of one id an entry."""
    num_blocks: Mapping[str, int]
    """How many rows an entry reads, by side; a list column counts as one, its mean."""
    num_event_blocks: Mapping[str, int] = MappingProxyType({})
    """How many rows an event reads, by sequence, where events' rows are not averaged."""

    def single(self, features: Features, on: str) -> list[IdColumn]:
        """The columns of one id an entry on one side."""
        return [IdColumn(c.table, self.ids.of(features, c.of, on), c.feature) for c in self.single_columns[on]]

    @abc.abstractmethod
    def lists(self, features: Features, on: str) -> list[tuple[IdColumn, Tensor]]:
        """The columns of several ids an entry on one side, each with its offsets."""

    def events(self, features: Features) -> dict[str, list[IdColumn]]:
        """By sequence, the columns of its events whose rows are not averaged."""
        del features
        return {}


@final
class FeatureColumns(IdColumns):
    """Every id column but the crosses: categoricals, bucketed numerics, bags and the fields of sequences.

    `matches` are the pairs of a request's row block and a candidate's that come from one table: what the member did,
    and what is offered now, in the same terms; `event_matches` are those of an event's blocks and a candidate's, by
    sequence, where histories are not averaged.

    Args:
        schema: Declares them.
        statistics: For the bucket edges.
        averages_history: Whether a field of a sequence counts as one block of the request, its mean; else its events'
            rows are given one by one.
    """

    def __init__(self, schema: Schema, statistics: NumericStatistics, *, averages_history: bool = True) -> None:
        super().__init__()
        self.ids = SingleIds(schema, statistics, [f.name for f in schema.visible_features if _has_one_id(f)])
        self.single_columns = {
            on: tuple(SingleColumn(self.ids.table[n], (n,), n) for n, side in self.ids.side.items() if side == on)
            for on in ("request", "candidate")
        }
        self._bags = tuple((f.name, f.table_name, f.on) for f in schema.visible_features if isinstance(f, Bag))
        history = tuple(
            (sequence.name, field.name, field.table_name)
            for sequence in schema.sequences
            for field in sequence.fields
            if isinstance(field, Categorical)
        )
        self._history = history if averages_history else ()
        self._events = () if averages_history else history
        tables = {*self.ids.table.values(), *(t for _, t, _ in self._bags), *(t for _, _, t in history)}
        self.specs = tuple(spec for name, spec in schema.table_specs().items() if name in tables)
        sides = [*self.ids.side.values(), *(on for _, _, on in self._bags), *("request" for _ in self._history)]
        self.num_blocks = {on: sides.count(on) for on in ("request", "candidate")}
        of_candidate = self._tables_of_blocks("candidate")
        self.matches = _equal_pairs(self._tables_of_blocks("request"), of_candidate)
        self.event_tables: dict[str, list[str]] = {}
        for sequence, _, table in self._events:
            self.event_tables.setdefault(sequence, []).append(table)
        self.num_event_blocks = {sequence: len(tables) for sequence, tables in self.event_tables.items()}
        self.event_matches = {name: _equal_pairs(of, of_candidate) for name, of in self.event_tables.items()}

    def names_of_candidate_blocks(self) -> list[str]:
        """The features whose rows stand side by side in `Rows.candidate_CW`, in that order."""
        return [column.feature for column in self.single_columns["candidate"]] + [
            n for n, _, on in self._bags if on == "candidate"
        ]

    def _tables_of_blocks(self, on: str) -> list[str]:
        single = [column.table for column in self.single_columns[on]]
        bags = [table for _, table, side in self._bags if side == on]
        return [*single, *bags, *(table for _, _, table in self._history if on == "request")]

    def lists(self, features: Features, on: str) -> list[tuple[IdColumn, Tensor]]:
        """See `IdColumns`."""
        columns = []
        for name, table, side in self._bags:
            if side == on:
                bag = _side_columns(features, on)[name]
                assert isinstance(bag, Ragged)
                columns.append((IdColumn(table, bag.values, name), bag.offsets))
        if on == "request":
            for sequence, field, table in self._history:
                events = features.history[sequence]
                ids_H = events.columns[field]
                columns.append((IdColumn(table, ids_H, f"{sequence}.{field}"), events.offsets))
        return columns

    def events(self, features: Features) -> dict[str, list[IdColumn]]:
        """See `IdColumns`."""
        columns: dict[str, list[IdColumn]] = {}
        for sequence, field, table in self._events:
            ids_H = features.history[sequence].columns[field]
            columns.setdefault(sequence, []).append(IdColumn(table, ids_H, f"{sequence}.{field}"))
        return columns


@final
class CrossColumns(IdColumns):
    """The crosses; one whose members all stand on the request stands there too.

    Args:
        schema: Declares them.
        statistics: For the bucket edges.
    """

    def __init__(self, schema: Schema, statistics: NumericStatistics) -> None:
        super().__init__()
        self.ids = SingleIds(schema, statistics, [name for cross in schema.crosses for name in cross.of])
        self.specs = tuple(schema.table_specs()[cross.name] for cross in schema.crosses)
        side = {
            cross.name: "candidate" if any(self.ids.side[name] == "candidate" for name in cross.of) else "request"
            for cross in schema.crosses
        }
        self.single_columns = {
            on: tuple(SingleColumn(cross.name, tuple(cross.of)) for cross in schema.crosses if side[cross.name] == on)
            for on in ("request", "candidate")
        }
        self.num_blocks = {on: len(columns) for on, columns in self.single_columns.items()}

    def lists(self, features: Features, on: str) -> list[tuple[IdColumn, Tensor]]:
        """None."""
        return []


@final
class SingleIds(nn.Module):
    """Features of one id an entry, by name: a categorical as it stands, a numeric as the number of its bucket.

    Args:
        schema: Declares them.
        statistics: For the bucket edges.
        names: Of the features.
    """

    def __init__(self, schema: Schema, statistics: NumericStatistics, names: Iterable[str]) -> None:
        super().__init__()
        features = {name: schema.feature(name) for name in names}
        self.side = {name: feature.on for name, feature in features.items()}
        self.table = {n: f.table_name if isinstance(f, Categorical) else n for n, f in features.items()}
        numerics = {name: feature for name, feature in features.items() if isinstance(feature, Numeric)}
        # A list, because a ModuleDict has no room for a feature called "type" or "values".
        self._place = {name: i for i, name in enumerate(numerics)}
        self.buckets = nn.ModuleList(BucketIds(feature, statistics) for feature in numerics.values())

    def edges(self, name: str) -> Tensor | None:
        """The edges of a numeric's buckets; None of a categorical."""
        if name not in self._place:
            return None
        bucket = self.buckets[self._place[name]]
        assert isinstance(bucket, BucketIds)
        return bucket.edges

    def of(self, features: Features, names: Sequence[str], on: str) -> Tensor:
        """int64, one id an entry of a side: of one feature, or of several that are crossed."""
        if len(names) == 1:
            return self._of_one(features, names[0])
        columns = [self._of_one(features, name) for name in names]
        if on == "candidate":
            columns = [
                spread(ids, features.request_C) if self.side[name] == "request" else ids
                for name, ids in zip(names, columns, strict=True)
            ]
        return cross_ids(columns)

    def _of_one(self, features: Features, name: str) -> Tensor:
        column = _side_columns(features, self.side[name])[name]
        assert isinstance(column, Tensor)
        if name not in self._place:
            return column
        ids: Tensor = self.buckets[self._place[name]](column)
        return ids


@final
class RowLookup(nn.Module):
    """The rows of a batch's id columns, from one table slab, in one checkout.

    In training mode rows are checked out (they get gradients and come back by `Table.apply`); in eval mode they are
    read.

    Args:
        columns: Which columns read which table.
        table: Holds all of their tables, at one width.
    """

    def __init__(self, columns: IdColumns, table: RowSource) -> None:
        super().__init__()
        self.columns, self.table = columns, table
        self.request_width: int = columns.num_blocks["request"] * table.width
        self.candidate_width: int = columns.num_blocks["candidate"] * table.width
        self._specs = {spec.name: spec for spec in columns.specs}

    def forward(self, features: Features) -> Rows:
        """The rows of each side, side by side."""
        single = {on: self.columns.single(features, on) for on in ("candidate", "request")}
        lists = {on: self.columns.lists(features, on) for on in ("candidate", "request")}
        events = self.columns.events(features)
        wanted = [
            columns
            for on in ("candidate", "request")
            for columns in (single[on], *([column] for column, _ in lists[on]))
            if columns
        ]
        wanted += events.values()
        if not wanted:
            return Rows(torch.zeros(features.num_requests, 0), torch.zeros(features.num_candidates, 0), {})
        blocks = [
            [part for c in columns for part in part_columns(self._specs[c.table], c.ids, c.feature)]
            for columns in wanted
        ]
        loan = self.table.checkout(blocks) if self.training else self.table.read(blocks)
        lent = iter(
            composed_rows(rows, tuple(self._specs[c.table] for c in columns), self.table.width)
            for rows, columns in zip(loan.blocks, wanted, strict=True)
        )
        sides = []
        for on, num_entries in (("candidate", features.num_candidates), ("request", features.num_requests)):
            parts = [next(lent)] if single[on] else []
            parts += [list_means(next(lent), offsets) for _, offsets in lists[on]]
            sides.append(
                torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] if parts else torch.zeros(num_entries, 0)
            )
        return Rows(request_RW=sides[1], candidate_CW=sides[0], event_HW={name: next(lent) for name in events})


def list_means(rows_nW: Tensor, offsets: Tensor) -> Tensor:
    """The mean row of each list, 0 for an empty one."""
    if offsets.shape[0] == 2:  # one list, as of a request by itself: all there is, however much
        return rows_nW.sum(0, keepdim=True) / torch.full((1, 1), rows_nW.shape[0]).clamp(min=1)
    if len(rows_nW) == 0:
        return torch.zeros(len(offsets) - 1, rows_nW.shape[1])
    return embedding_bag(torch.arange(len(rows_nW)), rows_nW, offsets, mode="mean", include_last_offset=True)


def _equal_pairs(ones: Sequence[str], others: Sequence[str]) -> tuple[tuple[int, int], ...]:
    return tuple((i, k) for i, one in enumerate(ones) for k, other in enumerate(others) if one == other)


def _side_columns(features: Features, on: str) -> Mapping[str, Column]:
    return features.candidates if on == "candidate" else features.context


def _has_one_id(feature: object) -> bool:
    bucketed = isinstance(feature, Numeric) and isinstance(feature.transform, Quantiles)
    return bucketed or isinstance(feature, Categorical)
