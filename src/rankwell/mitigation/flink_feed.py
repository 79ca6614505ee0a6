"""The served log as files that a job of Apache Flink's reads: each request's rows in one of them, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import final

from rankwell.errors import LogError
from rankwell.mitigation.new_requests import NewRequests
from rankwell.mitigation.row_files import RowFiles
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.flink_files import write_flink_rows
from rankwell.monitoring.pane_layout import PaneLayout
from rankwell.schema import Schema
from rankwell.serving.log_reader import LogPosition

__all__ = ["FlinkFeed"]


@final
class FlinkFeed:
    """Follows a folder, as `FolderWatch` does, and writes the rows that it would count.

    Whenever the process is killed, the next one goes on after the last file: see `RowFiles`. Memory is that of what
    came since the last step.

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
        self._schema, self._layout = schema, layout
        self._names = [column.name for column in layout.columns]
        self._names += [layout.segments.name] if layout.segments is not None else []
        self._requests = NewRequests(folder, schema, on_damage=on_damage, late_s=late_s, ahead_s=ahead_s)
        self.arrivals = self._requests.arrivals
        self._files = RowFiles(into, "rows")
        self._requests.position = self._files.position("served")
        self._stepped_us = self._files.time_us("stepped_us")

    @property
    def read_by(self) -> LogPosition:
        """What a compaction of the served log leaves: what stands in no file yet."""
        return self._files.position("served") or LogPosition()

    @property
    def num_rows(self) -> int:
        """In all files together. Where Flink counted fewer, it dropped rows as late."""
        return self._files.num_rows

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
        for served in self._requests.read(now_us=now_us, since_us=self._stepped_us):
            self._files.add(FlatRows.of_table(served, self._schema, self._names, rows="shown"))
        self._stepped_us = now_us
        return self._files.write(
            self._write, positions={"served": self._requests.position}, times_us={"stepped_us": now_us}
        )

    def _write(self, rows: FlatRows, path: Path) -> None:
        write_flink_rows(self._layout, rows, path)
