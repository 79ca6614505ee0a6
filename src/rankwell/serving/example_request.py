"""Requests that a schema allows, at random: to trace a graph with, to warm it up, and to hold it against PyTorch.

Letters in names: C candidates of the request · H history events.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Generator, Tensor

from rankwell.data.statistics import NumericStatistics
from rankwell.schema import Bag, Categorical, Place, Schema, Vector
from rankwell.types import MISSING_ID, Audit, Batch, Column, Events, Features, Ragged, Targets

__all__ = ["example_request", "most_events"]

_LONGEST_BAG: Final = 4
_NEWEST_S: Final = 3_600.0
_TIME_US: Final = 1_700_000_000_000_000


def example_request(
    schema: Schema, statistics: NumericStatistics, *, num_candidates: int, num_events: int, seed: int
) -> Batch:
    """One request: ids of every size, numbers from the middle of what train knows, some of each missing where allowed.

    Args:
        schema: Of its columns.
        statistics: Of its numerics.
        num_candidates: C.
        num_events: H of each sequence.
        seed: Of all that is drawn.

    >>> from rankwell.schema import Action
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job")
    >>> batch = example_request(schema, NumericStatistics(), num_candidates=3, num_events=0, seed=0)
    >>> batch.features.candidates["job"].shape, len(set(batch.audit.item_ids_C.tolist()))
    (torch.Size([3]), 3)
    """
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, dict[str, Column]] = {"request": {}, "candidate": {}}
    for feature in schema.visible_features:
        num_entries = 1 if feature.on == "request" else num_candidates
        columns[feature.on][feature.name] = _drawn(feature, feature.name, num_entries, statistics, generator)
    if schema.item is not None:  # no item stands twice in a request
        columns["candidate"][schema.item] = torch.randperm(2 * num_candidates, generator=generator)[:num_candidates]
    history = {}
    for sequence in schema.sequences:
        events = {
            field.name: _drawn(field, f"{sequence.name}.{field.name}", num_events, statistics, generator)
            for field in sequence.fields
        }
        if sequence.time is not None and schema.time is not None:
            gaps_s = torch.rand(num_events, generator=generator) * _NEWEST_S
            events["age_s"] = (gaps_s.cumsum(0) + schema.ingest_delay_s + 1).flip(0)
        whole = {name: column for name, column in events.items() if isinstance(column, Tensor)}
        history[sequence.name] = Events(whole, torch.tensor([0, num_events]))
    item = columns["candidate"].get(schema.item or "", torch.zeros(num_candidates, dtype=torch.int64))
    assert isinstance(item, Tensor)
    features = Features(
        columns["request"], history, columns["candidate"], torch.tensor([0, num_candidates]),
        torch.zeros(num_candidates, dtype=torch.int64),
    )  # fmt: skip
    nothing_CA = torch.full((num_candidates, len(schema.actions)), torch.nan)
    targets = Targets(
        nothing_CA, torch.zeros_like(nothing_CA, dtype=torch.bool), torch.ones(num_candidates),
        torch.zeros(num_candidates, dtype=torch.int64), torch.ones(num_candidates),
    )  # fmt: skip
    audit = Audit(torch.tensor([seed]), torch.tensor([MISSING_ID]), torch.tensor([_TIME_US]), item, {})
    return Batch(features, targets, audit)


def most_events(schema: Schema) -> int:
    """The longest history that every sequence of a schema takes; 0 where there is none.

    >>> from rankwell.schema import Action
    >>> most_events(Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),)))
    0
    """
    return min((sequence.max_length for sequence in schema.sequences), default=0)


def _drawn(declared: object, name: str, num: int, statistics: NumericStatistics, generator: Generator) -> Column:
    match declared:
        case Categorical():
            return _ids(num, generator, some_missing=declared.missing == "row")
        case Bag():
            lengths = torch.randint(0, _LONGEST_BAG + 1, (num,), generator=generator)
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            return Ragged(_ids(int(offsets[-1]), generator, some_missing=False), offsets)
        case Vector():
            return torch.randn(num, declared.width, generator=generator)
        case Place():
            return (torch.rand(num, 2, generator=generator) - 0.5) * torch.tensor([120.0, 300.0])
    known = statistics.columns[name].quantiles
    places = torch.rand(num, generator=generator) * (len(known) - 1)
    values = torch.tensor(known, dtype=torch.float32)[places.long()]
    if getattr(declared, "missing", "refuse") == "indicator":
        values[torch.rand(num, generator=generator) < 0.1] = torch.nan
    return values


def _ids(num: int, generator: Generator, *, some_missing: bool) -> Tensor:
    digits = torch.randint(1, 7, (num,), generator=generator)
    ids = (torch.rand(num, generator=generator, dtype=torch.float64) * 10.0**digits).long()
    if some_missing:
        ids[torch.rand(num, generator=generator) < 0.1] = MISSING_ID
    return ids
