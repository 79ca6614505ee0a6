"""Rows in numbered files of a folder, each in one of them, once, whenever the process that writes them is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from rankwell.data.atomic_file import AtomicFile
from rankwell.errors import LogError, MonitoringError
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.serving.log_reader import LogPosition

__all__ = ["RowFiles"]


@final
class RowFiles:
    """Writes a file and, beside it, how to go on after it.

    What stands beside a file is written first, under a name that begins with ".", and holds from when the file has its
    own name. So a process that is killed in between writes both again, and no reader has seen either.

    Args:
        folder: Which these files alone are written to. The newest file stays, older ones may be removed.
        name: Files are called ``<name>-<number>.csv``.

    Raises:
        MonitoringError: What stands beside the newest file is damaged, or not there.
    """

    def __init__(self, folder: str | Path, name: str) -> None:
        self._folder, self._name = Path(folder), name
        self.num_rows = 0
        """In all files together."""
        self.tail = b""
        """What was given to `write` with the newest file that was there."""
        self._state: Mapping[str, Any] = {}
        self._unwritten: list[FlatRows] = []  # they stay where the disk does not take them
        self._folder.mkdir(parents=True, exist_ok=True)
        files = sorted(self._folder.glob(f"{name}-*.csv"))
        self._next = 0
        if files:
            self._next = int(files[-1].stem.removeprefix(f"{name}-")) + 1
            self._read()
            self._forget_older()

    def position(self, log: str) -> LogPosition | None:
        """How far a log had been read for the newest file; None, if there is none.

        Raises:
            MonitoringError: What stands beside it does not say so.
        """
        try:
            return LogPosition.from_json(self._state[log]) if self._state else None
        except (TypeError, KeyError, LogError) as error:
            raise self.damaged(error) from error

    def time_us(self, name: str) -> int:
        """A time of when the newest file was written; 0, if there is none.

        Raises:
            MonitoringError: What stands beside it does not say so.
        """
        try:
            return int(self._state[name]) if self._state else 0
        except (ValueError, TypeError, KeyError) as error:
            raise self.damaged(error) from error

    def add(self, rows: FlatRows) -> None:
        """Rows for the next file."""
        if len(rows):
            self._unwritten.append(rows)

    def write(
        self, write: Callable[[FlatRows, Path], None],
        *, positions: Mapping[str, LogPosition | None], times_us: Mapping[str, int], tail: bytes = b"",
    ) -> int:  # fmt: skip
        """All rows that were added, in the order of their times, as one file; none if there are none.

        Args:
            write: Of rows and a path: a file that is whole when it takes its name.
            positions: How far each log was read; None: not at all.
            times_us: What else is to be known to go on after the file: times,
            tail: and anything.

        Returns:
            How many rows.

        Raises:
            OSError: The disk does not take it; the rows stand in the next file.
        """
        if not self._unwritten:
            return 0
        rows = _in_order(self._unwritten)
        num_rows = self.num_rows + len(rows)
        texts = {log: (position or LogPosition()).to_json() for log, position in positions.items()}
        state = {**texts, **times_us, "num_rows": num_rows}
        with AtomicFile(self._beside(self._next)) as file:
            file.write(json.dumps(state).encode() + b"\n" + tail)
        write(rows, self._folder / f"{self._name}-{self._next:09}.csv")
        self._next, self.num_rows, self._state = self._next + 1, num_rows, state
        self._unwritten.clear()
        self._forget_older()
        return len(rows)

    def damaged(self, error: Exception) -> MonitoringError:
        """That nobody can go on from the state."""
        return MonitoringError(
            f"{str(self._beside(self._next - 1))!r} does not say how far the log was read",
            found=str(error), allowed="what a feed wrote",
            do="empty the folder, and start the job anew: the feed begins with the oldest segments that are there",
        )  # fmt: skip

    def _read(self) -> None:
        try:
            head, _, self.tail = self._beside(self._next - 1).read_bytes().partition(b"\n")
            self._state = dict(json.loads(head))
            self.num_rows = int(self._state["num_rows"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self.damaged(error) from error

    def _beside(self, number: int) -> Path:
        return self._folder / f".{self._name}-{number:09}.state"

    def _forget_older(self) -> None:
        for path in self._folder.glob(f".{self._name}-*.state"):
            if path < self._beside(self._next - 1):
                path.unlink()


def _in_order(parts: list[FlatRows]) -> FlatRows:
    times_us_C = np.concatenate([rows.times_us_C for rows in parts])
    order_C = np.argsort(times_us_C, kind="stable")
    columns = {name: np.concatenate([rows.columns[name] for rows in parts])[order_C] for name in parts[0].columns}
    return FlatRows(times_us_C[order_C], columns)
