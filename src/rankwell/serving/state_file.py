"""What an optimizer remembers of rows that are a function of it, on disk, so that training can go on from a bundle.

FTRL's rows are computed from its sums z and n. A row that exports as zero has sums all the same, and would start from
nothing without them. States of other rules stay behind: their rows stand for themselves.

Columns: key int64, ascending; sightings int32; state fixed_size_list<float32>[S]. All rows that reading can reach, zero
or not. The notes of the schema say which rule they belong to, its learning rate in force, and the steps taken.

Letters: n rows · S state columns · W row width.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import torch
from torch import Tensor

from rankwell.errors import BundleError
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.row_store import StoredRows
from rankwell.tables.table import Table

__all__ = ["state_batch", "state_batches", "state_notes", "state_schema", "states_travel"]

_STATE: Final = b"state"


def states_travel(table: Table) -> bool:
    """Whether the table's rows are a function of their state."""
    return table.rule is not None and table.rule.starts_at_zero


def state_schema(table: Table, notes: Mapping[bytes, bytes]) -> pa.Schema:
    """Of the file of a table for which `states_travel`, with the table's own notes and those of its training."""
    assert table.rule is not None
    state = {"rule": rule_settings(table.rule), "learning_rate": table.learning_rate, "step": table.step}
    return _schema(table.rule.state_width(table.width)).with_metadata({**notes, _STATE: json.dumps(state).encode()})


def state_batch(rows: StoredRows) -> pa.RecordBatch:
    """The rows' keys, sightings and state."""
    width = rows.state_nS.shape[1]
    flat = pa.array(rows.state_nS.reshape(-1).numpy())
    columns = [
        pa.array(rows.keys_n.numpy()),
        pa.array(rows.sightings_n.numpy()),
        pa.FixedSizeListArray.from_arrays(flat, width),
    ]
    return pa.record_batch(columns, schema=_schema(width))


def state_notes(path: Path) -> dict[str, Any]:
    """ "rule", "learning_rate" and "step" of a file.

    Raises:
        pyarrow.ArrowException, KeyError, ValueError: It is no file of states.
    """
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        notes: dict[str, Any] = json.loads((reader.schema.metadata or {})[_STATE])
    return notes


def state_batches(path: Path, state_width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Keys, sightings and states of a file, in pieces.

    Raises:
        BundleError: The states are of another width.
        pyarrow.ArrowException: It is no Arrow file.
    """
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        if not reader.schema.equals(_schema(state_width), check_metadata=False):
            raise BundleError(
                f"{path} does not hold states of this table", found=str(reader.schema.remove_metadata()),
                allowed=str(_schema(state_width)), do="write the bundle again",
            )  # fmt: skip
        for b in range(reader.num_record_batches):
            batch = reader.get_batch(b)
            state_nS = batch.column("state").flatten().to_numpy().reshape(-1, state_width)
            columns = (batch.column("key").to_numpy(), batch.column("sightings").to_numpy(), state_nS)
            keys_n, sightings_n, states = (torch.from_numpy(column.copy()) for column in columns)
            yield keys_n, sightings_n, states


def rule_settings(rule: RowOptimizer) -> dict[str, Any]:
    """A rule's name and settings, as JSON has them."""
    return {"name": type(rule).__name__, **dataclasses.asdict(rule)}


def _schema(state_width: int) -> pa.Schema:
    fields = {"key": pa.int64(), "sightings": pa.int32(), "state": pa.list_(pa.float32(), state_width)}
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in fields.items()])
