"""A request of a batch as plain Python data again: to replay what was served, or to show what a request looks like.

R requests · C candidates · H history events.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final

from rankwell.schema import Schema
from rankwell.types import MISSING_ID, Batch, Column, Ragged

__all__ = ["request_of_batch"]

_MICROS: Final = 1_000_000


def request_of_batch(batch: Batch, index: int, schema: Schema) -> dict[str, Any]:
    """The plain data from which `batch_from_request` makes this request again; labels and exposure are left out.

    Args:
        batch: Any.
        index: The request, 0 … R - 1.
        schema: Of the batch.

    Returns:
        Of numbers, None, lists and dicts alone, so that it can be written as JSON. The member is the pseudonym that the
        batch holds: rank it without a key. Times of events come from their ages, float32 seconds: exact for 8 seconds,
        and to 7 digits beyond.
    """
    features, audit = batch.features, batch.audit
    whole_C = slice(int(features.offsets[index]), int(features.offsets[index + 1]))
    member_id = int(audit.member_ids_R[index])
    request: dict[str, Any] = {"request_id": int(audit.request_ids_R[index]), "context": {}, "candidates": {}}
    if member_id != MISSING_ID:
        request["member_id"] = member_id
    if schema.time is not None:
        request["time_us"] = int(audit.times_us_R[index])
    for feature in (*schema.features, *schema.protected):
        # A protected attribute that models don't see stands in the audit alone.
        if feature.on == "request":
            column = features.context.get(feature.name, audit.columns.get(feature.name))
            if column is not None:
                (request["context"][feature.name],) = _plain(column, slice(index, index + 1))
        else:
            column = features.candidates.get(feature.name, audit.columns.get(feature.name))
            if column is not None:
                request["candidates"][feature.name] = _plain(column, whole_C)
    if schema.bid is not None and schema.bid in audit.columns:
        request["candidates"][schema.bid] = _plain(audit.columns[schema.bid], whole_C)
    if schema.sequences:
        request["history"] = {
            sequence.name: _history(batch, index, schema, sequence.name) for sequence in schema.sequences
        }
    return request


def _history(batch: Batch, index: int, schema: Schema, name: str) -> dict[str, list[Any]]:
    sequence = next(sequence for sequence in schema.sequences if sequence.name == name)
    events = batch.features.history[name]
    whole_H = slice(int(events.offsets[index]), int(events.offsets[index + 1]))
    fields = {field.name: _plain(events.columns[field.name], whole_H) for field in sequence.fields}
    if sequence.time is not None and schema.time is not None:
        time_us = int(batch.audit.times_us_R[index])
        # Rounded to float32, an age may fall on the delay itself, where no event may stand.
        latest_us = time_us - round(schema.ingest_delay_s * _MICROS) - 1
        ages_s = events.columns["age_s"][whole_H].double().tolist()
        fields[sequence.time] = [min(time_us - round(age_s * _MICROS), latest_us) for age_s in ages_s]
    return fields


def _plain(column: Column, entries: slice) -> list[Any]:
    if isinstance(column, Ragged):
        bounds = column.offsets[entries.start : entries.stop + 1].tolist()
        return [column.values[start:stop].tolist() for start, stop in pairwise(bounds)]
    return [_or_none(value) for value in column[entries].tolist()]


def _or_none(value: Any) -> Any:
    missing = value == MISSING_ID if isinstance(value, int) else isinstance(value, float) and math.isnan(value)
    return None if missing else value
