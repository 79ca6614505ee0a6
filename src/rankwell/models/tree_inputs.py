"""What trees read of a candidate and its request: numbers as they stand, small vocabularies, and counts.

Letters: R requests · C candidates, flat · E ids on requests, flat · J ids on candidates, flat · N inputs.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from rankwell.errors import SchemaError
from rankwell.models.numeric_inputs import DistanceInputs
from rankwell.schema import Bag, Categorical, Numeric, Place, Schema, Vector
from rankwell.types import MISSING_ID, Column, Features, Ragged

__all__ = ["MOST_CATEGORIES", "TreeInputs"]

MOST_CATEGORIES: Final = 1_024
"""A vocabulary with more ids is not read as categories."""


@final
class TreeInputs(nn.Module):
    """All that a tree may split on, one column an input.

    - A numeric, the floats of a vector, the degrees of a place: as they stand in the log, NaN where missing. No
      transform is applied: a tree only asks on which side of a threshold a number lies.
    - Each pair of a request's place and a candidate's: their distance, as in `DistanceInputs`.
    - A categorical whose table has `num_ids` ≤ `MOST_CATEGORIES`: a category, id + 1; 0 where it is missing, and NaN
      for an id beyond the vocabulary.
    - Each pair of a request's id column and a candidate's that read one table (the jobs a member acted on, and the job
      offered): how many ids, or pairs of ids where both are lists, are equal.
    - A bag: how many ids it has. A sequence: how many events it has; the age of the newest, and the mean of each
      numeric, NaN where it has none.

    Ids of larger, hashed and growing vocabularies are read by their pairs alone (`left_out` names those that have
    none): a tree that splits on single ids of many learns those of `train` by heart. Crosses are not read: a path
    through a tree is one.

    Args:
        schema: Declares the columns.

    Raises:
        SchemaError: Nothing of it can be read.

    >>> from rankwell.schema import Action
    >>> schema = Schema(features=(Numeric(name="salary"), Categorical(name="title", on="request", num_ids=9),
    ...                           Categorical(name="job_title", table="title"), Categorical(name="job")),
    ...                 actions=(Action(name="click"),), item="job")
    >>> inputs = TreeInputs(schema)
    >>> inputs.names, inputs.categories, inputs.left_out
    (('salary', 'title', 'job_title', 'title = job_title'), (1, 2), ('job',))
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self._distances = DistanceInputs(schema)
        columns = _columns(schema)
        if not columns and not self._distances.width:
            raise SchemaError(
                "trees have nothing to read",
                found=[feature.name for feature in schema.visible_features],
                allowed=f"a number, a vocabulary of at most {MOST_CATEGORIES:,} ids, a list, or ids on the request and "
                "on candidates that read one table",
                do="declare num_ids for a small vocabulary, or train a model that has rows for ids",
            )
        self._columns = columns
        self.names: tuple[str, ...] = (*(column.name for column in columns), *(f"{a} to {b}" for a, b in
                                                                              self._distances.pairs))  # fmt: skip
        self.categories: tuple[int, ...] = tuple(i for i, column in enumerate(columns) if isinstance(column, _Category))
        read = {name for column in columns for name in column.reads}
        ids = [f.name for f in schema.visible_features if isinstance(f, Categorical)]
        ids += [f"{s.name}.{f.name}" for s in schema.sequences for f in s.fields if isinstance(f, Categorical)]
        self.left_out: tuple[str, ...] = tuple(name for name in ids if name not in read)

    def forward(self, features: Features) -> Tensor:
        """Float32 C × N."""
        columns = [column.of(features).float().unsqueeze(1) for column in self._columns]
        return torch.cat([*columns, self._distances(features)], dim=1)


@dataclass(frozen=True, slots=True)
class _Input(abc.ABC):
    """One number a candidate."""

    name: str

    @property
    def reads(self) -> tuple[str, ...]:
        """The id columns it reads."""
        return ()

    @abc.abstractmethod
    def of(self, features: Features) -> Tensor:
        """C numbers."""


@final
@dataclass(frozen=True, slots=True)
class _Number(_Input):
    """A numeric, or one of the floats of a vector or place."""

    feature: str
    on: str
    place: int | None = None

    def of(self, features: Features) -> Tensor:
        column = _side(features, self.on)[self.feature]
        assert isinstance(column, Tensor)
        return _per_candidate(column if self.place is None else column[:, self.place], self.on, features)


@final
@dataclass(frozen=True, slots=True)
class _Category(_Input):
    on: str
    num_ids: int

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.name,)

    def of(self, features: Features) -> Tensor:
        ids = _side(features, self.on)[self.name]
        assert isinstance(ids, Tensor)
        code = torch.where(ids == MISSING_ID, 0, ids + 1).float()
        return _per_candidate(torch.where(ids < self.num_ids, code, torch.nan), self.on, features)


@final
@dataclass(frozen=True, slots=True)
class _Length(_Input):
    bag: str
    on: str

    def of(self, features: Features) -> Tensor:
        bag = _side(features, self.on)[self.bag]
        assert isinstance(bag, Ragged)
        return _per_candidate(bag.lengths, self.on, features)


@final
@dataclass(frozen=True, slots=True)
class _NumEvents(_Input):
    sequence: str

    def of(self, features: Features) -> Tensor:
        return features.history[self.sequence].offsets.diff()[features.request_C]


@final
@dataclass(frozen=True, slots=True)
class _NewestAge(_Input):
    sequence: str

    def of(self, features: Features) -> Tensor:
        events = features.history[self.sequence]
        age_R = torch.full((features.num_requests,), torch.nan)
        has_events_R = events.offsets.diff() > 0
        age_R[has_events_R] = events.columns["age_s"][events.offsets[1:][has_events_R] - 1]
        return age_R[features.request_C]


@final
@dataclass(frozen=True, slots=True)
class _EventMean(_Input):
    sequence: str
    field: str

    def of(self, features: Features) -> Tensor:
        events = features.history[self.sequence]
        lengths_R = events.offsets.diff()
        values_H = events.columns[self.field].double()
        request_H = torch.repeat_interleave(torch.arange(features.num_requests), lengths_R)
        sum_R = torch.zeros(features.num_requests, dtype=torch.float64).index_add(0, request_H, values_H)
        return (sum_R / lengths_R)[features.request_C]


@final
@dataclass(frozen=True, slots=True)
class _Ids:
    """An id column as lists: one id an entry, a bag, or a field of a sequence's events."""

    name: str
    table: str
    sequence: str | None = None

    @property
    def label(self) -> str:
        return self.name if self.sequence is None else f"{self.sequence}.{self.name}"

    def lists(self, features: Features, on: str) -> Ragged:
        if self.sequence is not None:
            events = features.history[self.sequence]
            return Ragged(events.columns[self.name], events.offsets)
        column = _side(features, on)[self.name]
        return column if isinstance(column, Ragged) else Ragged(column, torch.arange(len(column) + 1))


@final
@dataclass(frozen=True, slots=True)
class _NumEqual(_Input):
    """How many pairs of an id on the request and an id on the candidate are equal; a missing id equals none."""

    on_request: _Ids
    on_candidate: _Ids

    @property
    def reads(self) -> tuple[str, ...]:
        return self.on_request.label, self.on_candidate.label

    def of(self, features: Features) -> Tensor:
        asked, offered = self.on_request.lists(features, "request"), self.on_candidate.lists(features, "candidate")
        candidate_J = torch.repeat_interleave(torch.arange(features.num_candidates), offered.lengths)
        request_E = torch.repeat_interleave(torch.arange(features.num_requests), asked.lengths)
        # ids have up to 63 bits: numbered densely, a request and an id make one key
        ids, number = torch.unique(torch.cat([asked.values, offered.values]), return_inverse=True)
        number_E, number_J = number.split([len(asked.values), len(offered.values)])
        keys_E = torch.sort(request_E * len(ids) + number_E).values
        keys_J = features.request_C[candidate_J] * len(ids) + number_J
        num_J = torch.searchsorted(keys_E, keys_J, right=True) - torch.searchsorted(keys_E, keys_J)
        num_J = torch.where(offered.values == MISSING_ID, 0, num_J)
        return torch.zeros(features.num_candidates, dtype=torch.int64).index_add(0, candidate_J, num_J)


def _columns(schema: Schema) -> tuple[_Input, ...]:
    specs = schema.table_specs()
    columns: list[_Input] = []
    ids: dict[str, list[_Ids]] = {"request": [], "candidate": []}
    for feature in schema.visible_features:
        name, on = feature.name, feature.on
        match feature:
            case Numeric():
                columns.append(_Number(name, name, on))
            case Vector():
                columns += [_Number(f"{name}[{place}]", name, on, place) for place in range(feature.width)]
            case Place():
                columns += [_Number(f"{name} {axis}", name, on, p) for p, axis in enumerate(("latitude", "longitude"))]
            case Bag():
                columns.append(_Length(f"ids in {name}", name, on))
                ids[on].append(_Ids(name, feature.table_name))
            case Categorical():
                ids[on].append(_Ids(name, feature.table_name))
                num_ids = specs[feature.table_name].num_ids
                if num_ids is not None and num_ids <= MOST_CATEGORIES:
                    columns.append(_Category(name, on, num_ids))
    for sequence in schema.sequences:
        columns.append(_NumEvents(f"events in {sequence.name}", sequence.name))
        if sequence.time is not None and schema.time is not None:
            columns.append(_NewestAge(f"newest of {sequence.name}", sequence.name))
        for field in sequence.fields:
            if isinstance(field, Numeric):
                columns.append(_EventMean(f"mean of {sequence.name}.{field.name}", sequence.name, field.name))
            else:
                ids["request"].append(_Ids(field.name, field.table_name, sequence.name))
    columns += [
        _NumEqual(f"{asked.label} = {offered.label}", asked, offered)
        for asked in ids["request"]
        for offered in ids["candidate"]
        if asked.table == offered.table
    ]
    return tuple(columns)


def _side(features: Features, on: str) -> Mapping[str, Column]:
    return features.context if on == "request" else features.candidates


def _per_candidate(column: Tensor, on: str, features: Features) -> Tensor:
    return column[features.request_C] if on == "request" else column
