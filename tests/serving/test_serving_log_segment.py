"""Frames of a segment: whole ones are read, a torn end is waited for or cut off, damage is told apart and skipped."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from full_disk import files_of_at_most
from rankwell.errors import LogError
from rankwell.serving.log_segment import SegmentWriter, frames_from, read_segment_schema, records_of, recover_segment

SCHEMA = pa.schema({"n": pa.int64()})
MUCH = 2**30


def segment(folder: Path, num: int, name: str = "w0-00000000.open") -> Path:
    writer = SegmentWriter(folder / name, SCHEMA)
    for n in range(num):
        writer.append(pa.record_batch([[n] * (n + 1)], schema=SCHEMA).serialize())
    writer.close()
    return folder / name


def numbers(path: Path, offset: int = 0, *, is_sealed: bool = True) -> list[int]:
    rows, _, _ = records_of(path, offset, is_sealed=is_sealed, most_bytes=MUCH)
    return [] if rows is None else sorted(set(rows["n"].to_pylist()))


def test_messages_one_after_the_other_are_an_arrow_stream(tmp_path: Path) -> None:
    path = segment(tmp_path, 4)
    messages = b"".join(bytes(frame.message or b"") for frame in frames_from(path, 0, is_sealed=True))
    assert pa.ipc.open_stream(messages).read_all()["n"].to_pylist() == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def test_reading_goes_on_at_the_end_of_any_frame(tmp_path: Path) -> None:
    path = segment(tmp_path, 5)
    ends = [frame.end for frame in frames_from(path, 0, is_sealed=True)]
    assert len(ends) == 6
    for n, end in enumerate(ends):
        assert numbers(path, end) == list(range(n, 5))
    rows, end, _ = records_of(path, 0, is_sealed=True, most_bytes=ends[2])
    assert rows is not None
    assert (sorted(set(rows["n"].to_pylist())), end) == ([0, 1], ends[2])


@pytest.mark.parametrize("is_sealed", [True, False])
def test_any_byte_that_is_changed_costs_one_frame(tmp_path: Path, is_sealed: bool) -> None:
    """The others are read, and what is wrong is named by its place; the last frame of an open segment is waited for."""
    path = segment(tmp_path, 4)
    whole = path.read_bytes()
    frames = list(frames_from(path, 0, is_sealed=True))
    rng = random.Random(0)
    for place in rng.sample(range(frames[0].end, len(whole)), 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ rng.randrange(1, 256)]) + whole[place + 1 :])
        hit = next(i for i, frame in enumerate(frames) if frame.start <= place < frame.end)
        rows, _, damaged = records_of(path, 0, is_sealed=is_sealed, most_bytes=MUCH)
        assert rows is not None
        assert sorted(set(rows["n"].to_pylist())) == [n for n in range(4) if n != hit - 1]
        if hit == 4 and not is_sealed:
            assert damaged == []
        else:
            assert [(frame.start, frame.end) for frame in damaged] == [(frames[hit].start, frames[hit].end)]


def test_recovery_keeps_all_before_the_torn_end(tmp_path: Path) -> None:
    whole = segment(tmp_path, 3).read_bytes()
    ends = [frame.end for frame in frames_from(tmp_path / "w0-00000000.open", 0, is_sealed=True)]
    for length in range(len(whole) + 1):
        path, sealed = tmp_path / "w1-00000000.open", tmp_path / "w1-00000000.segment"
        path.write_bytes(whole[:length])
        kept = max((end for end in ends if end <= length), default=0)
        assert recover_segment(path, sealed) == length - kept
        assert not path.exists()
        if kept <= ends[0]:
            assert not sealed.exists()  # nothing but a head
        else:
            assert sealed.read_bytes() == whole[:kept]
            sealed.unlink()


def test_recovery_keeps_what_stands_behind_damage(tmp_path: Path) -> None:
    path = segment(tmp_path, 4)
    data = bytearray(path.read_bytes())
    second = list(frames_from(path, 0, is_sealed=True))[2]
    data[second.start + 20] ^= 1
    path.write_bytes(bytes(data) + b"RWSG torn")
    assert recover_segment(path, tmp_path / "sealed") == 9
    assert numbers(tmp_path / "sealed") == [0, 2, 3]


def test_what_is_no_segment_or_newer_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"PAR1" * 100)
    with pytest.raises(LogError, match="no log segment"):
        read_segment_schema(foreign)
    path = segment(tmp_path, 1)
    newer = path.read_bytes().replace(b"rankwell.segment_version", b"rankwell.segment_versiom")
    path.write_bytes(newer)
    with pytest.raises(LogError, match="no log segment"):  # its checksum says so first
        numbers(path)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert read_segment_schema(empty) is None


def test_a_segment_of_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("rankwell.serving.log_segment.SEGMENT_VERSION", "2")
        path = segment(tmp_path, 1)
    with pytest.raises(LogError, match="unknown format version; found: 2; allowed: 1"):
        numbers(path)


def test_half_a_frame_is_taken_back_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it could not be taken back at once; a smaller frame follows, so that none hides the rest of it."""
    large, small = (pa.record_batch([[n] * n], schema=SCHEMA).serialize() for n in (500, 1))
    writer = SegmentWriter(tmp_path / "a", SCHEMA)
    writer.append(small)
    whole = writer.num_bytes
    with files_of_at_most(whole + 1_000), pytest.raises(OSError):
        writer.append(large)
    assert (tmp_path / "a").stat().st_size == writer.num_bytes == whole

    def broken(file: int, length: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched, files_of_at_most(whole + 1_000):
        patched.setattr(os, "ftruncate", broken)
        with pytest.raises(OSError):
            writer.append(large)
        with pytest.raises(OSError):
            writer.settle()
        with pytest.raises(OSError):
            writer.append(small)  # it stays refused until the torn frame is gone
    assert (tmp_path / "a").stat().st_size > whole
    assert numbers(tmp_path / "a", is_sealed=False) == [1]
    writer.append(small)
    writer.close()
    rows, end, damaged = records_of(tmp_path / "a", 0, is_sealed=True, most_bytes=MUCH)
    assert rows is not None
    assert (rows["n"].to_pylist(), damaged) == ([1, 1], [])
    assert end == (tmp_path / "a").stat().st_size


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "a", SCHEMA)
    whole = writer.num_bytes
    writer.probe(1_000)
    with files_of_at_most(whole + 500), pytest.raises(OSError):
        writer.probe(1_000)
    assert writer.is_empty
    writer.close()
    assert (tmp_path / "a").stat().st_size == whole
