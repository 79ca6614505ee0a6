"""Reading a served log as it grows, from exact positions: no row is lost or seen twice, whenever a reader is killed.

A position says for each stream which segment is being read and up to which byte. It always stands between two frames.
A reader that writes down what it made of some rows together with the position after them, in one step, goes on from
there after any crash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, final

import pyarrow as pa

from rankwell.errors import LogError
from rankwell.serving.log_folder import LogFolder, Segment
from rankwell.serving.log_segment import Frame, records_of
from rankwell.serving.served_record import ServedRecord

__all__ = ["LogPosition", "follow", "missed", "read_records", "read_served"]

_MOST_BYTES: Final = 16 * 2**20
OnDamage = Callable[[LogError], None]


@final
@dataclass(frozen=True, slots=True)
class LogPosition:
    """How far a log was read.

    Args:
        streams: For each stream its segment's number and the byte from which to read on.

    >>> LogPosition.from_json(LogPosition({"w0": (3, 4096)}).to_json())
    LogPosition(streams={'w0': (3, 4096)})
    """

    streams: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """For a file of the reader's."""
        return json.dumps(self.streams, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote.

        Raises:
            LogError: It is something else.
        """
        try:
            return cls({str(worker): (int(number), int(byte)) for worker, (number, byte) in json.loads(text).items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise LogError("this is no position in a log", found=text, do="give what to_json() wrote") from error

    def after(self, worker: str, number: int, byte: int) -> LogPosition:
        """With one stream read further."""
        return LogPosition({**self.streams, worker: (number, byte)})


def read_served(
    folder: str | Path, position: LogPosition | None = None, *, on_damage: OnDamage | None = None
) -> Iterator[tuple[pa.Table, LogPosition]]:
    """What was served since a position, piece by piece, up to now, from sealed and open segments alike.

    Args:
        folder: As the server's `ServedLog` has it.
        position: None to begin with the oldest segment that is still there.
        on_damage: Called with what is wrong of a stretch of bytes that can't be read, which is then passed over; by
            default it is raised. What is unfinished at the end of an open segment is no damage.

    Yields:
        Rows of the log (request layout, without labels, with the served columns), and the position after them.

    Raises:
        LogError: There is no such log; segments after the position were compacted before they were read; or damage.
    """
    log = LogFolder(Path(folder) / "served", "served")
    record = ServedRecord(log.schema())
    for records, _, after in read_records(log, position, on_damage=on_damage):
        yield record.unpacked(records), after


def follow(
    folder: str | Path,
    position: LogPosition | None = None,
    *,
    wait: Callable[[], bool],
    on_damage: OnDamage | None = None,
) -> Iterator[tuple[pa.Table, LogPosition]]:
    """`read_served`, again and again.

    Args:
        folder, position, on_damage: As of `read_served`.
        wait: Called when there is nothing new: it sleeps for as long as the reader likes, and returns whether to go on.
    """
    position = position or LogPosition()
    while True:
        for rows, after in read_served(folder, position, on_damage=on_damage):
            yield rows, after
            position = after
        if not wait():
            return


def read_records(
    log: LogFolder,
    position: LogPosition | None,
    *,
    on_damage: OnDamage | None = None,
    segments: list[Segment] | None = None,
) -> Iterator[tuple[pa.Table, Segment, LogPosition]]:
    """The records of a log's segments as they were written, the segment of each piece, and the position after it.

    Args:
        log: The folder.
        position, on_damage: As of `read_served`.
        segments: Those to read; by default all.
    """
    position = position or LogPosition()
    listed = log.list_segments() if segments is None else segments
    compacted = missed(log, position).streams if segments is None else {}
    for worker in sorted({one.worker for one in listed} | set(position.streams)):
        number, byte = position.streams.get(worker, (-1, 0))
        mine = [one for one in listed if one.worker == worker and one.number >= number]
        if worker in compacted:
            raise LogError(
                f"segments of stream {worker!r} in {str(log.path)!r} were compacted before they were read",
                found=f"read up to segment {number}, byte {byte}; compacted up to segment {compacted[worker][0]}",
                allowed="a position that is not behind the compaction",
                do="read the Parquet files instead, and compact with `read_by` the positions of all readers",
            )
        for one in mine:
            start = byte if one.number == number else 0
            while True:
                path, is_sealed = _current(log, one)
                if path is None:  # compacted since the listing: the next reading says whether something was missed
                    return
                try:
                    rows, end, damaged = records_of(path, start, is_sealed=is_sealed, most_bytes=_MOST_BYTES)
                except FileNotFoundError:
                    continue  # sealed, and so renamed, between the two looks
                except LogError as error:
                    _report(error, on_damage)
                    break
                for frame in damaged:
                    _report(_damage(path, frame), on_damage)
                moved = end != start
                start = end
                position = position.after(worker, one.number, end)
                if rows is not None:
                    yield rows, one, position
                if not moved:
                    break
            if not is_sealed:
                break  # what the stream goes on with comes after this segment's end


def missed(log: LogFolder, position: LogPosition) -> LogPosition:
    """Where the compaction stands of each stream of which it took what a reader at this position has not read.

    A stream that the position doesn't know was not there, or long gone, when it was read: nothing is said of it.

    Raises:
        LogError: The file that says what is compacted is damaged.
    """
    last = log.compacted().last
    streams = {worker: at for worker, at in position.streams.items() if worker in last and at[0] <= last[worker][0]}
    return LogPosition({worker: last[worker] for worker, at in streams.items() if at != last[worker]})


def _current(log: LogFolder, segment: Segment) -> tuple[Path | None, bool]:
    sealed = log.segment_path(segment.worker, segment.number, is_sealed=True)
    # Seen as sealed before it is read: then its end is final.
    if sealed.exists():
        return sealed, True
    return (segment.path, False) if segment.path.exists() else (None, False)


def _damage(path: Path, frame: Frame) -> LogError:
    return LogError(
        f"segment {str(path)!r} is damaged at byte {frame.start}",
        found=f"{frame.end - frame.start} bytes that are no whole record",
        allowed="the records as they were appended",
        do="look at the disk; pass on_damage to read on behind it",
    )


def _report(error: LogError, on_damage: OnDamage | None) -> None:
    if on_damage is None:
        raise error
    on_damage(error)
