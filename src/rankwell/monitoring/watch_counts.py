"""All that watching keeps, in one file: panes, outcomes, those of trials, who answered, what waits, how far it read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Self, final

import pyarrow as pa

from rankwell.data.atomic_file import AtomicFile
from rankwell.errors import MonitoringError
from rankwell.monitoring.arrivals import Arrivals
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.outcome_pane import OutcomePane, outcomes_from_table, outcomes_table
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_file import pane_from_table, pane_table
from rankwell.monitoring.pane_layout import PaneLayout
from rankwell.monitoring.pending_outcomes import PendingOutcomes
from rankwell.monitoring.tick_history import TICK_US
from rankwell.monitoring.version_pane import VersionPane
from rankwell.schema import Schema

__all__ = ["WatchCounts", "kept_positions"]

_VERSION: Final = "3"
_HEAD: Final = pa.schema({"log": pa.string(), "position": pa.string()})
_WRITTEN: Final = pa.ipc.IpcWriteOptions(compression="lz4")
"""Most counts are 0: a seventh of the size, in the same time."""
_US: Final = 1e6
_FINE_US: Final = 28 * 4 * TICK_US
"""So long minutes are told apart: baselines learn from those of a day, and the newest hour is not in it."""


@final
class WatchCounts:
    """Counts served requests and their actions as they come, and forgets what is older than `keep_s`.

    `write` puts down counts and the reader's positions in one step, and `read` begins there again: whenever the process
    is killed, each request is in the panes once.

    Args:
        schema: The log's.
        layout: What to count of the candidates that were shown: features, logits, probabilities.
        action: Whose outcomes are counted, by the layout's segments.
        keep_s: How long panes are kept; by default what `HeldDays` looks at, and outcomes half a day later.
        late_s: How late requests and actions may come.
        ahead_s: By how much a server's clock may go before ours.

    Raises:
        MonitoringError: The schema does not say what is needed.
    """

    def __init__(
        self,
        schema: Schema,
        layout: PaneLayout,
        action: str,
        *,
        keep_s: float = 15.5 * 86_400.0,
        late_s: float = 120.0,
        ahead_s: float = 60.0,
    ) -> None:
        self.pane, self.outcomes, self.versions = Pane.nothing(layout), OutcomePane.nothing(action), VersionPane()
        self.trials: dict[str, OutcomePane] = {}
        """What became of the requests that bundles on trial answered in the last day and a little, by the bundles' ids:
        they are not in `outcomes`."""
        self.positions: dict[str, str] = {}
        """How far each log was read, as its reader writes it down."""
        self.settled_us = 0
        """Outcomes of requests before it are all counted."""
        self.reported_until_us = 0
        """Until when actions were reported, at the last `settle`: its time, if they are."""
        self.pending = PendingOutcomes(schema, action, layout.segments, late_s=late_s)
        self.arrivals = Arrivals(remembered_s=late_s, ahead_s=ahead_s)
        self._stepped_us = 0
        self._schema, self._keep_us = schema, round(keep_s * _US)
        self._names = [*(column.name for column in layout.columns)]
        self._names += [layout.segments.name] if layout.segments is not None else []

    def see(self, served: Any, *, now_us: int) -> None:
        """Count requests.

        Args:
            served: Rows of the log, with the served columns.
            now_us: UTC microseconds. What is ahead of it, what has come before, and what was older than `late_s` when
                `settle` was called last is not counted: `arrivals.report` says how many.
        """
        request_id, time = self._schema.request_id, self._schema.time
        ids_R, times_us_R = (served[name].combine_chunks().cast(pa.int64()).to_numpy() for name in (request_id, time))
        is_new_R = self.arrivals.new(ids_R, times_us_R, now_us=now_us, since_us=self._stepped_us)
        served = served.filter(pa.array(is_new_R))
        if len(served):
            self.versions = self.versions + VersionPane.of(served, times_us_R[is_new_R])
            rows = FlatRows.of_table(served, self._schema, self._names, rows="shown")
            self.pane = self.pane + Pane.of(self.pane.layout, rows)
            self.pending.add(served)

    def see_actions(self, actions: Any) -> None:
        """Count actions, when their requests are due."""
        self.pending.add_actions(actions)

    def settle(self, *, now_us: int) -> None:
        """Count the outcomes that are due; sum up to quarter-hours what is a day old, and forget what is too old."""
        settling = self.pending.settling(
            now_us=now_us, stepped_us=self._stepped_us, settled_us=self.settled_us, keep_us=self._keep_us
        )
        outcomes, trials = self.pending.settled(
            self.versions, now_us=now_us, from_us=settling.from_us, reported_until_us=settling.reported_until_us
        )
        self.outcomes = self.outcomes + outcomes
        nothing = OutcomePane.nothing(self.outcomes.action)
        self.trials = {
            bundle_id: self.trials.get(bundle_id, nothing) + trials.get(bundle_id, nothing)
            for bundle_id in sorted({*self.trials, *trials})
        }
        self.reported_until_us, self.settled_us = settling.reported_until_us, settling.settled_us
        self._stepped_us = now_us
        oldest_us = (now_us - self._keep_us) // MINUTE_US * MINUTE_US
        until_us = 2**62 // MINUTE_US * MINUTE_US
        fine_us = (now_us - _FINE_US) // TICK_US * TICK_US
        self.pane = self.pane.between(oldest_us, until_us).coarsened(fine_us, TICK_US)
        self.outcomes = self.outcomes.between(oldest_us, until_us).coarsened(fine_us, TICK_US)
        kept = {trial: pane.between(fine_us, until_us) for trial, pane in self.trials.items()}
        self.trials = {trial: pane for trial, pane in kept.items() if len(pane)}
        self.versions = self.versions.between(oldest_us, until_us)

    def write(self, path: str | Path) -> None:
        """Put all down; the file is whole or as it was.

        Raises:
            OSError: The disk does not take it.
        """
        requests, actions = (pa.table({}) if table is None else table for table in self.pending.tables())
        names = list(self.positions)
        head = pa.table({"log": names, "position": list(self.positions.values())}, _HEAD)
        times = {b"settled_us": str(self.settled_us), b"stepped_us": str(self._stepped_us)}
        names_of_trials = json.dumps(list(self.trials)).encode()
        head = head.replace_schema_metadata({b"rankwell.watch_version": _VERSION, **times, b"trials": names_of_trials})
        with AtomicFile(path) as file:
            panes = pane_table(self.pane), outcomes_table(self.outcomes), self.versions.table
            trials = [outcomes_table(pane) for pane in self.trials.values()]
            for table in (head, *panes, requests, actions, *trials):
                with pa.ipc.new_stream(file, table.schema, options=_WRITTEN) as writer:
                    writer.write_table(table)

    def read(self, path: str | Path) -> Self:
        """Begin again where `write` left off.

        Raises:
            MonitoringError: The file is damaged, or of another format, layout or action.
            OSError: It cannot be read.
        """
        data = pa.BufferReader(Path(path).read_bytes())
        try:
            head = _head_of(data)
            metadata = head.schema.metadata
            pane, outcomes, versions, requests, actions = (pa.ipc.open_stream(data).read_all() for _ in range(5))
            trials = {trial: pa.ipc.open_stream(data).read_all() for trial in json.loads(metadata[b"trials"])}
            settled_us, stepped_us = int(metadata[b"settled_us"]), int(metadata[b"stepped_us"])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise _no_checkpoint(path, str(error)) from error
        read_pane, read_outcomes = pane_from_table(pane, file=str(path)), outcomes_from_table(outcomes, file=str(path))
        if read_pane.layout != self.pane.layout or read_outcomes.action != self.outcomes.action:
            raise _no_checkpoint(path, "counts of another layout or action")
        self.pane, self.outcomes = read_pane, read_outcomes
        self.versions = VersionPane.from_table(versions, file=str(path))
        self.trials = {trial: outcomes_from_table(table, file=str(path)) for trial, table in trials.items()}
        self.settled_us, self._stepped_us = settled_us, stepped_us
        self.positions = _positions_of(head)
        self.pending.with_tables(*(table if table.num_columns else None for table in (requests, actions)))
        return self


def kept_positions(path: str | Path) -> dict[str, str]:
    """`WatchCounts.positions` as a checkpoint has them, without its counts.

    Raises:
        MonitoringError: The file is damaged, or of another format.
        OSError: It cannot be read.
    """
    with Path(path).open("rb") as file:
        try:
            return _positions_of(_head_of(file))
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise _no_checkpoint(path, str(error)) from error


def _head_of(file: Any) -> Any:
    head = pa.ipc.open_stream(file).read_all()
    version = (head.schema.metadata or {}).get(b"rankwell.watch_version", b"none").decode(errors="replace")
    if version != _VERSION:
        raise ValueError(f"version {version}")
    return head


def _positions_of(head: Any) -> dict[str, str]:
    return dict(zip(head["log"].to_pylist(), head["position"].to_pylist(), strict=True))


def _no_checkpoint(path: str | Path, found: str) -> MonitoringError:
    return MonitoringError(
        f"{str(path)!r} is no checkpoint of this watch", found=found, allowed="what it wrote before",
        do="move it away, and watching begins with the oldest segments of the log that are there",
    )  # fmt: skip
