"""Files between panes and Apache Flink: rows for its job to count, and the counts that come back.

Letters in names: C rows · N cells, one for each minute and segment that has rows · P places: bins of all columns, one
column after the other · L lines of counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from rankwell.data.atomic_file import AtomicFile
from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.pane_layout import CategoricalBins, PaneLayout

__all__ = ["read_flink_pane", "write_flink_rows"]

_LINE: Final = {
    "minute": pa.int64(), "segment": pa.int64(), "place": pa.int64(), "num": pa.int64(),
    "total": pa.float64(), "squares": pa.float64(),
}  # fmt: skip


def write_flink_rows(layout: PaneLayout, rows: FlatRows, path: str | Path) -> None:
    """Rows as a file of comma-separated values, as a `FlinkJob` reads it; it takes its name when it is whole.

    A line has the time to the millisecond, the layout's columns in their order, and the segment's. Numbers are written
    so that each is read as what it is; those that are not finite are missing, and empty.

    Args:
        layout: What will be counted.
        rows: With all its columns, and that of its segments.
        path: A local path or an fsspec URL; a name that begins with "." or "_" is not read by Flink.

    Raises:
        MonitoringError: A column is not among the rows, or a column of ids holds fractions.
        OSError: The disk does not take it.
    """
    columns: dict[str, Any] = {"time": pa.array(rows.times_us_C // 1000, pa.timestamp("ms"))}
    for number, column in enumerate(layout.columns):
        if isinstance(column, CategoricalBins):
            columns[f"c{number}"] = pa.array(rows.ids(column.name))
            continue
        values_C = rows.numbers(column.name).astype(np.float64)
        columns[f"c{number}"] = pa.array(values_C, mask=~np.isfinite(values_C))
    if layout.segments is not None:
        columns["s"] = pa.array(rows.ids(layout.segments.name))
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    with AtomicFile(path) as file:
        pa.csv.write_csv(pa.table(columns), file, options)


def read_flink_pane(layout: PaneLayout, folder: str | Path) -> Pane:
    """What a `FlinkJob` counted, as a pane.

    Counts of sliding windows stand at the minute each begins; they overlap, and are not to be added up.

    Args:
        layout: The job's.
        folder: Local: ``minutes`` or ``windows`` of its counts. Files that Flink has not committed yet are left out.

    Raises:
        MonitoringError: There is something else in it, a count stands there twice, or columns of one cell hold
            different numbers of rows.
        OSError: It cannot be read.
    """
    lines = _lines(Path(folder))
    minute_L, segment_L, place_L = (lines[name].to_numpy() for name in ("minute", "segment", "place"))
    cells, cell_L = np.unique(np.column_stack([minute_L, segment_L]), axis=0, return_inverse=True)
    num_places = sum(column.num_bins for column in layout.columns)
    if ((place_L < 0) | (place_L >= num_places)).any():
        raise _no_counts(folder, f"places up to {place_L.max()}", f"those of the layout, below {num_places}")
    counts_NP = np.zeros((len(cells), num_places), np.int64)
    steps_NP2 = np.zeros((len(cells), num_places, 2))
    at = (cell_L.reshape(-1), place_L)
    if len(np.unique(np.ravel_multi_index(at, counts_NP.shape))) < len(lines):
        raise _no_counts(folder, "a cell and place on two lines", "one line each, from one run of the job")
    counts_NP[at] = lines["num"].to_numpy()
    steps_NP2[at] = np.column_stack([lines[name].fill_null(0.0).to_numpy() for name in ("total", "squares")])
    counts, sums, first = {}, {}, 0
    for column in layout.columns:
        places = slice(first, first + column.num_bins)
        counts[column.name] = np.ascontiguousarray(counts_NP[:, places])
        if not isinstance(column, CategoricalBins):
            sums[column.name] = steps_NP2[:, places].sum(axis=1)
        first += column.num_bins
    nums = [counts_NB.sum(axis=1) for counts_NB in counts.values()]
    if any((num_N != nums[0]).any() for num_N in nums):
        raise _no_counts(folder, "columns of one cell with different numbers of rows", "one number, for each cell")
    return Pane(layout, cells[:, 0], cells[:, 1], counts, sums)


def _lines(folder: Path) -> Any:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] not in "._")
    read = pa.csv.ReadOptions(column_names=list(_LINE))
    convert = pa.csv.ConvertOptions(column_types=_LINE, null_values=[""])
    tables = [pa.table({name: pa.array([], kind) for name, kind in _LINE.items()})]
    for path in files:
        try:
            tables.append(pa.csv.read_csv(path, read, convert_options=convert))
        except pa.ArrowInvalid as error:
            if path.stat().st_size:
                raise _no_counts(path, str(error), "minute, segment, place, num, total, squares") from error
    return pa.concat_tables(tables).combine_chunks()


def _no_counts(path: str | Path, found: str, allowed: str) -> MonitoringError:
    return MonitoringError(
        f"{str(path)!r} holds no counts of this job", found=found, allowed=allowed,
        do="empty the folder and run the job from its start, or from a checkpoint that belongs to it",
    )  # fmt: skip
