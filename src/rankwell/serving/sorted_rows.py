"""The rows of a table in the order of their keys, whatever the order they stand in, in memory that is bounded.

Letters: n rows of one named table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from rankwell.tables.row_store import StoredRows
from rankwell.tables.table import Table

__all__ = ["sorted_rows"]

_MOST_BYTES: Final = 1 << 28
_ROWS_A_PIECE: Final = 1 << 18


def sorted_rows(table: Table, name: str, *, most_bytes: int = _MOST_BYTES) -> Iterator[StoredRows]:
    """All rows of a named table that reading can reach, up to date, keys ascending, the table's own two first.

    A growing table keeps its rows by the hashes of their keys. Its keys are sorted, 8 bytes each, and the table is gone
    through once more for each range of keys whose rows fit into `most_bytes`: what is written is then a function of
    what the rows say, and not of the order they were first seen in. A table whose keys ascend as it is costs no such
    rounds.

    Args:
        table: Nothing may be lent.
        name: Of the named table.
        most_bytes: About the most that the rows of a range take; putting them in order takes about as much again.

    >>> from rankwell.schema import TableSpec
    >>> from rankwell.tables.loan import IdColumn
    >>> from rankwell.tables.sgd import Sgd
    >>> table = Table([TableSpec(name="member", growing=True)], width=2, seed=0, init_scale=0.1)
    >>> table.train_with(Sgd())
    >>> _ = table.checkout([[IdColumn("member", torch.tensor([7, 2**63 - 1, 3]))]])
    >>> table.abandon()
    >>> [piece.keys_n.tolist() for piece in sorted_rows(table, "member")]  # -2 and -1 are the table's own
    [[-2, -1, 3, 7, 9223372036854775807]]
    """
    keys_n = torch.cat([piece.keys_n[_is_reachable(piece, table)] for piece in table.chunks(name)])
    if bool((keys_n[1:] > keys_n[:-1]).all()):
        del keys_n
        yield from (piece.where(_is_reachable(piece, table)) for piece in table.chunks(name))
        return
    keys_n.numpy().sort()  # in place
    most_rows = max(1, most_bytes // _bytes_a_row(table))
    for first in range(0, len(keys_n), most_rows):
        low, high = keys_n[first], keys_n[min(first + most_rows, len(keys_n)) - 1]
        within = (
            piece.where(_is_reachable(piece, table) & (piece.keys_n >= low) & (piece.keys_n <= high))
            for piece in table.chunks(name)
        )
        rows = _sorted(within, min(most_rows, len(keys_n) - first))
        yield from (rows.where(slice(at, at + _ROWS_A_PIECE)) for at in range(0, len(rows), _ROWS_A_PIECE))
        del rows  # before the next are put together


def _is_reachable(rows: StoredRows, table: Table) -> Tensor:
    return (rows.keys_n < 0) | (rows.sightings_n >= table.admission)


def _bytes_a_row(table: Table) -> int:
    state_width = 0 if table.rule is None else table.rule.state_width(table.width)
    return 16 + 4 * state_width + (2 if table.storage.dtype == "bfloat16" else 4) * table.width


def _sorted(pieces: Iterator[StoredRows], num_rows: int) -> StoredRows:
    """All of them in one, keys ascending; what memory it takes is that of the rows and of one column more."""
    columns: dict[str, Tensor] = {}
    start = 0
    for piece in pieces:
        for field in StoredRows.__slots__:
            column = getattr(piece, field)
            if field not in columns:
                columns[field] = column.new_empty(num_rows, *column.shape[1:])
            columns[field][start : start + len(piece)] = column
        start += len(piece)
    order_n = columns["keys_n"].argsort()
    for field in columns:
        columns[field] = columns[field][order_n]
    return StoredRows(**columns)
