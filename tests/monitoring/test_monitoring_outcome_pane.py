"""Outcomes by minute and segment: against sums over Python rows, and what a request waits for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwell.errors import MetricError, MonitoringError
from rankwell.monitoring.outcome_pane import OutcomePane, outcomes_from_table, outcomes_table
from rankwell.monitoring.pane_layout import ALL_ROWS, NEVER_SEEN, CategoricalBins
from rankwell.monitoring.pending_outcomes import PendingOutcomes
from rankwell.monitoring.version_pane import VersionPane
from rankwell.schema import Action, Categorical, Exposure, Schema

MINUTE_US, S_US = 60_000_000, 1_000_000
SCHEMA = Schema(
    features=(Categorical(name="job"), Categorical(name="level")),
    actions=(Action(name="click", window_s=60), Action(name="apply", window_s=600), Action(name="like")),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
)
LEVEL = CategoricalBins(name="level", top=(1, 2))


def _drawn(num: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    request_C = np.sort(rng.integers(0, max(1, num // 4), num))
    return {
        "times_us_C": (request_C * 17 * S_US) % (5 * MINUTE_US),
        "request_C": request_C,
        "segment_C": rng.integers(0, 3, num),
        "probabilities_C": rng.uniform(0.01, 0.9, num),
        "labels_C": rng.integers(0, 2, num),
        "propensity_C": rng.choice([1.0, 0.5, 0.125], num),
        "price_micros_C": np.where(rng.random(num) < 0.3, np.nan, rng.integers(0, 2**40, num)),
    }


@pytest.mark.parametrize("view", ["served", "scored"])
def test_sums_are_those_of_plain_loops(view: Any) -> None:
    rows = _drawn(300, 0)
    pane = OutcomePane.of("click", **rows)
    segments = [2, 0, 9]
    found = pane.between(MINUTE_US, 3 * MINUTE_US).sums(view, segments)
    of_request: dict[tuple[int, int], list[float]] = {}
    for c in range(300):
        weight = 1.0 if view == "served" else (1 / rows["propensity_C"][c] if rows["propensity_C"][c] < 1 else 0.0)
        if MINUTE_US <= rows["times_us_C"][c] < 3 * MINUTE_US and weight > 0:
            sums = of_request.setdefault((int(rows["segment_C"][c]), int(rows["request_C"][c])), [0.0, 0.0])
            sums[0] += weight * rows["probabilities_C"][c]
            sums[1] += weight * rows["labels_C"][c]
    for g, segment in enumerate(segments):
        pairs = [pair for (at, _), pair in of_request.items() if at == segment]
        assert found.predicted_G[g] == pytest.approx(sum(p for p, _ in pairs))
        assert found.observed_G[g] == pytest.approx(sum(y for _, y in pairs))
        assert found.product_G[g] == pytest.approx(sum(p * y for p, y in pairs))
        assert found.num_requests_G[g] == len(pairs)
    paid = [np.nansum(rows["price_micros_C"][rows["segment_C"] == segment]) for segment in segments]
    assert pane.spend_micros(segments).tolist() == [int(micros) for micros in paid]
    grid = (pane.between(0, 0) + pane).grid(segments)
    of_segment = [rows["probabilities_C"][rows["segment_C"] == segment] for segment in segments]
    assert grid.rows_GB.sum(axis=1).tolist() == [len(p_C) for p_C in of_segment]
    np.testing.assert_allclose(grid.totals_GB.sum(axis=1), [p_C.sum() for p_C in of_segment], rtol=1e-12)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 1000))
def test_two_parts_are_the_whole(first: int, second: int, seed: int) -> None:
    one, other = _drawn(first, seed), _drawn(second, seed + 1)
    other["request_C"] = other["request_C"] + 10**6  # other requests
    whole = OutcomePane.of("click", **{name: np.concatenate([one[name], other[name]]) for name in one})
    parts = OutcomePane.of("click", **other) + OutcomePane.of("click", **one)
    np.testing.assert_array_equal(parts.minutes_N, whole.minutes_N)
    np.testing.assert_array_equal(parts.segments_N, whole.segments_N)
    np.testing.assert_allclose(parts.sums_NV6, whole.sums_NV6, rtol=1e-12)
    np.testing.assert_array_equal(parts.spend_micros_N, whole.spend_micros_N)
    np.testing.assert_allclose(parts.grid_NB2, whole.grid_NB2, rtol=1e-12)


def test_old_minutes_summed_up_lose_nothing_but_the_minute() -> None:
    pane, quarter_us = OutcomePane.of("click", **_drawn(400, 3)), 15 * MINUTE_US
    before_us = (int(pane.minutes_N[-1]) * MINUTE_US // quarter_us + 1) * quarter_us
    coarse, segments = pane.coarsened(before_us, quarter_us), pane.segments
    assert set((coarse.minutes_N % 15).tolist()) == {0}
    assert len(coarse) < len(pane)
    np.testing.assert_allclose(coarse.sums("served", segments).observed_G, pane.sums("served", segments).observed_G)
    assert coarse.spend_micros(segments).tolist() == pane.spend_micros(segments).tolist()
    np.testing.assert_allclose(coarse.grid(segments).totals_GB, pane.grid(segments).totals_GB)
    assert coarse.coarsened(before_us, quarter_us) is coarse
    same = pane.coarsened(int(pane.minutes_N[0]) * MINUTE_US // quarter_us * quarter_us, quarter_us)
    assert same is pane


def test_a_table_keeps_every_bit_and_another_format_is_refused() -> None:
    pane = OutcomePane.of("click", **_drawn(100, 3))
    table = outcomes_table(pane)
    again = outcomes_from_table(table)
    assert again.action == "click"
    np.testing.assert_array_equal(again.sums_NV6, pane.sums_NV6)
    np.testing.assert_array_equal(again.grid_NB2, pane.grid_NB2)
    for wrong in (table.replace_schema_metadata({}), table.drop_columns(["sums"])):
        with pytest.raises(MonitoringError, match="no outcomes"):
            outcomes_from_table(wrong)


def test_no_segments_and_no_rows() -> None:
    nothing = OutcomePane.nothing("click")
    assert len(nothing + nothing) == 0
    assert nothing.sums("served", [5]).predicted_G.tolist() == [0.0]
    assert len(OutcomePane.of("click", **_drawn(40, 1)).sums("served", []).predicted_G) == 0


def test_what_cannot_be_is_refused() -> None:
    rows = _drawn(4, 0)
    with pytest.raises(MetricError):
        OutcomePane.of("click", **(rows | {"propensity_C": np.zeros(4)}))
    with pytest.raises(MonitoringError, match="two actions"):
        OutcomePane.nothing("click") + OutcomePane.nothing("apply")


# --- waiting for labels


def _requests(*rows: tuple[int, int, list[int]]) -> pa.Table:
    """Requests of an id, a time in seconds, and the levels of their candidates; jobs are 1, 2, …; all are shown."""
    lists = [levels for _, _, levels in rows]
    return pa.table(
        {
            "request_id": [number for number, _, _ in rows],
            "time_us": [at * S_US for _, at, _ in rows],
            "job": [list(range(1, len(levels) + 1)) for levels in lists],
            "level": lists,
            "position": pa.array([list(range(1, len(levels) + 1)) for levels in lists], pa.list_(pa.int32())),
            "propensity": pa.array([[1.0] * len(levels) for levels in lists], pa.list_(pa.float32())),
            "served_probability_click": [[0.25] * len(levels) for levels in lists],
            "served_bundle_id": ["a"] * len(rows),
            "served_price_micros": pa.array([[100] * len(levels) for levels in lists], pa.list_(pa.int64())),
        }
    )


def _clicks(*rows: tuple[int, int, int]) -> pa.Table:
    return pa.table(
        {
            "request_id": [number for number, _, _ in rows],
            "item_id": [job for _, job, _ in rows],
            "action": ["click"] * len(rows),
            "time_us": [at * S_US for _, _, at in rows],
        }
    )


def test_a_request_is_counted_when_its_window_has_closed_and_late_ones_have_come() -> None:
    pending = PendingOutcomes(SCHEMA, "click", LEVEL, late_s=10)
    pending.add(_requests((1, 0, [1, 2]), (2, 30, [1, 7])))
    pending.add_actions(_clicks((1, 2, 59), (2, 1, 40), (2, 2, 95)))  # the last came after its window
    early = pending.settled(VersionPane(), now_us=70 * S_US)[0]
    assert len(early) == 0, "a click that is there says nothing before its absence would"
    first = pending.settled(VersionPane(), now_us=71 * S_US)[0]
    assert first.sums("served", [1, 2]).observed_G.tolist() == [0.0, 1.0]
    assert pending.num_pending == 1
    second = pending.settled(VersionPane(), now_us=101 * S_US)[0]
    assert second.sums("served", [1, NEVER_SEEN]).observed_G.tolist() == [1.0, 0.0]
    assert second.spend_micros([1, 2, NEVER_SEEN]).tolist() == [100, 0, 100]
    assert pending.num_pending == 0


def test_what_bundles_on_trial_answered_is_apart_and_nothing_is_lost() -> None:
    requests = _requests(*((number, number * 60, [1, 2]) for number in range(9)))
    bundles = pa.array(["a", "a", "c", "a", "d", "a", "c", "a", "a"])
    requests = requests.set_column(requests.column_names.index("served_bundle_id"), "served_bundle_id", bundles)
    versions = VersionPane.of(
        requests.append_column("served_correction_id", pa.nulls(9, pa.string())), np.arange(9) * 60 * S_US
    )
    clicks = _clicks((2, 1, 129), (3, 2, 189), (4, 2, 249))
    together, apart = PendingOutcomes(SCHEMA, "click", LEVEL), PendingOutcomes(SCHEMA, "click", LEVEL)
    for pending in (together, apart):
        pending.add(requests)
        pending.add_actions(clicks)
    outcomes, trials = apart.settled(versions, now_us=1_000 * S_US)
    assert {trial: pane.sums("served", [1, 2]).observed_G.tolist() for trial, pane in trials.items()} == {
        "c": [1.0, 0.0], "d": [0.0, 1.0],
    }  # fmt: skip
    assert outcomes.sums("served", [1, 2]).observed_G.tolist() == [0.0, 1.0]
    whole, _ = together.settled(VersionPane(), now_us=1_000 * S_US)
    parts = outcomes + trials["c"] + trials["d"]
    np.testing.assert_allclose(parts.sums_NV6, whole.sums_NV6)
    assert apart.num_pending == 0
    assert apart.settled(versions, now_us=1_000 * S_US)[1] == {}


def test_actions_count_once_in_any_order_and_before_their_requests() -> None:
    pending = PendingOutcomes(SCHEMA, "click", None)
    pending.add_actions(_clicks((1, 2, 5), (1, 1, 3)))
    pending.add_actions(_clicks((1, 2, 5)))
    pending.add(_requests((1, 0, [1, 2, 2])))
    sums = pending.settled(VersionPane(), now_us=61 * S_US)[0].sums("served", [ALL_ROWS])
    assert (sums.observed_G.tolist(), sums.predicted_G.tolist()) == ([2.0], [0.75])


def test_what_comes_after_it_was_due_is_left_out_and_said() -> None:
    pending = PendingOutcomes(SCHEMA, "click", None)
    pending.add(_requests((1, 0, [1])))
    assert len(pending.settled(VersionPane(), now_us=61 * S_US)[0]) == 1
    pending.add(_requests((2, 0, [1]), (3, 60, [1])))
    assert len(pending.settled(VersionPane(), now_us=62 * S_US, from_us=S_US)[0]) == 0
    assert (pending.num_late, pending.num_pending) == (1, 1)


def test_an_action_without_a_window_cannot_be_waited_for() -> None:
    with pytest.raises(MonitoringError, match="window_s=None"):
        PendingOutcomes(SCHEMA, "like", None)
