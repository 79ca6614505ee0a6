"""The tables of a part of a model, read from mapped files.

Letters: n ids of a column, flat · W row width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from rankwell.errors import TrainingError
from rankwell.schema import TableSpec
from rankwell.serving.row_file import file_stem
from rankwell.serving.row_map import RowMap
from rankwell.tables.loan import IdColumn, Loan, lay_out
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
        self._width = width
        self._maps = [RowMap(folder, file_stem(part, spec.name), spec, width) for spec in specs]
        self._place = {spec.name: t for t, spec in enumerate(specs)}

    @property
    def width(self) -> int:
        """W."""
        return self._width

    @property
    def num_bytes(self) -> int:
        """Of rows and indexes, in files."""
        return sum(rows.num_bytes for rows in self._maps)

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
            SchemaError: A column names a table that isn't here.
        """
        out = lay_out(blocks, self._place, self._width)
        for column in out.columns:
            self._maps[column.table].read(column.ids_n.numpy(), column.block_nFW.numpy(), column.at)
        return out.loan
