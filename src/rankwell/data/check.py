"""What the values of a log may be: each check looks at a whole column of a block at once.

R requests · C candidates, flat · H history events, flat. The fast path is a minimum and a maximum; only when that fails
is the first offending row looked for, so that the error can name it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, final

import numpy as np
import numpy.typing as npt

from rankwell.errors import LeakError, LogError

__all__ = [
    "Floats",
    "Ints",
    "Where",
    "check_equal_lists",
    "check_finite",
    "check_history",
    "check_ids",
    "check_labels",
    "check_no_nulls",
    "check_not_empty",
    "check_not_negative",
    "check_probability",
    "refuse",
]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_MICROS: Final = 1_000_000


@final
@dataclass(frozen=True, slots=True)
class Where:
    """The place of a column's values, from which an error finds the row of an offending one.

    Args:
        column: The physical column.
        file: The file, or the table in memory.
        first_row: The row of the file at which the block begins.
        rows_R: The block's row of each request; None where they are the same.
        request_ids_R: The request ids; None where the log has none or they are not yet known.
        offsets: The offsets of the lists around the values, outermost first.
        on_request: Whether the outermost entries are requests (else rows of the block).
    """

    column: str
    file: str
    first_row: int
    rows_R: Ints | None = None
    request_ids_R: Ints | None = None
    offsets: tuple[Ints, ...] = ()
    on_request: bool = True

    def within(self, offsets: Ints) -> Where:
        """The same place, one list level further in."""
        return replace(self, offsets=(*self.offsets, offsets))

    def at(self, index: int) -> str:
        """Column, file, row and request of the value at `index`, in words."""
        for offsets in reversed(self.offsets):
            index = int(np.searchsorted(offsets, index, side="right")) - 1
        row, request = index, index
        if self.rows_R is not None:
            if self.on_request:
                row = int(self.rows_R[index])
            else:
                request = int(np.searchsorted(self.rows_R, index, side="right")) - 1
        text = f"column {self.column!r}, file {self.file!r}, row {self.first_row + row} (from 0)"
        if self.request_ids_R is not None:
            text += f", request {int(self.request_ids_R[request])}"
        return text


def refuse(
    where: Where,
    offending: npt.NDArray[np.bool_],
    what: str,
    values: npt.NDArray[Any] | None,
    *,
    allowed: str,
    do: str,
    error: type[LogError] = LogError,
) -> NoReturn:
    """Raise for the first offending value."""
    index = int(np.flatnonzero(offending)[0])
    found = None if values is None else values[index].item()
    others = int(np.count_nonzero(offending)) - 1
    more = f" (and {others} more in this block)" if others else ""
    raise error(f"{where.at(index)}: {what}{more}", found=found, allowed=allowed, do=do)


def check_no_nulls(array: Any, where: Where, what: str, *, allowed: str, do: str) -> None:
    """Refuse a null in an Arrow array."""
    if array.null_count:
        nulls = array.is_null().to_numpy(zero_copy_only=False)
        refuse(where, nulls, what, None, allowed=allowed, do=do)


def check_ids(ids: Ints, where: Where) -> None:
    """Refuse a negative id."""
    if len(ids) and ids.min() < 0:
        refuse(
            where,
            ids < 0,
            "negative id",
            ids,
            allowed="0 to 2^63 - 1; null where the feature declares missing='row'",
            do="write null for a missing id, never -1",
        )


def check_finite(values: npt.NDArray[Any], where: Where, *, nan_allowed: bool) -> None:
    """Refuse infinite values, and NaN where missing is not declared."""
    if np.isfinite(values).all():
        return
    infinite = np.isinf(values)
    if infinite.any():
        refuse(
            where,
            infinite,
            "infinite, or beyond float32",
            values,
            allowed="finite numbers up to 3.4e38",
            do="mend the column where the log is written",
        )
    if not nan_allowed:
        refuse(
            where,
            np.isnan(values),
            "NaN or null",
            values,
            allowed="finite numbers, since missing values are not declared here",
            do="declare missing='indicator' for a numeric feature, or fill the column",
        )


def check_not_negative(values: npt.NDArray[Any], where: Where, what: str) -> None:
    """Refuse values below 0 (bids, weights, positions)."""
    if len(values) and values.min() < 0:
        refuse(where, values < 0, f"negative {what}", values, allowed="0 or more", do="mend the column")


def check_probability(values: Floats, where: Where, what: str, *, nan_allowed: bool = False) -> None:
    """Refuse what is not in (0, 1]."""
    inside = (values > 0) & (values <= 1)
    if nan_allowed:
        inside |= np.isnan(values)
    if not inside.all():
        refuse(
            where,
            ~inside,
            f"{what} outside (0, 1]",
            values,
            allowed="a probability greater than 0 and at most 1",
            do="drop candidates that could not be shown, or mend the column",
        )


def check_labels(values: npt.NDArray[Any], where: Where, *, graded: bool) -> None:
    """Refuse a label other than 0 and 1, or a grade that is negative or no whole number; NaN is "not observed"."""
    if not len(values):
        return
    if values.dtype.kind == "f":
        known = ~np.isnan(values)
        bad = known & ((values < 0) | (values != np.floor(values)) | ((values > 1) & (not graded)) | np.isinf(values))
        fine = not bad.any()
    else:
        fine = values.min() >= 0 and (graded or values.max() <= 1)
        bad = values < 0 if graded else (values < 0) | (values > 1)
    if not fine:
        refuse(
            where,
            bad,
            "label",
            values,
            allowed="grades 0, 1, 2, …; null where not observed" if graded else "0 or 1; null where not observed",
            do="mend the column, or declare the action kind='graded' with its threshold",
        )


def check_equal_lists(offsets: Ints, where: Where, first_offsets: Ints, first_column: str) -> None:
    """Refuse lists of one row that are unequally long."""
    if np.array_equal(offsets, first_offsets):
        return
    lengths, first_lengths = np.diff(offsets), np.diff(first_offsets)
    index = int(np.flatnonzero(lengths != first_lengths)[0])
    raise LogError(
        f"{where.at(index)}: lists of unequal length",
        found=f"{int(lengths[index])} entries, but {int(first_lengths[index])} in {first_column!r}",
        allowed="lists of one length within a request",
        do="write one entry for each candidate (or event) in each of its columns",
    )


def check_not_empty(offsets: Ints, where: Where) -> None:
    """Refuse a request without candidates."""
    lengths = np.diff(offsets)
    if len(lengths) and lengths.min() < 1:
        refuse(
            where,
            lengths < 1,
            "empty candidate list",
            lengths,
            allowed="at least one candidate a request",
            do="leave requests without candidates out of the log",
        )


def check_history(event_times_us_H: Ints, offsets: Ints, times_us_R: Ints | None, delay_us: int, where: Where) -> None:
    """Refuse events out of time order, and events that were not yet known when the request came.

    An event may enter the history of a request at time t only when it is before t - delay: without a delay, one of the
    request's own microsecond may be what the request led to.

    Raises:
        LogError: Events of a request are not oldest first.
        LeakError: An event is too new.
    """
    if len(event_times_us_H) < 1:
        return
    within = where.within(offsets)
    backwards = event_times_us_H[1:] < event_times_us_H[:-1]
    if backwards.any():
        firsts = offsets[1:-1]
        backwards[firsts[(firsts > 0) & (firsts < len(event_times_us_H))] - 1] = False
        if backwards.any():
            refuse(
                within,
                np.concatenate([[False], backwards]),
                "events out of order",
                event_times_us_H,
                allowed="oldest first within a request",
                do="sort each history by time where the log is written",
            )
    if times_us_R is None:
        return
    # Oldest first, so the last event of each history is the only one that need be looked at.
    filled = np.flatnonzero(np.diff(offsets) > 0)
    newest_us = event_times_us_H[offsets[filled + 1] - 1]
    late_us = newest_us - (times_us_R[filled] - delay_us)
    if len(filled) and late_us.max() >= 0:
        leaking = np.zeros(len(times_us_R), bool)
        leaking[filled] = late_us >= 0
        request = int(np.flatnonzero(leaking)[0])
        late = int(late_us[np.searchsorted(filled, request)])
        age = (delay_us - late) / _MICROS
        raise LeakError(
            f"{where.at(request)}: the history holds an event that was not yet known when the request came",
            found=f"an event {abs(age):.12g} s {'before' if age >= 0 else 'after'} the request",
            allowed=f"events more than {delay_us / _MICROS:.12g} s (ingest_delay_s) before it",
            do="join histories point-in-time, as rankwell's attribution does",
        )
