"""What holds the rows of a table, whether compiled or plain.

Letters: n ids of a column, flat · F columns of a block · W row width · S state columns.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from torch import Tensor

from rankwell.schema import TableSpec
from rankwell.tables.clock import Clock
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.storage import Storage

__all__ = ["DEFAULT_KEY", "Draw", "LentColumn", "RowStore", "StoreShape", "StoredRows"]

DEFAULT_KEY: Final = -2
"""The key of a table's default row among `StoredRows`; `MISSING_ID` is that of its missing row."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """Rows on their way to a file or from one.

    Args:
        keys_n: int64. Ids; of a table with ``num_rows`` the numbers of rows; `DEFAULT_KEY` and `MISSING_ID`.
        last_n: int32, the step that each row is up to date through.
        sightings_n: int32, how often training saw it; below the table's admission it only waits for a row.
        state_nS: float32.
        rows_nW: float32 or bfloat16.
    """

    keys_n: Tensor
    last_n: Tensor
    sightings_n: Tensor
    state_nS: Tensor
    rows_nW: Tensor

    def __len__(self) -> int:
        return len(self.keys_n)

    def where(self, kept_n: Tensor | slice) -> StoredRows:
        """Those of a mask or a slice."""
        return StoredRows(
            keys_n=self.keys_n[kept_n], last_n=self.last_n[kept_n], sightings_n=self.sightings_n[kept_n],
            state_nS=self.state_nS[kept_n], rows_nW=self.rows_nW[kept_n],
        )  # fmt: skip


class LentColumn(NamedTuple):
    """A column of ids and the place of its rows in a block that a model reads.

    Args:
        table: Place of the named table.
        ids_n: int64, contiguous.
        block_nFW: float32, contiguous; the gradients' block when rows come back.
        at: The first of the column's W columns in the block.
        places: int32; where the store notes which row each id read.
        start: The column's first place in `places`.
        feature: As in `IdColumn`.
    """

    table: int
    ids_n: Tensor
    block_nFW: Tensor
    at: int
    places: Tensor
    start: int
    feature: str


class Draw(NamedTuple):
    """Which ids read the default row in training: those with mix64(key ^ mix64(place)) < below."""

    key: int
    below: int


@final
@dataclass(frozen=True, kw_only=True)
class StoreShape:
    """What a store is built from."""

    specs: tuple[TableSpec, ...]
    width: int
    state_width: int
    seed: int
    init_scale: float
    admission: int
    storage: Storage


class RowStore(abc.ABC):
    """Rows of one or more named tables, told apart by their place t.

    Args:
        shape: See `StoreShape`.

    Raises:
        TrainingError: Memory or a file cannot be had.
    """

    @abc.abstractmethod
    def __init__(self, shape: StoreShape) -> None: ...

    @abc.abstractmethod
    def lend(self, columns: Sequence[LentColumn], draw: Draw, rule: RowOptimizer, clock: Clock) -> None:
        """Count sightings, make rows for ids that are admitted, bring rows up to date, and copy them to the blocks."""

    @abc.abstractmethod
    def read(self, columns: Sequence[LentColumn], rule: RowOptimizer | None, clock: Clock) -> None:
        """Copy rows to the blocks as they are after ``clock.step``, changing nothing; ids unknown read the default."""

    @abc.abstractmethod
    def collect(self, columns: Sequence[LentColumn]) -> float:
        """Sum the gradients of each row over the columns lent since the last step, whose blocks now hold gradients.

        Returns:
            The sum of their squares; not finite if a gradient is not.
        """

    @abc.abstractmethod
    def apply(self, rule: RowOptimizer, clock: Clock, scale: float) -> None:
        """Move the rows collected, by their gradients × scale; step ``clock.step``. Then evict, and forget loans."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """Forget loans, moving nothing."""

    @abc.abstractmethod
    def scan(self, t: int, *, max_rows: int, rule: RowOptimizer | None, clock: Clock) -> Iterator[StoredRows]:
        """All rows that training has seen, and the table's own two first, in pieces; changes nothing.

        Args:
            t: Which table.
            max_rows: About the most in a piece.
            rule: Brings the copies up to date; None gives rows as they stand.
            clock: The steps taken.
        """

    @abc.abstractmethod
    def take(self, t: int, *, only_changed: bool, max_rows: int) -> Iterator[StoredRows]:
        """Rows as they stand, in pieces, which from then on count as not changed.

        Args:
            t: Which table.
            only_changed: Leaves out rows of which nothing changed, not even a count, since they were taken or put in
                as unchanged. Ids that wait for a row are never left out.
            max_rows: About the most in a piece.
        """

    @abc.abstractmethod
    def insert(self, t: int, rows: StoredRows, *, changed: bool) -> None:
        """Put rows, in the place of those that are there; whether they count as changed."""

    @abc.abstractmethod
    def remove(self, t: int, keys_n: Tensor) -> None:
        """Drop rows of a growing table."""

    @abc.abstractmethod
    def track_removed(self, *, on: bool) -> None:
        """Whether to remember the ids evicted or removed, for `take_removed`."""

    @abc.abstractmethod
    def take_removed(self, t: int) -> Tensor:
        """int64: ids evicted or removed since the last call, some perhaps seen again since."""

    @abc.abstractmethod
    def num_rows(self, t: int) -> int:
        """Rows that there is room for, the table's own two included; of a growing table those in use."""

    @abc.abstractmethod
    def num_seen(self, t: int) -> int:
        """Rows of ids that training has seen."""

    @abc.abstractmethod
    def num_waiting(self, t: int) -> int:
        """Ids of a growing table that training has seen too seldom for a row; 0 of others, whose ids all have one."""

    @abc.abstractmethod
    def num_bytes(self, t: int) -> int:
        """Bytes of rows, counts, state and index."""

    @abc.abstractmethod
    def num_resident_bytes(self, t: int) -> int:
        """Bytes of the table's file that may be in memory; 0 without a file."""

    @abc.abstractmethod
    def num_evicted(self, t: int, *, by_age: bool) -> int:
        """Rows evicted so far, by age or else by frequency."""
