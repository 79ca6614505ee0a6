"""Rows kept by the compiled extension, where `native` is there.

Letters: n ids of a column, flat · W row width · S state columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

from rankwell.errors import TrainingError
from rankwell.schema import TableSpec
from rankwell.tables.clock import Clock
from rankwell.tables.hashing import name_salt
from rankwell.tables.native import native
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.row_store import Draw, LentColumn, RowStore, StoredRows, StoreShape

__all__ = ["NativeStore"]

_DIRECT, _HASHED, _GROWING = 0, 1, 2
_STILL: Final = native.Sgd(0.0, 0.0) if native is not None else None


@final
class NativeStore(RowStore):
    """Rows in C++, moved by the compiled twins of the rules on torch's number of threads.

    A rule without a twin is refused; see `PlainStore`.
    """

    def __init__(self, shape: StoreShape) -> None:
        assert native is not None
        self._shape = shape
        self._dtype = getattr(torch, shape.storage.dtype)
        with _refused(shape):
            if shape.storage.folder is not None:
                shape.storage.folder.mkdir(parents=True, exist_ok=True)
            self._tables: Any = native.Tables([_shape_of(shape, spec) for spec in shape.specs])

    def lend(self, columns: Sequence[LentColumn], draw: Draw, rule: RowOptimizer, clock: Clock) -> None:
        """See `RowStore`."""
        with _refused(self._shape):
            self._tables.lend(
                [
                    (c.table, c.ids_n.data_ptr(), len(c.ids_n), c.block_nFW.data_ptr() + 4 * c.at, c.block_nFW.shape[1],
                     c.places.data_ptr() + 4 * c.start)
                    for c in columns
                ],
                *draw, rule.compiled(), _tick(clock), torch.get_num_threads(),
            )  # fmt: skip

    def read(self, columns: Sequence[LentColumn], rule: RowOptimizer | None, clock: Clock) -> None:
        """See `RowStore`."""
        self._tables.read(
            [
                (c.table, c.ids_n.data_ptr(), len(c.ids_n), c.block_nFW.data_ptr() + 4 * c.at, c.block_nFW.shape[1], 0)
                for c in columns
            ],
            _STILL if rule is None else rule.compiled(), _tick(clock), torch.get_num_threads(),
        )  # fmt: skip

    def collect(self, columns: Sequence[LentColumn]) -> float:
        """See `RowStore`."""
        square: float = self._tables.collect(
            [
                (c.table, c.places.data_ptr() + 4 * c.start, len(c.ids_n), c.block_nFW.data_ptr() + 4 * c.at,
                 c.block_nFW.shape[1])
                for c in columns
            ],
            torch.get_num_threads(),
        )  # fmt: skip
        return square

    def apply(self, rule: RowOptimizer, clock: Clock, scale: float) -> None:
        """See `RowStore`."""
        self._tables.apply(rule.compiled(), _tick(clock), scale, torch.get_num_threads())

    def abandon(self) -> None:
        """See `RowStore`."""
        self._tables.abandon()

    def scan(self, t: int, *, max_rows: int, rule: RowOptimizer | None, clock: Clock) -> Iterator[StoredRows]:
        """See `RowStore`."""
        yield from self._pieces(t, self._tables.scan(t, only_changed=False, takes=False), max_rows, rule, clock)

    def take(self, t: int, *, only_changed: bool, max_rows: int) -> Iterator[StoredRows]:
        """See `RowStore`."""
        yield from self._pieces(t, self._tables.scan(t, only_changed=only_changed, takes=True), max_rows, None, Clock())

    def _pieces(
        self, t: int, scan: Any, max_rows: int, rule: RowOptimizer | None, clock: Clock
    ) -> Iterator[StoredRows]:
        spec = self._shape.specs[t]
        room = 2 + (max_rows if spec.growing else min(max_rows, spec.size))
        n = room
        while n == room:
            keys_n, last_n, sightings_n, state_nS, rows_nW = (
                torch.empty(room, dtype=torch.int64), torch.empty(room, dtype=torch.int32),
                torch.empty(room, dtype=torch.int32), torch.empty(room, self._shape.state_width),
                torch.empty(room, self._shape.width, dtype=self._dtype),
            )  # fmt: skip
            arrays = (keys_n, last_n, sightings_n, state_nS, rows_nW)
            n = scan.next(
                room, *(array.data_ptr() for array in arrays), _STILL if rule is None else rule.compiled(),
                _tick(clock), rule is not None,
            )  # fmt: skip
            if n:
                yield StoredRows(
                    keys_n=keys_n[:n], last_n=last_n[:n], sightings_n=sightings_n[:n], state_nS=state_nS[:n],
                    rows_nW=rows_nW[:n],
                )  # fmt: skip

    def insert(self, t: int, rows: StoredRows, *, changed: bool) -> None:
        """See `RowStore`."""
        arrays = [
            rows.keys_n.to(torch.int64), rows.last_n.to(torch.int32), rows.sightings_n.to(torch.int32),
            rows.state_nS.to(torch.float32), rows.rows_nW.to(self._dtype),
        ]  # fmt: skip
        arrays = [array.contiguous() for array in arrays]
        with _refused(self._shape):
            self._tables.insert(t, len(rows), *(array.data_ptr() for array in arrays), changed)

    def remove(self, t: int, keys_n: Tensor) -> None:
        """See `RowStore`."""
        keys_n = keys_n.to(torch.int64).contiguous()
        self._tables.remove(t, len(keys_n), keys_n.data_ptr())

    def track_removed(self, *, on: bool) -> None:
        """See `RowStore`."""
        for t in range(len(self._shape.specs)):
            self._tables.track_removed(t, on)

    def take_removed(self, t: int) -> Tensor:
        """See `RowStore`."""
        return torch.from_numpy(np.frombuffer(self._tables.take_removed(t), dtype=np.int64).copy())

    def num_rows(self, t: int) -> int:
        """See `RowStore`."""
        return int(self._tables.num_rows(t))

    def num_seen(self, t: int) -> int:
        """See `RowStore`."""
        return int(self._tables.num_seen(t))

    def num_waiting(self, t: int) -> int:
        """See `RowStore`."""
        return int(self._tables.num_waiting(t))

    def num_bytes(self, t: int) -> int:
        """See `RowStore`."""
        return int(self._tables.num_bytes(t))

    def num_resident_bytes(self, t: int) -> int:
        """See `RowStore`."""
        return int(self._tables.num_resident(t))

    def num_evicted(self, t: int, *, by_age: bool) -> int:
        """See `RowStore`."""
        return int(self._tables.num_evicted(t, by_age))


def _tick(clock: Clock) -> tuple[int, float, int, int, int]:
    columns = clock.rates.ctypes.data, clock.rate_sums.ctypes.data, clock.log_shrinks.ctypes.data
    return (clock.step, clock.rate, *columns)


def _shape_of(shape: StoreShape, spec: TableSpec) -> tuple[object, ...]:
    storage, eviction = shape.storage, shape.storage.eviction
    in_file = storage.folder is not None
    addressing = _HASHED if spec.hashed else _DIRECT
    size = 0 if spec.growing else spec.size
    is_packed = in_file or storage.layout == "packed"
    if spec.growing or (in_file and not spec.hashed):  # a file with a place for each id would be mostly holes
        addressing = _GROWING
    return (
        addressing, size, shape.width, shape.state_width, storage.dtype == "bfloat16", is_packed,
        shape.admission, (shape.seed ^ name_salt(spec.name)) % 2**64, name_salt(spec.name), shape.init_scale,
        str(storage.folder / f"{spec.name}.rows") if storage.folder is not None else "", storage.resident_bytes or 0,
        (eviction.max_age_steps or 0) if eviction else 0, (eviction.max_rows or 0) if eviction else 0,
    )  # fmt: skip


def _refused(shape: StoreShape) -> AbstractContextManager[None]:
    return _as_training_error([spec.name for spec in shape.specs])


@contextmanager
def _as_training_error(names: list[str]) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError) as error:
        raise TrainingError(
            f"the rows of the tables {names} cannot be kept", found=str(error),
            do="free disk space or memory, name another folder, or evict rows; what was trained is whole",
        ) from error  # fmt: skip
