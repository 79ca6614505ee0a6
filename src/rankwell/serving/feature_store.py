"""Features by id, so that a request may carry ids only: what a store gives, whatever it keeps them in.

Letters: K candidates of one request · H history events · R requests (one here).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from rankwell.errors import RequestError
from rankwell.schema import Sequence
from rankwell.schema.schema import Schema
from rankwell.serving.feature_counts import FeatureCounts
from rankwell.serving.stored_columns import StoredColumns
from rankwell.types import MISSING_ID, Column, Events

__all__ = ["FeatureStore", "StoredCandidates", "StoredEvents", "StoredMember", "checked_item_ids", "checked_member_id"]

_MICROS: Final = 1_000_000


@final
@dataclass(frozen=True, slots=True)
class StoredCandidates:
    """What a store knows of a request's candidates.

    Args:
        columns: By feature, in the form of ``Features.candidates``: one entry a candidate, in the order asked for.
        is_missing_K: bool; whether the store had nothing, and the entries are the declared defaults.
    """

    columns: Mapping[str, Column]
    is_missing_K: NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True)
class StoredEvents:
    """The events of one sequence as they are stored, oldest first, whatever their number.

    Args:
        columns: By field, H entries: ids int64, numbers float32.
        times_us_H: int64, UTC microseconds; None where the sequence declares no time.

    >>> from rankwell.schema import Categorical
    >>> history = Sequence(name="history", fields=(Categorical(name="item", on="event"),))
    >>> events = StoredEvents({"item": np.array([7, 8, 9])}, np.array([1_000_000, 2_000_000, 9_000_000]))
    >>> known = events.at(10_000_000, history, ingest_delay_s=2.0)  # the last is 1 s old
    >>> known.columns["item"], known.columns["age_s"]
    (tensor([7, 8]), tensor([9., 8.]))
    """

    columns: Mapping[str, NDArray[Any]]
    times_us_H: NDArray[np.int64] | None

    def at(self, time_us: int | None, sequence: Sequence, *, ingest_delay_s: float) -> Events:
        """The events that a request at `time_us` may see, as `batch_from_request` makes them of plain data.

        An event is seen when it is more than the ingest delay older than the request. Of those, the newest
        `max_length` are kept, and the others counted.

        Args:
            time_us: UTC microseconds; None where the schema has no time: all events are seen, and no age is known.
            sequence: As the schema declares it.
            ingest_delay_s: The schema's.

        Returns:
            R = 1.
        """
        num_events = len(next(iter(self.columns.values())))
        ages_us_H: NDArray[np.int64] | None = None
        if time_us is not None and self.times_us_H is not None:
            known_us = time_us - round(ingest_delay_s * _MICROS)
            num_events = int(np.searchsorted(self.times_us_H, known_us, side="left"))
            ages_us_H = time_us - self.times_us_H
        start = max(0, num_events - sequence.max_length)
        # copied: what is stored is mapped read-only, and a store may drop it while a model still reads
        columns = {name: torch.from_numpy(values[start:num_events].copy()) for name, values in self.columns.items()}
        if ages_us_H is not None:
            columns["age_s"] = torch.from_numpy((ages_us_H[start:num_events] / _MICROS).astype(np.float32))
        return Events(columns, torch.tensor([0, num_events - start]), torch.tensor([start]))


@final
@dataclass(frozen=True, slots=True)
class StoredMember:
    """What a store knows of a request's member.

    Args:
        context: By feature, in the form of ``Features.context``: one entry.
        history: By sequence, its events; none of a member that is missing.
        is_missing: Whether the store had nothing, and the entries are the declared defaults.
    """

    context: Mapping[str, Column]
    history: Mapping[str, StoredEvents]
    is_missing: bool


class FeatureStore(ABC):
    """Features of items and members by their ids. Several threads may ask at once.

    What a store doesn't have in time is the declared default, marked as missing, and counted in `counts`; it is never
    an error of the request's.
    """

    @property
    @abstractmethod
    def stored(self) -> StoredColumns:
        """What it keeps; the rest of the schema must come with the request."""

    @property
    @abstractmethod
    def counts(self) -> FeatureCounts:
        """What was asked for and what was found, since the store was opened."""

    @abstractmethod
    def features(self, member_id: int, item_ids_K: NDArray[np.int64]) -> tuple[StoredMember, StoredCandidates]:
        """A request's member and candidates, read together: one round trip, and one deadline, where there is one.

        Args:
            member_id: A pseudonym; `MISSING_ID` where the request has no member, who then has the declared defaults.
            item_ids_K: int64, 0 or more each; repeated ones are answered each.

        Raises:
            RequestError: An id is negative, or the ids are no int64.
        """

    @abstractmethod
    def candidates(self, item_ids_K: NDArray[np.int64]) -> StoredCandidates:
        """A request's candidates alone.

        Args:
            item_ids_K: As of `features`.

        Raises:
            RequestError: An id is negative, or the ids are no int64.
        """

    @abstractmethod
    def member(self, member_id: int) -> StoredMember:
        """A request's member alone.

        Args:
            member_id: As of `features`.

        Raises:
            RequestError: The id is negative, and not `MISSING_ID`.
        """

    @abstractmethod
    def refresh(self) -> bool:
        """Look whether there is anything new; cheap, to be called each second, never on a request's way.

        Returns:
            Whether the store now reads another version than before.

        Raises:
            FeatureStoreError: There is a new version that cannot be read. The old one goes on being read.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what is held; nothing may be asked after."""

    @property
    def schema(self) -> Schema:
        """What the columns mean."""
        return self.stored.schema

    @property
    def candidate_columns(self) -> tuple[str, ...]:
        """The candidate's features that it gives."""
        return self.stored.candidate_columns

    @property
    def context_columns(self) -> tuple[str, ...]:
        """The request's features that it gives."""
        return self.stored.context_columns

    @property
    def sequences(self) -> tuple[str, ...]:
        """The sequences that it gives."""
        return self.stored.sequences


def checked_item_ids(item_ids_K: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ids, contiguous.

    Raises:
        RequestError: They are no int64 in one row, or one is negative.
    """
    if not isinstance(item_ids_K, np.ndarray) or item_ids_K.dtype != np.int64 or item_ids_K.ndim != 1:
        found = (str(item_ids_K.dtype), item_ids_K.shape) if isinstance(item_ids_K, np.ndarray) else type(item_ids_K)
        raise RequestError(
            "item ids are no row of int64", found=found, allowed="a NumPy array of int64, one id a candidate",
            do="convert them; strings are hashed as rankwell.data.string_ids does",
        )  # fmt: skip
    if len(item_ids_K) and int(item_ids_K.min()) < 0:
        raise RequestError(
            "an item id is negative", found=int(item_ids_K.min()), allowed="0 … 2^63 - 1",
            do="give ids as the log has them",
        )  # fmt: skip
    return np.ascontiguousarray(item_ids_K)


def checked_member_id(member_id: int) -> int:
    """The id.

    Raises:
        RequestError: It is none; the message does not show it, because it may name a person.
    """
    if isinstance(member_id, bool) or not isinstance(member_id, int) or not MISSING_ID <= member_id < 2**63:
        raise RequestError(
            "the member id is none", found=f"a value of type {type(member_id).__name__}",
            allowed="0 … 2^63 - 1, or MISSING_ID where the request has no member",
            do="pseudonymise it first, as batch_from_request does",
        )  # fmt: skip
    return member_id
