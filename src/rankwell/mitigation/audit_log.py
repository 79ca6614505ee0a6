"""What a mitigation loop decided, line by line: appended and forced to the disk before anything is carried out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import final

from pydantic import ValidationError

from rankwell.errors import MitigationError, SchemaError
from rankwell.mitigation.mitigation_state import Decision

__all__ = ["AuditLog"]


@final
class AuditLog:
    """A file of one JSON line a decision, to which lines are only ever added.

    A line that was torn when its process ended is closed by the next one; readers pass over it.

    Args:
        path: Of the file; the first `append` makes it, and its folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = AuditLog(Path(folder) / "audit.jsonl")
    ...     log.append(Decision(sequence=1, now_us=5, kind="detect", reason="clicks are few"))
    ...     [(line.sequence, line.kind) for line in log.lines()], log.last_sequence()
    ([(1, 'detect')], 1)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, decision: Decision) -> None:
        """Write a decision; when it returns, the line survives a power cut.

        Raises:
            MitigationError: It can't be written: then nothing may be carried out.
        """
        line = decision.model_dump_json().encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MitigationError(
                f"a decision can't be written to {self.path}", found=error.strerror,
                do="make room on the disk; what is in force ends by itself",
            ) from error  # fmt: skip

    def lines(self) -> Iterator[Decision]:
        """All decisions, oldest first; lines that are none are passed over."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                try:
                    yield Decision.model_validate_json(line)
                except (ValidationError, SchemaError):
                    continue

    def last_sequence(self) -> int:
        """Of the newest line; 0 of an empty log."""
        return max((line.sequence for line in self.lines()), default=0)
