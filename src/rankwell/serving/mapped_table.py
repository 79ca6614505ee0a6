"""The tables of a part of a model, read from mapped files.

Letters: n ids of a column, flat · W row width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from rankwell.errors import SchemaError, TrainingError
from rankwell.schema import TableSpec
from rankwell.serving.row_file import file_stem
from rankwell.serving.row_map import RowMap, read_column
from rankwell.tables.loan import IdColumn, Loan, negative_id
from rankwell.tables.row_source import RowSource

__all__ = ["MappedTable"]


@final
class MappedTable(RowSource):
    """What `rankwell.tables.table.Table` is to a model in eval mode, with rows that stay in the files.

    Args:
        folder: Of the deployment.
        part: Of the model.
        specs: The named tables.
        width: W.

    Raises:
        BundleError: A file is missing, damaged, or of another table.
    """

    def __init__(self, folder: Path, part: str, specs: Sequence[TableSpec], width: int) -> None:
        self.part, self.specs, self._width = part, tuple(specs), width
        self._maps = {spec.name: RowMap(folder, file_stem(part, spec.name), spec, width) for spec in specs}

    @property
    def width(self) -> int:
        """W."""
        return self._width

    @property
    def num_bytes(self) -> int:
        """Of rows and indexes, in files."""
        return sum(rows.num_bytes for rows in self._maps.values())

    def checkout(self, blocks: Sequence[Sequence[IdColumn]]) -> Loan:
        """Never: rows in files that serve are not trained."""
        raise TrainingError(
            "rows of a deployment cannot be trained", found=f"{sum(map(len, blocks))} columns to lend",
            do="train the bundle that it was made from, and export it again",
        )  # fmt: skip

    def read(self, blocks: Sequence[Sequence[IdColumn]]) -> Loan:
        """The rows of the columns of each block, side by side; ids without a row of their own read the default row.

        Raises:
            LogError: A negative id that isn't `MISSING_ID`.
            SchemaError: A column names a table that isn't here, or its length differs from others of the block.
        """
        return Loan(tuple(torch.from_numpy(self._block(columns)) for columns in blocks))

    def _block(self, columns: Sequence[IdColumn]) -> NDArray[np.float32]:
        num_ids = columns[0].ids.shape[0]
        ids = [column.ids.contiguous() for column in columns]
        for column, ids_n in zip(columns, ids, strict=True):
            if column.table not in self._maps or ids_n.shape[0] != num_ids or ids_n.dtype != torch.int64:
                raise SchemaError(
                    "a column cannot be read from these tables",
                    found=f"{ids_n.shape[0]} ids of {column.known_as}, {ids_n.dtype}",
                    allowed=f"{num_ids} ids, as of the block's first column, of {list(self._maps)}",
                )  # fmt: skip
        block_nFW = np.empty((num_ids, len(columns) * self._width), np.float32)
        places_n = np.empty(num_ids, np.int64)
        for f, (column, ids_n) in enumerate(zip(columns, ids, strict=True)):
            if not read_column(self.descriptor(column.table), ids_n.numpy(), block_nFW, f * self._width, places_n):
                raise negative_id(column)
        return block_nFW

    def descriptor(self, table: str) -> NDArray[np.int64]:
        """Of a named table, for `rankwell.serving.row_map.read_column`; good for as long as this object lives."""
        return self._maps[table].descriptor
