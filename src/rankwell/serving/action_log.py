"""Actions as members' clients report them: late, out of order, more than once; each counts once.

What `append` returned for survives the end of the process, as with what was served. A client that got no answer sends
its actions again: an action is known by its key, so a repeated one changes nothing.

Letters: E actions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rankwell.data.atomic_file import AtomicFile
from rankwell.data.string_ids import hash_strings
from rankwell.errors import LogError, RequestError
from rankwell.schema import Schema
from rankwell.serving.log_compaction import CompactionReport, compact_rows, keys_since
from rankwell.serving.log_folder import LogFolder
from rankwell.serving.log_reader import LogPosition, OnDamage
from rankwell.serving.log_stream import LogCounts, StreamWriter

__all__ = ["ActionLog", "ReportedAction", "compact_actions"]

_ARROW_SCHEMA: Final = pa.schema(
    {
        "request_id": pa.int64(),
        "item_id": pa.int64(),
        "action": pa.string(),
        "time_us": pa.int64(),
        "grade": pa.int32(),
        "arrived_us": pa.int64(),
        "key": pa.int64(),
    }
)
_MOST: Final = 2**63 - 1
_HIGHEST_GRADE: Final = 2**31 - 1


@final
@dataclass(frozen=True, slots=True)
class ReportedAction:
    """Something that a member did with an item of an answer.

    Args:
        request_id: Of the answer.
        item_id: Of the item.
        action: Its name in the schema.
        time_us: When it happened, UTC microseconds; it may be long ago.
        grade: Of a graded action; None of a binary one.
        key: What makes it the same action when it is sent again; by default request, item, action and grade.
    """

    request_id: int
    item_id: int
    action: str
    time_us: int
    grade: int | None = None
    key: str | None = None


@final
class ActionLog:
    """Appends reported actions to a folder that the worker processes of one server share.

    Args:
        folder: The same as the `ServedLog`'s: actions go to ``folder/actions``.
        schema: Knows the actions.
        worker, server, segment_bytes, segment_s, sync_s: As of `ServedLog`.
        now_us: UTC microseconds: when an action arrived.
        num_remembered: So many of the last keys this writer knows again.

    Raises:
        LogError: As of `ServedLog`.
    """

    def __init__(
        self,
        folder: str | Path,
        schema: Schema,
        *,
        worker: str,
        now_us: Callable[[], int],
        server: str | None = None,
        num_remembered: int = 100_000,
        segment_bytes: int = 64 * 2**20,
        segment_s: float = 60.0,
        sync_s: float | None = None,
    ) -> None:
        self._graded = {action.name: action.kind == "graded" for action in schema.actions}
        self._now_us, self._num_remembered = now_us, num_remembered
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._stream = StreamWriter(
            LogFolder(Path(folder) / "actions", "actions"),
            schema,
            _ARROW_SCHEMA,
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
        """Whether the last actions were logged, or there has been room since (`probe`)."""
        return self._stream.is_healthy

    def append(self, actions: Sequence[ReportedAction]) -> int:
        """Log actions: all of them, or none.

        They may come in any order, before or after others of their request, and again. Whether the request was ever
        answered is found out when they are joined.

        Returns:
            How many are new to this writer. It is what may be promised to a client: all of them are in the log, and
            each counts once in what is made of it. Of an action that another worker took before, or this one long ago
            or before it was started anew, it says "new"; it is dropped when the log is compacted.

        Raises:
            RequestError: An action that the schema doesn't have, a grade where none may be or none where one must, an
                id or a time out of range. Nothing is logged.
            LogError: The disk is full or broken; nothing is logged, and the client has to try again.
        """
        for place, action in enumerate(actions):
            self._check(action, place)
        if not actions:
            return 0
        keys_E = np.asarray(hash_strings(pa.array([_key_text(a) for a in actions], pa.string())).to_numpy()).tolist()
        new = {key: a for key, a in zip(reversed(keys_E), reversed(actions), strict=True) if key not in self._seen}
        if not new:
            return 0
        arrived_us = self._now_us()
        chosen = list(reversed(new.items()))
        batch = pa.record_batch(
            [
                [a.request_id for _, a in chosen],
                [a.item_id for _, a in chosen],
                [a.action for _, a in chosen],
                [a.time_us for _, a in chosen],
                pa.array([a.grade for _, a in chosen], pa.int32()),
                [arrived_us] * len(chosen),
                [key for key, _ in chosen],
            ],
            schema=_ARROW_SCHEMA,
        )
        if not self._stream.append(batch.serialize(), len(chosen)):
            raise LogError(
                "the actions can't be logged: the disk is full or broken",
                found=dict(self.counts.by_reason),
                do="send them again later; none of them was logged",
            )
        for key, _ in chosen:
            self._seen[key] = None
        while len(self._seen) > self._num_remembered:
            self._seen.popitem(last=False)
        return len(chosen)

    def probe(self) -> bool:
        """Whether the log takes actions; see `ServedLog.probe`."""
        return self._stream.probe()

    def seal_if_due(self) -> None:
        """See `ServedLog.seal_if_due`."""
        self._stream.seal_if_due()

    def close(self) -> None:
        """Seal the segment, and let go of the folder."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check(self, action: ReportedAction, place: int) -> None:
        is_graded = self._graded.get(action.action)
        if is_graded is None:
            raise RequestError(
                f"action {place} (from 0) is unknown",
                found=action.action,
                allowed=list(self._graded),
                do="send the name of one of the schema's actions",
            )
        for name, value in (
            ("request_id", action.request_id),
            ("item_id", action.item_id),
            ("time_us", action.time_us),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
                raise RequestError(
                    f"{name!r} of action {place} (from 0) is out of range",
                    found=value,
                    allowed="a whole number, 0 … 2⁶³ - 1",
                    do="send the ids as they were answered, and UTC microseconds",
                )
        grade = action.grade
        if is_graded != (grade is not None) or (grade is not None and not 0 <= grade <= _HIGHEST_GRADE):
            raise RequestError(
                f"'grade' of action {place} (from 0) is not as the schema has it",
                found=grade,
                allowed="0 … 2³¹ - 1 for a graded action, none for a binary one",
                do="send a grade with graded actions, and with no others",
            )


def compact_actions(
    folder: str | Path,
    *,
    read_by: Sequence[LogPosition] = (),
    retry_s: float = 7 * 86_400.0,
    part_bytes: int = 128 * 2**20,
    on_damage: OnDamage | None = None,
) -> CompactionReport:
    """Move the sealed segments of an action log into ``folder/actions/parquet``, each action once.

    The files are as `rankwell.data.actions` has them, in the order of arrival.

    Args:
        folder, read_by, part_bytes, on_damage: As of `rankwell.serving.log_compaction.compact_served`.
        retry_s: How long after it came first an action may come again.

    Raises:
        LogError: There is no such log, or another compaction is running.
    """
    log = LogFolder(Path(folder) / "actions", "actions")
    log.schema()
    return compact_rows(
        log, _ActionRows(), read_by=read_by, retry_s=retry_s, part_bytes=part_bytes, on_damage=on_damage
    )


@final
class _ActionRows:
    """Records of actions: their key is their own."""

    def keys(self, records: pa.Table) -> NDArray[Any]:
        return np.asarray(records["key"].to_numpy())

    def times_us(self, records: pa.Table) -> NDArray[np.int64]:
        return np.asarray(records["arrived_us"].to_numpy())

    def known_keys(self, part: Path, since_us: int) -> NDArray[Any] | None:
        return keys_since(part, "key", "arrived_us", since_us)

    def write(self, part: Path, records: pa.Table, refused: Callable[[LogError], None]) -> int:
        with AtomicFile(part) as file:
            pq.write_table(records.replace_schema_metadata(None), file, compression="zstd")
        return len(records)


def _key_text(action: ReportedAction) -> str:
    if action.key is not None:
        return f"key {action.key}"
    return f"{action.request_id} {action.item_id} {action.action} {action.grade}"
