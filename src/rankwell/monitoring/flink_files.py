"""Files between panes and Apache Flink: rows for its job to count, and the counts that come back.

Letters in names: C rows · N cells, one for each minute and segment that has rows · P places: bins of all columns, one
column after the other · L lines of counts · V = 2 views and B bins, as in an `OutcomePane`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from rankwell.data.atomic_file import AtomicFile
from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.pane_layout import CategoricalBins, PaneLayout
from rankwell.monitoring.probability_grid import NUM_BINS

__all__ = ["read_flink_outcomes", "read_flink_pane", "write_flink_outcomes", "write_flink_rows"]

_COUNTS: Final = {
    "minute": pa.int64(), "segment": pa.int64(), "place": pa.int64(), "num": pa.int64(),
    "total": pa.float64(), "squares": pa.float64(),
}  # fmt: skip
_VIEW_SUMS: Final = ("p", "y", "pp", "py", "yy", "requests")
_SUMS: Final = {
    "minute": pa.int64(), "segment": pa.int64(), "num": pa.int64(), "spend_micros": pa.int64(),
    **{name: pa.float64() for name in _VIEW_SUMS}, **{f"scored_{name}": pa.float64() for name in _VIEW_SUMS},
}  # fmt: skip
_GRID: Final = {
    "minute": pa.int64(), "segment": pa.int64(), "bin": pa.int64(), "num": pa.int64(), "total": pa.float64(),
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
    _write(columns, path)


def write_flink_outcomes(rows: FlatRows, path: str | Path) -> None:
    """Settled rows as a file of comma-separated values, as a `FlinkJob` reads it; it takes its name when it is whole.

    A line has the time to the millisecond, the request, the segment, the probability, the label, the propensity and the
    price; a propensity that is not known, and a price where there was none, is empty.

    Args:
        rows: As `PendingOutcomes.settled_rows` has them, each request whole.
        path: As of `write_flink_rows`.

    Raises:
        MonitoringError: A probability or a propensity is none.
        OSError: The disk does not take it.
    """
    p_C, propensity_C, price_C = (
        rows.columns[name].astype(np.float64) for name in ("probability", "propensity", "price_micros")
    )
    is_wrong_C = ~((p_C >= 0) & (p_C <= 1)) | (propensity_C <= 0)
    if is_wrong_C.any():
        raise MonitoringError(
            "outcomes of these rows can't be counted",
            found=f"probability and propensity {np.column_stack([p_C, propensity_C])[is_wrong_C][:5].tolist()}",
            allowed="a probability in [0, 1] and a propensity in (0, 1]",
        )
    no_price_C = ~np.isfinite(price_C)
    prices_C = np.where(no_price_C, 0, rows.columns["price_micros"]).astype(np.int64)
    _write(
        {
            "time": pa.array(rows.times_us_C // 1000, pa.timestamp("ms")),
            "request": pa.array(rows.ids("request")),
            "segment": pa.array(rows.ids("segment")),
            "p": pa.array(p_C),
            "y": pa.array(rows.ids("label")),
            "propensity": pa.array(propensity_C, mask=~np.isfinite(propensity_C)),
            "price": pa.array(prices_C, mask=no_price_C),
        },
        path,
    )


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
    lines = _lines(Path(folder), _COUNTS)
    place_L = lines["place"].to_numpy()
    cells, cell_L = np.unique(_cells(lines), axis=0, return_inverse=True)
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


def read_flink_outcomes(action: str, folder: str | Path) -> OutcomePane:
    """What a `FlinkJob` counted of settled rows, as a pane.

    Args:
        action: That the rows are of.
        folder: Local: ``outcomes`` of its counts. Files that Flink has not committed yet are left out.

    Raises:
        MonitoringError: There is something else in it, a cell stands there twice, or its sums and its grid are not of
            the same rows.
        OSError: It cannot be read.
    """
    sums, grid = _lines(Path(folder) / "sums", _SUMS), _lines(Path(folder) / "grid", _GRID)
    if not len(sums) and not len(grid):
        return OutcomePane.nothing(action)
    cells, cell_L = np.unique(np.concatenate([_cells(sums), _cells(grid)]), axis=0, return_inverse=True)
    summed_L, gridded_L = np.split(cell_L.reshape(-1), [len(sums)])
    bin_L = grid["bin"].to_numpy()
    if ((bin_L < 0) | (bin_L >= NUM_BINS)).any():
        raise _no_counts(folder, f"bins up to {bin_L.max()}", f"those of a grid, below {NUM_BINS}")
    if len(np.unique(summed_L)) < len(sums) or len(np.unique(gridded_L * NUM_BINS + bin_L)) < len(grid):
        raise _no_counts(folder, "a cell on two lines", "one line each, from one run of the job")
    num_N, spend_N = np.zeros((2, len(cells)), np.int64)
    sums_NV6 = np.zeros((len(cells), 2, len(_VIEW_SUMS)))
    grid_NB2 = np.zeros((len(cells), NUM_BINS, 2))
    num_N[summed_L] = sums["num"].to_numpy()
    spend_N[summed_L] = sums["spend_micros"].fill_null(0).to_numpy()
    for view, prefix in enumerate(("", "scored_")):
        sums_NV6[summed_L, view] = np.column_stack([sums[prefix + name].to_numpy() for name in _VIEW_SUMS])
    grid_NB2[gridded_L, bin_L] = np.column_stack([grid[name].to_numpy() for name in ("num", "total")])
    if (grid_NB2[:, :, 0].sum(axis=1) != num_N).any():
        raise _no_counts(folder, "sums and grids of different rows", "the same, of each cell")
    return OutcomePane(action, cells[:, 0], cells[:, 1], sums_NV6, spend_N, grid_NB2)


def _write(columns: Mapping[str, Any], path: str | Path) -> None:
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    with AtomicFile(path) as file:
        pa.csv.write_csv(pa.table(dict(columns)), file, options)


def _cells(lines: Any) -> Any:
    return np.column_stack([lines[name].to_numpy() for name in ("minute", "segment")])


def _lines(folder: Path, kinds: Mapping[str, Any]) -> Any:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] not in "._")
    read = pa.csv.ReadOptions(column_names=list(kinds))
    convert = pa.csv.ConvertOptions(column_types=dict(kinds), null_values=[""])
    tables = [pa.table({name: pa.array([], kind) for name, kind in kinds.items()})]
    for path in files:
        try:
            tables.append(pa.csv.read_csv(path, read, convert_options=convert))
        except pa.ArrowInvalid as error:
            if path.stat().st_size:
                raise _no_counts(path, str(error), ", ".join(kinds)) from error
    return pa.concat_tables(tables).combine_chunks()


def _no_counts(path: str | Path, found: str, allowed: str) -> MonitoringError:
    return MonitoringError(
        f"{str(path)!r} holds no counts of this job", found=found, allowed=allowed,
        do="empty the folder and run the job from its start, or from a checkpoint that belongs to it",
    )  # fmt: skip
