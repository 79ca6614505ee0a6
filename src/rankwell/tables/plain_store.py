"""Rows kept in plain PyTorch: the reference of the compiled store, and what there is without it.

Letters: n ids of a column, flat · F columns of a block · U unique rows · W row width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.errors import TrainingError
from rankwell.tables.clock import Clock
from rankwell.tables.hashing import mix64_each
from rankwell.tables.plain_rows import PlainRows
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.row_store import Draw, LentColumn, RowStore, StoredRows, StoreShape

__all__ = ["PlainStore"]


@final
class PlainStore(RowStore):
    """Rows in tensors, moved by the rules' plain form.

    Raises:
        TrainingError: Rows are asked for in files, which takes the compiled extension.
    """

    def __init__(self, shape: StoreShape) -> None:
        if shape.storage.folder is not None:
            raise TrainingError(
                f"the rows of the tables {[spec.name for spec in shape.specs]} cannot be kept in files",
                found=f"folder {shape.storage.folder}, but no compiled extension, or a rule without a compiled twin",
                do="install the extension (rankwell.tables.native says how), or keep rows in memory: folder=None",
            )
        self._tables = [PlainRows(shape, spec) for spec in shape.specs]
        self._width = shape.width
        self._collected: dict[int, tuple[Tensor, Tensor]] = {}

    def lend(self, columns: Sequence[LentColumn], draw: Draw, rule: RowOptimizer, clock: Clock) -> None:
        """See `RowStore`."""
        place = 0
        for column in columns:
            table, n = self._tables[column.table], len(column.ids_n)
            slots_n = table.sighted(column.ids_n, _drawn(draw, place, n))
            table.refresh(slots_n, rule, clock)
            column.places[column.start : column.start + n] = slots_n.to(torch.int32)
            self._lay_out(column, table.read(slots_n, None, clock))
            place += n

    def read(self, columns: Sequence[LentColumn], rule: RowOptimizer | None, clock: Clock) -> None:
        """See `RowStore`."""
        for column in columns:
            table = self._tables[column.table]
            self._lay_out(column, table.read(table.found(column.ids_n), rule, clock))

    def collect(self, columns: Sequence[LentColumn]) -> float:
        """See `RowStore`."""
        self._collected.clear()
        square = 0.0
        for t in {column.table for column in columns}:
            its = [column for column in columns if column.table == t]
            slots_n = torch.cat([c.places[c.start : c.start + len(c.ids_n)] for c in its]).long()
            grads_nW = torch.cat([c.block_nFW[:, c.at : c.at + self._width] for c in its])
            slots_U, inverse_n = torch.unique(slots_n, return_inverse=True)
            grads_UW = torch.zeros(len(slots_U), self._width).index_add_(0, inverse_n, grads_nW)
            self._collected[t] = slots_U, grads_UW
            square += float(grads_UW.double().square().sum())
        return square

    def apply(self, rule: RowOptimizer, clock: Clock, scale: float) -> None:
        """See `RowStore`."""
        for t, (slots_U, grads_UW) in self._collected.items():
            self._tables[t].move(slots_U, grads_UW * scale, rule, clock)
        self.abandon()
        for table in self._tables:
            table.evict(clock.step)

    def abandon(self) -> None:
        """See `RowStore`."""
        self._collected.clear()

    def scan(self, t: int, *, max_rows: int, rule: RowOptimizer | None, clock: Clock) -> Iterator[StoredRows]:
        """See `RowStore`."""
        table = self._tables[t]
        for slots_U in torch.split(table.slots_seen(), max_rows + 2):
            yield table.stored(slots_U, rule, clock)
        yield from _cut(table.waiting(), max_rows)

    def take(self, t: int, *, only_changed: bool, max_rows: int) -> Iterator[StoredRows]:
        """See `RowStore`."""
        table = self._tables[t]
        slots_U = table.slots_seen()
        if only_changed:
            slots_U = slots_U[table.changed[slots_U]]
        for some_U in torch.split(slots_U, max_rows + 2) if len(slots_U) else ():
            yield table.stored(some_U, None, Clock())
            table.changed[some_U] = False
        yield from _cut(table.waiting(), max_rows)

    def insert(self, t: int, rows: StoredRows, *, changed: bool) -> None:
        """See `RowStore`."""
        self._tables[t].insert(rows, changed=changed)

    def remove(self, t: int, keys_n: Tensor) -> None:
        """See `RowStore`."""
        self._tables[t].remove(keys_n)

    def track_removed(self, *, on: bool) -> None:
        """See `RowStore`."""
        for table in self._tables:
            table.removed = (table.removed or []) if on else None

    def take_removed(self, t: int) -> Tensor:
        """See `RowStore`."""
        table = self._tables[t]
        ids_n = torch.tensor(table.removed or [], dtype=torch.int64)
        if table.removed is not None:
            table.removed = []
        return ids_n

    def num_rows(self, t: int) -> int:
        """See `RowStore`."""
        return self._tables[t].num_rows

    def num_seen(self, t: int) -> int:
        """See `RowStore`."""
        return self._tables[t].num_seen

    def num_waiting(self, t: int) -> int:
        """See `RowStore`."""
        return self._tables[t].num_waiting

    def num_bytes(self, t: int) -> int:
        """See `RowStore`."""
        return self._tables[t].num_bytes

    def num_resident_bytes(self, t: int) -> int:
        """See `RowStore`."""
        return 0

    def num_evicted(self, t: int, *, by_age: bool) -> int:
        """See `RowStore`."""
        return self._tables[t].num_evicted["age" if by_age else "frequency"]

    def _lay_out(self, column: LentColumn, rows_nW: Tensor) -> None:
        column.block_nFW[:, column.at : column.at + self._width] = rows_nW


def _cut(rows: StoredRows, max_rows: int) -> Iterator[StoredRows]:
    for start in range(0, len(rows), max_rows):
        yield rows.where(slice(start, start + max_rows))


def _drawn(draw: Draw, place: int, n: int) -> NDArray[np.bool_]:
    if draw.below == 0:
        return np.zeros(n, dtype=np.bool_)
    places_n = np.arange(place, place + n, dtype=np.uint64)
    drawn_n: NDArray[np.bool_] = mix64_each(np.uint64(draw.key) ^ mix64_each(places_n)) < np.uint64(draw.below)
    return drawn_n
