"""What became of served requests, as files that a job of Apache Flink's reads: each request's rows in one, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

import pyarrow as pa

from rankwell.errors import LogError
from rankwell.mitigation.new_requests import NewRequests
from rankwell.mitigation.row_files import RowFiles
from rankwell.monitoring.flink_files import write_flink_outcomes
from rankwell.monitoring.pane_layout import CategoricalBins
from rankwell.monitoring.pending_outcomes import PendingOutcomes
from rankwell.schema import Schema
from rankwell.serving.log_folder import LogFolder
from rankwell.serving.log_reader import LogPosition, read_records

__all__ = ["FlinkOutcomeFeed"]

_US: Final = 1e6
_ACTIONS: Final = "actions"


@final
class FlinkOutcomeFeed:
    """Follows served requests and reported actions, and writes a request's rows when its label is due.

    Labels are those of the embedded engine: both wait in `PendingOutcomes`. A request is written whole, and a file
    holds no time that is before those of an earlier file, unless a clock was wrong.

    Whenever the process is killed, the next one goes on after the last file: see `RowFiles`. What still waited then
    stands beside the file, requests and actions, and the positions in both logs; so the logs may be compacted up to
    them. Memory is that of what waits.

    Args:
        folder: That `rankwell serve` logs to.
        schema: The log's.
        action: Of the schema, with a window.
        segments: Of the layout by which outcomes are told apart; None: all are `ALL_ROWS`.
        into: The folder of the files, which this feed alone writes to; a `FlinkJob`'s ``outcomes``. The newest file
            stays, older ones may be removed.
        on_damage: Called with what is wrong of a stretch of the log, which is passed over.
        late_s: How late requests and actions may come.
        ahead_s: By how much a server's clock may go before ours.
        keep_s: Where reports of actions are missing, so long requests wait for them at most.

    Raises:
        MonitoringError: The schema does not say what is needed; or what stands beside the newest file is damaged, or
            not there.
    """

    def __init__(
        self, folder: str | Path, schema: Schema, action: str, segments: CategoricalBins | None, into: str | Path,
        *, on_damage: Callable[[LogError], None], late_s: float = 120.0, ahead_s: float = 60.0,
        keep_s: float = 15.5 * 86_400.0,
    ) -> None:  # fmt: skip
        self._actions, self._on_damage = LogFolder(Path(folder) / _ACTIONS, _ACTIONS), on_damage
        self._requests = NewRequests(folder, schema, on_damage=on_damage, late_s=late_s, ahead_s=ahead_s)
        self.arrivals = self._requests.arrivals
        self.pending = PendingOutcomes(schema, action, segments, late_s=late_s)
        self._keep_us = round(keep_s * _US)
        self._files = RowFiles(into, "outcomes")
        self._requests.position, self._action_position = map(self._files.position, ("served", _ACTIONS))
        self._stepped_us, self._settled_us = map(self._files.time_us, ("stepped_us", "settled_us"))
        if self._requests.position is not None:
            self._wait_again()

    @property
    def num_rows(self) -> int:
        """In all files together. Where Flink counted fewer, it dropped rows as late."""
        return self._files.num_rows

    @property
    def read_by(self) -> dict[str, LogPosition]:
        """What compactions of the logs "served" and "actions" leave: what stands in or beside no file yet."""
        return {log: self._files.position(log) or LogPosition() for log in ("served", _ACTIONS)}

    def step(self, *, now_us: int) -> int:
        """Read all that came since, and write the rows whose labels are due, as one file; none if none are.

        Args:
            now_us: UTC microseconds.

        Returns:
            How many rows.

        Raises:
            LogError: A log was compacted past what was read: compact with `read_by`.
            MonitoringError: A served probability or propensity is none.
            OSError: The disk does not take it.
        """
        for served in self._requests.read(now_us=now_us, since_us=self._stepped_us):
            if len(served):
                self.pending.add(served)
        if self._actions.path.is_dir():
            for rows, _, after in read_records(self._actions, self._action_position, on_damage=self._on_damage):
                self.pending.add_actions(rows)
                self._action_position = after
        settling = self.pending.settling(
            now_us=now_us, stepped_us=self._stepped_us, settled_us=self._settled_us, keep_us=self._keep_us
        )
        rows = self.pending.settled_rows(
            now_us=now_us, from_us=settling.from_us, reported_until_us=settling.reported_until_us
        )
        self._files.add(rows)
        self._settled_us, self._stepped_us = settling.settled_us, now_us
        return self._files.write(
            write_flink_outcomes,
            positions={"served": self._requests.position, _ACTIONS: self._action_position},
            times_us={"stepped_us": now_us, "settled_us": self._settled_us},
            tail=_tables_as_bytes(*self.pending.tables()),
        )

    def _wait_again(self) -> None:
        try:
            data, self._files.tail = pa.BufferReader(self._files.tail), b""
            tables = [pa.ipc.open_stream(data).read_all() for _ in range(2)]
        except (OSError, pa.ArrowException) as error:
            raise self._files.damaged(error) from error
        requests, actions = (table if table.num_columns else None for table in tables)
        self.pending.with_tables(requests, actions)
        if requests is not None:
            self._requests.remember(requests, now_us=self._stepped_us)


def _tables_as_bytes(*tables: Any) -> bytes:
    sink = pa.BufferOutputStream()
    for given in tables:
        table = pa.table({}) if given is None else given
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table)
    return bytes(sink.getvalue())
