"""Segments: files of framed Arrow messages that lose nothing which `write` returned for, however a process ends.

A segment is a row of frames, each of one Arrow IPC message: the schema first, then a record batch a frame::

    frame = b"RWSG" · length of the message (uint32) · CRC-32 of length and message (uint32) · message

A frame is appended by one `write`. Once that returns, the bytes are the kernel's, and the end of the process (kill -9
included) cannot take them back; a loss of power can, unless they were forced down before. A process that ends inside
of a `write` leaves a torn frame at the end, which is cut off when the segment is recovered. So an append is whole or
not there. The messages of a segment, one after the other, are an Arrow IPC stream.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import pyarrow as pa

from rankwell.errors import LogError

__all__ = ["Frame", "SegmentWriter", "frames_from", "read_segment_schema", "records_of", "recover_segment"]

SEGMENT_VERSION: Final = "1"
_MAGIC: Final = b"RWSG"
_HEADER: Final = struct.Struct("<4sII")
_LENGTH: Final = struct.Struct("<I")
_LONGEST: Final = 1 << 30


@final
@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame of a segment, or a stretch of it that holds none.

    Args:
        start: Where it begins in the file.
        end: Where what follows begins.
        message: The Arrow message; None where the bytes are damaged.
    """

    start: int
    end: int
    message: memoryview | None


@final
class SegmentWriter:
    """Appends record batches to a new segment.

    Args:
        path: A file that isn't there yet.
        schema: Of the batches; its metadata says what the segment is.

    Raises:
        OSError: The file can't be made, or its head not be written; then no file is left.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.num_bytes = 0
        self._is_torn = False
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            metadata = {**(schema.metadata or {}), b"rankwell.segment_version": SEGMENT_VERSION.encode()}
            self._head_bytes = self.append(schema.with_metadata(metadata).serialize())
        except BaseException:
            os.close(self._file)
            path.unlink(missing_ok=True)
            raise

    @property
    def is_empty(self) -> bool:
        """Whether it has a head and nothing else."""
        return self.num_bytes == self._head_bytes

    def append(self, message: pa.Buffer) -> int:
        """Append one frame; the whole of it, or none of it.

        Returns:
            The bytes written.

        Raises:
            OSError: It could not be written: the disk is full, or broken. A later append may go well.
        """
        self.settle()
        length = len(message)
        checksum = zlib.crc32(message, zlib.crc32(_LENGTH.pack(length)))
        frame = _HEADER.pack(_MAGIC, length, checksum) + memoryview(message)
        try:
            written = os.pwrite(self._file, frame, self.num_bytes)
            if written < len(frame):  # the rest says why there is no room for it
                written += os.pwrite(self._file, memoryview(frame)[written:], self.num_bytes + written)
            if written < len(frame):
                raise OSError(28, "No space left on device")
        except OSError:
            self._is_torn = True
            self._cut()
            raise
        self.num_bytes += len(frame)
        return len(frame)

    def probe(self, num_bytes: int) -> None:
        """Write so many bytes and take them back.

        Raises:
            OSError: There is no room for them.
        """
        self._is_torn = True
        try:
            written = os.pwrite(self._file, b"\0" * num_bytes, self.num_bytes)
        finally:
            self._cut()
        if written < num_bytes:
            raise OSError(28, "No space left on device")

    def settle(self) -> None:
        """See that the file ends with its last whole frame, as a sealed one has to.

        Raises:
            OSError: What failed half-way can't be taken back yet.
        """
        if self._is_torn:
            self._cut()

    def sync(self) -> None:
        """Force what was appended down to the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file as it is."""
        os.close(self._file)

    def _cut(self) -> None:
        # What failed half-way stands behind the last whole frame, where the next one has to begin.
        os.ftruncate(self._file, self.num_bytes)
        self._is_torn = False


def frames_from(path: Path, offset: int, *, is_sealed: bool) -> Iterator[Frame]:
    """The frames of a segment from an offset on, read while another process may append to it.

    Args:
        path: The segment.
        offset: 0, or the `end` of a frame.
        is_sealed: Whether the file is finished. Of one that isn't, an end that is no whole frame is one that is being
            written (or was when its writer died), and is passed over in silence.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = memoryview(file.read())
    at = 0
    while at < len(data):
        end = _end_of_frame(data, at)
        if end is not None:
            yield Frame(offset + at, offset + end, data[at + _HEADER.size : end])
        else:
            end = _next_frame(data, at + 1)
            if end is None and not is_sealed:
                return
            end = len(data) if end is None else end
            yield Frame(offset + at, offset + end, None)
        at = end


def records_of(
    path: Path, offset: int, *, is_sealed: bool, most_bytes: int
) -> tuple[pa.Table | None, int, list[Frame]]:
    """The rows of a segment from an offset on, up to about so many bytes of them.

    Returns:
        The rows (None where there are none), where to read on, and what was damaged between.

    Raises:
        LogError: The file is no segment, or of a newer format.
    """
    schema = read_segment_schema(path)
    if schema is None:
        return None, offset, []
    messages: list[memoryview] = []
    damaged: list[Frame] = []
    end = offset
    for frame in frames_from(path, offset, is_sealed=is_sealed):
        if frame.message is None:
            damaged.append(frame)
        elif frame.start:  # behind the head
            messages.append(frame.message)
        end = frame.end
        if end - offset >= most_bytes:
            break
    batches = [pa.ipc.read_record_batch(pa.py_buffer(message), schema) for message in messages]
    return (pa.Table.from_batches(batches, schema) if batches else None), end, damaged


def read_segment_schema(path: Path) -> pa.Schema | None:
    """The schema in the head of a segment; None where there is no head yet.

    Raises:
        LogError: The file is no segment, or of a newer format.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        length = _HEADER.unpack(head)[1] if len(head) == _HEADER.size else 0
        data = memoryview(head + file.read(min(length, _LONGEST)))
    end = _end_of_frame(data, 0)
    if end is None and data[: len(_MAGIC)] == _MAGIC[: len(data)] and len(data) < _HEADER.size + max(length, 1):
        return None  # not written to its end yet
    return _schema_of(path, None if end is None else data[_HEADER.size : end])


def recover_segment(path: Path, sealed: Path) -> int:
    """Cut the torn end off a segment whose writer is gone, and seal it; one without a record is taken away.

    Returns:
        The bytes that were cut off: of a frame that no writer was told of.
    """
    ends = [frame.end for frame in frames_from(path, 0, is_sealed=False)]
    end = max(ends, default=0)
    num_cut = path.stat().st_size - end
    if len(ends) < 2:
        path.unlink()
        return num_cut
    if num_cut:
        os.truncate(path, end)
    path.rename(sealed)
    return num_cut


def _schema_of(path: Path, message: memoryview | None) -> pa.Schema:
    try:
        if message is None:
            raise pa.ArrowInvalid("its first frame is damaged")
        schema = pa.ipc.read_schema(pa.py_buffer(message))
    except (pa.ArrowInvalid, OSError) as error:
        raise LogError(
            f"file {str(path)!r} is no log segment: its head can't be read",
            found=str(error),
            allowed="a file that the served log wrote",
            do="move it out of the folder; the other segments are read without it",
        ) from error
    version = (schema.metadata or {}).get(b"rankwell.segment_version", b"?").decode("utf-8", "replace")
    if version != SEGMENT_VERSION:
        raise LogError(
            f"segment {str(path)!r} has an unknown format version",
            found=version,
            allowed=SEGMENT_VERSION,
            do="read it with the rankwell that wrote it",
        )
    return schema


def _end_of_frame(data: memoryview, at: int) -> int | None:
    if at + _HEADER.size > len(data):
        return None
    magic, length, checksum = _HEADER.unpack_from(data, at)
    end = at + _HEADER.size + length
    if magic != _MAGIC or length > _LONGEST or end > len(data):
        return None
    if zlib.crc32(data[at + _HEADER.size : end], zlib.crc32(_LENGTH.pack(length))) != checksum:
        return None
    return int(end)


def _next_frame(data: memoryview, at: int) -> int | None:
    """Where the next whole frame begins, from `at` on."""
    raw = bytes(data[at:])
    found = raw.find(_MAGIC)
    while found >= 0:
        if _end_of_frame(data, at + found) is not None:
            return at + found
        found = raw.find(_MAGIC, found + 1)
    return None
