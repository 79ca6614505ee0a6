"""The embedded engine: follows the folder that servers log to, and goes on where it was, whenever it is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, final

import pyarrow as pa

from rankwell.errors import LogError
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.serving.log_folder import LogFolder
from rankwell.serving.log_reader import LogPosition, missed, read_records, read_served

__all__ = ["FolderWatch"]

_SERVED: Final = "served"
_ACTIONS: Final = "actions"
_LARGE_BYTES: Final = 128 * 2**20


@final
class FolderWatch:
    """Brings counts up to date with a folder, step by step.

    Positions of the log and what was counted up to them are written together, so nothing is lost or counted twice. A
    machine's folders are watched by one process each; their panes add up.

    Args:
        folder: That `rankwell serve` logs to.
        counts: Where to count; where the checkpoint is there, it is read into them.
        checkpoint: A file of its own.
        on_damage: Called with what is wrong of a stretch of the log, or was compacted unread; it is passed over.

    Raises:
        MonitoringError: The checkpoint is of another watch, or damaged.
    """

    def __init__(
        self, folder: str | Path, counts: WatchCounts, checkpoint: str | Path,
        *, on_damage: Callable[[LogError], None],
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        """That servers log to."""
        self._checkpoint, self._on_damage = Path(checkpoint), on_damage
        self.counts = counts.read(checkpoint) if self._checkpoint.exists() else counts

    def step(self, *, now_us: int) -> int:
        """Count all that came since, settle what is due, and put it down.

        Args:
            now_us: UTC microseconds.

        Returns:
            How many rows of the log came, served requests and actions together.

        Raises:
            LogError: There is no such log, or it is compacted past what was read at this very moment.
        """
        num = 0
        for served, position in self._served():
            self.counts.see(served, now_us=now_us)
            self.counts.positions[_SERVED] = position.to_json()
            num += len(served)
        actions = LogFolder(self.folder / _ACTIONS, _ACTIONS)
        if actions.path.is_dir():
            for rows, _, position in read_records(actions, self._position(actions), on_damage=self._on_damage):
                self.counts.see_actions(rows)
                self.counts.positions[_ACTIONS] = position.to_json()
                num += len(rows)
        self.counts.settle(now_us=now_us)
        self.counts.write(self._checkpoint)
        return num

    def _served(self) -> Iterator[tuple[Any, LogPosition]]:
        """What was served since, in pieces that are large: each is merged with all that was counted before."""
        pieces: list[Any] = []
        read = self._position(LogFolder(self.folder / _SERVED, _SERVED))
        position = LogPosition()
        for served, position in read_served(self.folder, read, on_damage=self._on_damage):
            pieces.append(served)
            if sum(piece.nbytes for piece in pieces) > _LARGE_BYTES:
                yield pa.concat_tables(pieces), position
                pieces = []
        if pieces:
            yield pa.concat_tables(pieces), position

    def _position(self, log: LogFolder) -> LogPosition | None:
        """Where to go on. What was compacted unread is said, and passed over."""
        text = self.counts.positions.get(log.kind)
        if text is None:
            return None
        position = LogPosition.from_json(text)
        for worker, (number, byte) in missed(log, position).streams.items():
            last, _ = position.streams[worker]
            error = LogError(
                f"segments of stream {worker!r} in {str(log.path)!r} were compacted before they were read",
                found=f"read up to segment {last}, compacted up to segment {number}",
                do="nothing: watching goes on behind them, and what was in them is not counted",
            )
            self._on_damage(error)
            position = position.after(worker, number, byte)
        self.counts.positions[log.kind] = position.to_json()
        return position
