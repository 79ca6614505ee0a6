"""One request as plain Python data into a batch, checked against the schema: what a server does before it ranks.

R requests (one here) · C candidates · H history events · A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.data.string_ids import hash_strings, is_stringlike
from rankwell.errors import LogError, RequestError
from rankwell.schema.columns import Bag, Categorical, Numeric, Place, Sequence, Vector
from rankwell.schema.schema import Schema
from rankwell.types import MISSING_ID, Audit, Batch, Column, Events, Features, Ragged, Targets

__all__ = ["batch_from_request"]

Ints = npt.NDArray[np.int64]

_MICROS: Final = 1_000_000
_KEYS: Final = ("request_id", "member_id", "time_us", "context", "history", "candidates")
_Feature = Categorical | Bag | Numeric | Vector | Place


def batch_from_request(request: Mapping[str, Any], schema: Schema, *, key: PseudonymKey | None = None) -> Batch:
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
    time_us = None if given_time is None else int(_times_us([given_time], "'time_us'")[0])
    member_id = _member(request.get("member_id"), "'member_id'", key)
    context: dict[str, Column] = {}
    candidates: dict[str, Column] = {}
    audited: dict[str, Tensor] = {}
    num_candidates: int | None = None
    first_list = ""
    optional = {attribute.name for attribute in schema.protected} - set(schema.visible_protected)
    for feature in (*schema.features, *schema.protected):
        on_request = feature.on == "request"
        given = given_context if on_request else given_candidates
        place = f"{'context' if on_request else 'candidates'}[{feature.name!r}]"
        is_member = on_request and schema.member_id is not None and _column(feature) == schema.member_id
        if feature.name in given:
            value = _member(given[feature.name], place, key) if is_member else given[feature.name]
        elif is_member and member_id is not None:
            value = member_id
        elif feature.name in optional:
            continue
        else:
            raise RequestError(
                f"{place} is missing", found=sorted(given), do="give it; None stands for a missing value"
            )
        values = [value] if on_request else _entries(value, place)
        if not on_request:
            if num_candidates is None:
                num_candidates, first_list = len(values), feature.name
            _check_length(len(values), num_candidates, place, first_list)
        column = _read(values, feature, place)
        if feature in schema.protected:
            assert isinstance(column, Tensor)
            audited[feature.name] = column
        if feature not in schema.protected or feature.name in schema.visible_protected:
            (context if on_request else candidates)[feature.name] = column
    if num_candidates is None:  # no candidate feature is declared: any list says how many there are
        num_candidates = max((len(_entries(v, f"candidates[{n!r}]")) for n, v in given_candidates.items()), default=0)
    if schema.bid is not None and schema.bid in given_candidates:
        place = f"candidates[{schema.bid!r}]"
        bids = _entries(given_candidates[schema.bid], place)
        _check_length(len(bids), num_candidates, place, first_list)
        audited[schema.bid] = torch.from_numpy(_bids(bids, place))
    history = {sequence.name: _events(request, sequence, schema, time_us) for sequence in schema.sequences}
    item = candidates[schema.item] if schema.item is not None else None
    given_id = request.get("request_id")
    request_id = 0 if given_id is None else int(_ids([given_id], "'request_id'", missing_allowed=False)[0])
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
            return torch.from_numpy(_ids(values, place, missing_allowed=feature.missing == "row"))
        case Numeric():
            return torch.from_numpy(_numbers(values, place, missing_allowed=feature.missing == "indicator"))
        case Bag():
            lists = [_entries(value, place) for value in values]
            offsets = np.zeros(len(lists) + 1, np.int64)
            np.cumsum([len(ids) for ids in lists], out=offsets[1:])
            flat = [entry for ids in lists for entry in ids]
            return Ragged(torch.from_numpy(_ids(flat, place, missing_allowed=False)), torch.from_numpy(offsets))
        case Vector() | Place():
            width = feature.width if isinstance(feature, Vector) else 2
            rows = [_entries(value, place) for value in values]
            for row in rows:
                if len(row) != width:
                    raise RequestError(
                        f"{place} has another width",
                        found=len(row),
                        allowed=f"{width} numbers",
                        do="give as many numbers as the schema declares",
                    )
            flat = [entry for row in rows for entry in row]
            return torch.from_numpy(_numbers(flat, place, missing_allowed=False).reshape(-1, width))


def _events(request: Mapping[str, Any], sequence: Sequence, schema: Schema, time_us: int | None) -> Events:
    given = _mapping(_mapping(request, "history"), sequence.name, place="history")
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
        reads = _ids if isinstance(field, Categorical) else _numbers
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
    times_H = _times_us(_entries(given[sequence.time], place), place)
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


def _entries(value: Any, place: str) -> Any:
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


def _member(value: Any, place: str, key: PseudonymKey | None) -> int | None:
    """The pseudonym; the errors never show what was given, because it may name a person and errors end up in logs."""
    if value is None:
        return None
    try:
        array = pa.array([value])
        if key is not None:
            return int(pseudonymise(array, key)[0].as_py())
    except (LogError, pa.ArrowException, TypeError, ValueError, OverflowError):
        array = pa.array([None])
    if is_stringlike(array.type):
        raise RequestError(
            f"{place} is a string: a raw member id, not a pseudonym",
            found="a string",
            allowed="the integer that rankwell.data.pseudonyms.pseudonymise made of it",
            do="pseudonymise it first, or give the key that the log was written with (`key=` of batch_from_request and "
            "of the ranker)",
        )
    if key is not None or not pa.types.is_integer(array.type) or not 0 <= array[0].as_py() < 2**63:
        raise RequestError(
            f"{place} is no member id",
            found=f"a value of type {type(value).__name__}",
            allowed="an integer from 0 to 2^63 - 1; with a key also a string",
            do="leave it out where the member is unknown",
        )
    return int(array[0].as_py())


def _times_us(values: Any, place: str) -> Ints:
    if len(values) == 0:
        return np.zeros(0, np.int64)
    array = _array(values)
    if array.ndim != 1 or array.dtype.kind not in "iu" or _holds_truth_values(values) or array.max() > 2**63 - 1:
        raise RequestError(
            f"{place} is no time",
            found=values,
            allowed="integers: UTC microseconds since 1970",
            do="give times as the log has them",
        )
    if array.min() < 0:
        raise RequestError(
            f"{place} lies before 1970",
            found=array.min().item(),
            allowed="UTC microseconds since 1970, 0 or more",
            do="mend the clock or the unit",
        )
    return array.astype(np.int64)


def _holds_truth_values(values: Any) -> bool:
    """Whether a bool stands among them, which NumPy would take for 0 or 1."""
    if isinstance(values, np.ndarray | Tensor):
        return _array(values).dtype.kind == "b"
    return any(kind in (bool, np.bool_) for kind in set(map(type, values)))


def _bids(values: Any, place: str) -> Ints:
    if len(values) == 0:
        return np.zeros(0, np.int64)
    array = _array(values)
    is_whole = array.ndim == 1 and array.dtype.kind in "iu" and not _holds_truth_values(values)
    if not is_whole or array.min() < 0 or array.max() > 2**63 - 1:  # no string either: as an id it would be hashed
        raise RequestError(
            f"{place} is no bid",
            found=values,
            allowed="integers: micros, 0 or more",
            do="give a bid for every candidate, 0 where there is none",
        )
    return array.astype(np.int64)


def _ids(values: Any, place: str, *, missing_allowed: bool) -> Ints:
    if len(values) == 0:
        return np.zeros(0, np.int64)
    array = _array(values)
    if array.dtype == object:
        missing = np.array([value is None for value in values])
        if missing.any():
            if not missing_allowed:
                raise RequestError(f"{place} has a missing value", found=None, allowed="an id", do=_DECLARE_ROW)
            known = [value for value in values if value is not None]
            ids = np.full(len(values), MISSING_ID, np.int64)
            ids[~missing] = _ids(known, place, missing_allowed=False)
            return ids
        _refuse_ids(values, place)
    if array.ndim != 1 or _holds_truth_values(values):
        _refuse_ids(values, place)
    if array.dtype.kind == "U":
        if not all(isinstance(value, str) for value in values):  # NumPy writes the integers of a mixed list as strings
            _refuse_ids(values, place)
        hashed: Ints = hash_strings(pa.array(values)).to_numpy().copy()  # Arrow lends read-only memory
        return hashed
    if array.dtype.kind not in "iu" or (array.dtype == np.uint64 and array.max() > 2**63 - 1) or array.min() < 0:
        _refuse_ids(values, place)
    return array.astype(np.int64)


def _array(values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError:  # lists of unequal length inside: an array of objects, which the caller refuses
        return np.array([None, *values], dtype=object)[1:]


_DECLARE_ROW: Final = "give an id, or declare missing='row'"


def _refuse_ids(values: Any, place: str) -> NoReturn:
    raise RequestError(
        f"{place} is no id",
        found=values,
        allowed="integers from 0 to 2^63 - 1, or strings",
        do="give ids as the log has them; None where one is missing and the schema allows it",
    )


def _numbers(values: Any, place: str, *, missing_allowed: bool) -> npt.NDArray[np.float32]:
    if len(values) == 0:
        return np.zeros(0, np.float32)
    array = _array(values)
    if array.dtype == object:
        array = _array([np.nan if value is None else value for value in values])
    if array.ndim != 1 or array.dtype.kind not in "iuf" or _holds_truth_values(values):
        raise RequestError(f"{place} is no number", found=values, allowed="finite numbers", do="give numbers")
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        if np.isinf(numbers).any():
            raise RequestError(
                f"{place} is infinite, or beyond float32",
                found=values,
                allowed="finite numbers up to 3.4e38",
                do="mend what computes it; None stands for a missing value where the schema allows one",
            )
        if not missing_allowed:
            raise RequestError(
                f"{place} has a missing value",
                found=values,
                allowed="finite numbers",
                do="give a number, or declare missing='indicator'",
            )
    return numbers
