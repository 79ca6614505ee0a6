"""Values of a request, as plain Python has them, into arrays of the types of a log; what they cannot be is refused.

All of them raise `RequestError`, which names the place.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.data.string_ids import hash_strings, is_stringlike
from rankwell.errors import LogError, RequestError
from rankwell.types import MISSING_ID

__all__ = ["bids_of", "id_of", "ids_of", "member_of", "numbers_of", "time_of", "times_of"]

Ints = npt.NDArray[np.int64]

_DECLARE_ROW: Final = "give an id, or declare missing='row'"


def member_of(value: Any, place: str, key: PseudonymKey | None) -> int | None:
    """The pseudonym; the errors never show what was given, because it may name a person and errors end up in logs."""
    if value is None:
        return None
    if key is None and _is_plain(value):
        return int(value)
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


def _is_plain(value: Any) -> bool:
    """Whether it is one of Python's own integers from 0 to 2^63 - 1, as nearly all are: they need no array."""
    return type(value) is int and 0 <= value < 2**63


def time_of(value: Any, place: str) -> int:
    """A time in UTC microseconds since 1970."""
    return int(value) if _is_plain(value) else int(times_of([value], place)[0])


def id_of(value: Any, place: str) -> int:
    """An id that may not be missing."""
    return int(value) if _is_plain(value) else int(ids_of([value], place, missing_allowed=False)[0])


def times_of(values: Any, place: str) -> Ints:
    """Times in UTC microseconds since 1970."""
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


def bids_of(values: Any, place: str) -> Ints:
    """Bids in micros, 0 or more."""
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


def ids_of(values: Any, place: str, *, missing_allowed: bool) -> Ints:
    """Ids as integers; strings are hashed; None, where it is allowed, is `MISSING_ID`."""
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
            ids[~missing] = ids_of(known, place, missing_allowed=False)
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


def _refuse_ids(values: Any, place: str) -> NoReturn:
    raise RequestError(
        f"{place} is no id",
        found=values,
        allowed="integers from 0 to 2^63 - 1, or strings",
        do="give ids as the log has them; None where one is missing and the schema allows it",
    )


def numbers_of(values: Any, place: str, *, missing_allowed: bool) -> npt.NDArray[np.float32]:
    """Finite float32 numbers; None or NaN, where it is allowed, is NaN."""
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
