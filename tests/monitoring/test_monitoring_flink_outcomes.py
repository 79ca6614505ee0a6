"""The job's own SQL sums outcomes as panes do: SQLite runs its statements, Flink itself a benchmark."""

from __future__ import annotations

import csv
import re
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankwell.errors import MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.flink_files import read_flink_outcomes, write_flink_outcomes
from rankwell.monitoring.flink_job import FlinkJob
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import MINUTE_US
from rankwell.monitoring.pane_layout import PaneLayout
from rankwell.monitoring.probability_grid import EDGES_E, NUM_BINS

JOB = FlinkJob(PaneLayout(columns=()), rows="r", counts="c", late_s=60.0, outcomes="file:///o")


def _rows(num: int, seed: int = 0) -> FlatRows:
    """Requests of several rows and segments, with probabilities at edges and right beside them."""
    rng = np.random.default_rng(seed)
    request_C = rng.integers(0, max(1, num // 5), num)
    odd = [np.nextafter(EDGES_E, 0), EDGES_E, np.nextafter(EDGES_E, 1), np.array([0.0, 1.0, 5e-324])]
    p_C = np.where(rng.random(num) < 0.5, rng.choice(np.concatenate(odd), num), rng.random(num))
    propensities = np.array([1.0, 0.5, 0.1, np.nan], np.float32)
    return FlatRows(
        rng.integers(-3 * MINUTE_US, 5 * MINUTE_US, max(1, num // 5))[request_C],
        {
            "request": request_C + 2**62,
            "segment": rng.choice([2**40, 0, -1, -2, -3], num),
            "probability": p_C,
            "label": rng.random(num) < p_C,
            "propensity": rng.choice(propensities, num),
            "price_micros": np.where(rng.random(num) < 0.3, np.nan, rng.integers(0, 2**40, num)),
        },
    )


def pane_of(rows: FlatRows) -> OutcomePane:
    columns = rows.columns
    return OutcomePane.of(
        "click", times_us_C=rows.times_us_C, request_C=columns["request"], segment_C=columns["segment"],
        probabilities_C=columns["probability"], labels_C=columns["label"], propensity_C=columns["propensity"],
        price_micros_C=columns["price_micros"],
    )  # fmt: skip


def _minute(time: Any) -> int:
    if isinstance(time, int):
        return time
    return int(
        (datetime.fromisoformat(f"{time}+00:00") - datetime.fromisoformat("1970-01-01T00:00+00:00")).total_seconds()
        // 60
    )


def summed_by_sqlite(job: FlinkJob, files: list[Path], folder: Path) -> None:
    """The job's statements about outcomes; SQLite has no windows of its own, so a row is given the minute it is in."""
    database = sqlite3.connect(":memory:")
    database.create_function("minute", 1, _minute)
    *tables, run = job.statements()
    for table in tables:
        if "settled" in table or "outcome" in table or "weighted" in table:
            database.execute(_translated(re.sub(r"(, WATERMARK FOR .*)?\) WITH \(.*", ")", table)))
    for file in files:
        lines = [[value or None for value in line] for line in csv.reader(file.read_text().splitlines())]
        database.executemany("INSERT INTO settled_rows VALUES (?, ?, ?, ?, ?, ?, ?)", lines)
    for insert in run.removeprefix("EXECUTE STATEMENT SET BEGIN ").removesuffix("; END").split("; "):
        if "outcome" in insert:
            database.execute(_translated(insert))
    for name in ("sums", "grid"):
        (folder / name).mkdir(parents=True)
        with (folder / name / "part-0").open("w", newline="") as out:
            csv.writer(out).writerows(database.execute(f"SELECT * FROM outcome_{name}").fetchall())
    database.close()


def _translated(sql: str) -> str:
    windows = r"TABLE\(TUMBLE\(TABLE (\w+), DESCRIPTOR\(`time`\), INTERVAL '1' MINUTE\)\)"
    minute = ", ".join(f"minute(`time`) AS window_{which}" for which in ("start", "end", "time"))
    sql = re.sub(windows, rf"(SELECT *, {minute} FROM \1)", sql)
    return sql.replace("TIMESTAMPDIFF(MINUTE, TIMESTAMP '1970-01-01 00:00:00', window_start)", "window_start")


def check_equal(read: OutcomePane, pane: OutcomePane) -> None:
    assert read.action == pane.action
    np.testing.assert_array_equal(read.minutes_N, pane.minutes_N)
    np.testing.assert_array_equal(read.segments_N, pane.segments_N)
    np.testing.assert_allclose(read.sums_NV6, pane.sums_NV6, rtol=1e-9)
    np.testing.assert_array_equal(read.sums_NV6[:, :, 5], pane.sums_NV6[:, :, 5])
    np.testing.assert_array_equal(read.spend_micros_N, pane.spend_micros_N)
    np.testing.assert_array_equal(read.grid_NB2[:, :, 0], pane.grid_NB2[:, :, 0])
    np.testing.assert_allclose(read.grid_NB2[:, :, 1], pane.grid_NB2[:, :, 1], rtol=1e-9)


@pytest.mark.parametrize("num", [3000, 1, 0])
def test_the_statements_sum_what_the_pane_sums(tmp_path: Path, num: int) -> None:
    rows = _rows(num)
    is_even_C = rows.columns["request"] % 2 == 0
    files = [tmp_path / f"outcomes-{half}.csv" for half in (0, 1)]
    for is_half_C, file in zip((is_even_C, ~is_even_C), files, strict=True):
        write_flink_outcomes(rows.kept(is_half_C), file)
    summed_by_sqlite(JOB, files, tmp_path / "outcomes")
    check_equal(read_flink_outcomes("click", tmp_path / "outcomes"), pane_of(rows))


def test_two_rows_of_a_request_are_squared_together(tmp_path: Path) -> None:
    columns = {
        "request": np.array([7, 7, 8]), "segment": np.zeros(3, np.int64), "probability": np.array([0.25, 0.5, 0.5]),
        "label": np.array([True, True, False]), "propensity": np.array([1.0, 0.5, 1.0]),
        "price_micros": np.array([3.0, np.nan, 4.0]),
    }  # fmt: skip
    write_flink_outcomes(FlatRows(np.zeros(3, np.int64), columns), tmp_path / "outcomes-0.csv")
    assert (tmp_path / "outcomes-0.csv").read_text().splitlines() == [
        "1970-01-01 00:00:00.000,7,0,0.25,1,1,3",
        "1970-01-01 00:00:00.000,7,0,0.5,1,0.5,",
        "1970-01-01 00:00:00.000,8,0,0.5,0,1,4",
    ]
    summed_by_sqlite(JOB, [tmp_path / "outcomes-0.csv"], tmp_path / "outcomes")
    pane = read_flink_outcomes("click", tmp_path / "outcomes")
    # served: requests of p .75 and .5, y 2 and 0; scored: one row of weight 2
    assert pane.sums_NV6[0].tolist() == [[1.25, 2, 0.75**2 + 0.5**2, 1.5, 4, 2], [1, 2, 1, 2, 4, 1]]
    assert pane.spend_micros_N.tolist() == [7]
    assert pane.num_rows_N.tolist() == [3]


def test_nothing_was_counted(tmp_path: Path) -> None:
    assert len(read_flink_outcomes("click", tmp_path / "outcomes")) == 0


@pytest.mark.parametrize(
    ("column", "value"), [("probability", 1.5), ("probability", np.nan), ("propensity", 0.0), ("propensity", -1.0)]
)
def test_rows_that_a_pane_refuses_are_not_written(tmp_path: Path, column: str, value: float) -> None:
    rows = _rows(20)
    wrong_C = rows.columns[column].copy()
    wrong_C[3] = value
    with pytest.raises(MonitoringError, match="can't be counted"):
        write_flink_outcomes(FlatRows(rows.times_us_C, {**rows.columns, column: wrong_C}), tmp_path / "outcomes-0.csv")
    assert list(tmp_path.iterdir()) == []


def test_counts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    line = "0,-4,2,," + ",".join(["1"] * 12) + "\n"
    for name in ("sums", "grid"):
        (tmp_path / name).mkdir()
    for sums, grid, message in (
        (line, "", "different rows"),
        ("", "0,-4,3,2,1\n", "different rows"),
        (line, "0,-4,3,1,1\n", "different rows"),
        (line + line, "0,-4,3,2,1\n", "two lines"),
        (line, "0,-4,3,1,1\n0,-4,3,1,1\n", "two lines"),
        (line, f"0,-4,{NUM_BINS},2,1\n", "below 22"),
        (line, "0,-4,three,2,1\n", "minute, segment, bin"),
        ("0,-4\n", "", "minute, segment, num"),
    ):
        (tmp_path / "sums" / "part-0").write_text(sums)
        (tmp_path / "grid" / "part-0").write_text(grid)
        with pytest.raises(MonitoringError, match=message):
            read_flink_outcomes("click", tmp_path)
    (tmp_path / "sums" / "part-0").write_text(line)
    (tmp_path / "grid" / "part-0").write_text("0,-4,3,1,1\n0,-4,5,1,1\n")
    (tmp_path / "grid" / ".part-1.inprogress").write_text("0,-4")
    assert read_flink_outcomes("click", tmp_path).num_rows_N.tolist() == [2]


def test_outcomes_are_in_the_job_where_they_are_asked_for() -> None:
    assert not [
        statement
        for statement in FlinkJob(JOB.layout, rows="r", counts="c", late_s=0).statements()
        if "outcome" in statement
    ]
    statements = FlinkJob(JOB.layout, rows="r", counts="c", late_s=90, poll_s=2, outcomes="file:///it's").statements()
    (source,) = [statement for statement in statements if "settled_rows (" in statement]
    for part in ("-90, `time`", "'file:///it''s'", "'source.monitor-interval' = '2000 ms'"):
        assert part in source
