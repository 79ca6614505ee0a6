"""One worker's stream of segments: appended to, rolled and sealed, on a disk that may be full.

What was appended survives the end of the process, however it ends; against a loss of power only what was synced.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, final

import pyarrow as pa

from rankwell.errors import LogError
from rankwell.schema import Schema
from rankwell.serving.log_folder import FolderLock, LogFolder
from rankwell.serving.log_segment import SegmentWriter

__all__ = ["LogCounts", "StreamWriter"]

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@final
@dataclass(frozen=True, slots=True)
class LogCounts:
    """What a writer did since it was made.

    Args:
        appended: Rows that are in the log.
        not_logged: Rows that are not: the sum of `by_reason`.
        by_reason: "disk_full" or "io_error" to how many.
        bytes: Written.
        segments: Begun.
    """

    appended: int
    not_logged: int
    by_reason: Mapping[str, int]
    bytes: int
    segments: int


@final
class StreamWriter:
    """Appends Arrow messages to the segments of one worker's stream; several threads may.

    Args:
        folder: Made where there is none.
        log_schema: Of the log.
        arrow_schema: Of the record batches.
        worker: Letters, digits and _: the stream's name, held by one process at a time.
        server: What the workers of one server have in common; None where this one is alone. Another server is refused.
        now_us: UTC microseconds.
        segment_bytes: A segment is sealed when it is as long as this.
        segment_s: Or as old as this when something is appended.
        sync_s: How often what was appended is forced down to the disk: 0 for each time, None for never.

    Raises:
        LogError: Another server or process writes here, or the folder holds another log.
    """

    def __init__(
        self,
        folder: LogFolder,
        log_schema: Schema,
        arrow_schema: pa.Schema,
        *,
        worker: str,
        server: str | None,
        now_us: Callable[[], int],
        segment_bytes: int,
        segment_s: float,
        sync_s: float | None,
    ) -> None:
        self._folder, self._arrow_schema, self._worker, self._now_us = folder, arrow_schema, worker, now_us
        self._segment_bytes, self._segment_us = segment_bytes, round(segment_s * 1e6)
        self._sync_us = None if sync_s is None else round(sync_s * 1e6)
        try:
            folder.create(log_schema)
        except OSError as error:
            raise LogError(
                f"the log folder {str(folder.path)!r} can't be made",
                found=error.strerror,
                do="make room on the disk, or choose a folder that this process may write to",
            ) from error
        self._server_lock = FolderLock.of_server(folder, server or f"process {os.getpid()} {secrets.token_hex(4)}")
        try:
            self._worker_lock = FolderLock.of_worker(folder, worker)
        except BaseException:
            self._server_lock.release()
            raise
        self.num_bytes_cut = folder.recover(worker)
        self._number = folder.next_number(worker)
        self._segment: SegmentWriter | None = None
        self._opened_us = self._synced_us = now_us()
        self._appended = self._bytes = self._segments = 0
        self._reasons: Counter[str] = Counter()
        self._failed_bytes = 0
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def counts(self) -> LogCounts:
        """What it did so far."""
        reasons = dict(self._reasons)
        return LogCounts(self._appended, sum(reasons.values()), reasons, self._bytes, self._segments)

    @property
    def is_healthy(self) -> bool:
        """Whether the last append (or probe) went well."""
        return self._failed_bytes == 0

    def append(self, message: pa.Buffer, num_rows: int) -> bool:
        """Append one message of some rows; whether it is in the log now."""
        with self._lock:
            if self._is_closed:
                raise LogError(f"the log {str(self._folder.path)!r} is closed", do="append before it is closed")
            try:
                now_us = self._now_us()
                self._seal_if_due(now_us)
                segment = self._segment or self._begin(now_us)
                self._bytes += segment.append(message)
                self._appended += num_rows
                self._failed_bytes = 0
            except OSError as error:
                return self._failed(error, len(message), num_rows)
            try:
                if self._sync_us is not None and abs(now_us - self._synced_us) >= self._sync_us:
                    segment.sync()
                    self._synced_us = now_us
            except OSError as error:
                # It is in the log, but only as long as the machine runs, which isn't what was asked for.
                self._appended -= num_rows
                return self._failed(error, len(message), num_rows)
            return True

    def probe(self) -> bool:
        """Whether all is well, or there is room again for what failed last: so a server without traffic finds out."""
        with self._lock:
            if self._failed_bytes and not self._is_closed:
                with suppress(OSError):
                    (self._segment or self._begin(self._now_us())).probe(self._failed_bytes)
                    self._failed_bytes = 0
            return self.is_healthy

    def seal_if_due(self) -> None:
        """Seal the segment if it is old enough, though nothing is appended any more."""
        with self._lock, suppress(OSError):
            self._seal_if_due(self._now_us())

    def close(self) -> None:
        """Seal the segment and let go of the folder."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                with suppress(OSError):  # the next writer of this stream, or a compactor, seals it
                    self._seal()
            finally:
                self._worker_lock.release()
                self._server_lock.release()

    def _begin(self, now_us: int) -> SegmentWriter:
        path = self._folder.segment_path(self._worker, self._number, is_sealed=False)
        self._segment = SegmentWriter(path, self._arrow_schema)
        self._opened_us = now_us
        self._segments += 1
        return self._segment

    def _seal_if_due(self, now_us: int) -> None:
        if self._segment is None:
            return
        # A clock that was set back makes a segment no younger.
        is_old = abs(now_us - self._opened_us) >= self._segment_us
        if is_old or self._segment.num_bytes >= self._segment_bytes:
            self._seal()

    def _seal(self) -> None:
        if self._segment is None:
            return
        self._segment.settle()
        if self._sync_us is not None:
            self._segment.sync()
        if self._segment.is_empty:
            self._segment.path.unlink()
        else:
            self._segment.path.rename(self._folder.segment_path(self._worker, self._number, is_sealed=True))
            self._number += 1
        self._segment.close()
        self._segment = None

    def _failed(self, error: OSError, num_bytes: int, num_rows: int) -> bool:
        self._reasons["disk_full" if error.errno in _FULL else "io_error"] += num_rows
        self._failed_bytes = num_bytes
        return False
