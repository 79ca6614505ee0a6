"""All of a table in memory, and a table made of it: what files of rows do on disk, without the files."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rankwell.tables.row_store import StoredRows
from rankwell.tables.table import Table


def state_of(table: Table) -> dict[str, Tensor]:
    """Rows, counts, optimizer state and progress of all named tables."""
    state = table.progress()
    for name in table.names:
        pieces = list(table.chunks(name, up_to_date=False))
        for field in StoredRows.__slots__:
            state[f"{name}.{field}"] = torch.cat([getattr(piece, field) for piece in pieces])
    return state


def load_state(table: Table, state: Mapping[str, Tensor]) -> None:
    """Go on from `state_of` a table of the same shape and rule."""
    table.clear()
    names = [key.removesuffix(".keys_n") for key in state if key.endswith(".keys_n")]
    for name in names:
        table.insert(name, StoredRows(**{field: state[f"{name}.{field}"] for field in StoredRows.__slots__}))
    table.load_progress(state)
