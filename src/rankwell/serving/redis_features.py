"""Features by id in a Redis server: one round trip a request, within a deadline, and defaults for what is late.

Letters: K candidates of one request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import FeatureStoreError
from rankwell.serving.feature_counts import FeatureCounts, LookUps
from rankwell.serving.feature_defaults import FeatureDefaults
from rankwell.serving.feature_store import (
    FeatureStore,
    StoredCandidates,
    StoredMember,
    checked_item_ids,
    checked_member_id,
)
from rankwell.serving.redis_connection import RedisAddress
from rankwell.serving.redis_pool import RedisPool, monotonic_us
from rankwell.serving.redis_rows import RedisKeys, found_rows
from rankwell.serving.row_reader import RowReader
from rankwell.serving.stored_columns import StoredColumns
from rankwell.types import MISSING_ID

__all__ = ["RedisFeatures"]

_NO_LISTS: Final = np.zeros(0, np.int64)


@final
class RedisFeatures(FeatureStore):
    """Reads what `rankwell.serving.redis_rows.write_redis_features` wrote.

    The server may be away when the store is made, may go and come back: until then everything is a default, and
    counted as failed. One server; where it is a cluster, a proxy that takes MGET.

    Args:
        url: ``redis://[user:password@]host[:port][/database]``, ``rediss://…`` with TLS, or ``unix:///path``.
        stored: What is kept, as it was written.
        defaults: Of what is not there, or not in time.
        deadline_ms: The longest that one call waits, connecting included; above 0.
        prefix: Of the keys.
        now_us: A clock that only goes forward, in microseconds.

    Raises:
        FeatureStoreError: The URL is none, the server's name is not known, or the deadline is none.
        SchemaError: A stored feature has no default.
        MissingExtraError: hiredis is not installed.
    """

    def __init__(
        self,
        url: str,
        stored: StoredColumns,
        defaults: FeatureDefaults,
        *,
        deadline_ms: float,
        prefix: str = "rankwell",
        now_us: Callable[[], int] = monotonic_us,
    ) -> None:
        if not 0 < deadline_ms < float("inf"):
            raise FeatureStoreError(
                "a deadline of a feature store is out of range", found=deadline_ms, allowed="milliseconds above 0",
                do="give a part of the request's budget",
            )  # fmt: skip
        self._rows = RowReader(stored, defaults)
        self._timeout_us = max(1, round(deadline_ms * 1_000))
        self._item_keys, self._member_keys = RedisKeys(prefix, "i"), RedisKeys(prefix, "m")
        self._counts = FeatureCounts()
        self._pool = RedisPool(RedisAddress.of(url), now_us=now_us)

    @property
    def stored(self) -> StoredColumns:
        """What it keeps."""
        return self._rows.stored

    @property
    def counts(self) -> FeatureCounts:
        """Since it was made."""
        return self._counts

    def features(self, member_id: int, item_ids_K: NDArray[np.int64]) -> tuple[StoredMember, StoredCandidates]:
        """See `FeatureStore.features`: one MGET."""
        member_id, item_ids_K = checked_member_id(member_id), checked_item_ids(item_ids_K)
        is_known = member_id != MISSING_ID
        keys = (self._member_keys.words(np.array([member_id])) if is_known else b"") + self._item_keys.words(item_ids_K)
        values, failure = self._values(keys, is_known + len(item_ids_K))
        if not is_known:
            return self._member(MISSING_ID, None, failure), self._candidates(item_ids_K, values, failure)
        return (
            self._member(member_id, values[0] if values else None, failure),
            self._candidates(item_ids_K, values[1:], failure),
        )

    def candidates(self, item_ids_K: NDArray[np.int64]) -> StoredCandidates:
        """See `FeatureStore.candidates`."""
        item_ids_K = checked_item_ids(item_ids_K)
        values, failure = self._values(self._item_keys.words(item_ids_K), len(item_ids_K))
        return self._candidates(item_ids_K, values, failure)

    def member(self, member_id: int) -> StoredMember:
        """See `FeatureStore.member`."""
        member_id = checked_member_id(member_id)
        if member_id == MISSING_ID:
            return self._member(member_id, None, None)
        values, failure = self._values(self._member_keys.words(np.array([member_id])), 1)
        return self._member(member_id, values[0] if values else None, failure)

    def _values(self, keys: bytes, num_keys: int) -> tuple[Sequence[bytes | None], LookUps | None]:
        """The values of the keys; or none, and how one key that was asked for is to be counted."""
        if num_keys == 0:
            return [], None
        command = b"*%d\r\n$4\r\nMGET\r\n" % (num_keys + 1) + keys
        try:
            (values,) = self._pool.ask(command, 1, timeout_us=self._timeout_us)
        except TimeoutError:
            return [], LookUps(num_late=1)
        except (OSError, FeatureStoreError):
            return [], LookUps(num_failed=1)
        if not isinstance(values, list) or len(values) != num_keys:  # an error: still loading, no permission
            return [], LookUps(num_failed=1)
        return values, None

    def _candidates(
        self, item_ids_K: NDArray[np.int64], values: Sequence[bytes | None], failure: LookUps | None
    ) -> StoredCandidates:
        num = len(item_ids_K)
        if failure is not None:
            self._counts.add(items=LookUps(num, 0, num * failure.num_late, num * failure.num_failed))
            words_KW = np.zeros((num, self._rows.item_layout.num_words), np.int64)
            starts_K, is_missing_K = np.zeros(num, np.int64), np.ones(num, np.bool_)
            return self._rows.candidates(item_ids_K, words_KW, _NO_LISTS, starts_K, is_missing_K)
        rows = found_rows(values, self._rows.item_layout)
        self._counts.add(items=LookUps(num, _num(rows.is_missing_K), num_failed=_num(rows.is_damaged_K)))
        is_missing_K = rows.is_missing_K | rows.is_damaged_K
        return self._rows.candidates(item_ids_K, rows.words_KW, rows.lists, rows.starts_K, is_missing_K)

    def _member(self, member_id: int, value: bytes | None, failure: LookUps | None) -> StoredMember:
        rows = found_rows([value], self._rows.member_layout)
        if member_id != MISSING_ID:
            found = LookUps(num_missing=_num(rows.is_missing_K), num_failed=_num(rows.is_damaged_K))
            self._counts.add(members=LookUps(num_looked_up=1) + (found if failure is None else failure))
        is_missing = bool(rows.is_missing_K[0] or rows.is_damaged_K[0])
        start = 0 if is_missing else int(rows.starts_K[0])
        return self._rows.member(member_id, rows.words_KW, rows.lists, start, is_missing=is_missing)

    def refresh(self) -> bool:
        """See `FeatureStore.refresh`: rows are always the newest; a server that is lost is looked up by name again."""
        if self._pool.is_lost:
            self._pool.resolve()
        return False

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def __enter__(self) -> RedisFeatures:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _num(is_so_K: NDArray[Any]) -> int:
    return int(np.count_nonzero(is_so_K))
