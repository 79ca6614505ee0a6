"""All that is known of a candidate and its request, as the input of a dense layer.

Letters: R requests · C candidates, flat · H events, flat · N inputs · W row width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from rankwell.data.statistics import NumericStatistics
from rankwell.models.embedding import FeatureColumns, RowLookup, list_means
from rankwell.models.layers import spread
from rankwell.models.numeric_inputs import DistanceInputs, NumericInputs
from rankwell.schema import Schema, TableSpec
from rankwell.tables.table import Table
from rankwell.types import Features

__all__ = ["DenseInputs", "Inputs", "row_tables"]


@final
@dataclass(frozen=True, slots=True)
class Inputs:
    """What `DenseInputs` makes of a batch.

    Args:
        candidate_CN: Rows, numerics and distances of each candidate.
        request_RN: Rows and numerics of each request.
        match_CN: For each pair of a request's rows and a candidate's from one table, their product, element by element.
        event_HW: By sequence, the rows of its events' fields, side by side, where they were asked for.
    """

    candidate_CN: Tensor
    request_RN: Tensor
    match_CN: Tensor
    event_HW: Mapping[str, Tensor]


@final
class DenseInputs(nn.Module):
    """Rows of ids, numerics and distances, by side, and how far a request's rows and a candidate's are alike.

    Where a request and a candidate read one table (the jobs a member acted on, and the job offered), the product of
    their rows, element by element, stands beside them: a layer over two rows side by side needs many examples to find
    that they are alike, and over their product few.

    Args:
        schema: Declares the columns.
        statistics: Measured on `train`.
        width: W.
        seed: Of the rows' start.
        init_scale, default_rate, admission: Of the rows; see `rankwell.tables.table.Table`.
        gives_events: Whether the rows of events are given one by one, too. Their means count as rows of the request in
            either case.
    """

    def __init__(
        self,
        schema: Schema,
        statistics: NumericStatistics,
        *,
        width: int,
        seed: int,
        init_scale: float,
        default_rate: float,
        admission: int,
        gives_events: bool,
    ) -> None:
        super().__init__()
        columns = FeatureColumns(schema, statistics, averages_history=not gives_events)
        table = Table(
            row_tables(columns.specs), width=width, seed=seed, init_scale=init_scale, admission=admission,
            default_rate=default_rate,
        )  # fmt: skip
        self.table: Table | None = table if columns.specs else None
        self.rows = RowLookup(columns, table)
        self.on_request = NumericInputs(schema, statistics, "request")
        self.on_candidate = NumericInputs(schema, statistics, "candidate")
        self.distances = DistanceInputs(schema)
        self._matches, self._event_matches, self._row_width = columns.matches, columns.event_matches, width
        num_means = sum(len(tables) for tables in columns.event_tables.values())
        num_matches = len(columns.matches) + sum(len(pairs) for pairs in columns.event_matches.values())
        self.candidate_width: int = self.rows.candidate_width + self.on_candidate.width + self.distances.width
        self.request_width: int = self.rows.request_width + self.on_request.width + num_means * width
        self.match_width: int = num_matches * width
        self.candidate_coordinates: Mapping[str, tuple[int, ...]] = self._coordinates(columns)

    @property
    def width(self) -> int:
        """N of all three kinds together."""
        return self.candidate_width + self.request_width + self.match_width

    def forward(self, features: Features) -> Inputs:
        """See `Inputs`."""
        rows = self.rows(features)
        candidate = [rows.candidate_CW] if self.rows.candidate_width else []
        if self.on_candidate.width:
            candidate.append(self.on_candidate(features.candidates, features.num_candidates))
        if self.distances.width:
            candidate.append(self.distances(features))
        request = [rows.request_RW] if self.rows.request_width else []
        if self.on_request.width:
            request.append(self.on_request(features.context, features.num_requests))
        pairs = [(self._block(rows.request_RW, r), c) for r, c in self._matches]
        for name, event_HW in rows.event_HW.items():
            mean_RW = list_means(event_HW, features.history[name].offsets)
            request.append(mean_RW)
            pairs += [(self._block(mean_RW, f), c) for f, c in self._event_matches[name]]
        match = [spread(of_R, features.request_C) * self._block(rows.candidate_CW, c) for of_R, c in pairs]
        return Inputs(
            _side_by_side(candidate, features.num_candidates),
            _side_by_side(request, features.num_requests),
            _side_by_side(match, features.num_candidates),
            rows.event_HW,
        )

    def _coordinates(self, columns: FeatureColumns) -> dict[str, tuple[int, ...]]:
        """Where in `Inputs.candidate_CN` each feature of candidates stands; a place has its distances, too."""
        widths = [(name, self._row_width) for name in columns.names_of_candidate_blocks()]
        widths += self.on_candidate.widths.items()
        widths += [(place, 1) for _, place in self.distances.pairs]
        coordinates: dict[str, tuple[int, ...]] = {}
        end = 0
        for name, width in widths:
            coordinates[name] = (*coordinates.get(name, ()), *range(end, end + width))
            end += width
        return coordinates

    def _block(self, rows: Tensor, index: int) -> Tensor:
        return rows[:, index * self._row_width : (index + 1) * self._row_width]


def row_tables(specs: tuple[TableSpec, ...]) -> list[TableSpec]:
    """The tables that hold the rows: of composed ones their parts."""
    return [part for spec in specs for part in spec.parts()]


def _side_by_side(parts: list[Tensor], num_entries: int) -> Tensor:
    if not parts:
        return torch.zeros(num_entries, 0)
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
