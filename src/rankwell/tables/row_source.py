"""What a model looks its rows up in: a table that trains, or rows that are only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rankwell.tables.loan import IdColumn, Loan

__all__ = ["RowSource"]


class RowSource(Protocol):
    """Rows of one width for the ids of named tables; see `rankwell.tables.table.Table`, which is one."""

    @property
    def width(self) -> int:
        """W."""

    def checkout(self, blocks: Sequence[Sequence[IdColumn]]) -> Loan:
        """Lend rows to a training pass."""

    def read(self, blocks: Sequence[Sequence[IdColumn]]) -> Loan:
        """The rows as they are."""
