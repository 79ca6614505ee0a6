"""Id columns become rows: which columns read which table, looked up in one checkout a pass.

Letters: R requests · C candidates, flat · H history events, flat · U unique rows lent · W row width · F id columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from rankwell.data.statistics import NumericStatistics
from rankwell.models.numeric_inputs import BucketIds
from rankwell.schema import Bag, Categorical, Cross, Numeric, Quantiles, Schema, TableSpec
from rankwell.tables.hashing import cross_ids
from rankwell.tables.table import IdColumn, Table
from rankwell.types import Column, Events, Features, Ragged

__all__ = ["IdColumns", "RowLookup", "Rows"]


@dataclass(frozen=True, slots=True)
class Rows:
    """What the id columns of a batch read: one block of F·W columns a side, one vector a sequence field or bag.

    Args:
        request_RW: Rows of the columns on requests, side by side, then the means of their bags and history fields.
        candidate_CW: Rows of the columns on candidates, side by side, then the means of their bags.
    """

    request_RW: Tensor
    candidate_CW: Tensor


@final
class IdColumns(nn.Module):
    """Reads the id columns of a batch: categoricals, bucketed numerics, bags, history fields and crosses.

    Args:
        schema: Declares them.
        statistics: For the bucket edges.
        crosses: The crosses to compute (a deep part takes none).
    """

    def __init__(self, schema: Schema, statistics: NumericStatistics, crosses: Sequence[Cross] = ()) -> None:
        super().__init__()
        single = [f for f in schema.visible_features if isinstance(f, Categorical) or _is_bucketed(f)]
        self.buckets = nn.ModuleDict({f.name: BucketIds(f, statistics) for f in single if isinstance(f, Numeric)})
        self._table = {f.name: f.table_name if isinstance(f, Categorical) else f.name for f in single}
        self._side = {f.name: f.on for f in single}
        self._crosses = tuple(crosses)
        self._cross_on = {
            cross.name: "candidate" if any(self._side[name] == "candidate" for name in cross.of) else "request"
            for cross in crosses
        }
        self._bags = tuple((f.name, f.table_name, f.on) for f in schema.visible_features if isinstance(f, Bag))
        self._history = tuple(
            (sequence.name, field.name, field.table_name)
            for sequence in schema.sequences
            for field in sequence.fields
            if isinstance(field, Categorical)
        )
        used = {*self._table.values(), *(table for _, table, _ in self._bags), *(t for _, _, t in self._history)}
        used.update(cross.name for cross in crosses)
        self.specs: tuple[TableSpec, ...] = tuple(spec for name, spec in schema.table_specs().items() if name in used)
        """The tables these columns read."""

    @property
    def num_request_blocks(self) -> int:
        """Row blocks of a request."""
        on_request = sum(on == "request" for on in (*self._side.values(), *self._cross_on.values()))
        return on_request + sum(on == "request" for _, _, on in self._bags) + len(self._history)

    @property
    def num_candidate_blocks(self) -> int:
        """Row blocks of a candidate."""
        on_candidate = sum(on == "candidate" for on in (*self._side.values(), *self._cross_on.values()))
        return on_candidate + sum(on == "candidate" for _, _, on in self._bags)

    def single_columns(self, features: Features, on: str) -> list[IdColumn]:
        """The columns of one id an entry on one side, crosses last."""
        ids = {name: self._ids(features, name) for name in self._side if self._side[name] == on}
        columns = [IdColumn(self._table[name], column) for name, column in ids.items()]
        for cross in self._crosses:
            if self._cross_on[cross.name] == on:
                crossed = [ids[n] if n in ids else self._ids(features, n)[features.request_C] for n in cross.of]
                columns.append(IdColumn(cross.name, cross_ids(crossed)))
        return columns

    def list_columns(self, features: Features, on: str) -> list[tuple[IdColumn, Tensor]]:
        """The columns of several ids an entry on one side, each with its offsets."""
        columns = []
        for name, table, side in self._bags:
            if side == on:
                bag = _side_columns(features, on)[name]
                assert isinstance(bag, Ragged)
                columns.append((IdColumn(table, bag.values), bag.offsets))
        if on == "request":
            for sequence, field, table in self._history:
                events: Events = features.history[sequence]
                columns.append((IdColumn(table, events.columns[field]), events.offsets))
        return columns

    def _ids(self, features: Features, name: str) -> Tensor:
        column = _side_columns(features, self._side[name])[name]
        assert isinstance(column, Tensor)
        ids: Tensor = self.buckets[name](column) if name in self.buckets else column
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

    def __init__(self, columns: IdColumns, table: Table) -> None:
        super().__init__()
        self.columns, self.table = columns, table
        self.request_width: int = columns.num_request_blocks * table.width
        self.candidate_width: int = columns.num_candidate_blocks * table.width

    def forward(self, features: Features) -> Rows:
        """The rows of each side, side by side."""
        single = {on: self.columns.single_columns(features, on) for on in ("candidate", "request")}
        lists = {on: self.columns.list_columns(features, on) for on in ("candidate", "request")}
        every = [c for on in ("candidate", "request") for c in (*single[on], *(column for column, _ in lists[on]))]
        if not every:
            return Rows(torch.zeros(features.num_requests, 0), torch.zeros(features.num_candidates, 0))
        loan = self.table.checkout(every) if self.training else self.table.read(every)
        sides = []
        start = 0
        for on, num_entries in (("candidate", features.num_candidates), ("request", features.num_requests)):
            stop = start + len(single[on]) * num_entries
            blocks = _side_by_side(loan.index_n[start:stop], loan.rows_UW, num_entries, len(single[on]))
            start = stop
            means = []
            for column, offsets in lists[on]:
                stop = start + len(column.ids)
                means.append(_means(loan.index_n[start:stop], loan.rows_UW, offsets))
                start = stop
            sides.append(torch.cat([blocks, *means], dim=1) if means else blocks)
        return Rows(request_RW=sides[1], candidate_CW=sides[0])


def _side_by_side(index_n: Tensor, rows_UW: Tensor, num_entries: int, num_columns: int) -> Tensor:
    if num_columns == 0:
        return torch.zeros(num_entries, 0)
    return embedding(index_n.view(num_columns, num_entries).t(), rows_UW).flatten(1)


def _means(index_n: Tensor, rows_UW: Tensor, offsets: Tensor) -> Tensor:
    if len(index_n) == 0:
        return torch.zeros(len(offsets) - 1, rows_UW.shape[1])
    return embedding_bag(index_n, rows_UW, offsets, mode="mean", include_last_offset=True)


def _side_columns(features: Features, on: str) -> Mapping[str, Column]:
    return features.candidates if on == "candidate" else features.context


def _is_bucketed(feature: object) -> bool:
    return isinstance(feature, Numeric) and isinstance(feature.transform, Quantiles)
