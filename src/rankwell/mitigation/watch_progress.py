"""How far the watch beside a log has read it: what a compaction leaves, and what it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from rankwell.errors import LogError, MonitoringError
from rankwell.monitoring.watch_counts import kept_positions
from rankwell.serving.log_folder import FolderLock
from rankwell.serving.log_reader import LogPosition

__all__ = ["WatchProgress", "watch_progress", "without_watch"]


@final
@dataclass(frozen=True, slots=True)
class WatchProgress:
    """Where a watch goes on.

    Args:
        positions: Of each log that it has read in, "served" or "actions".
        kept_us: When that was put down, UTC microseconds; None where it is not, or cannot be read: then a watch begins
            with the oldest segments that are there.
    """

    positions: Mapping[str, LogPosition]
    kept_us: int | None

    def of(self, log: str) -> LogPosition:
        """How far it has read one log: not at all, where it doesn't say."""
        return self.positions.get(log, LogPosition())


def watch_progress(folder: str | Path) -> WatchProgress | None:
    """How far `FOLDER/watch` says that it has read, whether its process runs or not; None: nobody watches the folder.

    >>> watch_progress("nowhere")
    """
    own = Path(folder) / "watch"
    if not own.is_dir():
        return None
    path = own / "counts.arrow"
    try:
        texts, kept_us = kept_positions(path), path.stat().st_mtime_ns // 1_000
        return WatchProgress({log: LogPosition.from_json(text) for log, text in texts.items()}, kept_us)
    except (FileNotFoundError, MonitoringError, LogError):
        return WatchProgress({}, None)


def without_watch(folder: str | Path) -> FolderLock:
    """A lock under which no watch of the folder runs.

    Raises:
        LogError: One does.
    """
    return FolderLock.exclusive(
        Path(folder) / "watch" / "lock", held=f"a process watches the folder {str(folder)!r}, and is not to be ignored"
    )
