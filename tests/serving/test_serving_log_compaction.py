"""Segments become Parquet: each row once, in order, whenever a compaction is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from test_serving_served_log import SMALL, log_in, small_answer

from full_disk import files_of_at_most
from rankwell.data.log import open_log
from rankwell.errors import LogError
from rankwell.serving import log_compaction
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.log_folder import FolderLock, LogFolder

PARQUET = "served/parquet"


def compacted(folder: Path, name: str = "request_id") -> list[Any]:
    parts = LogFolder(folder / "served", "served").compacted().parts
    return [value for part in parts for value in pq.read_table(folder / PARQUET / part)[name].to_pylist()]


def write(folder: Path, answers: list[tuple[int, int]], *, worker: str = "w0", **changes: Any) -> None:
    """Log answers by (request id, time), and seal the segments."""
    with log_in(folder, schema=SMALL, worker=worker, **changes) as log:
        for request_id, time_us in answers:
            assert log.append(small_answer(request_id=request_id, time_us=time_us))


def test_rows_stand_in_the_order_of_their_times_over_all_workers(tmp_path: Path) -> None:
    write(tmp_path, [(1, 10), (2, 30), (3, 5)], worker="w0")
    write(tmp_path, [(4, 20), (5, 40)], worker="w1")
    report = compact_served(tmp_path)
    assert compacted(tmp_path) == [3, 1, 4, 2, 5]
    assert (report.num_rows, report.num_duplicates, report.num_segments) == (5, 0, 2)
    assert report.parts == ("part-00000000.parquet",)
    assert not list((tmp_path / "served/segments").iterdir())


def test_the_first_answer_to_a_request_wins(tmp_path: Path) -> None:
    write(tmp_path, [(1, 10), (2, 11), (1, 12)])
    write(tmp_path, [(2, 9), (3, 10)], worker="w1")
    assert compact_served(tmp_path).num_duplicates == 2
    assert list(zip(compacted(tmp_path), compacted(tmp_path, "time_us"), strict=True)) == [(2, 9), (1, 10), (3, 10)]
    write(tmp_path, [(3, 1), (4, 13)])  # of two compactions the earlier one keeps it
    assert compact_served(tmp_path).num_duplicates == 1
    assert compacted(tmp_path) == [2, 1, 3, 4]
    write(tmp_path, [(4, 14)])  # nothing but what is there already
    report = compact_served(tmp_path)
    assert (report.num_rows, report.parts) == (0, ())
    assert compacted(tmp_path) == [2, 1, 3, 4]
    assert open_log(tmp_path / PARQUET, SMALL).num_requests == 4


def test_a_retry_is_known_for_as_long_as_is_said(tmp_path: Path) -> None:
    write(tmp_path, [(1, 1_000_000)])
    compact_served(tmp_path)
    write(tmp_path, [(1, 5_000_000)])
    assert compact_served(tmp_path, retry_s=5).num_duplicates == 1
    write(tmp_path, [(1, 9_000_000)])
    assert compact_served(tmp_path, retry_s=5).num_duplicates == 0


def test_again_there_is_nothing_to_do(tmp_path: Path) -> None:
    write(tmp_path, [(1, 10)])
    compact_served(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert compact_served(tmp_path) == log_compaction.CompactionReport()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_being_written_is_left_and_what_was_left_behind_is_taken(tmp_path: Path) -> None:
    log = log_in(tmp_path, schema=SMALL, server="s")
    log.append(small_answer(request_id=1))
    assert compact_served(tmp_path).num_segments == 0
    # a worker that died and never came back: its segment is open, and nobody holds its lock
    (sealed,) = (tmp_path / "served/segments").glob("w0-*.open")
    sealed.with_name("w7-00000000.open").write_bytes(sealed.read_bytes() + b"torn")
    report = compact_served(tmp_path)
    assert (report.num_segments, compacted(tmp_path)) == (1, [1])
    log.close()
    assert compact_served(tmp_path).num_duplicates == 1


class Killed(BaseException):
    """The process ends here."""


STEPS = ("a part is written", "it is said to be whole", "the first segment is removed", "the second is removed")


@pytest.mark.parametrize("after", range(len(STEPS) + 1))
def test_a_compaction_that_is_killed_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write(tmp_path, [(1, 10), (2, 20)])
    write(tmp_path, [(3, 15)], worker="w1")
    compact_served(tmp_path)
    write(tmp_path, [(4, 30)])
    write(tmp_path, [(5, 25)], worker="w1")
    calls = []

    def step() -> None:
        calls.append(len(calls))
        if len(calls) == after + 1:
            raise Killed

    write_part, say, unlink = log_compaction._ServedRows.write, LogFolder.write_compacted, Path.unlink

    def killed_write(*arguments: Any) -> int:
        step()
        return write_part(*arguments)

    def killed_say(*arguments: Any) -> None:
        step()
        say(*arguments)

    def killed_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".segment":
            step()
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(log_compaction._ServedRows, "write", killed_write)
        patched.setattr(LogFolder, "write_compacted", killed_say)
        patched.setattr(Path, "unlink", killed_unlink)
        if after < len(STEPS):
            with pytest.raises(Killed):
                compact_served(tmp_path)
        else:
            compact_served(tmp_path)
    # at this very moment: what is named, and the segments that are not in it, are all rows, once
    log = LogFolder(tmp_path / "served", "served")
    state = log.compacted()
    waiting = [s for s in log.list_segments() if s.number > state.last.get(s.worker, (-1, 0))[0]]
    assert len(compacted(tmp_path)) + len(waiting) == 5
    compact_served(tmp_path)
    assert sorted(compacted(tmp_path)) == [1, 2, 3, 4, 5]
    assert open_log(tmp_path / PARQUET, SMALL).num_requests == 5
    assert not list((tmp_path / "served/segments").iterdir())


def test_a_part_that_is_not_named_is_removed(tmp_path: Path) -> None:
    write(tmp_path, [(1, 10)])
    compact_served(tmp_path)
    part = tmp_path / PARQUET / "part-00000000.parquet"
    part.with_name("part-00000001.parquet").write_bytes(part.read_bytes())
    part.with_name(".part-00000001.parquet.abcd.partial").write_bytes(b"half")
    compact_served(tmp_path)
    assert [path.name for path in (tmp_path / PARQUET).iterdir()] == [part.name]


def test_a_full_disk_leaves_the_segments(tmp_path: Path) -> None:
    write(tmp_path, [(n, n) for n in range(20)])
    with files_of_at_most(1_000), pytest.raises(OSError):
        compact_served(tmp_path)
    assert compacted(tmp_path) == []
    assert compact_served(tmp_path).num_rows == 20


def test_a_row_that_no_log_can_hold_is_left_out_alone(tmp_path: Path) -> None:
    with log_in(tmp_path, schema=SMALL) as log:
        for request_id in range(9):
            answer = small_answer(request_id=request_id)
            if request_id in (3, 8):
                look = {"look": torch.full((4, 3), torch.inf)}
                features = replace(answer.features, candidates=answer.features.candidates | look)
                answer = replace(answer, features=features)
            log.append(answer)
    report = compact_served(tmp_path)
    assert (report.num_rows, report.num_refused) == (7, 2)
    assert "infinite" in report.errors[0]
    assert compacted(tmp_path) == [0, 1, 2, 4, 5, 6, 7]
    with log_in(tmp_path, schema=SMALL) as log:
        log.append(replace(answer, request_id=99))  # alone in its part
    report = compact_served(tmp_path)
    assert (report.num_rows, report.num_refused, report.parts) == (0, 1, ())


def test_segments_of_many_sizes_and_parts(tmp_path: Path) -> None:
    write(tmp_path, [(n, n) for n in range(200)], segment_bytes=9_000)
    report = compact_served(tmp_path, part_bytes=30_000, rows_per_group=7)
    assert len(report.parts) > 3
    assert compacted(tmp_path) == list(range(200))
    log = open_log(tmp_path / PARQUET, SMALL)
    assert log.num_requests == 200
    assert pq.ParquetFile(tmp_path / PARQUET / report.parts[0]).metadata.row_group(0).num_rows == 7


def test_one_compaction_at_a_time_and_only_of_a_log(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"there is no .*log\.json"):
        compact_served(tmp_path)
    write(tmp_path, [(1, 1)])
    with (
        FolderLock.exclusive(tmp_path / "served/compaction.lock", held="held"),
        pytest.raises(LogError, match="another compaction"),
    ):
        compact_served(tmp_path)
    state = tmp_path / "served/compacted.json"
    state.write_text('{"parts": 3}')
    with pytest.raises(LogError, match="damaged"):
        compact_served(tmp_path)


def test_a_segment_that_another_program_made_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, [(1, 1)])
    (tmp_path / "served/segments/w3-00000000.segment").write_bytes(b"PAR1 and so on")
    (tmp_path / "served/segments/notes.txt").write_text("mine")
    report = compact_served(tmp_path)
    assert (report.num_rows, report.num_segments, len(report.errors)) == (1, 2, 1)
    assert {path.name for path in (tmp_path / "served/segments").iterdir()} == {"notes.txt", "w3-00000000.damaged"}
