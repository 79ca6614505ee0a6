"""The embedded engine: follows the folder that servers log to, and goes on where it was, whenever it is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, final

from rankwell.errors import LogError
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.serving.log_folder import LogFolder
from rankwell.serving.log_reader import LogPosition, read_records, read_served

__all__ = ["FolderWatch"]

_SERVED: Final = "served"
_ACTIONS: Final = "actions"


@final
class FolderWatch:
    """Brings counts up to date with a folder, step by step.

    Positions of the log and what was counted up to them are written together, so nothing is lost or counted twice. A
    machine's folders are watched by one process each; their panes add up.

    Args:
        folder: That `rankwell serve` logs to.
        counts: Where to count; where the checkpoint is there, it is read into them.
        checkpoint: A file of its own.
        on_damage: Called with what is wrong of a stretch of the log, which is passed over.

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
            LogError: The log was compacted past what was read: compact with `read_by`.
        """
        num = 0
        for served, position in read_served(self.folder, self._position(_SERVED), on_damage=self._on_damage):
            self.counts.see(served, now_us=now_us)
            self.counts.positions[_SERVED] = position.to_json()
            num += len(served)
        actions = LogFolder(self.folder / _ACTIONS, _ACTIONS)
        if actions.path.is_dir():
            for rows, _, position in read_records(actions, self._position(_ACTIONS), on_damage=self._on_damage):
                self.counts.see_actions(rows)
                self.counts.positions[_ACTIONS] = position.to_json()
                num += len(rows)
        self.counts.settle(now_us=now_us)
        self.counts.write(self._checkpoint)
        return num

    def _position(self, log: str) -> LogPosition | None:
        text = self.counts.positions.get(log)
        return None if text is None else LogPosition.from_json(text)
