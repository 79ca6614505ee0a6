"""The rows of a model after training as a table: how many ids have one, what that takes, and how many rows went."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rankwell.app.number_format import count, memory
from rankwell.tables.table import Table as RowTable

__all__ = ["row_table"]


def row_table(tables: Mapping[str, RowTable], title: str) -> Table:
    """A line for each part of a model that has rows.

    Args:
        tables: By part.
        title: Above the table.

    >>> from rankwell.schema import TableSpec
    >>> rows = RowTable([TableSpec(name="member", growing=True)], width=4, seed=0, init_scale=0.1)
    >>> [next(iter(column.cells)) for column in row_table({"deep": rows}, "jobs").columns][:2]
    ['rows deep', '0']
    """
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("what", no_wrap=True)
    for heading in ("ids with a row", "take", "evicted by age", "by frequency"):
        table.add_column(heading, justify="right")
    for part, rows in tables.items():
        evicted = (count(rows.num_evicted(by_age=by_age)) for by_age in (True, False))
        table.add_row(f"rows {part}", count(rows.num_seen), memory(rows.num_bytes), *evicted)
    return table
