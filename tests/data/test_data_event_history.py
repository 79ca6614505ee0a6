from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.data.event_history import history_from_actions
from rankwell.data.pseudonyms import PseudonymKey, create_key, pseudonymise
from rankwell.data.string_ids import hash_strings
from rankwell.data.writer import write_log
from rankwell.errors import LeakError, LogError, PrivacyError, SchemaError
from rankwell.schema import Action, Categorical, Numeric, Schema, Sequence

S = 1_000_000
KEY = PseudonymKey(bytes(range(32)))
HISTORY = Sequence(
    name="history",
    fields=(
        Categorical(name="item", on="event", table="job"),
        Categorical(name="action", on="event", missing="row"),
        Numeric(name="dwell", on="event", missing="indicator"),
    ),
    max_length=3,
)
SCHEMA = Schema(
    features=(Categorical(name="job"),),
    actions=(Action(name="click", window_s=10),),
    sequences=(HISTORY,),
    item="job",
    ingest_delay_s=5,
)
TYPES = {
    "member_id": pa.int64(),
    "item_id": pa.int64(),
    "action": pa.string(),
    "time_us": pa.int64(),
    "dwell": pa.float32(),
    "arrived_us": pa.int64(),
}


def events_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: pa.array([row.get(name) for row in rows], type_) for name, type_ in TYPES.items()})


def event(at: float, item: int = 7, member: int | None = 5, **more: Any) -> dict[str, Any]:
    return {"member_id": member, "item_id": item, "action": "click", "time_us": round(at * S), **more}


def requests_at(*pairs: tuple[int | None, float]) -> pa.Table:
    return pa.table(
        {
            "member_id": pa.array([member for member, _ in pairs], pa.int64()),
            "time_us": pa.array([round(at * S) for _, at in pairs], pa.int64()),
        }
    )


def items(requests: pa.Table, rows: list[dict[str, Any]]) -> list[list[int]]:
    return history_from_actions(requests, events_of(rows), SCHEMA, HISTORY)["history_item"].to_pylist()


def slow_history(request: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The rules, row by row: (time, item, action, dwell) of the request's events."""
    delay = 5 * S
    once: dict[tuple[Any, ...], int] = {}
    for row in rows:
        if row["member_id"] is None or row["member_id"] != request["member_id"]:
            continue
        arrived = row["time_us"] if row["arrived_us"] is None else row["arrived_us"]
        if row["time_us"] < request["time_us"] - delay and arrived < request["time_us"]:
            known = max(row["time_us"], arrived - delay)
            fields = (row["time_us"], row["item_id"], row["action"], row["dwell"])
            once[fields] = min(known, once.get(fields, known))

    def ties(fields: tuple[Any, ...]) -> tuple[Any, ...]:
        _, item, action, dwell = fields
        # Any fixed order among equal times will do; this is the one of the sort keys, the last field first.
        bits = -1 if dwell is None else int(dwell)
        return bits, -1 if action is None else hash_strings(pa.array([action]))[0].as_py(), item

    def order(fields: tuple[Any, ...]) -> tuple[Any, ...]:
        return once[fields], fields[0], *ties(fields)

    latest = sorted(once, key=order)[-HISTORY.max_length :]
    return sorted(latest, key=lambda fields: (fields[0], order(fields)))


def test_an_event_must_be_older_than_the_delay_to_the_microsecond() -> None:
    requests = requests_at((5, 100))
    assert items(requests, [event(95)]) == [[]]
    assert items(requests, [event(94.999999)]) == [[7]]


def test_an_event_that_arrived_later_was_not_known() -> None:
    requests = requests_at((5, 100))
    assert items(requests, [event(50, arrived_us=100 * S)]) == [[]]
    assert items(requests, [event(50, arrived_us=100 * S - 1)]) == [[7]]
    # Arriving sooner than the delay helps nothing.
    assert items(requests, [event(95, arrived_us=95 * S)]) == [[]]


def test_the_latest_are_kept_oldest_first() -> None:
    rows = [event(at, item=at) for at in (30, 10, 40, 20)]
    assert items(requests_at((5, 100), (5, 36), (5, 14)), rows) == [[20, 30, 40], [10, 20, 30], []]


def test_a_straggler_counts_as_recent_and_stands_at_its_time() -> None:
    rows = [event(10, item=1, arrived_us=90 * S), event(20, item=2), event(30, item=3), event(40, item=4)]
    assert items(requests_at((5, 100)), rows) == [[1, 3, 4]]


def test_what_was_delivered_twice_stands_once() -> None:
    rows = [event(10), event(10), event(10, arrived_us=60 * S), event(10, item=8)]
    assert items(requests_at((5, 100), (5, 16)), rows) == [[7, 8], [7, 8]]


def test_nobody_has_no_history() -> None:
    assert items(requests_at((None, 100), (9, 100)), [event(10, member=None), event(10)]) == [[], []]
    assert items(requests_at((5, 100)), []) == [[]]
    assert items(requests_at(), [event(10)]) == []


def test_columns_types_and_words() -> None:
    old = requests_at((5, 100)).append_column("history_item", [[[1]]])
    table = history_from_actions(old, events_of([event(10, dwell=2.5), event(20, action=None)]), SCHEMA, HISTORY)
    assert table.schema.names == [
        "member_id",
        "time_us",
        "history_item",
        "history_action",
        "history_dwell",
        "history_time_us",
    ]
    assert table.schema.types[2:] == [
        pa.list_(pa.int64()),
        pa.list_(pa.int64()),
        pa.list_(pa.float32()),
        pa.list_(pa.int64()),
    ]
    click = hash_strings(pa.array(["click"]))[0].as_py()
    assert table.to_pylist()[0] | {"member_id": 0, "time_us": 0} == {
        "member_id": 0,
        "time_us": 0,
        "history_item": [7, 7],
        "history_action": [click, None],
        "history_dwell": [2.5, None],
        "history_time_us": [10 * S, 20 * S],
    }


def test_a_field_may_read_another_column() -> None:
    actions = events_of([event(10)]).rename_columns(["member_id", "thing", "action", "time_us", "dwell", "arrived_us"])
    with pytest.raises(LogError, match=r"lack the columns \['item_id'\] for the history 'history'.*\n.*`columns`"):
        history_from_actions(requests_at((5, 100)), actions, SCHEMA, HISTORY)
    table = history_from_actions(requests_at((5, 100)), actions, SCHEMA, HISTORY, columns={"item": "thing"})
    assert table["history_item"].to_pylist() == [[7]]


def test_raw_members_need_the_key() -> None:
    requests = requests_at((5, 100)).set_column(0, "member_id", pseudonymise(pa.array(["ann"]), KEY))
    actions = events_of([event(10)]).set_column(0, "member_id", [["ann"]])
    table = history_from_actions(requests, actions, SCHEMA, HISTORY, key=KEY)
    assert table["history_item"].to_pylist() == [[7]]
    with pytest.raises(PrivacyError, match="raw ids, not pseudonyms"):
        history_from_actions(requests, actions, SCHEMA, HISTORY)


def test_bad_input_is_named() -> None:
    requests, actions = requests_at((5, 100)), events_of([event(10)])
    with pytest.raises(SchemaError, match=r"the history 'history' can't be joined; found: member_id=None"):
        history_from_actions(requests, actions, SCHEMA.model_copy(update={"member_id": None}), HISTORY)
    with pytest.raises(LogError, match="the requests lack the column 'time_us'"):
        history_from_actions(requests.drop(["time_us"]), actions, SCHEMA, HISTORY)
    with pytest.raises(LogError, match=r"'item_id' of the actions has nulls; found: 1 of 1; allowed: .*missing='row'"):
        history_from_actions(requests, events_of([event(10) | {"item_id": None}]), SCHEMA, HISTORY)
    with pytest.raises(LogError, match=r"column 'dwell' of the actions holds no numbers; found: string"):
        history_from_actions(requests, actions.set_column(4, "dwell", [["long"]]), SCHEMA, HISTORY)


def test_a_label_planted_in_the_history_is_refused(tmp_path: Path) -> None:
    requests = requests_at((5, 100)).append_column("request_id", [[1]]).append_column("job", [[[7, 8]]])
    requests = requests.append_column("click", [[[1, 0]]])
    clicked = events_of([event(10), event(103)])
    honest = history_from_actions(requests, clicked, SCHEMA, HISTORY)
    assert honest["history_item"].to_pylist() == [[7]]
    write_log(honest, str(tmp_path / "honest.parquet"), SCHEMA, key=KEY)

    planted = history_from_actions(requests.set_column(1, "time_us", [[200 * S]]), clicked, SCHEMA, HISTORY).set_column(
        1, "time_us", [[100 * S]]
    )
    assert planted["history_time_us"].to_pylist() == [[10 * S, 103 * S]]
    with pytest.raises(LeakError, match=r"an event that was not yet known.*found: an event 3 s after the request"):
        write_log(planted, str(tmp_path / "planted.parquet"), SCHEMA, key=KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["honest.parquet"]


some_events = st.lists(
    st.builds(
        lambda member, item, action, time, dwell, arrived: {
            "member_id": member,
            "item_id": item,
            "action": action,
            "time_us": time * S,
            "dwell": dwell,
            "arrived_us": None if arrived is None else arrived * S,
        },
        st.none() | st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from(["click", "apply", None]),
        st.integers(0, 20),
        st.sampled_from([0.0, 1.0, 2.0]),
        st.none() | st.integers(0, 40),
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(some_events, st.lists(st.tuples(st.none() | st.integers(0, 3), st.integers(0, 40)), max_size=5), st.randoms())
def test_it_equals_the_rules_applied_row_by_row_in_any_order(
    rows: list[dict[str, Any]], pairs: list[tuple[int | None, int]], random: Any
) -> None:
    requests = requests_at(*pairs)
    got = history_from_actions(requests, events_of(rows), SCHEMA, HISTORY)
    for row, request in zip(got.to_pylist(), requests.to_pylist(), strict=True):
        expected = slow_history(request, rows)
        words = {None: None} | {w: hash_strings(pa.array([w]))[0].as_py() for w in ("click", "apply")}
        found = list(
            zip(row["history_time_us"], row["history_item"], row["history_action"], row["history_dwell"], strict=True)
        )
        assert found == [(time, item, words[action], dwell) for time, item, action, dwell in expected]
    random.shuffle(rows)
    assert history_from_actions(requests, events_of(rows), SCHEMA, HISTORY) == got


def test_raw_members_on_both_sides_meet_under_the_key(tmp_path: Path) -> None:
    key = create_key(tmp_path / "member.key")
    history = Sequence(name="history", fields=(Categorical(name="item", on="event"),))
    schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), sequences=(history,))
    requests = pa.table({"member_id": ["ann", "bob"], "time_us": [400, 400]})
    actions = pa.table({"member_id": ["ann", "eve"], "item_id": [1, 2], "time_us": [300, 300]})
    joined = history_from_actions(requests, actions, schema, history, key=key)
    assert joined["history_item"].to_pylist() == [[1], []]
    pseudonyms = requests.set_column(0, "member_id", pseudonymise(requests["member_id"], key))
    assert history_from_actions(pseudonyms, actions, schema, history, key=key)["history_item"].to_pylist() == [[1], []]
    members = actions.set_column(0, "member_id", pseudonymise(actions["member_id"], key))
    with pytest.raises(PrivacyError, match="of the requests are strings"):
        history_from_actions(requests, members, schema, history)
