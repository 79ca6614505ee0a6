"""Reading a log as it grows: each row once, whatever is sealed, killed or damaged between two readings."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_serving_served_log import SMALL, log_in, small_answer

from rankwell.errors import LogError
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.log_reader import LogPosition, follow, read_served


def ids(rows: Any) -> list[int]:
    found: list[int] = rows["request_id"].to_pylist()
    return found


def test_a_reader_that_is_killed_at_any_moment_sees_each_row_once(tmp_path: Path) -> None:
    """It writes down what it saw and its position together, and dies between two pieces, or after many."""
    rng = random.Random(0)
    seen: list[int] = []
    position = LogPosition()
    written = 0
    logs = [log_in(tmp_path, schema=SMALL, server="s", worker=f"w{i}", segment_bytes=3_000) for i in range(2)]
    for turn in range(60):
        for log in logs:
            for _ in range(rng.randrange(4)):
                log.append(small_answer(request_id=written))
                written += 1
        if turn % 20 == 10:
            logs[0].close()
            logs[0] = log_in(tmp_path, schema=SMALL, server="s", worker="w0", segment_bytes=3_000)
        if turn % 15 == 14:
            compact_served(tmp_path, read_by=[position])
        for rows, after in read_served(tmp_path, position):
            seen += ids(rows)
            position = LogPosition.from_json(after.to_json())
            if rng.random() < 0.3:
                break
    for log in logs:
        log.close()
    for rows, _ in read_served(tmp_path, position):
        seen += ids(rows)
    assert sorted(seen) == list(range(written))


def test_following_waits_and_goes_on(tmp_path: Path) -> None:
    log = log_in(tmp_path, schema=SMALL)
    waits = []

    def wait() -> bool:
        waits.append(len(waits))
        log.append(small_answer(request_id=len(waits)))
        return len(waits) < 4

    seen = [request_id for rows, _ in follow(tmp_path, wait=wait) for request_id in ids(rows)]
    assert seen == [1, 2, 3]
    log.close()


def test_damage_is_named_and_what_follows_is_read(tmp_path: Path) -> None:
    with log_in(tmp_path, schema=SMALL, segment_bytes=1) as log:
        for request_id in range(3):
            log.append(small_answer(request_id=request_id))
    paths = sorted((tmp_path / "served/segments").iterdir())
    data = bytearray(paths[1].read_bytes())
    place = data.rfind(b"RWSG")
    data[place + 40] ^= 255
    paths[1].write_bytes(data)
    with pytest.raises(LogError) as error:
        list(read_served(tmp_path))
    assert str(paths[1]) in str(error.value)
    assert f"at byte {place}" in str(error.value)
    errors: list[LogError] = []
    assert [i for rows, _ in read_served(tmp_path, on_damage=errors.append) for i in ids(rows)] == [0, 2]
    assert len(errors) == 1
    report = compact_served(tmp_path)
    assert (report.num_rows, report.num_segments) == (2, 3)
    assert "at byte" in report.errors[0]


def test_a_damaged_head_costs_its_segment(tmp_path: Path) -> None:
    with log_in(tmp_path, schema=SMALL, segment_bytes=1) as log:
        for request_id in range(3):
            log.append(small_answer(request_id=request_id))
    path = min((tmp_path / "served/segments").iterdir())
    data = bytearray(path.read_bytes())
    data[30] ^= 255
    path.write_bytes(data)
    errors: list[LogError] = []
    assert [i for rows, _ in read_served(tmp_path, on_damage=errors.append) for i in ids(rows)] == [1, 2]
    assert "no log segment" in str(errors[0])


def test_a_position_behind_the_compaction_is_refused(tmp_path: Path) -> None:
    log = log_in(tmp_path, schema=SMALL, segment_bytes=1)
    log.append(small_answer(request_id=0))
    ((_, first),) = read_served(tmp_path)
    log.append(small_answer(request_id=1))
    log.append(small_answer(request_id=2))
    *_, (_, second) = read_served(tmp_path, first)
    compact_served(tmp_path)
    with pytest.raises(LogError, match="compacted before they were read"):
        list(read_served(tmp_path, first))
    assert list(read_served(tmp_path, second)) == []
    log.append(small_answer(request_id=3))
    assert [i for rows, _ in read_served(tmp_path, second) for i in ids(rows)] == [3]
    log.close()
    # numbers go on where all segments are gone: an old position never meets a new segment
    compact_served(tmp_path)
    with log_in(tmp_path, schema=SMALL) as again:
        again.append(replace(small_answer(), request_id=4))
        with pytest.raises(LogError, match="compacted before they were read"):
            list(read_served(tmp_path, second))


def test_no_log_and_no_position(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"there is no .*log\.json"):
        list(read_served(tmp_path))
    with pytest.raises(LogError, match="no position"):
        LogPosition.from_json('["w0"]')
