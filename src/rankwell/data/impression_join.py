"""Events meet the impressions that they may belong to, one block of requests after the other.

Letters: R requests · C candidates, flat · E events (actions that happened) · P distinct (owner, item) pairs of events.
An owner is a request or a member: what an action is joined by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rankwell.data.actions import ids_of, times_us_of
from rankwell.data.layout import LogColumn, LogLayout
from rankwell.data.point_in_time import Int64s, num_up_to, places, ranges
from rankwell.errors import LogError, SchemaError
from rankwell.schema import Schema

__all__ = ["AttributionPlan", "ImpressionJoin", "RequestKeys"]

_NEVER: Final = np.iinfo(np.int64).min
_LONGEST_WINDOW_US: Final = 2**62


@final
@dataclass(frozen=True, slots=True)
class AttributionPlan:
    """The columns that attribution reads and writes, and the windows."""

    schema: Schema
    time: str
    item: str
    position: str | None
    windows_us: Int64s
    label_columns: tuple[tuple[LogColumn, LogColumn], ...]

    @classmethod
    def of(cls, schema: Schema) -> AttributionPlan:
        if schema.time is None or schema.item is None:
            raise SchemaError(
                "attribution needs the request's time and the candidate's item",
                found=f"time={schema.time!r}, item={schema.item!r}",
                do="name them in the schema",
            )
        endless = [action.name for action in schema.actions if action.window_s is None]
        if endless:
            raise SchemaError(
                f"the actions {endless} declare no window, so that no action would never be known to have stayed out",
                do="declare window_s: how long after the impression the action may still come",
            )
        windows_us = [
            min(round(1e6 * action.window_s), _LONGEST_WINDOW_US) for action in schema.actions if action.window_s
        ]
        feature = schema.feature(schema.item)
        columns = LogLayout.of(schema, "requests").columns
        of_role = {role: [c for c in columns if c.role == role] for role in ("label", "observed")}
        position = schema.exposure.position
        return cls(
            schema,
            time=schema.time,
            item=getattr(feature, "column", None) or feature.name,
            position=position,
            windows_us=np.array(windows_us, np.int64),
            label_columns=tuple(zip(of_role["label"], of_role["observed"], strict=True)),
        )

    @property
    def key_columns(self) -> list[str]:
        names = (self.schema.request_id, self.schema.member_id, self.time, self.item, self.position)
        return [name for name in names if name is not None]


@final
@dataclass(frozen=True, slots=True)
class RequestKeys:
    """The keys of some requests and their candidates."""

    owners_R: tuple[Int64s | None, Int64s | None]
    times_us_R: Int64s
    offsets: Int64s
    request_C: Int64s
    items_C: Int64s
    shown_C: NDArray[np.bool_]

    @classmethod
    def of(cls, requests: pa.Table, plan: AttributionPlan) -> RequestKeys:
        missing = [name for name in plan.key_columns if name not in requests.column_names]
        if missing:
            raise LogError(
                f"the requests lack the columns {missing}",
                found=requests.column_names,
                do="add them, or mend the schema",
            )
        items, lengths_R = _flat(requests[plan.item], plan.item)
        shown_C = np.ones(len(items), bool)
        if plan.position is not None:
            positions, position_lengths_R = _flat(requests[plan.position], plan.position)
            if not np.array_equal(lengths_R, position_lengths_R):
                raise LogError(
                    f"columns {plan.item!r} and {plan.position!r} hold lists of unequal length in a request",
                    found=f"request {int(np.argmax(lengths_R != position_lengths_R))} of these",
                    do="write one entry for each candidate in each of its columns",
                )
            shown_C = np.asarray(pc.fill_null(pc.greater(positions, 0), False).to_numpy(zero_copy_only=False))
        owners = [
            None if name is None else ids_of(requests[name], name, missing=True)
            for name in (plan.schema.request_id, plan.schema.member_id)
        ]
        return cls(
            owners_R=(owners[0], owners[1]),
            times_us_R=times_us_of(requests[plan.time], plan.time),
            offsets=np.concatenate([[0], np.cumsum(lengths_R)]).astype(np.int64),
            request_C=np.repeat(np.arange(len(lengths_R)), lengths_R),
            items_C=ids_of(items, plan.item, missing=True),
            shown_C=shown_C,
        )


@final
class ImpressionJoin:
    """For each event, the latest impression of its (owner, item) at or before it, over all impressions seen so far."""

    def __init__(self, owners_E: Int64s, items_E: Int64s, times_us_E: Int64s) -> None:
        self._owners, owner_E = np.unique(owners_E, return_inverse=True)
        self._items, item_E = np.unique(items_E, return_inverse=True)
        self._pairs_P, pair_E = np.unique(owner_E * max(len(self._items), 1) + item_E, return_inverse=True)
        self._owner_E, self._pair_E, self._times_us_E = owner_E, pair_E, times_us_E
        self._events_by_pair = np.argsort(pair_E, kind="stable")
        self._first_event_P = np.searchsorted(pair_E[self._events_by_pair], np.arange(len(self._pairs_P) + 1))
        self._owner_seen = np.zeros(len(self._owners), bool)
        self._pair_shown_P = np.zeros(len(self._pairs_P), bool)
        self._pair_unshown_P = np.zeros(len(self._pairs_P), bool)
        self.impression_us_E = np.full(len(owners_E), _NEVER)
        self.candidate_E = np.full(len(owners_E), -1)

    @property
    def owner_seen_E(self) -> NDArray[np.bool_]:
        return self._owner_seen[self._owner_E]

    @property
    def shown_E(self) -> NDArray[np.bool_]:
        return self._pair_shown_P[self._pair_E]

    @property
    def unshown_E(self) -> NDArray[np.bool_]:
        return self._pair_unshown_P[self._pair_E] & ~self.shown_E

    def see(self, owners_R: Int64s, impressions: RequestKeys, first_candidate: int) -> None:
        owner_R = places(owners_R, self._owners)
        self._owner_seen[owner_R[owner_R >= 0]] = True
        candidates = np.flatnonzero(owner_R[impressions.request_C] >= 0)
        item = places(impressions.items_C[candidates], self._items)
        candidates, item = candidates[item >= 0], item[item >= 0]
        request = impressions.request_C[candidates]
        pair = places(owner_R[request] * max(len(self._items), 1) + item, self._pairs_P)
        shown = impressions.shown_C[candidates]
        self._pair_unshown_P[pair[(pair >= 0) & ~shown]] = True
        wanted = (pair >= 0) & shown
        pair, times_us, candidates = pair[wanted], impressions.times_us_R[request[wanted]], candidates[wanted]
        if len(pair) == 0:
            return
        self._pair_shown_P[pair] = True
        # Stable, and candidates ascend: of equal (pair, time) the first candidate stands first, and it is kept.
        order = np.lexsort((times_us, pair))
        pair, times_us, candidates = pair[order], times_us[order], candidates[order]
        first = np.concatenate([[True], (pair[1:] != pair[:-1]) | (times_us[1:] != times_us[:-1])])
        pair, times_us, candidates = pair[first], times_us[first], candidates[first]

        touched = np.unique(pair)
        events = self._events_by_pair[ranges(self._first_event_P[touched], self._first_event_P[touched + 1])]
        found = num_up_to(pair, times_us, self._pair_E[events], self._times_us_E[events], equal=True) - 1
        # Strictly later: of equal times in two row groups the first one in the log is kept.
        better = (found >= 0) & (pair[found] == self._pair_E[events]) & (times_us[found] > self.impression_us_E[events])
        self.impression_us_E[events[better]] = times_us[found[better]]
        self.candidate_E[events[better]] = first_candidate + candidates[found[better]]


def _flat(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, Int64s]:
    if column.null_count:
        raise LogError(
            f"column {name!r} has null lists",
            found=column.null_count,
            allowed="a list for every request",
            do="write an empty list where there is none",
        )
    try:
        return pc.list_flatten(column), np.asarray(pc.list_value_length(column).to_numpy(), np.int64)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
        raise LogError(
            f"column {name!r} of the requests holds no lists",
            found=str(column.type),
            allowed="request layout: one row a request, candidates as lists",
            do="give requests in request layout: one row a request, candidates in lists",
        ) from None
