"""What changed, where and since when, against incidents that are drawn."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwell.errors import MonitoringError
from rankwell.monitoring.causes import ranked_causes
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.onset import onset_us
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import ALL_ROWS, CategoricalBins, NumericBins, PaneLayout
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.tick_history import TICK_US
from rankwell.monitoring.version_pane import VersionPane

DAY_M = 96 * 15
LAYOUT = PaneLayout(
    columns=(NumericBins(name="years", edges=(2.0, 5.0)), CategoricalBins(name="city", top=(1, 2))),
    segments=CategoricalBins(name="title", top=(3, 7)),
)


def reading(column: str, segment: int, value: float, *, name: str = "psi", limit: float = 0.1) -> Reading:
    return Reading(
        name=name, column=column, segment=segment, value=value, unit="nats", limit=limit, p_value=1e-9,
        minimum_detectable=0.1, num_rows=500, num_reference_rows=5_000, window_start_us=0, window_end_us=TICK_US,
        is_alarm=value > limit,
    )  # fmt: skip


# --- causes


def test_causes_are_ranked_by_alarm_times_spend() -> None:
    readings = [reading("logit", 3, 0.9), reading("salary", 2, 0.4), reading("years", 2, 0.05)]
    causes = ranked_causes([*readings, reading("salary", ALL_ROWS, 5.0)], {2: 750, 3: 250})
    assert [(cause.segment, cause.column) for cause in causes] == [(2, "salary"), (3, "logit")]
    assert [cause.score for cause in causes] == pytest.approx([4 * 0.75, 9 * 0.25])
    assert [cause.spend_rate for cause in causes] == [0.75, 0.25]


def test_the_worst_statistic_speaks_for_a_column() -> None:
    [cause] = ranked_causes([reading("years", 2, 0.3), reading("years", 2, 4.0, name="mean_shift", limit=0.5)], {2: 1})
    assert cause.reading.name == "mean_shift"
    assert cause.score == pytest.approx(8.0)


def test_all_rows_are_named_where_no_segment_is() -> None:
    [cause] = ranked_causes([reading("years", ALL_ROWS, 0.2), reading("years", 99, 0.9)], {2: 10})
    assert (cause.segment, cause.spend_rate) == (ALL_ROWS, 1.0)
    assert cause.score == pytest.approx(2.0)


def test_without_alarms_or_spend() -> None:
    assert ranked_causes([reading("years", 2, 0.01)], {2: 10}) == []
    assert [cause.score for cause in ranked_causes([reading("years", 2, 0.2)], {2: 0})] == pytest.approx([2.0])
    assert ranked_causes([reading("years", 2, 1.0, limit=0.0)], {2: 1})[0].score == 1e3


# --- since when


def drawn(change_m: int, *, num_minutes: int = DAY_M + 240, per_minute: int = 20, seed: int = 0) -> Pane:
    """Years of segment 7 shift at a minute; city and segment 3 stay."""
    rng = np.random.default_rng(seed)
    minute_C = np.repeat(np.arange(num_minutes), per_minute)
    title_C = rng.choice([3, 7], len(minute_C))
    is_hurt_C = (minute_C >= change_m) & (title_C == 7)
    years_C = rng.exponential(3.0, len(minute_C)) + np.where(is_hurt_C, 2.0, 0.0)
    columns = {"years": years_C, "city": rng.integers(1, 4, len(minute_C)), "title": title_C}
    return Pane.of(LAYOUT, FlatRows(minute_C * MINUTE_US, columns))


@pytest.mark.parametrize("since_m", [DAY_M + 239, DAY_M + 230, DAY_M + 200, DAY_M + 100])
def test_the_onset_is_found_to_some_minutes(since_m: int) -> None:
    missed_m = []
    for seed in range(5):
        found_us = onset_us(drawn(since_m, seed=seed), "years", 7, until_us=(DAY_M + 240) * MINUTE_US)
        assert found_us is not None
        missed_m.append(found_us // MINUTE_US - since_m)
    # One minute has ten rows of the segment: two of them tell the laws apart.
    assert np.median(np.abs(missed_m)) <= 3, missed_m


def test_the_onset_is_the_one_of_all_minutes_that_fits_best() -> None:
    pane, until_us = drawn(DAY_M + 200), (DAY_M + 240) * MINUTE_US
    found_us = onset_us(pane, "years", 7, until_us=until_us, within_us=240 * MINUTE_US)
    was_B = pane.between(0, DAY_M * MINUTE_US).column("years", segment=7).counts_B + 0.5
    likelihoods = {}
    for start in range(DAY_M, DAY_M + 240):
        counts_B = pane.between(start * MINUTE_US, until_us).column("years", segment=7).counts_B
        shares_B = (counts_B + 0.5) / (counts_B + 0.5).sum()
        likelihoods[start] = float(counts_B @ np.log(shares_B / (was_B / was_B.sum())))
    # The profile likelihood learns p anew for every start; it names the same minute.
    assert max(likelihoods, key=likelihoods.__getitem__) * MINUTE_US == found_us


def test_no_onset_without_rows_before_or_after_or_of_the_segment() -> None:
    pane = drawn(DAY_M + 200)
    assert onset_us(Pane.nothing(LAYOUT), "years", 7, until_us=DAY_M * MINUTE_US) is None
    assert onset_us(pane, "years", 7, until_us=200 * MINUTE_US) is None  # nothing before these hours
    assert onset_us(pane, "years", 99, until_us=(DAY_M + 240) * MINUTE_US) is None
    assert onset_us(pane, "years", 7, until_us=9 * DAY_M * MINUTE_US) is None
    with pytest.raises(MonitoringError):
        onset_us(pane, "salary", 7, until_us=0)
    with pytest.raises(MonitoringError):
        onset_us(pane, "years", 7, until_us=MINUTE_US, within_us=0)


def test_ids_and_all_rows_have_an_onset_too() -> None:
    minute_C = np.arange(DAY_M + 240)
    city_C = np.where(minute_C < DAY_M + 231, 1 + minute_C % 2, -1)
    columns = {"city": city_C, "years": np.ones(len(city_C)), "title": np.full(len(city_C), 3)}
    pane = Pane.of(LAYOUT, FlatRows(minute_C * MINUTE_US, columns))
    for segment in (3, ALL_ROWS):
        assert onset_us(pane, "city", segment, until_us=(DAY_M + 240) * MINUTE_US) == (DAY_M + 231) * MINUTE_US
    assert onset_us(pane, "years", 3, until_us=(DAY_M + 240) * MINUTE_US) is None


# --- who answered

REQUESTS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.sampled_from(["m1", None])), max_size=30)


def versions(rows: list[tuple[int, str, str | None]]) -> VersionPane:
    served = pa.table(
        {
            "served_bundle_id": pa.array([row[1] for row in rows], pa.string()),
            "served_correction_id": pa.array([row[2] for row in rows], pa.string()),
        }
    )
    return VersionPane.of(served, np.array([row[0] * MINUTE_US + 17 for row in rows], np.int64))


@given(REQUESTS, REQUESTS)
def test_versions_add_up_in_any_order(
    first: list[tuple[int, str, str | None]], later: list[tuple[int, str, str | None]]
) -> None:
    both = versions(first) + versions(later)
    assert both.table.equals(versions([*later, *first]).table)
    assert VersionPane.from_table(both.table).spans() == both.spans()
    for span in both.spans():
        mine = [row[0] for row in [*first, *later] if span.version in row]
        assert (span.first_us, span.last_us) == (min(mine) * MINUTE_US, max(mine) * MINUTE_US)
        assert span.num_requests == len(mine)


def test_a_canary_is_seen_beside_the_bundle() -> None:
    pane = versions([(0, "a", None), (1, "a", None), (1, "b", None), (2, "a", "m1"), (3, "a", None)])
    assert [(s.kind, s.version, s.first_us // MINUTE_US, s.last_us // MINUTE_US) for s in pane.spans()] == [
        ("bundle", "a", 0, 3), ("bundle", "b", 1, 1), ("correction", "m1", 2, 2),
    ]  # fmt: skip
    assert [s.version for s in pane.between(2 * MINUTE_US, 3 * MINUTE_US).spans()] == ["a", "m1"]
    assert VersionPane().spans() == ()
    assert len(VersionPane() + pane) == 5


def test_other_tables_are_refused() -> None:
    with pytest.raises(MonitoringError):
        VersionPane.from_table(pa.table({"minute": [1]}))
