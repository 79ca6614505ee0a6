"""The job's SQL puts each row where panes count it: SQLite runs the same expressions, Flink itself a benchmark."""

from __future__ import annotations

import csv
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.flink_files import read_flink_pane, write_flink_rows
from rankwell.monitoring.flink_job import FlinkJob, place_of, segment_of, step_of
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout

NO_EDGES = NumericBins(name="none", edges=())
LAYOUT = PaneLayout(
    columns=(
        NumericBins(name="narrow", edges=(-5.0, -1e-30, 0.1, 1 / 3, 3e38), origin=0.3),
        NumericBins(name="wide", edges=(-5.0, -1e-30, 0.1, 1 / 3, 3e38), origin=-0.3),
        CategoricalBins(name="city", top=(2**62, 3), known=tuple(range(100, 400))),
        NO_EDGES,
        CategoricalBins(name="no_top", top=(), known=(1,)),
    ),
    segments=CategoricalBins(name="level", top=(5, 0), known=(3, 4)),
)
PLAIN = PaneLayout(columns=(NumericBins(name="wide", edges=(0.1,)),))


def _rows(num: int, seed: int = 0) -> FlatRows:
    """With values at edges and right beside them, as float32 and as float64."""
    rng = np.random.default_rng(seed)
    edges_E = np.array(LAYOUT.columns[0].edges, np.float32)  # type: ignore[union-attr]
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45]

    def around(edges_E: Any) -> Any:
        kind = edges_E.dtype.type
        near = [np.nextafter(edges_E, kind(-9e37)), edges_E, np.nextafter(edges_E, kind(np.inf)), np.array(odd, kind)]
        return rng.choice(np.concatenate(near), num)

    return FlatRows(
        rng.integers(-3 * MINUTE_US, 40 * MINUTE_US, num),
        {
            "narrow": around(edges_E),
            "wide": around(edges_E.astype(np.float64)),
            "city": rng.choice([2**62, 3, 100, 399, 400, 0, -1], num),
            "none": rng.choice(np.array([1.0, np.nan], np.float32), num),
            "no_top": rng.integers(-1, 3, num),
            "level": rng.integers(-1, 7, num),
        },
    )


def counted_by_sqlite(layout: PaneLayout, files: list[Path], folder: Path) -> None:
    """What the job does, without windows that slide: lines of minute, segment, place, count and sums."""
    database = sqlite3.connect(":memory:")
    kinds = ["INTEGER" if isinstance(column, CategoricalBins) else "REAL" for column in layout.columns]
    columns = ["time TEXT", *(f"c{number} {kind}" for number, kind in enumerate(kinds))]
    columns += ["s INTEGER"] if layout.segments is not None else []
    database.execute(f"CREATE TABLE served_rows ({', '.join(columns)})")
    for file in files:
        lines = [[value or None for value in line] for line in csv.reader(file.read_text().splitlines())]
        marks = ", ".join("?" * len(columns))
        database.executemany(f"INSERT INTO served_rows VALUES ({marks})", lines)
    minute = "FLOOR(unixepoch(time) / 60.0)" if sqlite3.sqlite_version_info >= (3, 38) else ""
    minute = minute or "FLOOR(strftime('%s', time) / 60.0)"
    database.create_function("FLOOR", 1, np.floor)
    selects = [
        f"SELECT CAST({minute} AS INTEGER) AS m, {segment_of(layout)} AS g, "
        f"{place_of(layout, number)} AS p, {step_of(layout, number).replace('AS DOUBLE', 'AS REAL')} AS v "
        "FROM served_rows"
        for number in range(len(kinds))
    ]
    found = database.execute(
        f"SELECT m, g, p, COUNT(*), SUM(v), SUM(v * v) FROM ({' UNION ALL '.join(selects)}) GROUP BY m, g, p"
    ).fetchall()
    database.close()
    folder.mkdir(parents=True)
    with (folder / "part-0").open("w", newline="") as out:
        csv.writer(out).writerows(found)


def check_equal(read: Pane, pane: Pane) -> None:
    np.testing.assert_array_equal(read.minutes_N, pane.minutes_N)
    np.testing.assert_array_equal(read.segments_N, pane.segments_N)
    for name, counts in pane.counts.items():
        np.testing.assert_array_equal(read.counts[name], counts)
    for name, sums in pane.sums.items():
        np.testing.assert_allclose(read.sums[name], sums, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num", [3000, 1, 0])
@pytest.mark.parametrize("layout", [LAYOUT, PLAIN])
def test_the_expressions_count_what_the_pane_counts(tmp_path: Path, layout: PaneLayout, num: int) -> None:
    rows = _rows(num)
    halves = [rows.kept(np.arange(num) % 2 == half) for half in (0, 1)]
    files = [tmp_path / f"rows-{half}.csv" for half in (0, 1)]
    for half, file in zip(halves, files, strict=True):
        write_flink_rows(layout, half, file)
    counted_by_sqlite(layout, files, tmp_path / "minutes")
    (tmp_path / "minutes" / ".part-1.inprogress").write_text("1,2")
    (tmp_path / "minutes" / "part-2").write_text("")
    check_equal(read_flink_pane(layout, tmp_path / "minutes"), Pane.of(layout, rows))


def test_a_line_reads_as_it_was(tmp_path: Path) -> None:
    columns = {"wide": np.array([np.float64(np.float32(0.1)), np.nan])}
    write_flink_rows(PLAIN, FlatRows(np.array([60_000_001_999, -1]), columns), tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines == ["1970-01-01 16:40:00.001,0.10000000149011612", "1969-12-31 23:59:59.999,"]


def test_counts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    two = PaneLayout(columns=(PLAIN.columns[0], NO_EDGES))
    part = tmp_path / "minutes" / "part-0"
    part.parent.mkdir()
    for lines, message in (
        ("0,-4,0,5,1,1\n0,-4,0,5,1,1\n", "two lines"),
        ("0,-4,9,5,1,1\n", "below 5"),
        ("0,-4,0,5,1,1\n0,-4,3,4,1,1\n", "different numbers"),
        ("0,-4,0,five,1,1\n", "no counts"),
        ("0,-4,0\n", "no counts"),
    ):
        part.write_text(lines)
        with pytest.raises(MonitoringError, match=message):
            read_flink_pane(two, part.parent)


def test_statements_hold_what_was_asked() -> None:
    job = FlinkJob(LAYOUT, rows="file:///it's", counts="file:///c", late_s=119.5, window_minutes=90, poll_s=2)
    rows, minutes, windows, _, run = job.statements()
    assert "-120, `time`" in rows
    assert "'file:///it''s'" in rows
    assert "'source.monitor-interval' = '2000 ms'" in rows
    assert "'file:///c/minutes'" in minutes
    assert "'file:///c/windows'" in windows
    assert "INTERVAL '1:30' HOUR TO MINUTE" in run
    assert "monitor" not in FlinkJob(LAYOUT, rows="r", counts="c", late_s=0).statements()[0]


@pytest.mark.parametrize(
    "changes", [{"late_s": -1.0}, {"late_s": np.inf}, {"window_minutes": 0}, {"window_minutes": 1441}, {"poll_s": 0.0}]
)
def test_times_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MonitoringError, match="windows"):
        FlinkJob(LAYOUT, rows="r", counts="c", **({"late_s": 1.0} | changes))
