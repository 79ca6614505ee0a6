"""The log of what was served: one append a request, which is there whole or said not to be.

A worker process has a writer of its own, and all writers of one server share a folder. What `append` returned True for
survives the end of the process, however it ends; against a loss of power only what was synced. A full or broken disk
never raises: the server goes on answering, and what was not logged is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, final

import numpy as np

from rankwell.errors import LogError
from rankwell.schema import Schema
from rankwell.serving.log_folder import LogFolder
from rankwell.serving.log_stream import LogCounts, StreamWriter
from rankwell.serving.served_record import ServedRecord
from rankwell.serving.served_request import ServedRequest
from rankwell.tables.hashing import mix64, name_salt

__all__ = ["ServedLog"]

_SALT: Final = np.uint64(name_salt("all candidates of a request"))


@final
class ServedLog:
    """Appends answers to a folder that the worker processes of one server share.

    A row holds the candidates that were shown. Of a share `all_candidates_rate` of the requests, drawn by (seed,
    request id), it holds all of them: what was not shown has position 0 and never gets a label, and shows what the
    model says of what it doesn't choose.

    Args:
        folder: Segments go to ``folder/served/segments``, and by `rankwell.serving.log_compaction` to Parquet.
        schema: Of the bundle. It names request id, time, item, position and propensity.
        worker: This process's name, such as "w0": letters, digits and _. One that starts again under the name of one
            that died seals what that left.
        seed: Of the draw of requests that are logged whole; one for all workers, or a retry may be drawn anew.
        now_us: UTC microseconds; tells how old a segment is.
        server: One text for all workers of a server; None for a process that writes alone.
        all_candidates_rate: In [0, 1].
        segment_bytes, segment_s: How long and how old a segment gets before it is sealed.
        sync_s: None: an answer survives the process, not a loss of power. Else what was appended is forced down when
            the last time is as long ago as this: after a loss of power, so much is missing at most.

    Raises:
        LogError: Another server writes into this folder, another process under this name, or the folder holds a log of
            another schema or of a newer format.
        SchemaError: The schema misses one of the above.
    """

    def __init__(
        self,
        folder: str | Path,
        schema: Schema,
        *,
        worker: str,
        seed: int,
        now_us: Callable[[], int],
        server: str | None = None,
        all_candidates_rate: float = 0.01,
        segment_bytes: int = 64 * 2**20,
        segment_s: float = 60.0,
        sync_s: float | None = None,
    ) -> None:
        if not 0 <= all_candidates_rate <= 1:
            raise LogError(
                "all_candidates_rate is no share", found=all_candidates_rate, allowed="0 to 1", do="give a share"
            )
        self._record = ServedRecord(schema)
        self._below, self._seed = round(all_candidates_rate * 2**64), np.uint64(seed % 2**64)
        self._stream = StreamWriter(
            LogFolder(Path(folder) / "served", "served"),
            schema,
            self._record.arrow_schema,
            worker=worker,
            server=server,
            now_us=now_us,
            segment_bytes=segment_bytes,
            segment_s=segment_s,
            sync_s=sync_s,
        )

    @property
    def counts(self) -> LogCounts:
        """What was logged and what was not, since this writer was made."""
        return self._stream.counts

    @property
    def is_healthy(self) -> bool:
        """Whether the last answer was logged, or there has been room since (`probe`)."""
        return self._stream.is_healthy

    def logs_all_candidates(self, request_id: int) -> bool:
        """Whether a request is among those that are logged whole."""
        drawn = mix64(mix64(self._seed ^ _SALT) ^ np.uint64(request_id % 2**64))
        return int(drawn) < self._below

    def append(self, served: ServedRequest) -> bool:
        """Log an answer.

        Returns:
            Whether it is in the log. False for a full disk or any other error of the disk: it is counted, and the next
            append tries again.

        Raises:
            LogError: The answer doesn't fit the schema, or the log is closed.
        """
        record = self._record.packed(served, all_candidates=self.logs_all_candidates(served.request_id))
        return self._stream.append(record.serialize(), 1)

    def probe(self) -> bool:
        """Whether the log takes rows; after a failure it tries the disk, so ask it where readiness is asked for."""
        return self._stream.probe()

    def seal_if_due(self) -> None:
        """Seal a segment that is old enough, where no append does it: call it now and then."""
        self._stream.seal_if_due()

    def close(self) -> None:
        """Seal the segment, and let go of the folder."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
