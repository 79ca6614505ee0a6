"""A pane on disk: one Arrow file, its layout in the metadata, whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from rankwell.data.atomic_file import AtomicFile
from rankwell.errors import MonitoringError, RankwellError
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.pane_layout import CategoricalBins, PaneLayout

__all__ = ["FORMAT_VERSION", "pane_from_table", "pane_table", "read_pane", "write_pane"]

FORMAT_VERSION: Final = "1"
"""In the metadata under ``rankwell.pane_version``, beside ``rankwell.pane_layout``."""

_VERSION, _LAYOUT = b"rankwell.pane_version", b"rankwell.pane_layout"


def pane_table(pane: Pane) -> Any:
    """A pane as an Arrow table: a row a cell, and for each column its counts and sums as lists of fixed length.

    >>> from rankwell.monitoring.pane_layout import NumericBins
    >>> layout = PaneLayout(columns=(NumericBins(name="years", edges=(2.0,)),))
    >>> pane_table(Pane.nothing(layout)).column_names
    ['minute', 'segment', 'counts/years', 'sums/years']
    """
    columns = {"minute": pa.array(pane.minutes_N), "segment": pa.array(pane.segments_N)}
    for column in pane.layout.columns:
        columns[f"counts/{column.name}"] = _lists(pane.counts[column.name], pa.int64())
        if not isinstance(column, CategoricalBins):
            columns[f"sums/{column.name}"] = _lists(pane.sums[column.name], pa.float64())
    return pa.table(columns).replace_schema_metadata({_VERSION: FORMAT_VERSION, _LAYOUT: pane.layout.to_json()})


def pane_from_table(table: Any, *, file: str = "the table") -> Pane:
    """The pane of a table that `pane_table` made.

    Args:
        table: With its metadata.
        file: What errors call it.

    Raises:
        MonitoringError: It is of another format, or does not hold what its layout says.
    """
    metadata = table.schema.metadata or {}
    version = metadata.get(_VERSION, b"none").decode(errors="replace")
    if version != FORMAT_VERSION:
        raise MonitoringError(
            f"{file!r} holds no pane of a known format", found=f"version {version}", allowed=FORMAT_VERSION,
            do="read it with the release that wrote it",
        )  # fmt: skip
    try:
        layout = PaneLayout.from_json(metadata[_LAYOUT].decode())
        counts = {
            column.name: _rows(table, f"counts/{column.name}", column.num_bins, np.int64) for column in layout.columns
        }
        sums = {
            column.name: _rows(table, f"sums/{column.name}", 2, np.float64)
            for column in layout.columns
            if not isinstance(column, CategoricalBins)
        }
        minutes_N, segments_N = (table[name].combine_chunks().to_numpy() for name in ("minute", "segment"))
    except (KeyError, ValueError, pa.ArrowException, RankwellError) as error:
        raise MonitoringError(f"{file!r} holds no whole pane", found=str(error), do="count the pane again") from error
    return Pane(layout, minutes_N, segments_N, counts, sums)


def write_pane(pane: Pane, path: str | Path) -> None:
    """Write a pane; the file takes its name when it is whole.

    Args:
        pane: To keep.
        path: A local path or an fsspec URL.

    Raises:
        OSError: The disk does not take it.
    """
    table = pane_table(pane)
    with AtomicFile(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_pane(path: str | Path) -> Pane:
    """The pane that `write_pane` wrote.

    Args:
        path: Local.

    Raises:
        MonitoringError: The file is damaged, or of another format.
        OSError: It cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        table = pa.ipc.open_file(data).read_all()
    except (pa.ArrowException, OSError) as error:
        raise MonitoringError(f"{str(path)!r} is damaged", found=str(error), do="count the pane again") from error
    return pane_from_table(table, file=str(path))


def _lists(rows_NB: Any, kind: Any) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(rows_NB), kind), rows_NB.shape[1])


def _rows(table: Any, name: str, width: int, dtype: type[np.generic]) -> Any:
    lists = table[name].combine_chunks()
    if not pa.types.is_fixed_size_list(lists.type) or lists.type.list_size != width:
        raise ValueError(f"column {name!r} is of {lists.type}, and not of {width} entries")
    return lists.flatten().to_numpy().astype(dtype, copy=False).reshape(-1, width)
