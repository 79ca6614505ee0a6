"""What is said of incidents whose cause is known: which suspects are named, since when, and which requests."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from rankwell.mitigation.explanation import Explanation, SegmentOutcome, explained, of_latest_incident, own_doing_last
from rankwell.mitigation.requests_to_look_at import requests_to_look_at
from rankwell.monitoring.alarm_runs import AlarmRun
from rankwell.monitoring.causes import ranked_causes
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import MINUTE_US, Pane
from rankwell.monitoring.pane_layout import ALL_ROWS, CategoricalBins, NumericBins, PaneLayout
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.report_gap import report_delay
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY
from rankwell.monitoring.version_pane import VersionPane
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.schema import Action, Categorical, Exposure, Schema
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Features

SCHEMA = Schema(
    features=(Categorical(name="job", on="candidate"), Categorical(name="level", on="candidate")),
    actions=(Action(name="click", window_s=600.0),),
    member_id=None,
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
)
LEVELS = CategoricalBins(name="level", top=(0, 1))
LAYOUT = PaneLayout(
    columns=(NumericBins(name="served_logit_click", edges=(-1.0, 0.0)), NumericBins(name="years", edges=(2.0, 5.0))),
    segments=LEVELS,
)
DAY = TICKS_PER_DAY * TICK_US
END_US = 2 * DAY
ONSET_US = END_US - 10 * MINUTE_US
SPEND = {0: 100, 1: 300}


def alarm(column: str, segment: int = 1, *, name: str = "psi", value: float = 0.5, start_us: int = 0) -> Reading:
    return Reading(
        name=name, column=column, segment=segment, value=value, unit="nats", limit=0.1, p_value=1e-9,
        minimum_detectable=0.1, num_rows=500, num_reference_rows=5_000, window_start_us=start_us or END_US - TICK_US,
        window_end_us=END_US, is_alarm=True,
    )  # fmt: skip


def counts(
    *, moved: str = "", deploys: dict[int, str] | None = None, ratios: dict[int, float] | None = None
) -> WatchCounts:
    """Two days of ten rows a minute and segment; a column moves at the onset; clicks over expected since then."""
    made = WatchCounts(SCHEMA, LAYOUT, "click")
    rng = np.random.default_rng(0)
    minute_C = np.repeat(np.arange(2 * DAY // MINUTE_US), 20)
    level_C = np.tile([0, 1], len(minute_C) // 2)
    is_hurt_C = (minute_C * MINUTE_US >= ONSET_US) & (level_C == 1)
    columns = {name: rng.normal(1.0, 2.0, len(minute_C)) for name in ("served_logit_click", "years")}
    if moved:
        columns[moved] = columns[moved] + 4.0 * is_hurt_C
    made.pane = Pane.of(LAYOUT, FlatRows(minute_C * MINUTE_US, {**columns, "level": level_C}))
    minutes = np.arange(2 * DAY // MINUTE_US)
    bundle_M = np.array(["a" * 16] * len(minutes), object)
    for from_us, bundle in (deploys or {}).items():
        bundle_M[minutes * MINUTE_US >= from_us] = bundle
    served = pa.table(
        {
            "served_bundle_id": pa.array(list(bundle_M)),
            "served_correction_id": pa.array([None] * len(minutes), pa.string()),
        }
    )
    made.versions = VersionPane.of(served, minutes * MINUTE_US)
    num = 4_000
    for segment, ratio in (ratios or {}).items():
        made.outcomes = made.outcomes + OutcomePane.of(
            "click",
            times_us_C=np.full(num, ONSET_US + MINUTE_US),
            request_C=np.arange(num) + num * segment,
            segment_C=np.full(num, segment),
            probabilities_C=np.full(num, 0.1),
            labels_C=(np.arange(num) % 100 < 10 * ratio).astype(float),
            propensity_C=np.ones(num),
            price_micros_C=np.full(num, 7.0),
        )
    made.settled_us = END_US
    return made


def told(made: WatchCounts, *readings: Reading, known: frozenset[str] | None = None) -> Explanation:
    found = explained(readings, made, (0, 1), spend_micros=SPEND, window_end_us=END_US, known_bundles=known)
    assert found is not None
    return found


def test_a_deploy_within_minutes_of_the_onset_of_scores_is_asked_first() -> None:
    deployed_us = ONSET_US - 2 * MINUTE_US
    made = counts(moved="served_logit_click", deploys={deployed_us: "b" * 16})
    found = told(made, alarm("served_logit_click"))
    assert abs(found.since_us - ONSET_US) <= MINUTE_US
    assert [suspect.kind for suspect in found.suspects] == ["bundle"]
    assert found.suspects[0].at_us == deployed_us
    assert "b" * 16 in found.suspects[0].what
    assert f"after {'a' * 16}" in found.suspects[0].what


def test_probabilities_that_a_correction_has_moved_come_last() -> None:
    moved, clicks = alarm("served_probability_click", value=0.9), alarm("click", name="calibration_served")
    causes = ranked_causes([moved, clicks], SPEND)
    assert [cause.column for cause in causes] == ["served_probability_click", "click"]
    start_us = moved.window_start_us
    for corrected, first in (
        ([], "served_probability_click"),
        ([(start_us - DAY, start_us)], "served_probability_click"),  # it ended before
        ([(END_US - MINUTE_US, END_US + DAY)], "click"),
        ([(start_us - DAY, start_us), (0, END_US)], "click"),
    ):
        assert own_doing_last(causes, corrected, "click")[0].column == first
    assert len(own_doing_last(causes, [(0, END_US)], "click")) == 2
    assert own_doing_last(causes, [(0, END_US)], "apply") == causes  # that correct another action


def test_a_deploy_of_yesterday_is_not() -> None:
    made = counts(moved="served_logit_click", deploys={ONSET_US - DAY // 2: "b" * 16})
    assert [suspect.kind for suspect in told(made, alarm("served_logit_click")).suspects] == ["unwatched"]


def test_no_bundle_is_blamed_for_a_feature() -> None:
    made = counts(moved="years", deploys={ONSET_US: "b" * 16})
    [suspect] = told(made, alarm("years")).suspects
    assert suspect.kind == "upstream"
    assert "years moved: psi 0.5 nats, 5.0 × its limit" in suspect.what
    assert abs(suspect.at_us - ONSET_US) <= MINUTE_US


def test_a_feature_is_named_behind_the_bundle_where_both_moved() -> None:
    made = counts(moved="years", deploys={ONSET_US: "b" * 16})
    found = told(made, alarm("years"), alarm("served_logit_click", value=0.2), alarm("years", 0, value=0.3))
    assert [suspect.kind for suspect in found.suspects] == ["bundle", "upstream"]


def test_clicks_that_lack_everywhere_alike_are_labels_and_elsewhere_the_world() -> None:
    clicks = alarm("click", name="calibration_served", start_us=ONSET_US)
    few = told(counts(ratios={0: 0.4, 1: 0.5}), clicks)
    assert few.suspects[0].kind == "labels"
    assert few.suspects[0].what.startswith("55% of the expected clicks are missing")
    assert few.since_us == ONSET_US
    for ratios in ({0: 1.0, 1: 0.5}, {0: 0.2, 1: 0.9}, {0: 1.5, 1: 1.5}, {}):
        assert told(counts(ratios=ratios), clicks).suspects[0].kind == "world", ratios


def test_reports_that_are_missing_are_labels_since_they_are() -> None:
    gap = report_delay(ONSET_US, END_US, num_waiting=300)
    found = told(counts(), gap)
    assert (found.suspects[0].kind, found.suspects[0].at_us) == ("labels", ONSET_US)
    assert found.causes[0].reading.value == 600.0
    none = report_delay(END_US, END_US, num_waiting=300)
    assert explained([none], counts(), (0, 1), spend_micros=SPEND, window_end_us=END_US) is None


def test_a_bundle_that_nobody_deployed_is_named() -> None:
    made = counts(moved="years", deploys={ONSET_US + MINUTE_US: "f" * 16})
    found = told(made, alarm("years"), known=frozenset({"a" * 16}))
    assert "not in the servers' folder" in found.suspects[0].what
    known = frozenset({"a" * 16, "f" * 16})
    assert [suspect.kind for suspect in told(made, alarm("years"), known=known).suspects] == ["upstream"]


def test_a_bundle_on_trial_that_is_off_is_named_once_before_features() -> None:
    trials = [
        alarm(f"click of {'f' * 16}", segment, name="calibration_trial", start_us=ONSET_US) for segment in (0, 1)
    ]  # fmt: skip
    made = counts(moved="years", ratios={1: 1.0})
    made.trials["f" * 16] = counts(ratios={1: 0.5}).outcomes
    found = told(made, *trials, alarm("years", value=0.2))
    assert [(one.observed, round(one.expected)) for one in found.outcomes] == [(0, 0), (200, 400)], "of the trial"
    assert [suspect.kind for suspect in found.suspects] == ["trial", "upstream"]
    assert found.suspects[0].what.startswith(f"bundle {'f' * 16} answers beside the current one, on trial")
    assert found.since_us == ONSET_US


def test_money_is_told_of_what_was_expected() -> None:
    found = told(counts(ratios={0: 1.0, 1: 0.5}), alarm("served_logit_click"))
    assert found.outcomes[1].observed == 200
    assert found.outcomes[1].expected == pytest.approx(400)
    assert found.outcomes[1].spend_micros == 28_000
    assert found.outcomes[1].over_micros == pytest.approx(14_000)
    assert SegmentOutcome(0, 0.0, 0.0, 0).over_micros == 0


def test_no_alarm_no_explanation_and_no_rows_no_error() -> None:
    assert explained([], counts(), (0, 1), spend_micros=SPEND, window_end_us=END_US) is None
    nothing = WatchCounts(SCHEMA, LAYOUT, "click")
    found = told(nothing, alarm("years", ALL_ROWS))
    assert found.since_us == END_US - TICK_US
    assert [suspect.kind for suspect in found.suspects] == ["upstream"]


def test_what_has_stood_for_long_is_not_what_somebody_is_called_for() -> None:
    old, new, quiet = alarm("years", 0, value=9.0), alarm("served_logit_click"), replace(alarm("years"), is_alarm=False)
    runs = [
        AlarmRun("psi", "years", 0, END_US - 7 * 3_600_000_000, END_US),
        AlarmRun("psi", "served_logit_click", 1, END_US, END_US),
    ]
    assert of_latest_incident([old, new, quiet], runs) == [new, quiet]
    assert of_latest_incident([old, quiet], runs[:1]) == [old, quiet]
    assert of_latest_incident([quiet], []) == [quiet]


# --- requests


def test_requests_of_the_segment_and_the_time_the_dearest_first(tmp_path: Path) -> None:
    log = ServedLog(tmp_path, SCHEMA, worker="w0", seed=1, now_us=lambda: 0, segment_bytes=8_000)
    for number in range(40):
        features = Features(
            context={}, history={},
            candidates={"job": torch.tensor([11, 12]), "level": torch.tensor([0, 1])},
            offsets=torch.tensor([0, 2]), request_C=torch.zeros(2, dtype=torch.int64),
        )  # fmt: skip
        logits_KA = torch.full((2, 1), -1.0, dtype=torch.float64)
        log.append(
            ServedRequest(
                request_id=number, member_id=MISSING_ID, time_us=number * MINUTE_US, features=features,
                item_ids_K=torch.tensor([11, 12]), places_n=np.arange(2), propensities_n=np.ones(2),
                logits_KA=logits_KA, probabilities_KA=logits_KA.sigmoid(), bundle_id="c" if number == 26 else "b",
                prices_micros_n=np.array([1_000 + number, 10 * number % 70]),
            )
        )  # fmt: skip
    log.close()
    asked = partial(requests_to_look_at, tmp_path, action="click", segments=LEVELS)
    found = asked(column="level", segment=1, since_us=20 * MINUTE_US, until_us=39 * MINUTE_US, num=3)
    assert [(one.request_id, one.price_micros) for one in found] == [(20, 60), (27, 60), (34, 60)]
    assert {(one.item_id, one.position, one.bundle_id, one.correction_id) for one in found} == {(12, 2, "b", None)}
    assert [one.value for one in found] == [1.0] * 3
    assert found[0].probability == pytest.approx(0.2689, abs=1e-4)
    [every] = asked(column="level", segment=ALL_ROWS, since_us=0, until_us=40 * MINUTE_US, num=1)
    assert (every.request_id, every.item_id) == (39, 11)
    [canary] = asked(column="click of c", segment=1, since_us=0, until_us=DAY, bundle_id="c")
    assert (canary.request_id, canary.bundle_id) == (26, "c")
    assert asked(column="level", segment=1, since_us=90 * MINUTE_US, until_us=DAY) == ()
    assert np.isnan(asked(column="click", segment=1, since_us=0, until_us=DAY)[0].value)
