"""Where the ids of several named tables stand in one slab of rows, and which rows a batch needs.

Letters: n ids of a batch, flat over its id columns · F id columns · U unique rows · T tables in the slab.

Each table's region of the slab starts with two rows of its own: the *default row*, which every unknown id reads, and
the *missing row*, which `MISSING_ID` reads. Both are trained: the default row on ids dropped at random and on ids not
yet admitted, so that an unseen id at serving never reads the random start of a row that was never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, final

import numba
import numpy as np
from numpy.typing import NDArray

from rankwell.errors import LogError, SchemaError
from rankwell.schema import TableSpec
from rankwell.tables.hashing import mix64, name_salt
from rankwell.types import MISSING_ID

__all__ = ["NUM_OWN_ROWS", "Needed", "RowMap"]

NUM_OWN_ROWS: Final = 2
"""Rows that each table has besides those of its ids: the default row and the missing row, in this order."""

_DEFAULT, _MISSING = 0, 1
_EMPTY: Final = np.int64(-1)


@final
class Needed(NamedTuple):
    """The rows a batch needs: ``slots_U`` are distinct, and id i reads row ``slots_U[index_n[i]]``."""

    slots_U: NDArray[np.int64]
    index_n: NDArray[np.int64]


@final
class RowMap:
    """Maps the ids of named tables to rows of one slab, in one pass over a batch.

    A table of ``num_ids`` gives id i its own row, and the default row to i ≥ num_ids; one of ``num_rows`` hashes.

    Args:
        specs: The tables, in the order of their regions.
        admission: An id reads its own row from its so-many-th sighting in training on, and before that the default
            row. 1 admits at once.
        default_rate: Share of the ids of a training batch that read the default row instead, drawn by
            (seed, step, place in the batch).
        seed: Of that draw.
    """

    def __init__(self, specs: Sequence[TableSpec], *, admission: int, default_rate: float, seed: int) -> None:
        if not 1 <= admission <= 255:
            raise SchemaError("admission is out of range", found=admission, allowed="1 … 255 sightings")
        if not 0 <= default_rate < 1:
            raise SchemaError("default_rate is out of range", found=default_rate, allowed="[0, 1)")
        self.names: tuple[str, ...] = tuple(spec.name for spec in specs)
        self._place = {name: t for t, name in enumerate(self.names)}
        self._size_T = np.array([spec.size for spec in specs], dtype=np.int64)
        self._base_T = np.concatenate([[0], np.cumsum(self._size_T + NUM_OWN_ROWS)[:-1]]).astype(np.int64)
        self._hashed_T = np.array([spec.hashed for spec in specs], dtype=np.bool_)
        self._salt_T = np.array([name_salt(spec.name) for spec in specs], dtype=np.uint64)
        self.num_slots: int = int((self._size_T + NUM_OWN_ROWS).sum())
        self.admission, self.default_rate, self.seed = admission, default_rate, seed
        self._drop_below = np.uint64(int(default_rate * 2.0**64))
        self._scratch = np.full(1024, _EMPTY)

    def table_index(self, name: str) -> int:
        """The place of the table called `name` in the slab; what `needed` and `slots` take in `tables_F`."""
        return self._place[name]

    def region(self, name: str) -> tuple[int, int]:
        """First slot and number of slots of a table, its two own rows included."""
        t = self._place[name]
        return int(self._base_T[t]), int(self._size_T[t]) + NUM_OWN_ROWS

    def slots(
        self,
        ids_n: NDArray[np.int64],
        bounds_F: NDArray[np.int64],
        tables_F: NDArray[np.int64],
        sightings: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        """The row that each id reads outside training: its own if it was admitted, else the default row.

        Args:
            ids_n: Ids of F columns, one column after the other.
            bounds_F: Where the columns begin and end: F + 1 numbers.
            tables_F: The table of each column.
            sightings: How often each slot was seen in training, up to 255.

        Raises:
            LogError: An id is negative and not `MISSING_ID`.
        """
        slots_n = np.empty(len(ids_n), dtype=np.int64)
        bad = _address(
            ids_n, bounds_F, tables_F, self._base_T, self._size_T, self._hashed_T, self._salt_T, sightings,
            self.admission, slots_n,
        )  # fmt: skip
        self._refuse(bad, ids_n)
        return slots_n

    def needed(
        self,
        ids_n: NDArray[np.int64],
        bounds_F: NDArray[np.int64],
        tables_F: NDArray[np.int64],
        sightings: NDArray[np.uint8],
        *,
        step: int,
    ) -> Needed:
        """The distinct rows of a training batch, counting its sightings.

        Args and errors are those of `slots`; `step` keys the draw of dropped ids.
        """
        num_ids = len(ids_n)
        if len(self._scratch) < 2 * num_ids:
            self._scratch = np.full(1 << (2 * num_ids - 1).bit_length(), _EMPTY)
        slots_U = np.empty(num_ids, dtype=np.int64)
        index_n = np.empty(num_ids, dtype=np.int64)
        num_unique = _collect(
            ids_n, bounds_F, tables_F, self._base_T, self._size_T, self._hashed_T, self._salt_T, sightings,
            self.admission, self._drop_below, np.uint64((self.seed * 0x9E3779B97F4A7C15 + step) % 2**64),
            self._scratch, slots_U, index_n,
        )  # fmt: skip
        self._refuse(-1 - num_unique if num_unique < 0 else -1, ids_n)
        return Needed(slots_U[:num_unique], index_n)

    def _refuse(self, bad: int, ids_n: NDArray[np.int64]) -> None:
        if bad >= 0:
            raise LogError(
                f"an id of the tables {list(self.names)} is negative",
                found=int(ids_n[bad]),
                allowed=f"0 … 2^63 - 1, or MISSING_ID ({MISSING_ID}) where the schema allows a missing id",
                do="hash or shift the ids before writing the log",
            )


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _own_slot(
    id_: np.int64, base: np.int64, size: np.int64, hashed: bool, salt: np.uint64
) -> np.int64:  # pragma: no cover - compiled
    if id_ == MISSING_ID:
        return base + _MISSING
    if hashed:
        return base + np.int64(NUM_OWN_ROWS) + np.int64(mix64(np.uint64(id_) ^ salt) % np.uint64(size))
    return base + NUM_OWN_ROWS + id_ if id_ < size else base + _DEFAULT


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _address(  # pragma: no cover - compiled
    ids_n: NDArray[np.int64],
    bounds_F: NDArray[np.int64],
    tables_F: NDArray[np.int64],
    base_T: NDArray[np.int64],
    size_T: NDArray[np.int64],
    hashed_T: NDArray[np.bool_],
    salt_T: NDArray[np.uint64],
    sightings: NDArray[np.uint8],
    admission: int,
    slots_n: NDArray[np.int64],
) -> int:
    for f in range(len(tables_F)):
        t = tables_F[f]
        base = base_T[t]
        for i in range(bounds_F[f], bounds_F[f + 1]):
            if ids_n[i] < MISSING_ID:
                return i
            slot = _own_slot(ids_n[i], base, size_T[t], hashed_T[t], salt_T[t])
            if sightings[slot] < admission and slot > base + _MISSING:
                slot = base + _DEFAULT
            slots_n[i] = slot
    return -1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _collect(  # pragma: no cover - compiled
    ids_n: NDArray[np.int64],
    bounds_F: NDArray[np.int64],
    tables_F: NDArray[np.int64],
    base_T: NDArray[np.int64],
    size_T: NDArray[np.int64],
    hashed_T: NDArray[np.bool_],
    salt_T: NDArray[np.uint64],
    sightings: NDArray[np.uint8],
    admission: int,
    drop_below: np.uint64,
    draw_key: np.uint64,
    scratch: NDArray[np.int64],
    slots_U: NDArray[np.int64],
    index_n: NDArray[np.int64],
) -> int:
    # Two loops: the first finds each id's slot and counts the sighting, short enough to have many cache misses under
    # way at once; the second finds the distinct slots. index_n holds the slots in between.
    for f in range(len(tables_F)):
        t = tables_F[f]
        base = base_T[t]
        for i in range(bounds_F[f], bounds_F[f + 1]):
            if ids_n[i] < MISSING_ID:
                return -1 - i
            slot = _own_slot(ids_n[i], base, size_T[t], hashed_T[t], salt_T[t])
            if slot > base + _MISSING:
                if drop_below > np.uint64(0) and mix64(draw_key ^ mix64(np.uint64(i))) < drop_below:
                    slot = base + _DEFAULT  # not a sighting: its own row learns nothing from it
                else:
                    if sightings[slot] < 255:
                        sightings[slot] += np.uint8(1)
                    if sightings[slot] < admission:
                        slot = base + _DEFAULT
            index_n[i] = slot
    # scratch is an open-addressing set of places in slots_U; it is handed back empty
    mask = np.uint64(len(scratch) - 1)
    num_unique = 0
    for i in range(len(ids_n)):
        slot = index_n[i]
        place = mix64(np.uint64(slot)) & mask
        while scratch[place] >= 0 and slots_U[scratch[place]] != slot:
            place = (place + np.uint64(1)) & mask
        if scratch[place] < 0:
            scratch[place] = num_unique
            slots_U[num_unique] = slot
            num_unique += 1
        index_n[i] = scratch[place]
    for u in range(num_unique - 1, -1, -1):  # last in, first out: what a probe went past is still there
        place = mix64(np.uint64(slots_U[u])) & mask
        while scratch[place] != u:
            place = (place + np.uint64(1)) & mask
        scratch[place] = _EMPTY
    return num_unique
