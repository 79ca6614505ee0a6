"""Actions as they are reported: in any order, again and again, by several workers; each counts once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from full_disk import files_of_at_most
from rankwell.errors import LogError, RequestError
from rankwell.schema import Action, Categorical, Schema
from rankwell.serving.action_log import ActionLog, ReportedAction, compact_actions

SCHEMA = Schema(
    features=(Categorical(name="job"),),
    actions=(Action(name="click"), Action(name="stars", kind="graded", threshold=3)),
    item="job",
)


def log_in(folder: Path, **changes: Any) -> ActionLog:
    return ActionLog(folder, SCHEMA, **({"worker": "w0", "now_us": lambda: 1_000} | changes))


def click(request_id: int, item_id: int = 1, **changes: Any) -> ReportedAction:
    return ReportedAction(**({"request_id": request_id, "item_id": item_id, "action": "click", "time_us": 5} | changes))


def compacted(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "actions/parquet").iterdir()) for row in pq.read_table(path).to_pylist()]


def test_what_was_new_is_told_and_each_counts_once(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        assert log.append([click(1), click(2), click(1)]) == 2
        assert log.append([click(2, time_us=99), click(3)]) == 1
        assert log.append([click(1)]) == 0
        assert log.append([]) == 0
        stars = [click(1, action="stars", grade=grade) for grade in (2, 5, 2)]
        assert log.append(stars) == 2  # another grade is another action; the highest will count
    report = compact_actions(tmp_path)
    assert (report.num_rows, report.num_duplicates) == (5, 0)
    rows = compacted(tmp_path)
    assert [(row["request_id"], row["action"], row["grade"]) for row in rows] == [
        (2, "click", None), (1, "click", None), (3, "click", None), (5 - 4, "stars", 5), (1, "stars", 2),
    ] or sorted((row["request_id"], row["action"], row["grade"] or 0) for row in rows) == [
        (1, "click", 0), (1, "stars", 2), (1, "stars", 5), (2, "click", 0), (3, "click", 0),
    ]  # fmt: skip
    assert {row["arrived_us"] for row in rows} == {1_000}
    assert {row["time_us"] for row in rows} == {5}  # the first report of each


def test_keys_decide_where_they_are_given(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        assert log.append([click(1, key="a"), click(1, key="b"), click(2, key="a")]) == 2
        assert log.append([click(1)]) == 1


def test_what_other_workers_and_restarts_took_is_dropped_later(tmp_path: Path) -> None:
    for worker in ("w0", "w1", "w0"):
        with log_in(tmp_path, worker=worker) as log:
            assert log.append([click(1), click(2)]) == 2
    report = compact_actions(tmp_path)
    assert (report.num_rows, report.num_duplicates) == (2, 4)
    with log_in(tmp_path) as log:
        log.append([click(2), click(3)])
    report = compact_actions(tmp_path)
    assert (report.num_rows, report.num_duplicates) == (1, 1)
    assert sorted(row["request_id"] for row in compacted(tmp_path)) == [1, 2, 3]


def test_only_so_many_keys_are_remembered(tmp_path: Path) -> None:
    with log_in(tmp_path, num_remembered=3) as log:
        assert [log.append([click(n)]) for n in (1, 2, 3, 4, 4, 1)] == [1, 1, 1, 1, 0, 1]
    assert compact_actions(tmp_path).num_rows == 4


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (click(1, action="buy"), r"action 1 \(from 0\) is unknown; found: buy; allowed: \['click', 'stars'\]"),
        (click(-1), r"'request_id' of action 1"),
        (click(2**63), r"'request_id' of action 1"),
        (click(1, 1.5), r"'item_id' of action 1"),  # type: ignore[arg-type]
        (click(1, time_us=-5), r"'time_us' of action 1"),
        (click(1, grade=1), r"'grade' of action 1"),
        (click(1, action="stars"), r"'grade' of action 1"),
        (click(1, action="stars", grade=-1), r"'grade' of action 1"),
    ],
)
def test_a_wrong_action_is_refused_and_nothing_is_logged(tmp_path: Path, action: ReportedAction, message: str) -> None:
    with log_in(tmp_path) as log:
        with pytest.raises(RequestError, match=message):
            log.append([click(7), action])
        assert log.counts.appended == 0
        assert log.append([click(7)]) == 1


def test_a_full_disk_is_said_and_the_actions_can_be_sent_again(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        log.append([click(1)])
        with files_of_at_most(log.counts.bytes + 10), pytest.raises(LogError, match="none of them was logged"):
            log.append([click(2), click(3)])
        assert (log.is_healthy, log.counts.not_logged) == (False, 2)
        assert log.probe()
        assert log.append([click(2), click(3)]) == 2
    assert compact_actions(tmp_path).num_rows == 3
