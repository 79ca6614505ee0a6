"""A folder that several writers append segments to, one stream each, and that one compactor empties into Parquet.

::

    folder/
      log.json                    the format, and the schema that the rows keep
      server.lock, w0.lock        held by the workers of one server, and by each worker
      segments/w0-00000007.open   being written by worker "w0"; sealed it is called .segment
      parquet/part-00000003.parquet
      compacted.json              which parts are whole, and up to where each stream stands in them
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, final

from rankwell.data.atomic_file import AtomicFile
from rankwell.data.layout import LogLayout
from rankwell.errors import LogError, SchemaError
from rankwell.schema import Schema
from rankwell.serving.log_segment import recover_segment

__all__ = ["Compacted", "FolderLock", "LogFolder", "Segment"]

FOLDER_VERSION: Final = 1
_NAME: Final = re.compile(r"(?P<worker>[A-Za-z0-9_]+)-(?P<number>\d{8})\.(?P<kind>open|segment)")
_WORKER: Final = re.compile(r"[A-Za-z0-9_]{1,64}")


@final
@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One segment of a folder: of which stream, its number in it, whether it is sealed, and where it lies."""

    worker: str
    number: int
    is_sealed: bool
    path: Path


@final
@dataclass(frozen=True, slots=True)
class Compacted:
    """What stands in Parquet.

    Args:
        parts: The files that are whole.
        last: Of each stream, the number of the last segment that is in them, and its bytes.
        next_part: The number of the next part.
    """

    parts: tuple[str, ...]
    last: Mapping[str, tuple[int, int]]
    next_part: int


@final
@dataclass(frozen=True, slots=True)
class LogFolder:
    """The paths of a log, and the files that say what it is.

    Args:
        path: The folder.
        kind: "served" or "actions": what its rows are.
    """

    path: Path
    kind: str

    @property
    def segments(self) -> Path:
        """Where segments lie."""
        return self.path / "segments"

    @property
    def parquet(self) -> Path:
        """Where the compacted log lies: a log of its own, that `open_log` takes."""
        return self.path / "parquet"

    def create(self, schema: Schema) -> None:
        """Make the folder, or see that the one that is there holds a log of this schema.

        Raises:
            LogError: It holds a log of other columns, or of a newer format.
        """
        for folder in (self.path, self.segments, self.parquet):
            folder.mkdir(parents=True, exist_ok=True)
        if not self._head.exists():
            text = {"format_version": FOLDER_VERSION, "kind": self.kind, "schema": json.loads(schema.to_json())}
            with AtomicFile(self._head) as file:
                file.write(json.dumps(text, indent=1).encode())
            return
        stored = self.schema()
        if LogLayout.of(stored, "requests").columns != LogLayout.of(schema, "requests").columns:
            theirs, mine = (set(LogLayout.of(one, "requests").columns) for one in (stored, schema))
            raise LogError(
                f"folder {str(self.path)!r} holds a log of another schema",
                found=sorted({f"{column.role} {column.name}" for column in theirs ^ mine}) or "another order",
                allowed="one schema a folder",
                do="log into a new folder: the rows of two schemas are two logs",
            )

    def schema(self) -> Schema:
        """The schema that the rows keep.

        Raises:
            LogError: There is no log, or one of another kind or of a newer format.
        """
        head = _read_json(self._head, "a log that a server wrote")
        if head.get("format_version") != FOLDER_VERSION or head.get("kind") != self.kind:
            raise LogError(
                f"folder {str(self.path)!r} holds a log of another format",
                found=f"format {head.get('format_version')!r} of {head.get('kind')!r}",
                allowed=f"format {FOLDER_VERSION} of {self.kind!r}",
                do="read it with the rankwell that wrote it, or give the folder of the log itself",
            )
        try:
            return Schema.from_json(json.dumps(head.get("schema")))
        except SchemaError as error:
            raise LogError(
                f"the schema in {str(self._head)!r} can't be read", found=error.what, do="restore the file"
            ) from error

    def list_segments(self) -> list[Segment]:
        """All segments, by stream and number."""
        found: dict[tuple[str, int], Segment] = {}
        for path in self.segments.iterdir() if self.segments.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match is not None:
                one = Segment(match["worker"], int(match["number"]), match["kind"] == "segment", path)
                key = (one.worker, one.number)
                if key not in found or one.is_sealed:  # renamed while the folder was read: it may be seen twice
                    found[key] = one
        return sorted(found.values())

    def segment_path(self, worker: str, number: int, *, is_sealed: bool) -> Path:
        """Where a segment lies."""
        return self.segments / f"{worker}-{number:08d}.{'segment' if is_sealed else 'open'}"

    def next_number(self, worker: str) -> int:
        """The number of a stream's next segment; a number is never given twice, compacted or not."""
        listed = [one.number for one in self.list_segments() if one.worker == worker]
        # Read after the listing: what a compactor took away meanwhile stands here.
        last = self.compacted().last.get(worker)
        return max([*listed, -1 if last is None else last[0]], default=-1) + 1

    def recover(self, worker: str) -> int:
        """Seal what a worker that is gone left open; the caller holds the worker's lock.

        Returns:
            The bytes of torn frames that were cut off.
        """
        num_cut = 0
        for one in self.list_segments():
            if one.worker == worker and not one.is_sealed:
                num_cut += recover_segment(one.path, self.segment_path(worker, one.number, is_sealed=True))
        return num_cut

    def recover_orphans(self) -> None:
        """Seal what workers left open that nobody is any more."""
        for worker in {one.worker for one in self.list_segments() if not one.is_sealed}:
            with suppress(LogError), FolderLock.of_worker(self, worker):
                self.recover(worker)

    def compacted(self) -> Compacted:
        """What stands in Parquet.

        Raises:
            LogError: The file that says so is damaged.
        """
        if not self._compacted.exists():
            return Compacted((), {}, 0)
        text = _read_json(self._compacted, "what a compaction wrote")
        try:
            last = {str(worker): (int(number), int(size)) for worker, (number, size) in text["last"].items()}
            return Compacted(tuple(map(str, text["parts"])), last, int(text["next_part"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LogError(
                f"{str(self._compacted)!r} is damaged", found=str(error), do="restore it from a copy of the folder"
            ) from error

    def write_compacted(self, state: Compacted) -> None:
        """Say what stands in Parquet."""
        text = {"parts": state.parts, "last": state.last, "next_part": state.next_part}
        with AtomicFile(self._compacted) as file:
            file.write(json.dumps(text, indent=1).encode())

    @property
    def _head(self) -> Path:
        return self.path / "log.json"

    @property
    def _compacted(self) -> Path:
        return self.path / "compacted.json"


@final
class FolderLock:
    """A lock that ends with its process, however that ends; `with` it, or `release` it."""

    def __init__(self, path: Path, file: int) -> None:
        self._path, self._file = path, file

    @classmethod
    def exclusive(cls, path: Path, *, held: str) -> Self:
        """Nobody else may hold it.

        Raises:
            LogError: Another process does: `held` says what that means.
        """
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise LogError(
                held, found=f"{str(path)!r} is locked", do="stop the other process, or wait for it"
            ) from None
        return cls(path, file)

    @classmethod
    def of_worker(cls, folder: LogFolder, worker: str) -> Self:
        """That of one worker's stream."""
        if not _WORKER.fullmatch(worker):
            raise LogError(
                "a worker's name can't be part of a file's name",
                found=worker,
                allowed="1 to 64 letters, digits and _",
                do="name it after its number, like 'w0'",
            )
        text = f"another process writes the stream {worker!r} of the log {str(folder.path)!r}"
        return cls.exclusive(folder.path / f"{worker}.lock", held=text)

    @classmethod
    def of_server(cls, folder: LogFolder, server: str) -> Self:
        """Shared by all workers of one server, and by no one else.

        Raises:
            LogError: Another server writes into the folder.
        """
        path = folder.path / "server.lock"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(file, 0)
                os.pwrite(file, server.encode(), 0)
            except BlockingIOError:
                pass
            # Shared from here on. Between the two another server may have come first: its name then stands there.
            fcntl.flock(file, fcntl.LOCK_SH)
            holder = os.pread(file, 4096, 0).decode("utf-8", "replace")
            if holder != server:
                raise LogError(
                    f"another server writes into the folder {str(folder.path)!r}",
                    found=holder,
                    allowed=f"this server alone ({server!r}); its workers may be several",
                    do="give each server a folder of its own, or stop the other one",
                )
        except BaseException:
            os.close(file)
            raise
        return cls(path, file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others have it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        text = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LogError(f"there is no {str(path)!r}", allowed=what, do="give the folder of a served log") from None
    except ValueError as error:
        raise LogError(f"{str(path)!r} is damaged", found=str(error), allowed=what, do="restore the file") from error
    if not isinstance(text, dict):
        raise LogError(f"{str(path)!r} is damaged", found=type(text).__name__, allowed=what, do="restore the file")
    return text
