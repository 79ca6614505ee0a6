"""What stands in Redis for each item and each member: under one key, one value of packed bytes.

::

    key      <prefix>:i:<id> of an item, <prefix>:m:<id> of a member; the id in 16 hexadecimal digits
    value    the row, and its lists right after it (`rankwell.serving.row_layout`); its head is the fingerprint of the
             schema's rows and of the format, so that what was written for another schema is told apart, never misread

Letters: n rows · K rows of one request · W words of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.data.pseudonyms import PseudonymKey
from rankwell.errors import FeatureStoreError
from rankwell.serving.feature_source import FeatureSource
from rankwell.serving.redis_connection import RedisAddress
from rankwell.serving.redis_pool import RedisPool
from rankwell.serving.row_layout import PackedRows, RowLayout
from rankwell.serving.stored_columns import StoredColumns

__all__ = ["FoundRows", "RedisKeys", "found_rows", "write_redis_features"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_WORD: Final = 8
_DIGITS: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
_SHIFTS: Final = np.arange(60, -1, -4)
_ROWS_A_ROUND: Final = 1_000
_PREFIX: Final = "rankwell"


@final
class RedisKeys:
    """Keys of ids, made for many at once.

    Args:
        prefix: Tells the keys of one store from those of others.
        side: "i" of items, "m" of members.

    >>> RedisKeys("jobs", "i").words(np.array([42]))
    b'$23\\r\\njobs:i:000000000000002a\\r\\n'
    """

    def __init__(self, prefix: str, side: str) -> None:
        start = f"{prefix}:{side}:".encode()
        self._head = b"$%d\r\n%s" % (len(start) + len(_SHIFTS), start)
        self._word = np.frombuffer(self._head + bytes(len(_SHIFTS)) + b"\r\n", np.uint8)

    def words(self, ids_n: Ints) -> bytes:
        """The keys as words of a command."""
        words = np.tile(self._word, (len(ids_n), 1))
        words[:, len(self._head) : -2] = _DIGITS[(ids_n[:, None] >> _SHIFTS) & 15]
        return words.tobytes()


@final
@dataclass(frozen=True, slots=True)
class FoundRows:
    """Rows as they were found.

    Args:
        words_KW: Their fixed parts.
        lists: Words in which their lists stand.
        starts_K: The first word of each row's lists.
        is_missing_K: There was none, or one of another schema.
        is_damaged_K: It is no row.
    """

    words_KW: Ints
    lists: Ints
    starts_K: Ints
    is_missing_K: Bools
    is_damaged_K: Bools


def found_rows(values: Sequence[bytes | None], layout: RowLayout) -> FoundRows:
    """Rows from the values of keys, None where there is none. Rows that are missing or damaged have empty lists.

    Args:
        values: K of them.
        layout: Of the rows.
    """
    nothing = layout.fingerprint.to_bytes(_WORD, "little") + bytes((layout.num_words - 1) * _WORD)
    is_missing_K = np.fromiter((value is None for value in values), np.bool_, len(values))
    is_damaged_K = np.zeros(len(values), np.bool_)
    known = [nothing if value is None else value for value in values]
    num_bytes_K = np.fromiter(map(len, known), np.int64, len(known))
    for k in np.flatnonzero((num_bytes_K < len(nothing)) | (num_bytes_K % _WORD != 0)):  # too short, or no whole words
        is_ours = known[k][:_WORD] == nothing[:_WORD]
        is_damaged_K[k], is_missing_K[k] = is_ours, not is_ours
        known[k], num_bytes_K[k] = nothing, len(nothing)
    words = np.frombuffer(bytearray().join(known), "<i8")
    num_words_K = num_bytes_K // _WORD
    begins_K = np.cumsum(num_words_K) - num_words_K
    words_KW = words[begins_K[:, None] + np.arange(layout.num_words)]
    is_foreign_K = words_KW[:, 0] != layout.fingerprint
    is_missing_K |= is_foreign_K
    is_damaged_K |= ~is_foreign_K & (layout.list_words(words_KW) != num_words_K - layout.num_words)
    words_KW[is_foreign_K | is_damaged_K] = np.frombuffer(nothing, "<i8")
    return FoundRows(words_KW, words, begins_K + layout.num_words, is_missing_K, is_damaged_K)


def write_redis_features(
    url: str,
    stored: StoredColumns,
    *,
    items: Any = None,
    members: Any = None,
    key: PseudonymKey | None = None,
    prefix: str = _PREFIX,
    lifetime_s: int | None = None,
    timeout_s: float = 10.0,
) -> int:
    """Write items and members to Redis, each in the place of the one that is there; others stay as they are.

    Args:
        url: As of `RedisFeatures`.
        stored, items, members, key: As of `rankwell.serving.feature_table.write_feature_table`.
        prefix: As of `RedisFeatures`.
        lifetime_s: After so long Redis forgets them, and they are missing; None: never.
        timeout_s: The longest that each 1,000 rows may take.

    Returns:
        How many rows were written.

    Raises:
        LogError: A column is missing or unknown, a value does not keep the schema, or an id stands twice. Some rows may
            have been written.
        PrivacyError: Member ids are strings, and there is no key.
        FeatureStoreError: The server cannot be reached, or refuses.
    """
    expiry = () if lifetime_s is None else ("EX", str(lifetime_s))
    sides = (
        (items, stored.item_source, RowLayout.of_items, "items", None),
        (members, stored.member_source, RowLayout.of_members, "members", key),
    )
    num_rows = 0
    with RedisPool(RedisAddress.of(url)) as pool:
        for data, source_of, layout_of, what, source_key in sides:
            if data is None:
                continue
            source, layout = FeatureSource(data, source_of(), what, key=source_key), layout_of(stored)
            source.ids()  # refuses those that stand twice, before anything is written
            keys = RedisKeys(prefix, what[0])
            for piece in source.pieces():
                packed = layout.pack(piece.columns, piece.lists, num_rows=len(piece.ids_n))
                packed.words_nW[:, 0] = layout.fingerprint
                for commands in _rounds(piece.ids_n, packed, keys, expiry):
                    _send(pool, commands, timeout_s)
                num_rows += len(piece.ids_n)
    return num_rows


def _rounds(ids_n: Ints, packed: PackedRows, keys: RedisKeys, expiry: tuple[str, ...]) -> Iterator[list[bytes]]:
    words = b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in expiry)
    start = b"*%d\r\n$3\r\nSET\r\n" % (3 + len(expiry))
    commands: list[bytes] = []
    for i in range(len(ids_n)):
        value = packed.words_nW[i].tobytes() + packed.lists[packed.starts[i] : packed.starts[i + 1]].tobytes()
        commands.append(start + keys.words(ids_n[i : i + 1]) + b"$%d\r\n%s\r\n" % (len(value), value) + words)
        if len(commands) == _ROWS_A_ROUND:
            yield commands
            commands = []
    if commands:
        yield commands


def _send(pool: RedisPool, commands: list[bytes], timeout_s: float) -> None:
    try:
        replies = pool.ask(b"".join(commands), len(commands), timeout_us=round(timeout_s * 1e6))
    except OSError as error:
        raise FeatureStoreError(
            "the Redis server cannot be written to", found=str(error) or f"nothing came for {timeout_s:g} s",
            do="see that it runs, and write again: rows may be written twice",
        ) from None  # fmt: skip
    refusals = [reply for reply in replies if isinstance(reply, Exception)]
    if refusals:
        raise FeatureStoreError("the Redis server refuses to write", found=str(refusals[0]), do="mend it, write again")
