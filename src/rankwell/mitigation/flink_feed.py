"""The served log as files that a job of Apache Flink's reads: each request's rows in one of them, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pyarrow as pa

from rankwell.data.atomic_file import AtomicFile
from rankwell.errors import LogError, MonitoringError
from rankwell.monitoring.arrivals import Arrivals
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.flink_files import write_flink_rows
from rankwell.monitoring.pane_layout import PaneLayout
from rankwell.schema import Schema
from rankwell.serving.log_reader import LogPosition, read_served

__all__ = ["FlinkFeed"]

_US: Final = 1e6


@final
class FlinkFeed:
    """Follows a folder, as `FolderWatch` does, and writes the rows that it would count.

    What a file leads up to is written beside it first, under a name that Flink does not read, and holds from when the
    file has its own name: whenever the process is killed, the next one goes on after the last file. Memory is that of
    what came since the last step.

    Args:
        folder: That `rankwell serve` logs to.
        schema: The log's.
        layout: What will be counted of the candidates that were shown.
        into: The folder of the files, which this feed alone writes to; a `FlinkJob`'s ``rows``. The newest file stays,
            older ones may be removed.
        on_damage: Called with what is wrong of a stretch of the log, which is passed over.
        late_s: How late requests may come. The job's own is to be longer, by the time between two steps.
        ahead_s: By how much a server's clock may go before ours.

    Raises:
        MonitoringError: What stands beside the newest file is damaged, or not there.
    """

    def __init__(
        self, folder: str | Path, schema: Schema, layout: PaneLayout, into: str | Path,
        *, on_damage: Callable[[LogError], None], late_s: float = 120.0, ahead_s: float = 60.0,
    ) -> None:  # fmt: skip
        self._folder, self._into, self._on_damage = Path(folder), Path(into), on_damage
        self._schema, self._layout = schema, layout
        self._names = [column.name for column in layout.columns]
        self._names += [layout.segments.name] if layout.segments is not None else []
        self.arrivals = Arrivals(remembered_s=late_s, ahead_s=ahead_s)
        self.num_rows = 0
        """In all files together. Where Flink counted fewer, it dropped rows as late."""
        self._position: LogPosition | None = None
        self._unwritten: list[FlatRows] = []  # up to the position; they stay where the disk does not take them
        self._stepped_us = 0
        self._into.mkdir(parents=True, exist_ok=True)
        files = sorted(self._into.glob("rows-*.csv"))
        self._next = 0
        if files:
            self._next = int(files[-1].stem.removeprefix("rows-")) + 1
            self._go_on(self._beside(self._next - 1))
            self._forget_older()

    def step(self, *, now_us: int) -> int:
        """Write all rows that came since, in the order of their times, as one file; none if none came.

        Args:
            now_us: UTC microseconds.

        Returns:
            How many rows.

        Raises:
            LogError: The log was compacted past what was read: compact with `read_by`.
            OSError: The disk does not take it.
        """
        for served, after in read_served(self._folder, self._position, on_damage=self._on_damage):
            self._unwritten.append(self._new_rows(served, now_us))
            self._position = after
        self._stepped_us = now_us
        rows = _in_order(self._unwritten)
        if self._position is not None and len(rows):
            num_rows = self.num_rows + len(rows)
            beside = {"position": self._position.to_json(), "stepped_us": now_us, "num_rows": num_rows}
            with AtomicFile(self._beside(self._next)) as file:
                file.write(json.dumps(beside).encode())
            write_flink_rows(self._layout, rows, self._into / f"rows-{self._next:09}.csv")
            self._next, self.num_rows = self._next + 1, num_rows
            self._forget_older()
        self._unwritten.clear()
        return len(rows)

    def _new_rows(self, served: Any, now_us: int) -> FlatRows:
        id_and_time = (self._schema.request_id, self._schema.time)
        ids_R, times_us_R = (served[name].combine_chunks().cast(pa.int64()).to_numpy() for name in id_and_time)
        is_new_R = self.arrivals.new(ids_R, times_us_R, now_us=now_us, since_us=self._stepped_us)
        return FlatRows.of_table(served.filter(pa.array(is_new_R)), self._schema, self._names, rows="shown")

    def _beside(self, number: int) -> Path:
        return self._into / f".rows-{number:09}.json"

    def _forget_older(self) -> None:
        for path in self._into.glob(".rows-*.json"):
            if path < self._beside(self._next - 1):
                path.unlink()

    def _go_on(self, path: Path) -> None:
        try:
            beside = json.loads(path.read_text())
            self._position = LogPosition.from_json(beside["position"])
            self._stepped_us, self.num_rows = int(beside["stepped_us"]), int(beside["num_rows"])
        except (OSError, ValueError, TypeError, KeyError, LogError) as error:
            raise MonitoringError(
                f"{str(path)!r} does not say how far the log was read", found=str(error), allowed="what a feed wrote",
                do="empty the folder, and start the job anew: the feed begins with the oldest segments that are there",
            ) from error  # fmt: skip


def _in_order(came: list[FlatRows]) -> FlatRows:
    if not came:
        return FlatRows(np.zeros(0, np.int64), {})
    times_us_C = np.concatenate([rows.times_us_C for rows in came])
    order_C = np.argsort(times_us_C, kind="stable")
    columns = {name: np.concatenate([rows.columns[name] for rows in came])[order_C] for name in came[0].columns}
    return FlatRows(times_us_C[order_C], columns)
