"""Decoded requests into batches, with the features that they leave out looked up by id.

Letters: K candidates of one request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.request import KnownFeatures, batch_from_request
from rankwell.errors import RequestError
from rankwell.schema import Schema
from rankwell.serving.feature_store import FeatureStore
from rankwell.types import MISSING_ID, Batch

__all__ = ["ReadRequest", "RequestReader"]


@final
@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A request that can be ranked, and what the store had nothing of.

    Args:
        batch: R = 1.
        num_missing_items: Candidates that the store was asked for and doesn't have, or not in time.
        is_member_missing: Whether it was so with the member.
    """

    batch: Batch
    num_missing_items: int
    is_member_missing: bool


@final
class RequestReader:
    """Reads requests by whole columns, as `batch_from_request` does, and refuses names that the schema doesn't have.

    What a request says of a feature comes before what is stored of it.

    Args:
        schema: What the columns mean.
        store: Asked once, for what a request leaves out; None: requests carry everything.
        key: Of the members' pseudonyms, where requests carry raw ids.

    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job")
    >>> RequestReader(schema).read({"candidates": {"job": [7, 8]}}).batch.audit.item_ids_C
    tensor([7, 8])
    >>> RequestReader(schema).read({"candidates": {"job": [7], "jbo": [7]}})
    Traceback (most recent call last):
    rankwell.errors.RequestError: candidates has an unknown feature, 'jbo'; ...
    """

    def __init__(self, schema: Schema, *, store: FeatureStore | None = None, key: PseudonymKey | None = None) -> None:
        self._schema, self._store, self._key = schema, store, key
        parts = (*schema.features, *schema.protected)
        self._names = {
            "context": {part.name for part in parts if part.on == "request"},
            "candidates": {part.name for part in parts if part.on == "candidate"}
            | ({schema.bid} if schema.bid is not None else set()),
            "history": {sequence.name for sequence in schema.sequences},
        }
        self._sequences = {sequence.name: sequence for sequence in schema.sequences}

    def read(self, request: Mapping[str, Any]) -> ReadRequest:
        """The batch of a request.

        Raises:
            RequestError: As of `batch_from_request`, or a feature or sequence is unknown.
        """
        for where, known in self._names.items():
            given = request.get(where) if isinstance(request, Mapping) else None
            if isinstance(given, Mapping) and not given.keys() <= known:
                unknown = sorted(map(str, given.keys() - known))
                raise RequestError(
                    f"{where} has an unknown {'sequence' if where == 'history' else 'feature'}, {unknown[0]!r}",
                    found=unknown, allowed=sorted(known), do="correct the name, or leave it out",
                )  # fmt: skip
        look_up = None if self._store is None else _LookUp(self, self._store)
        batch = batch_from_request(request, self._schema, key=self._key, look_up=look_up)
        if look_up is None:
            return ReadRequest(batch, 0, False)
        return ReadRequest(batch, look_up.num_missing_items, look_up.is_member_missing)


@final
class _LookUp:
    """One request's question to the store, and how much of the answer was missing."""

    def __init__(self, reader: RequestReader, store: FeatureStore) -> None:
        self._reader, self._store = reader, store
        self.num_missing_items, self.is_member_missing = 0, False

    def __call__(self, member_id: int, time_us: int | None, items_K: NDArray[np.int64]) -> KnownFeatures:
        schema, sequences = self._reader._schema, self._reader._sequences
        member, candidates = self._store.features(member_id, items_K)
        self.num_missing_items = int(np.count_nonzero(candidates.is_missing_K))
        self.is_member_missing = member.is_missing and member_id != MISSING_ID
        if time_us is None and any(events.times_us_H is not None for events in member.history.values()):
            raise RequestError(
                "'time_us' is missing", do="give the request's time: the ages of events are counted from it"
            )
        history = {
            name: events.at(time_us, sequences[name], ingest_delay_s=schema.ingest_delay_s)
            for name, events in member.history.items()
        }
        return KnownFeatures(member.context, history, candidates.columns)
