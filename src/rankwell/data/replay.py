"""A request of a batch as plain Python data again: to replay what was served, or to show what a request looks like.

R requests · C candidates.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from rankwell.schema import Categorical, Place, Schema
from rankwell.types import MISSING_ID, Batch, Column, Ragged

__all__ = ["request_of_batch"]


def request_of_batch(batch: Batch, index: int, schema: Schema) -> dict[str, Any]:
    """The plain data from which `batch_from_request` makes this request again; labels are left out.

    Args:
        batch: Any.
        index: The request, 0 … R - 1.
        schema: Of the batch.

    Returns:
        Of numbers, strings, lists and dicts alone, so that it can be written as JSON.
    """
    features, audit = batch.features, batch.audit
    first, last = int(features.offsets[index]), int(features.offsets[index + 1])
    time_us = int(audit.times_us_R[index])
    request: dict[str, Any] = {
        "request_id": int(audit.request_ids_R[index]),
        "member_id": int(audit.member_ids_R[index]),
        "time_us": time_us,
        "context": {},
        "candidates": {},
        "history": {},
    }
    for feature in schema.visible_features:
        is_id, is_place = isinstance(feature, Categorical), isinstance(feature, Place)
        if feature.on == "request":
            request["context"][feature.name] = _entry(features.context[feature.name], index, is_id, is_place)
        else:
            column = features.candidates[feature.name]
            entries = [_entry(column, i, is_id, is_place) for i in range(first, last)]
            request["candidates"][feature.name] = entries
    for sequence in schema.sequences:
        events = features.history[sequence.name]
        start, stop = int(events.offsets[index]), int(events.offsets[index + 1])
        fields = {field.name: events.columns[field.name][start:stop].tolist() for field in sequence.fields}
        if sequence.time is not None:
            ages_s = events.columns["age_s"][start:stop].double().tolist()
            fields[sequence.time] = [time_us - round(age * 1e6) for age in ages_s]
        request["history"][sequence.name] = fields
    return request


def _entry(column: Column, i: int, is_id: bool, is_place: bool) -> Any:
    if isinstance(column, Ragged):
        return column.values[int(column.offsets[i]) : int(column.offsets[i + 1])].tolist()
    value: Tensor = column[i]
    if value.ndim or is_place:
        return value.tolist()
    plain = value.item()
    if (is_id and plain == MISSING_ID) or (isinstance(plain, float) and math.isnan(plain)):
        return None
    return plain
