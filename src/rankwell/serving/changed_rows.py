"""Rows with a little added for a few ids: what a correction changes of a linear part, the files being as they were.

Letters: n ids of a column, flat · u changed rows · W row width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import SchemaError
from rankwell.schema import TableSpec
from rankwell.tables.hashing import mix64_each, name_salt
from rankwell.tables.loan import IdColumn, Loan
from rankwell.tables.row_source import RowSource

__all__ = ["ChangedRows", "RowChange", "row_keys"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class RowChange:
    """What is added to rows of a named table.

    Args:
        keys_u: int64, ascending: ids, or numbers of rows where ids are hashed to rows, as in a bundle's row files.
        added_uW: float32.

    Raises:
        SchemaError: The keys do not ascend, or there is not one row a key.
    """

    keys_u: NDArray[np.int64]
    added_uW: NDArray[np.float32]

    def __post_init__(self) -> None:
        if len(self.added_uW) != len(self.keys_u) or (np.diff(self.keys_u) <= 0).any():
            raise SchemaError(
                "changes of rows need a key each, in ascending order",
                found=f"{len(self.keys_u)} keys, {len(self.added_uW)} rows",
            )


@final
class ChangedRows(RowSource):
    """Another source of rows, with something added to some of them; the source itself stays as it is.

    An id without a row of its own has it added to the default row that it reads.

    Args:
        source: Of all other rows.
        specs: Its named tables.
        changes: By table.

    Raises:
        SchemaError: A table is not there, or its rows have another width.

    >>> import torch
    >>> from rankwell.tables.table import Table
    >>> spec = TableSpec(name="job", num_ids=10)
    >>> source = Table([spec], width=1, seed=0, init_scale=0.0)
    >>> change = RowChange(np.array([4]), np.array([[0.5]], dtype=np.float32))
    >>> rows = ChangedRows(source, [spec], {"job": change})
    >>> rows.read([[IdColumn("job", torch.tensor([3, 4, -1]))]]).blocks[0].flatten().tolist()
    [0.0, 0.5, 0.0]
    """

    def __init__(self, source: RowSource, specs: Sequence[TableSpec], changes: Mapping[str, RowChange]) -> None:
        self._source, self._specs, self._changes = source, {spec.name: spec for spec in specs}, changes
        for name, change in changes.items():
            if name not in self._specs or change.added_uW.shape[1] != source.width:
                raise SchemaError(
                    f"changes of rows do not fit table {name!r}", found=f"width {change.added_uW.shape[1]}",
                    allowed=f"width {source.width}, of one of {sorted(self._specs)}",
                )  # fmt: skip

    @property
    def width(self) -> int:
        """W."""
        return self._source.width

    def checkout(self, blocks: Sequence[Sequence[IdColumn]]) -> Loan:
        """As the source does; what is trained are its own rows."""
        return self._source.checkout(blocks)

    def read(self, blocks: Sequence[Sequence[IdColumn]]) -> Loan:
        """The source's rows, with what is added."""
        loan = self._source.read(blocks)
        for columns, block in zip(blocks, loan.blocks, strict=True):
            for f, column in enumerate(columns):
                change = self._changes.get(column.table)
                if change is not None and len(change.keys_u):
                    self._add(change, column, block.numpy()[:, f * self.width : (f + 1) * self.width])
        return loan

    def _add(self, change: RowChange, column: IdColumn, rows_nW: NDArray[np.float32]) -> None:
        ids_n = column.ids.numpy()
        keys_n = row_keys(self._specs[column.table], ids_n)
        places_n = np.searchsorted(change.keys_u, keys_n).clip(max=len(change.keys_u) - 1)
        is_changed_n = (change.keys_u[places_n] == keys_n) & (ids_n >= 0)
        rows_nW[is_changed_n] += change.added_uW[places_n[is_changed_n]]


def row_keys(spec: TableSpec, ids_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """The keys that changes name a table's rows by: ids, or numbers of rows where ids are hashed to rows.

    Args:
        spec: Of the table.
        ids_n: int64; what is negative stays as it is.

    >>> row_keys(TableSpec(name="job", num_ids=10), np.array([4, -1])).tolist()
    [4, -1]
    """
    if not spec.hashed:
        return ids_n
    mixed_n = mix64_each(ids_n.astype(np.int64).view(np.uint64) ^ np.uint64(name_salt(spec.name)))
    return np.where(ids_n >= 0, (mixed_n % np.uint64(spec.size)).view(np.int64), ids_n)
