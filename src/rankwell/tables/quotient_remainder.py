"""Composed rows: many ids from few rows, each id's pair of parts its own.

Letters: n ids · F columns · W row width.

Source: Shi et al. 2020, "Compositional embeddings using complementary partitions for memory-efficient recommendation
systems", KDD; with 1 + q for its q, so that rows start as their remainder's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankwell.schema import TableSpec
from rankwell.tables.loan import IdColumn
from rankwell.types import MISSING_ID

__all__ = ["composed_rows", "part_columns"]


def part_columns(spec: TableSpec, ids_n: Tensor, feature: str = "") -> tuple[IdColumn, ...]:
    """The columns that a column of ids reads: itself, or its remainders and quotients where rows are composed.

    An id outside the table reads both default rows. `feature` is what messages call the column.

    >>> columns = part_columns(TableSpec(name="member", num_ids=100, num_remainders=10), torch.tensor([42, -1, 100]))
    >>> [(column.table, column.ids.tolist()) for column in columns]
    [('member_remainder', [2, -1, 10]), ('member_quotient', [4, -1, 10])]
    """
    if spec.num_remainders is None:
        return (IdColumn(spec.name, ids_n, feature),)
    remainder, quotient = spec.parts()
    m = spec.num_remainders
    within_n = ids_n < spec.size
    remainders_n = torch.where(within_n, ids_n.remainder(m), m)
    quotients_n = torch.where(within_n, ids_n.div(m, rounding_mode="floor"), quotient.size)
    missing_n = ids_n == MISSING_ID
    return (
        IdColumn(remainder.name, remainders_n.masked_fill(missing_n, MISSING_ID), feature),
        IdColumn(quotient.name, quotients_n.masked_fill(missing_n, MISSING_ID), feature),
    )


def composed_rows(block_nFW: Tensor, specs: tuple[TableSpec, ...], width: int) -> Tensor:
    """One row a column: r ⊙ (1 + q) where it is composed, the row itself elsewhere.

    Args:
        block_nFW: The rows of `part_columns` of each column, side by side.
        specs: The table of each column.
        width: W.

    >>> rows = torch.tensor([[1.0, 2.0, 0.5, 0.0]])
    >>> composed_rows(rows, (TableSpec(name="member", num_ids=100, num_remainders=10),), 2).tolist()
    [[1.5, 2.0]]
    """
    if all(spec.num_remainders is None for spec in specs):
        return block_nFW
    parts = list(torch.split(block_nFW, width, dim=1))
    rows = []
    for spec in specs:
        row = parts.pop(0)
        rows.append(row if spec.num_remainders is None else row * (1 + parts.pop(0)))
    return torch.cat(rows, dim=1)
