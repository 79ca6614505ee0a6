from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.data.attribution import AttributionReport, attribute, attribute_files
from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.data.string_ids import hash_strings
from rankwell.data.writer import write_log
from rankwell.errors import LogError, PrivacyError, SchemaError
from rankwell.schema import Action, Categorical, Exposure, Schema

S = 1_000_000
KEY = PseudonymKey(bytes(range(32)))
SCHEMA = Schema(
    features=(Categorical(name="job"),),
    actions=(
        Action(name="click", window_s=10),
        Action(name="apply", window_s=30, kind="graded", threshold=2, column="apply_grade"),
    ),
    item="job",
    exposure=Exposure(position="position"),
)
ONE = pa.table(
    {
        "request_id": [1],
        "member_id": [5],
        "time_us": [100 * S],
        "job": [[7, 8, 9]],
        "position": pa.array([[1, 2, None]], pa.list_(pa.int32())),
    }
)


def actions_of(*rows: dict[str, Any]) -> pa.Table:
    types = {"action": pa.string()}
    names = ("request_id", "member_id", "item_id", "action", "time_us", "grade", "arrived_us")
    return pa.table(
        {n: pa.array([row.get(n) for row in rows], types.get(n, pa.int64())) for n in names},
    )


def click(at: float, item: int = 7, request: int | None = 1, **more: Any) -> dict[str, Any]:
    return {"request_id": request, "item_id": item, "action": "click", "time_us": round(at * S), **more}


def labels(table: pa.Table) -> list[list[tuple[int | None, bool]]]:
    pairs = zip(table["click"].to_pylist(), table["click_observed"].to_pylist(), strict=True)
    return [list(zip(*pair, strict=True)) for pair in pairs]


def only(report: AttributionReport) -> dict[str, int]:
    return {name: count for name, count in asdict(report).items() if count}


def slow_attribute(
    requests: list[dict[str, Any]], actions: list[dict[str, Any]], schema: Schema, now_us: int
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rules, row by row."""
    counts: Counter[str] = Counter(num_actions=len(actions))
    label: dict[tuple[int, int, str], int] = {}
    kinds = {action.name: action for action in schema.actions}
    impressions = [
        (row, place, request["time_us"], request["request_id"], request["member_id"], item, bool(position))
        for row, request in enumerate(requests)
        for place, (item, position) in enumerate(zip(request["job"], request["position"], strict=True))
    ]
    for action in actions:
        arrived = action.get("arrived_us")
        if max(action["time_us"], action["time_us"] if arrived is None else arrived) > now_us:
            counts["num_not_yet_known"] += 1
            continue
        if action["action"] not in kinds:
            counts["num_unknown_action"] += 1
            continue
        owner_place, owner = (3, action["request_id"])
        if owner is None:
            owner_place, owner = (4, action["member_id"])
        column = {3: "request_id", 4: "member_id"}[owner_place]
        if owner is None or owner not in [request[column] for request in requests]:
            counts["num_unknown_request"] += 1
            continue
        same = [i for i in impressions if i[owner_place] == owner and i[5] == action["item_id"]]
        shown = [i for i in same if i[6]]
        if not shown:
            counts["num_unshown" if same else "num_unknown_item"] += 1
            continue
        earlier = [i for i in shown if i[2] <= action["time_us"]]
        if not earlier:
            counts["num_early"] += 1
            continue
        latest = max(i[2] for i in earlier)
        row, place, time_us = next(i for i in earlier if i[2] == latest)[:3]
        kind = kinds[action["action"]]
        if action["time_us"] > time_us + kind.window_s * S:
            counts["num_late"] += 1
            continue
        grade = action["grade"] if kind.kind == "graded" else 1
        counts["num_duplicates" if (row, place, kind.name) in label else "num_joined"] += 1
        label[row, place, kind.name] = max(grade, label.get((row, place, kind.name), 0))
    out = []
    for row, request in enumerate(requests):
        new = dict(request)
        for kind in schema.actions:
            closed = now_us >= request["time_us"] + kind.window_s * S
            observed = [
                (row, place, kind.name) in label or (closed and bool(position))
                for place, position in enumerate(request["position"])
            ]
            new[f"{kind.name}_observed"] = observed
            new[kind.column or kind.name] = [
                label.get((row, place, kind.name), 0) if seen else None for place, seen in enumerate(observed)
            ]
        out.append(new)
    return out, counts


@pytest.mark.parametrize(
    ("at", "now", "expected", "count"),
    [
        (100, 100, (1, True), "num_joined"),  # an action at the impression's own time counts
        (110, 110, (1, True), "num_joined"),  # the window's end is inside
        (110.000001, 120, (0, True), "num_late"),
        (99.999999, 120, (0, True), "num_early"),
        (99.999999, 109.999999, (None, False), "num_early"),  # the window is open
        (105, 104, (None, False), "num_not_yet_known"),
    ],
)
def test_the_window_to_the_microsecond(at: float, now: float, expected: tuple[int | None, bool], count: str) -> None:
    table, report = attribute(ONE, actions_of(click(at)), SCHEMA, now_us=round(now * S))
    assert labels(table)[0][0] == expected
    assert only(report) == {"num_actions": 1, count: 1}


def test_a_window_closes_exactly_at_its_end() -> None:
    nothing = actions_of()
    assert labels(attribute(ONE, nothing, SCHEMA, now_us=110 * S - 1)[0])[0][:2] == [(None, False)] * 2
    assert labels(attribute(ONE, nothing, SCHEMA, now_us=110 * S)[0])[0][:2] == [(0, True)] * 2


def test_an_action_that_arrives_later_is_invisible_until_then() -> None:
    late = actions_of(click(101, arrived_us=500 * S))
    before, report = attribute(ONE, late, SCHEMA, now_us=499 * S)
    assert labels(before)[0][0] == (0, True)
    assert only(report) == {"num_actions": 1, "num_not_yet_known": 1}
    after, report = attribute(ONE, late, SCHEMA, now_us=500 * S)
    assert labels(after)[0][0] == (1, True)
    assert only(report) == {"num_actions": 1, "num_joined": 1}


def test_a_clock_that_runs_ahead_shows_nothing_early() -> None:
    ahead = actions_of(click(105, arrived_us=101 * S))
    assert labels(attribute(ONE, ahead, SCHEMA, now_us=104 * S)[0])[0][0] == (None, False)


def test_what_was_not_shown_has_no_label() -> None:
    table, report = attribute(ONE, actions_of(click(101, item=9)), SCHEMA, now_us=900 * S)
    assert labels(table)[0][2] == (None, False)
    assert only(report) == {"num_actions": 1, "num_unshown": 1}


def test_the_highest_grade_counts_once() -> None:
    applied = [{**click(101), "action": "apply", "grade": grade} for grade in (1, 3, 2)]
    table, report = attribute(ONE, actions_of(*applied), SCHEMA, now_us=101 * S)
    assert table["apply_grade"].to_pylist() == [[3, None, None]]
    assert table["apply_observed"].to_pylist() == [[True, False, False]]
    assert table.schema.field("apply_grade").type == pa.list_(pa.int32())
    assert table.schema.field("click").type == pa.list_(pa.int8())
    assert only(report) == {"num_actions": 3, "num_joined": 1, "num_duplicates": 2}


def test_strangers_are_counted_apart() -> None:
    strangers = actions_of(
        click(101, request=2),
        click(101, request=None),
        click(101, request=None, member_id=6),
        click(101, item=1),
        {**click(101), "action": "share"},
        {**click(101), "action": None},
    )
    table, report = attribute(ONE, strangers, SCHEMA, now_us=900 * S)
    assert labels(table)[0][0] == (0, True)
    expected = {"num_actions": 6, "num_unknown_request": 3, "num_unknown_item": 1, "num_unknown_action": 2}
    assert only(report) == expected


def test_without_a_request_the_latest_earlier_impression_of_the_member_takes_it() -> None:
    requests = pa.concat_tables([ONE, ONE.set_column(0, "request_id", [[2]]).set_column(2, "time_us", [[104 * S]])])
    by_member = lambda at: actions_of(click(at, request=None, member_id=5))  # noqa: E731
    first = labels(attribute(requests, by_member(103.9), SCHEMA, now_us=900 * S)[0])
    assert [request[0] for request in first] == [(1, True), (0, True)]
    second = labels(attribute(requests, by_member(104), SCHEMA, now_us=900 * S)[0])
    assert [request[0] for request in second] == [(0, True), (1, True)]
    # 113 is outside the first window but inside the second; 115 is outside both.
    assert only(attribute(requests, by_member(113), SCHEMA, now_us=900 * S)[1])["num_joined"] == 1
    assert only(attribute(requests, by_member(115), SCHEMA, now_us=900 * S)[1])["num_late"] == 1


def test_an_item_that_stands_twice_is_clicked_once_and_first() -> None:
    twice = ONE.set_column(3, "job", [[[7, 7, 8]]]).set_column(4, "position", [[[0, 1, 2]]])
    table, report = attribute(twice, actions_of(click(101)), SCHEMA, now_us=900 * S)
    assert labels(table)[0] == [(None, False), (1, True), (0, True)]
    assert report.num_joined == 1
    shown_twice = ONE.set_column(3, "job", [[[7, 7, 8]]]).set_column(4, "position", [[[3, 1, 2]]])
    assert labels(attribute(shown_twice, actions_of(click(101)), SCHEMA, now_us=900 * S)[0])[0][:2] == [
        (1, True),
        (0, True),
    ]


def test_labels_that_were_there_are_replaced() -> None:
    old = ONE.append_column("click", [[[1, 1, 1]]]).append_column("other", [["kept"]])
    table, _ = attribute(old, actions_of(), SCHEMA, now_us=900 * S)
    assert labels(table)[0] == [(0, True), (0, True), (None, False)]
    assert table["other"].to_pylist() == ["kept"]
    assert table.column_names.count("click") == 1


def test_words_as_ids_and_timestamps_as_times_join_too() -> None:
    requests = pa.table(
        {
            "request_id": ["r1"],
            "member_id": pa.array([5]),
            "time_us": pa.array([100 * S], pa.timestamp("us", "UTC")),
            "job": [["cook", "smith"]],
            "position": [[1, 2]],
        }
    )
    actions = pa.table(
        {
            "request_id": hash_strings(pa.array(["r1"])),
            "item_id": pa.array(["smith"]).dictionary_encode(),
            "action": pa.array(["click"]).dictionary_encode(),
            "time_us": pa.array([101 * 10**9], pa.timestamp("ns")),
        }
    )
    table, _ = attribute(requests, actions, SCHEMA, now_us=900 * S)
    assert labels(table)[0] == [(0, True), (1, True)]


def test_raw_members_are_pseudonymised_with_the_key() -> None:
    requests = ONE.set_column(1, "member_id", pseudonymise(pa.array(["ann"]), KEY))
    actions = pa.table({"member_id": ["ann"], "item_id": [7], "action": ["click"], "time_us": [101 * S]})
    assert attribute(requests, actions, SCHEMA, now_us=900 * S, key=KEY)[1].num_joined == 1
    with pytest.raises(
        PrivacyError, match=r"'member_id' of the actions holds strings: raw member ids.*\n.*pass the key"
    ):
        attribute(requests, actions, SCHEMA, now_us=900 * S)


def test_nobody_is_not_a_member() -> None:
    nobody = ONE.set_column(1, "member_id", pa.nulls(1, pa.int64()))
    report = attribute(nobody, actions_of(click(101, request=None)), SCHEMA, now_us=900 * S)[1]
    assert only(report) == {"num_actions": 1, "num_unknown_request": 1}


def test_no_requests_and_no_actions() -> None:
    table, report = attribute(ONE.slice(0, 0), actions_of(), SCHEMA, now_us=0)
    assert len(table) == 0
    assert "click_observed" in table.column_names
    assert only(report) == {}


def test_slices_and_chunks_of_a_table_are_read_as_they_are() -> None:
    requests = pa.concat_tables([ONE, ONE.set_column(0, "request_id", [[2]])])
    table, _ = attribute(requests.slice(1), actions_of(click(101, request=2)), SCHEMA, now_us=900 * S)
    assert labels(table) == [[(1, True), (0, True), (None, False)]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"time": None},
            r"needs the request's time and the candidate's item; found: time=None, item='job'",
        ),
        ({"item": None}, r"needs the request's time and the candidate's item; found: time='time_us', item=None"),
        ({"actions": (Action(name="click"),)}, r"\['click'\] declare no window.*\n.*declare window_s"),
    ],
)
def test_a_schema_that_cannot_be_attributed(changes: dict[str, Any], message: str) -> None:
    schema = SCHEMA.model_copy(update=changes)
    with pytest.raises(SchemaError, match=message):
        attribute(ONE, actions_of(), schema, now_us=0)


GOOD = actions_of(click(101, grade=1))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (GOOD.drop(["item_id"]), r"actions need the columns \['item_id'\]; found"),
        (GOOD.drop(["request_id", "member_id"]), r"need a column 'request_id' or 'member_id' to be joined by"),
        (
            GOOD.set_column(2, "item_id", [[1.5]]),
            r"'item_id' holds no ids; found: double; allowed: integer, string",
        ),
        (GOOD.set_column(2, "item_id", [[-1]]), r"column 'item_id' holds a negative id; found: -1"),
        (GOOD.set_column(2, "item_id", pa.nulls(1, pa.int64())), r"column 'item_id' has nulls; found: 1 of 1"),
        (GOOD.set_column(4, "time_us", [[1.5]]), r"column 'time_us' holds no times; found: double"),
        (GOOD.set_column(4, "time_us", pa.nulls(1, pa.int64())), r"column 'time_us' has nulls; found: 1 of 1"),
        (GOOD.set_column(3, "action", [[1]]), r"column 'action' holds no names; found: int64"),
        (GOOD.set_column(3, "action", [["apply"]]).drop(["grade"]), r"\['apply'\] are graded, .* no column 'grade'"),
        (GOOD.set_column(3, "action", [["apply"]]).set_column(5, "grade", [[-1]]), r"out of range; found: \[.*-1"),
        (GOOD.set_column(3, "action", [["apply"]]).set_column(5, "grade", [[1.5]]), r"holds no grades; found: double"),
        (
            GOOD.set_column(3, "action", [["apply"]]).set_column(5, "grade", pa.nulls(1, pa.int64())),
            r"column 'grade' has nulls",
        ),
    ],
)
def test_bad_actions_are_refused(actions: pa.Table, message: str) -> None:
    with pytest.raises(LogError, match=message):
        attribute(ONE, actions, SCHEMA, now_us=900 * S)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (ONE.drop(["job"]), r"the requests lack the columns \['job'\]; found: \['request_id'"),
        (ONE.set_column(3, "job", [[7]]), r"column 'job' of the requests holds no lists; found: int64"),
        (ONE.set_column(3, "job", pa.nulls(1, pa.list_(pa.int64()))), r"column 'job' has null lists; found: 1"),
        (ONE.set_column(4, "position", [[[1, 2]]]), r"'job' and 'position' hold lists of unequal length"),
        (ONE.set_column(2, "time_us", pa.nulls(1, pa.int64())), r"column 'time_us' has nulls"),
    ],
)
def test_bad_requests_are_refused(requests: pa.Table, message: str) -> None:
    with pytest.raises(LogError, match=message):
        attribute(requests, GOOD, SCHEMA, now_us=900 * S)


some_requests = st.lists(
    st.builds(
        lambda request, member, time, items: {
            "request_id": request,
            "member_id": member,
            "time_us": time * S,
            "job": [item for item, _ in items],
            "position": [position for _, position in items],
        },
        st.integers(0, 5),
        st.none() | st.integers(0, 2),
        st.integers(0, 40),
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, 0, 1, 2, 3])), min_size=1, max_size=4),
    ),
    max_size=7,
)
some_actions = st.lists(
    st.builds(
        lambda request, member, item, name, time, grade, arrived: {
            "request_id": request,
            "member_id": member,
            "item_id": item,
            "action": name,
            "time_us": time * S,
            "grade": grade,
            "arrived_us": None if arrived is None else arrived * S,
        },
        st.none() | st.integers(0, 6),
        st.none() | st.integers(0, 3),
        st.integers(0, 4),
        st.sampled_from(["click", "apply", "apply", "hide"]),
        st.integers(0, 60),
        st.integers(0, 4),
        st.none() | st.integers(0, 90),
    ),
    max_size=15,
)
REQUEST_TYPES = pa.schema(
    {
        "request_id": pa.int64(),
        "member_id": pa.int64(),
        "time_us": pa.int64(),
        "job": pa.list_(pa.int64()),
        "position": pa.list_(pa.int32()),
    }
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(some_requests, some_actions, st.integers(0, 80), st.randoms())
def test_it_equals_the_rules_applied_row_by_row_in_any_order(
    requests: list[dict[str, Any]], actions: list[dict[str, Any]], now: int, random: Any
) -> None:
    table = pa.Table.from_pylist(requests, REQUEST_TYPES)
    expected, counts = slow_attribute(requests, actions, SCHEMA, now * S)
    got, report = attribute(table, actions_of(*actions), SCHEMA, now_us=now * S)
    assert got.to_pylist() == expected
    assert only(report) == {name: count for name, count in counts.items() if count}
    numbers = asdict(report)
    assert numbers.pop("num_actions") == sum(numbers.values())
    random.shuffle(actions)
    again, again_report = attribute(table, actions_of(*actions), SCHEMA, now_us=now * S)
    assert again == got
    assert again_report == report


def a_log(path: Path, rng: np.random.Generator, num_requests: int) -> pa.Table:
    """Requests and, in the same file, row groups of seven of them."""
    lengths = rng.integers(1, 5, num_requests)
    table = pa.table(
        {
            "request_id": rng.permutation(num_requests),
            "member_id": rng.integers(0, 8, num_requests),
            "time_us": np.sort(rng.integers(0, 300, num_requests)) * S,
            "job": [rng.integers(0, 6, k).tolist() for k in lengths],
            "position": [list(range(1, k + 1)) for k in lengths],
        }
    )
    write_log(table, str(path), SCHEMA, key=None, member_ids="already_pseudonyms", labels="to_come", rows_per_group=7)
    return table


def some_rows(rng: np.random.Generator, num_actions: int) -> pa.Table:
    by_request = rng.random(num_actions) < 0.5
    return pa.table(
        {
            "request_id": pa.array(rng.integers(0, 60, num_actions), mask=~by_request),
            "member_id": rng.integers(0, 8, num_actions),
            "item_id": rng.integers(0, 6, num_actions),
            "action": rng.choice(["click", "apply"], num_actions),
            "time_us": rng.integers(0, 320, num_actions) * S,
            "grade": rng.integers(0, 4, num_actions),
        }
    )


def test_files_in_any_number_and_order_give_what_one_table_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    requests, actions = a_log(tmp_path / "log.parquet", rng, 60), some_rows(rng, 400)
    assert pq.ParquetFile(tmp_path / "log.parquet").num_row_groups == 9
    expected, report = attribute(requests, actions, SCHEMA, now_us=310 * S)
    assert min(report.num_joined, report.num_duplicates, report.num_early, report.num_late) > 5

    shuffled = actions.take(rng.permutation(len(actions)))
    pq.write_table(actions.sort_by("time_us"), tmp_path / "sorted.parquet")
    pq.write_table(shuffled.slice(0, 150), tmp_path / "b.parquet")
    # Another writer's taste: words as a dictionary, times as timestamps, no grade for clicks.
    rest = shuffled.slice(150)
    rest = rest.set_column(3, "action", rest["action"].dictionary_encode())
    rest = rest.set_column(4, "time_us", rest["time_us"].cast(pa.timestamp("us", "UTC")))
    pq.write_table(rest, tmp_path / "a.parquet")
    logs = []
    for out, names in (("one", ["sorted"]), ("two", ["b", "a"]), ("three", ["a", "b"])):
        paths = [str(tmp_path / f"{name}.parquet") for name in names]
        out_path = str(tmp_path / f"{out}.parquet")
        assert attribute_files(str(tmp_path / "log.parquet"), paths, out_path, SCHEMA, now_us=310 * S) == report
        logs.append(pq.read_table(out_path))
    for log in logs:
        for name in ("click", "click_observed", "apply_grade", "apply_observed", "job"):
            assert log[name].to_pylist() == expected[name].to_pylist(), name


def test_a_log_may_be_labelled_in_place_again_and_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    path = str(tmp_path / "log.parquet")
    requests, actions = a_log(tmp_path / "log.parquet", rng, 30), some_rows(rng, 100)
    pq.write_table(actions.slice(0, 50), tmp_path / "first.parquet")
    pq.write_table(actions.slice(50), tmp_path / "late.parquet")
    files = [str(tmp_path / "first.parquet")]
    attribute_files(path, files, path, SCHEMA, now_us=100 * S)
    attribute_files(path, [*files, str(tmp_path / "late.parquet")], path, SCHEMA, now_us=310 * S)
    expected = attribute(requests, actions, SCHEMA, now_us=310 * S)[0]
    assert pq.read_table(path)["click"].to_pylist() == expected["click"].to_pylist()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first.parquet", "late.parquet", "log.parquet"]


def test_no_action_files_close_windows_all_the_same(tmp_path: Path) -> None:
    a_log(tmp_path / "log.parquet", np.random.default_rng(9), 5)
    report = attribute_files(str(tmp_path / "log.parquet"), [], str(tmp_path / "out.parquet"), SCHEMA, now_us=10**6 * S)
    assert only(report) == {}
    assert all(value == 0 for row in pq.read_table(tmp_path / "out.parquet")["click"].to_pylist() for value in row)


def test_bad_files_are_named_and_leave_nothing(tmp_path: Path) -> None:
    a_log(tmp_path / "log.parquet", np.random.default_rng(9), 5)
    log, out = str(tmp_path / "log.parquet"), str(tmp_path / "out.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "log.parquet").read_bytes()[:-20])
    torn = str(tmp_path / "torn.parquet")
    with pytest.raises(LogError, match=r"torn.parquet' is truncated or not Parquet"):
        attribute_files(log, [torn], out, SCHEMA, now_us=0)
    with pytest.raises(LogError, match=r"torn.parquet' is truncated or not Parquet"):
        attribute_files(torn, [], out, SCHEMA, now_us=0)
    with pytest.raises(LogError, match=r"nowhere.parquet' is not there"):
        attribute_files(log, [str(tmp_path / "nowhere.parquet")], out, SCHEMA, now_us=0)
    with pytest.raises(
        LogError, match=r"action file '.*log.parquet': actions need the columns \['item_id', 'action'\]"
    ):
        attribute_files(log, [log], out, SCHEMA, now_us=0)
    assert not Path(out).exists()
