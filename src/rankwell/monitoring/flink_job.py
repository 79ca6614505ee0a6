"""Panes as a job of Apache Flink's: SQL that counts the same bins and outcomes, by minute and in sliding windows.

The SQL is all that Flink is given: nothing here imports it, and any of its clients can run it. Rows come to it in the
files that `write_flink_rows` and `write_flink_outcomes` write; `read_flink_pane` and `read_flink_outcomes` read what it
counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from rankwell.errors import MonitoringError
from rankwell.monitoring.pane_layout import ALL_ROWS, MISSING, NEVER_SEEN, OTHER, CategoricalBins, PaneLayout
from rankwell.monitoring.probability_grid import EDGES_E

__all__ = ["FlinkJob", "place_of", "segment_of", "step_of"]

_DAY_MINUTES: Final = 1440
_MINUTE: Final = "INTERVAL '1' MINUTE"
_MINUTE_OF: Final = "TIMESTAMPDIFF(MINUTE, TIMESTAMP '1970-01-01 00:00:00', window_start)"


@final
@dataclass(frozen=True, slots=True)
class FlinkJob:
    """What Flink reads, counts and writes.

    Each bin of each column has a place in one row of numbers, columns in the layout's order. A row of the log goes to
    one place a column; Flink counts by window, segment and place.

    Outcomes are counted by minute. Their rows are settled: what waits for labels is not Flink's. Those of a request and
    segment are summed up first, of weight 1 and of 1 / propensity where the slot explores, and then their squares and
    products by minute and segment, as in `CalibrationSums`.

    Args:
        layout: What to count.
        rows: URL of the folder with the files of `write_flink_rows`; Flink takes it letter by letter, without "%20".
        counts: URL of a folder; Flink writes into ``minutes`` and ``windows`` below it, and ``outcomes``.
        late_s: How far the watermark stays behind the newest row. Flink drops rows that come later than that, and says
            nothing. It reads files that are there already in no order: then the log's whole span.
        window_minutes: Length of the sliding windows, which begin each minute. At most a day.
        poll_s: How often to look for new files; None: the job ends with those that are there.
        outcomes: URL of the folder with the files of `write_flink_outcomes`; None: outcomes are not counted.

    Raises:
        MonitoringError: A time that is out of its range.

    >>> from rankwell.monitoring.pane_layout import NumericBins
    >>> layout = PaneLayout(columns=(NumericBins(name="years", edges=(2.0,)),))
    >>> job = FlinkJob(layout, rows="file:///rows", counts="file:///counts", late_s=120.0)
    >>> [statement.split("(")[0].strip() for statement in job.statements()][:2]
    ['CREATE TABLE served_rows', 'CREATE TABLE minute_counts']
    """

    layout: PaneLayout
    rows: str
    counts: str
    late_s: float
    window_minutes: int = 15
    poll_s: float | None = None
    outcomes: str | None = None

    def __post_init__(self) -> None:
        poll_s = self.poll_s
        is_poll = poll_s is None or 0 < poll_s < math.inf
        if not (0 <= self.late_s < math.inf and 1 <= self.window_minutes <= _DAY_MINUTES and is_poll):
            raise MonitoringError(
                "Flink can't count in such windows",
                found=f"late_s={self.late_s}, window_minutes={self.window_minutes}, poll_s={poll_s}",
                allowed=f"late_s ≥ 0, 1 ≤ window_minutes ≤ {_DAY_MINUTES}, poll_s > 0 or None",
            )

    def statements(self) -> tuple[str, ...]:
        """To be run one after the other; the last is the job."""
        kinds = ["BIGINT" if isinstance(column, CategoricalBins) else "DOUBLE" for column in self.layout.columns]
        columns = [f"c{number} {kind}" for number, kind in enumerate(kinds)]
        columns += ["s BIGINT"] if self.layout.segments is not None else []
        places = ", ".join(
            f"ROW({place_of(self.layout, number)}, {step_of(self.layout, number)})" for number in range(len(kinds))
        )
        hours, rest = divmod(self.window_minutes, 60)
        window = f"INTERVAL '{hours}:{rest:02}' HOUR TO MINUTE"
        inserts = [
            _counted("minute_counts", f"TUMBLE(TABLE places, DESCRIPTOR(`time`), {_MINUTE})"),
            _counted("window_counts", f"HOP(TABLE places, DESCRIPTOR(`time`), {_MINUTE}, {window})"),
        ]
        tables = [
            self._source("served_rows", columns, self.rows),
            _sink("minute_counts", _COUNTS, f"{self.counts}/minutes"),
            _sink("window_counts", _COUNTS, f"{self.counts}/windows"),
            f"CREATE TEMPORARY VIEW places AS SELECT `time`, {segment_of(self.layout)} AS segment, t.place, t.step "
            f"FROM served_rows CROSS JOIN UNNEST(ARRAY[{places}]) AS t (place, step)",
        ]
        if self.outcomes is not None:
            inserts += [_REQUESTS_SUMMED, _GRID_COUNTED]
            tables += [
                self._source("settled_rows", _SETTLED, self.outcomes),
                _sink("outcome_sums", _OUTCOME_SUMS, f"{self.counts}/outcomes/sums"),
                _sink("outcome_grid", _OUTCOME_GRID, f"{self.counts}/outcomes/grid"),
                _WEIGHTED_ROWS,
                _REQUEST_OUTCOMES,
            ]
        return (*tables, f"EXECUTE STATEMENT SET BEGIN {'; '.join(inserts)}; END")

    def _source(self, name: str, columns: Sequence[str], url: str) -> str:
        watermark = f"WATERMARK FOR `time` AS TIMESTAMPADD(SECOND, -{math.ceil(self.late_s)}, `time`)"
        polled = "" if self.poll_s is None else f", 'source.monitor-interval' = '{math.ceil(self.poll_s * 1e3)} ms'"
        return (
            f"CREATE TABLE {name} (`time` TIMESTAMP(3), {', '.join(columns)}, {watermark}) WITH ({_files(url)}{polled})"
        )


def place_of(layout: PaneLayout, number: int) -> str:
    """SQL of the place that a row's value of a column goes to.

    Args:
        layout: With the column.
        number: Which one; SQL knows its values as ``c<number>``.

    >>> from rankwell.monitoring.pane_layout import NumericBins
    >>> place_of(PaneLayout(columns=(NumericBins(name="years", edges=(2.0,)),)), 0)
    'CASE WHEN c0 IS NULL THEN 2 WHEN c0 < 2.0e0 THEN 0 ELSE 1 END'
    """
    column, value = layout.columns[number], f"c{number}"
    first = sum(before.num_bins for before in layout.columns[:number])
    if isinstance(column, CategoricalBins):
        num_top = len(column.top)
        cases = [f"WHEN {value} < 0 THEN {first + num_top + 2}"]
        cases += [f"WHEN {value} = {top} THEN {first + bin_}" for bin_, top in enumerate(column.top)]
        cases += _if_any(value, column.known, str(first + num_top))
        return f"CASE {' '.join(cases)} ELSE {first + num_top + 1} END"
    cases = [f"WHEN {value} IS NULL THEN {first + len(column.edges) + 1}", *_below(value, column.edges, first)]
    return f"CASE {' '.join(cases)} ELSE {first + len(column.edges)} END"


def step_of(layout: PaneLayout, number: int) -> str:
    """SQL of what is summed of a row's value: v − origin of a numeric column, nothing of ids."""
    column = layout.columns[number]
    if isinstance(column, CategoricalBins):
        return "CAST(NULL AS DOUBLE)"
    return f"c{number} - ({_number(column.origin)})"


def segment_of(layout: PaneLayout) -> str:
    """SQL of a row's segment; SQL knows its values as ``s``.

    >>> layout = PaneLayout(columns=(), segments=CategoricalBins(name="level", top=(3, 5), known=(8,)))
    >>> segment_of(layout)
    'CASE WHEN s < 0 THEN -1 WHEN s IN (3, 5) THEN s WHEN s IN (8) THEN -2 ELSE -3 END'
    """
    bins = layout.segments
    if bins is None:
        return f"CAST({ALL_ROWS} AS BIGINT)"
    cases = [f"WHEN s < 0 THEN {MISSING}", *_if_any("s", bins.top, "s"), *_if_any("s", bins.known, str(OTHER))]
    return f"CASE {' '.join(cases)} ELSE {NEVER_SEEN} END"


def _if_any(value: str, of: tuple[int, ...], then: str) -> list[str]:
    return [f"WHEN {value} IN ({', '.join(map(str, of))}) THEN {then}"] if of else []


def _below(value: str, edges: Sequence[float], first: int) -> list[str]:
    return [f"WHEN {value} < {_number(edge)} THEN {first + bin_}" for bin_, edge in enumerate(edges)]


def _number(value: float) -> str:
    # With an exponent it is a DOUBLE; without one SQL takes it for a decimal fraction.
    return repr(value) if "e" in repr(value) else f"{value!r}e0"


def _files(url: str) -> str:
    quoted = url.replace("'", "''")
    return f"'connector' = 'filesystem', 'path' = '{quoted}', 'format' = 'csv', 'csv.null-literal' = ''"


def _sink(name: str, columns: str, url: str) -> str:
    return f"CREATE TABLE {name} ({columns}) WITH ({_files(url)})"


def _counted(into: str, windows: str) -> str:
    return (
        f"INSERT INTO {into} SELECT {_MINUTE_OF}, segment, place, COUNT(*), SUM(step), SUM(step * step) "
        f"FROM TABLE({windows}) GROUP BY window_start, window_end, segment, place"
    )


_COUNTS: Final = "window_minute BIGINT, segment BIGINT, place INT, num BIGINT, total DOUBLE, squares DOUBLE"
_SETTLED: Final = (
    "request BIGINT", "segment BIGINT", "p DOUBLE", "y DOUBLE", "propensity DOUBLE", "price BIGINT",
)  # fmt: skip
_OUTCOME_SUMS: Final = (
    "window_minute BIGINT, segment BIGINT, num BIGINT, spend BIGINT, "
    "p DOUBLE, y DOUBLE, pp DOUBLE, py DOUBLE, yy DOUBLE, requests BIGINT, "
    "scored_p DOUBLE, scored_y DOUBLE, scored_pp DOUBLE, scored_py DOUBLE, scored_yy DOUBLE, scored_requests BIGINT"
)
_OUTCOME_GRID: Final = "window_minute BIGINT, segment BIGINT, bin INT, num BIGINT, total DOUBLE"
_WEIGHTED_ROWS: Final = (
    "CREATE TEMPORARY VIEW weighted_rows AS SELECT `time`, request, segment, p, y, price, "
    "CASE WHEN propensity < 1.0e0 THEN 1.0e0 / propensity ELSE 0.0e0 END AS w, "
    f"CASE {' '.join(_below('p', EDGES_E.tolist(), 0))} ELSE {len(EDGES_E)} END AS bin FROM settled_rows"
)
_REQUEST_OUTCOMES: Final = (
    "CREATE TEMPORARY VIEW request_outcomes AS SELECT window_time AS `time`, segment, COUNT(*) AS num, "
    "SUM(price) AS price, SUM(p) AS p, SUM(y) AS y, SUM(w * p) AS wp, SUM(w * y) AS wy, MAX(w) AS w "
    f"FROM TABLE(TUMBLE(TABLE weighted_rows, DESCRIPTOR(`time`), {_MINUTE})) "
    "GROUP BY window_start, window_end, window_time, segment, request"
)
_REQUESTS_SUMMED: Final = (
    f"INSERT INTO outcome_sums SELECT {_MINUTE_OF}, segment, SUM(num), SUM(price), "
    "SUM(p), SUM(y), SUM(p * p), SUM(p * y), SUM(y * y), COUNT(*), "
    "SUM(wp), SUM(wy), SUM(wp * wp), SUM(wp * wy), SUM(wy * wy), COUNT(CASE WHEN w > 0.0e0 THEN 1 END) "
    f"FROM TABLE(TUMBLE(TABLE request_outcomes, DESCRIPTOR(`time`), {_MINUTE})) "
    "GROUP BY window_start, window_end, segment"
)
_GRID_COUNTED: Final = (
    f"INSERT INTO outcome_grid SELECT {_MINUTE_OF}, segment, bin, COUNT(*), SUM(p) "
    f"FROM TABLE(TUMBLE(TABLE weighted_rows, DESCRIPTOR(`time`), {_MINUTE})) "
    "GROUP BY window_start, window_end, segment, bin"
)
