"""Rows put into a table from outside, as if training had seen their ids.

Letters: n rows · W row width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankwell.tables.loan import IdColumn
from rankwell.tables.row_store import DEFAULT_KEY, StoredRows
from rankwell.tables.table import Table


def put_rows(
    table: Table, name: str, keys: Sequence[int] | Tensor, rows_nW: Tensor, sightings: int | Tensor = 255
) -> None:
    """Give keys their rows, up to date and with a state of 0."""
    keys_n = torch.as_tensor(keys, dtype=torch.int64)
    state_width = 0 if table.rule is None else table.rule.state_width(table.width)
    table.insert(
        name,
        StoredRows(
            keys_n=keys_n,
            last_n=torch.full((len(keys_n),), table.step, dtype=torch.int32),
            sightings_n=torch.as_tensor(sightings, dtype=torch.int32).expand(len(keys_n)),
            state_nS=torch.zeros(len(keys_n), state_width),
            rows_nW=rows_nW,
        ),
    )


def fill(table: Table, *, seed: int, scale: float = 1.0) -> None:
    """Give every row of tables of fixed size random numbers, their own two rows included."""
    generator = torch.Generator().manual_seed(seed)
    for spec in table.specs:
        keys_n = torch.arange(DEFAULT_KEY, spec.size)
        put_rows(table, spec.name, keys_n, torch.randn(len(keys_n), table.width, generator=generator) * scale)


def rows_of(table: Table, name: str, ids: Sequence[int]) -> Tensor:
    """The rows that ids read in eval mode, n × W."""
    return table.read([[IdColumn(name, torch.tensor(ids))]]).blocks[0]
