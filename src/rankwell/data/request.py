"""One request as plain Python data into a batch, checked against the schema: what a server does before it ranks.

R requests (one here) · C candidates · H history events · A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.request_values import bids_of, id_of, ids_of, member_of, numbers_of, time_of, times_of
from rankwell.errors import RequestError
from rankwell.schema.columns import Bag, Categorical, Numeric, Place, Sequence, Vector
from rankwell.schema.schema import Schema
from rankwell.types import MISSING_ID, Audit, Batch, Column, Events, Features, Ragged, Targets

__all__ = ["KnownFeatures", "LookUp", "batch_from_request"]

Ints = npt.NDArray[np.int64]

_MICROS: Final = 1_000_000
_KEYS: Final = ("request_id", "member_id", "time_us", "context", "history", "candidates")
_Feature = Categorical | Bag | Numeric | Vector | Place


@final
@dataclass(frozen=True, slots=True)
class KnownFeatures:
    """What is known of a request's member and candidates besides what the request says, in the form of `Features`."""

    context: Mapping[str, Column]
    history: Mapping[str, Events]
    candidates: Mapping[str, Column]


LookUp = Callable[[int, int | None, Ints], KnownFeatures]
"""From the member's pseudonym (or `MISSING_ID`), the request's time (or None) and the items, in their order."""


def batch_from_request(
    request: Mapping[str, Any], schema: Schema, *, key: PseudonymKey | None = None, look_up: LookUp | None = None
) -> Batch:
    """A batch of one request, with no labels.

    Args:
        request: ``request_id``, ``member_id`` and ``time_us`` (integers; each may be left out where the schema has none
            or nothing needs it), ``context`` (feature name to value), ``history`` (sequence name to field name to list,
            oldest first, event times under the name that the sequence gives them) and ``candidates`` (feature name to
            list); no other key. Ids may be strings, but the member's only with a key. A place is
            ``[latitude, longitude]``, a bag a list of ids, a vector a list of numbers; None is a missing value, and
            True is no number. Protected attributes and bids are taken where they are given.
        schema: What the columns mean.
        key: Where given, the member id is raw and pseudonymised with it; else it is a pseudonym, as in the log.
        look_up: Asked, once at most, for the features and histories that the request leaves out. The item and what is
            not known must stand in the request.

    Returns:
        R = 1; C is the length of the candidate lists, which may be 0. Labels are NaN and not observed.

    Raises:
        RequestError: It is no mapping, a key is unknown, a feature is missing, lists are unequally long, a value is not
            as the schema says, or a raw member id would enter the batch.

    >>> from rankwell.schema import Action
    >>> schema = Schema(features=(Categorical(name="job"), Numeric(name="years", on="request")),
    ...                 actions=(Action(name="click"),), item="job")
    >>> batch = batch_from_request(
    ...     {"request_id": 7, "context": {"years": 3}, "candidates": {"job": [40, 41]}}, schema)
    >>> batch.audit.item_ids_C.tolist(), batch.features.context["years"].tolist()
    ([40, 41], [3.0])
    """
    _check_keys(request)
    given_context, given_candidates = _mapping(request, "context"), _mapping(request, "candidates")
    given_time = request.get("time_us")
    time_us = None if given_time is None else time_of(given_time, "'time_us'")
    member_id = member_of(request.get("member_id"), "'member_id'", key)
    context: dict[str, Column] = {}
    candidates: dict[str, Column] = {}
    audited: dict[str, Tensor] = {}
    num_candidates: int | None = None
    first_list = ""
    known: KnownFeatures | None = None
    items: Ints | None = None
    if look_up is not None and schema.item is not None and schema.item in given_candidates:
        place = f"candidates[{schema.item!r}]"
        items = ids_of(_entries(given_candidates[schema.item], place), place, missing_allowed=False)
        num_candidates, first_list = len(items), schema.item
        if _leaves_out(request, given_context, given_candidates, schema):
            known = look_up(MISSING_ID if member_id is None else member_id, time_us, items)
    protected = {attribute.name for attribute in schema.protected}
    optional = protected - set(schema.visible_protected)
    for feature in (*schema.features, *schema.protected):
        on_request = feature.on == "request"
        given = given_context if on_request else given_candidates
        place = f"{'context' if on_request else 'candidates'}[{feature.name!r}]"
        is_member = on_request and schema.member_id is not None and _column(feature) == schema.member_id
        if feature.name in given:
            value = member_of(given[feature.name], place, key) if is_member else given[feature.name]
        elif is_member and member_id is not None:
            value = member_id
        elif feature.name in optional:
            continue
        elif known is not None and feature.name in (known.context if on_request else known.candidates):
            value = None
        else:
            raise RequestError(
                f"{place} is missing", found=sorted(given), do="give it; None stands for a missing value"
            )
        if known is not None and value is None and feature.name not in given:
            column = (known.context if on_request else known.candidates)[feature.name]
        else:
            values = [value] if on_request else _entries(value, place)
            if not on_request:
                if num_candidates is None:
                    num_candidates, first_list = len(values), feature.name
                _check_length(len(values), num_candidates, place, first_list)
            is_read = items is not None and feature.name == schema.item
            column = torch.from_numpy(items) if is_read else _read(values, feature, place)
        if feature.name in protected:
            assert isinstance(column, Tensor)
            audited[feature.name] = column
        if feature.name not in optional:
            (context if on_request else candidates)[feature.name] = column
    if num_candidates is None:  # no candidate feature is declared: any list says how many there are
        num_candidates = max((len(_entries(v, f"candidates[{n!r}]")) for n, v in given_candidates.items()), default=0)
    if schema.bid is not None and schema.bid in given_candidates:
        place = f"candidates[{schema.bid!r}]"
        bids = _entries(given_candidates[schema.bid], place)
        _check_length(len(bids), num_candidates, place, first_list)
        audited[schema.bid] = torch.from_numpy(bids_of(bids, place))
    given_history = _mapping(request, "history")
    history = {
        sequence.name: known.history[sequence.name]
        if known is not None and sequence.name in known.history and sequence.name not in given_history
        else _events(given_history, sequence, schema, time_us)
        for sequence in schema.sequences
    }
    item = candidates[schema.item] if schema.item is not None else None
    given_id = request.get("request_id")
    request_id = 0 if given_id is None else id_of(given_id, "'request_id'")
    return Batch(
        Features(
            context,
            history,
            candidates,
            torch.tensor([0, num_candidates]),
            torch.zeros(num_candidates, dtype=torch.int64),
        ),
        _no_targets(num_candidates, len(schema.actions)),
        Audit(
            torch.tensor([request_id]),
            torch.tensor([MISSING_ID if member_id is None else member_id]),
            torch.tensor([0 if time_us is None else time_us]),
            item if isinstance(item, Tensor) else torch.zeros(num_candidates, dtype=torch.int64),
            audited,
        ),
    )


def _leaves_out(
    request: Mapping[str, Any], context: Mapping[str, Any], candidates: Mapping[str, Any], schema: Schema
) -> bool:
    """Whether a feature or a sequence that the model reads is not in the request."""
    history = _mapping(request, "history")
    absent = [f for f in schema.visible_features if f.name not in (context if f.on == "request" else candidates)]
    if request.get("member_id") is not None:  # which is a feature that is known
        absent = [f for f in absent if f.on != "request" or _column(f) != schema.member_id]
    return bool(absent) or any(sequence.name not in history for sequence in schema.sequences)


def _check_keys(request: object) -> None:
    # neither message shows a value: what stands under a wrong name may be a raw member id
    if not isinstance(request, Mapping):
        raise RequestError(
            "the request is not a mapping",
            found=type(request).__name__,
            allowed=f"a mapping with the keys {', '.join(_KEYS)}",
            do="give one request, as docs/requests.md describes it",
        )
    unknown = [key for key in request if key not in _KEYS]
    if unknown:
        raise RequestError(
            f"the request has an unknown key, {unknown[0]!r}",
            found=unknown,
            allowed=_KEYS,
            do="put features under 'context' or 'candidates', and leave out what the schema does not name",
        )


def _no_targets(num_candidates: int, num_actions: int) -> Targets:
    return Targets(
        torch.full((num_candidates, num_actions), torch.nan),
        torch.zeros(num_candidates, num_actions, dtype=torch.bool),
        torch.ones(num_candidates),
        torch.zeros(num_candidates, dtype=torch.int64),
        torch.ones(num_candidates),
    )


def _read(values: Any, feature: _Feature, place: str) -> Column:
    match feature:
        case Categorical():
            return torch.from_numpy(ids_of(values, place, missing_allowed=feature.missing == "row"))
        case Numeric():
            return torch.from_numpy(numbers_of(values, place, missing_allowed=feature.missing == "indicator"))
        case Bag():
            lists = _lists(values, place)
            offsets = np.zeros(len(lists) + 1, np.int64)
            np.cumsum(list(map(len, lists)), out=offsets[1:])
            flat = list(chain.from_iterable(lists))
            return Ragged(torch.from_numpy(ids_of(flat, place, missing_allowed=False)), torch.from_numpy(offsets))
        case Vector() | Place():
            width = feature.width if isinstance(feature, Vector) else 2
            rows = _lists(values, place)
            for row in rows:
                if len(row) != width:
                    raise RequestError(
                        f"{place} has another width",
                        found=len(row),
                        allowed=f"{width} numbers",
                        do="give as many numbers as the schema declares",
                    )
            flat = list(chain.from_iterable(rows))
            return torch.from_numpy(numbers_of(flat, place, missing_allowed=False).reshape(-1, width))


def _events(history: Mapping[str, Any], sequence: Sequence, schema: Schema, time_us: int | None) -> Events:
    given = _mapping(history, sequence.name, place="history")
    place = f"history[{sequence.name!r}]"
    columns: dict[str, npt.NDArray[Any]] = {}
    num_events: int | None = None
    first_list = ""
    for field in sequence.fields:
        if field.name not in given:
            raise RequestError(
                f"{place}[{field.name!r}] is missing", found=sorted(given), do="give an empty list where there is none"
            )
        values = _entries(given[field.name], f"{place}[{field.name!r}]")
        if num_events is None:
            num_events, first_list = len(values), field.name
        _check_length(len(values), num_events, f"{place}[{field.name!r}]", first_list)
        reads = ids_of if isinstance(field, Categorical) else numbers_of
        columns[field.name] = reads(values, f"{place}[{field.name!r}]", missing_allowed=field.missing != "refuse")
    assert num_events is not None
    if sequence.time is not None and schema.time is not None:
        columns["age_s"] = _ages_s(given, sequence, schema, time_us, num_events)
    latest = slice(max(0, num_events - sequence.max_length), num_events)
    return Events(
        {name: torch.from_numpy(values[latest]) for name, values in columns.items()},
        torch.tensor([0, latest.stop - latest.start]),
        torch.tensor([latest.start]),
    )


def _ages_s(
    given: Mapping[str, Any], sequence: Sequence, schema: Schema, time_us: int | None, num_events: int
) -> npt.NDArray[np.float32]:
    assert sequence.time is not None
    place = f"history[{sequence.name!r}][{sequence.time!r}]"
    if sequence.time not in given:
        raise RequestError(f"{place} is missing", found=sorted(given), do="give the event times in UTC microseconds")
    if time_us is None:
        raise RequestError("'time_us' is missing", do="give the request's time: the ages of events are counted from it")
    times_H = times_of(_entries(given[sequence.time], place), place)
    _check_length(len(times_H), num_events, place, sequence.fields[0].name)
    if (np.diff(times_H) < 0).any():
        raise RequestError(f"{place} goes backwards", allowed="events oldest first", do="sort the events by time")
    ages_us_H = time_us - times_H
    if num_events and ages_us_H[-1] <= round(schema.ingest_delay_s * _MICROS):
        raise RequestError(
            f"{place} holds an event that is too new",
            found=f"{ages_us_H[-1] / _MICROS:.12g} s old",
            allowed=f"more than {schema.ingest_delay_s:.12g} s (ingest_delay_s), as in training",
            do="leave newer events out",
        )
    ages_H: npt.NDArray[np.float32] = (ages_us_H / _MICROS).astype(np.float32)
    return ages_H


def _column(feature: _Feature) -> str:
    return feature.column or feature.name


def _mapping(request: Mapping[str, Any], name: str, *, place: str = "the request") -> Mapping[str, Any]:
    value = request.get(name, {})
    if not isinstance(value, Mapping):
        raise RequestError(
            f"{name!r} in {place} is not a mapping",
            found=type(value).__name__,
            allowed="a mapping",
            do="give names and what stands under them",
        )
    return value


def _lists(values: Any, place: str) -> Any:
    """The entries of each value, one call for all where they are plain lists."""
    return values if set(map(type, values)) == {list} else [_entries(value, place) for value in values]


def _entries(value: Any, place: str) -> Any:
    if type(value) is list:
        return value
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise RequestError(f"{place} is not a list", found=value, allowed="a list", do="give a list")
    return value


def _check_length(length: int, expected: int, place: str, first: str) -> None:
    if length != expected:
        raise RequestError(
            f"{place}: lists of unequal length",
            found=f"{length} entries, but {expected} in {first!r}",
            allowed="one entry for each candidate (or event) in every list",
            do="give lists of one length; None stands for a missing value",
        )
