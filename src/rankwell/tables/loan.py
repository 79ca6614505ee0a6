"""What a table lends: columns of ids in, blocks of rows out.

Letters: n ids of a column, flat · F columns of a block · W row width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from rankwell.errors import LogError, SchemaError
from rankwell.tables.row_store import LentColumn
from rankwell.types import MISSING_ID

__all__ = ["IdColumn", "LaidOut", "Loan", "lay_out", "negative_id"]


@final
class IdColumn(NamedTuple):
    """Ids of one table.

    Args:
        table: Its name.
        ids: int64, of any length.
        feature: Whose ids they are, for messages; the table's own where it is empty.
    """

    table: str
    ids: Tensor
    feature: str = ""

    @property
    def known_as(self) -> str:
        """What messages call the column.

        >>> IdColumn("job", torch.tensor([1]), feature="clicks.job").known_as
        "'clicks.job' (table 'job')"
        """
        own = self.feature in ("", self.table)
        return f"table {self.table!r}" if own else f"{self.feature!r} (table {self.table!r})"


@final
@dataclass(frozen=True, slots=True)
class Loan:
    """Rows lent to one forward pass.

    Args:
        blocks: float32, n × F·W each: the rows that the columns of a block read, side by side. In training they are
            leaves, whose gradients `Table.apply` collects.
    """

    blocks: tuple[Tensor, ...]


@final
@dataclass(frozen=True, slots=True)
class LaidOut:
    """A loan to be filled: where each column's rows go, and the blocks that hold them.

    Args:
        columns: What a store fills, column after column.
        of_block: The number of each column's block.
        loan: Its blocks, not yet written.
    """

    columns: list[LentColumn]
    of_block: list[int]
    loan: Loan

    def returned(self) -> list[LentColumn]:
        """The columns of the blocks that have a gradient, with the gradient in the block's place."""
        grads = [None if block.grad is None else block.grad.contiguous() for block in self.loan.blocks]
        return [
            column._replace(block_nFW=grad)
            for column, b in zip(self.columns, self.of_block, strict=True)
            if (grad := grads[b]) is not None
        ]


def lay_out(blocks: Sequence[Sequence[IdColumn]], tables: Mapping[str, int], width: int) -> LaidOut:
    """Make room for the rows of all columns.

    Args:
        blocks: The columns of each block, of equal length.
        tables: The number of each named table.
        width: W.

    Raises:
        LogError: A negative id that isn't `MISSING_ID`.
        SchemaError: A column names a table that isn't there, or its length differs from others of the block.

    >>> out = lay_out([[IdColumn("member", torch.tensor([7, 7])), IdColumn("job", torch.tensor([1, 2]))]],
    ...     tables={"member": 0, "job": 1}, width=4)
    >>> [block.shape for block in out.loan.blocks], [column.at for column in out.columns]
    ([torch.Size([2, 8])], [0, 4])
    """
    places = torch.empty(sum(len(column.ids) for block in blocks for column in block), dtype=torch.int32)
    columns: list[LentColumn] = []
    of_block: list[int] = []
    filled = []
    start = 0
    for b, block in enumerate(blocks):
        num_ids = len(block[0].ids)
        rows = torch.empty(num_ids, len(block) * width)
        filled.append(rows)
        for f, column in enumerate(block):
            name, ids_n = column.table, column.ids
            if len(ids_n) != num_ids:
                raise SchemaError("columns of one block differ in length", found=[len(c.ids) for c in block])
            if num_ids and int(ids_n.min()) < MISSING_ID:
                raise negative_id(column)
            if name not in tables:
                raise SchemaError(f"no table {name!r} here", found=list(tables))
            lent = LentColumn(tables[name], ids_n.contiguous(), rows, f * width, places, start, column.feature)
            columns.append(lent)
            of_block.append(b)
            start += num_ids
    return LaidOut(columns, of_block, Loan(tuple(filled)))


def negative_id(column: IdColumn) -> LogError:
    """The error that a column holds an id that is none."""
    return LogError(
        f"an id of {column.known_as} is negative", found=int(column.ids.min()),
        allowed=f"0 … 2^63 - 1, or MISSING_ID ({MISSING_ID}) where the schema allows a missing id",
        do="hash or shift the ids before writing the log",
    )  # fmt: skip
