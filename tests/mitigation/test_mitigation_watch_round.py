"""A day of a log in which nothing is wrong, and then odds of one segment three times too high."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rankwell.errors import LogError, MonitoringError
from rankwell.mitigation.folder_watch import FolderWatch
from rankwell.mitigation.mitigation_state import Decision
from rankwell.mitigation.watch_round import RoundReport, WatchRound
from rankwell.monitoring.calibration_watch import CalibrationWatch
from rankwell.monitoring.drift_watch import DriftWatch
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.schema import Action, Categorical, Exposure, Schema
from rankwell.serving.action_log import ActionLog, ReportedAction
from rankwell.serving.served_log import ServedLog
from rankwell.serving.served_request import ServedRequest
from rankwell.types import MISSING_ID, Features

MINUTE_US, TICK_US = 60_000_000, 900_000_000
START_US = 1_790_000_100_000_000 // TICK_US * TICK_US
SCHEMA = Schema(
    features=(Categorical(name="job"), Categorical(name="level")),
    actions=(Action(name="click", window_s=300),),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
)
LOGITS = tuple(np.linspace(-2.5, 0.5, 10))
LAYOUT = PaneLayout(
    columns=(NumericBins(name="served_logit_click", edges=LOGITS, origin=-1.0),),
    segments=CategoricalBins(name="level", top=(0, 1)),
)


def _answer(number: int, time_us: int, rng: np.random.Generator, bug: float) -> tuple[ServedRequest, list[int]]:
    """Two candidates of each of two levels; a click is drawn for each from the truth, which knows no bug."""
    true_K = rng.normal(-1.0, 0.8, 4)
    level_K = np.array([0, 0, 1, 1])
    features = Features(
        context={}, history={},
        candidates={"job": torch.arange(4) + 1, "level": torch.from_numpy(level_K)},
        offsets=torch.tensor([0, 4]), request_C=torch.zeros(4, dtype=torch.int64),
    )  # fmt: skip
    logits_KA = torch.from_numpy(true_K + bug * (level_K == 1))[:, None]
    answer = ServedRequest(
        request_id=number, member_id=MISSING_ID, time_us=time_us, features=features, item_ids_K=torch.arange(4) + 1,
        places_n=np.arange(4), propensities_n=np.ones(4), logits_KA=logits_KA,
        probabilities_KA=logits_KA.sigmoid(), bundle_id="b",
        prices_micros_n=(logits_KA.sigmoid()[:, 0].numpy() * 1e6).astype(np.int64),
    )  # fmt: skip
    return answer, [int(k) + 1 for k in np.flatnonzero(rng.random(4) < 1 / (1 + np.exp(-true_K)))]


def _rounds(folder: Path, *, num_ticks: int, bug_from: int, per_tick: int, mitigation: Any = None) -> list[RoundReport]:
    def damaged(error: LogError) -> None:
        raise error

    rng, clock = np.random.default_rng(0), [START_US]
    served = ServedLog(folder, SCHEMA, worker="w0", seed=1, now_us=lambda: clock[0])
    actions = ActionLog(folder, SCHEMA, worker="w0", now_us=lambda: clock[0])
    watch = FolderWatch(folder, WatchCounts(SCHEMA, LAYOUT, "click"), folder / "state", on_damage=damaged)
    loop = WatchRound(watch, DriftWatch(LAYOUT), CalibrationWatch(num_series=4), mitigation)
    reports = []
    for tick in range(num_ticks):
        num = per_tick * (5 if tick >= bug_from else 1)  # some 110 clicks of a level in a quarter-hour
        for place in range(num):
            clock[0] = START_US + tick * TICK_US + place * TICK_US // num
            bug = np.log(3.0) if tick >= bug_from else 0.0
            answer, clicked = _answer(tick * 1_000 + place, clock[0], rng, bug)
            served.append(answer)
            if clicked:
                actions.append(
                    [ReportedAction(answer.request_id, job, "click", clock[0] + MINUTE_US) for job in clicked]
                )
        clock[0] = START_US + (tick + 1) * TICK_US + 1_000_000
        if tick > num_ticks - 12:  # a day is read at once: the watch was away
            reports.append(loop.after(now_us=clock[0]))
    served.close()
    actions.close()
    return reports


@pytest.mark.slow  # a day of requests is logged and read
def test_a_calibration_bug_is_seen_without_labels_at_once_and_by_clicks_when_they_are_due(tmp_path: Path) -> None:
    reports = _rounds(tmp_path, num_ticks=103, bug_from=100, per_tick=40)
    for report in reports[:8]:
        assert not report.new_alarms
    first = reports[8]
    found = {(run.name, run.column, run.segment) for run in first.new_alarms}
    assert ("psi", "served_logit_click", 1) in found
    assert not any(segment == 0 for _, _, segment in found)
    explanation = first.explanation
    assert explanation is not None
    assert (explanation.causes[0].column, explanation.causes[0].segment) == ("served_logit_click", 1)
    assert abs(explanation.since_us - START_US - 100 * TICK_US) <= 3 * MINUTE_US
    assert explanation.suspects[0].kind == "unwatched"  # the same bundle answers, as far as its id tells
    assert all(one.time_us >= explanation.since_us and one.item_id in (3, 4) for one in explanation.requests)
    assert len(explanation.requests) == 5
    assert all(report.explanation is None for report in reports[:8])
    by_clicks = [r.segment for report in reports[8:10] for r in report.readings
                 if r.is_alarm and r.name == "calibration_served"]  # fmt: skip
    assert by_clicks
    assert set(by_clicks) == {1}
    assert reports[-1].spend_micros[1] > 1.3 * reports[-1].spend_micros[0] > 0
    assert not any(report.decisions for report in reports), "nobody was to act"


class _Listener:
    """Stands for a mitigation folder."""

    def look(self, readings: list[Reading], outcomes: OutcomePane, **others: Any) -> tuple[Decision, ...]:
        self.readings, self.outcomes, self.others = readings, outcomes, others
        return ()


def test_mitigation_is_shown_the_panes_of_watched_columns_too(tmp_path: Path) -> None:
    listener = _Listener()
    _rounds(tmp_path, num_ticks=2, bug_from=9, per_tick=5, mitigation=listener)
    assert listener.others["pane"].column("served_logit_click").num_rows == 2 * 5 * 4
    assert {reading.name for reading in listener.readings} >= {"psi", "calibration_served"}
    assert set(listener.others) == {"settled_us", "versions", "pane"}


def test_drift_of_another_layout_is_refused(tmp_path: Path) -> None:
    other = PaneLayout(columns=(NumericBins(name="served_logit_click", edges=(0.0,)),))
    watch = FolderWatch(
        tmp_path, WatchCounts(SCHEMA, LAYOUT, "click"), tmp_path / "state", on_damage=lambda error: None
    )
    with pytest.raises(MonitoringError, match="another layout"):
        WatchRound(watch, DriftWatch(other), CalibrationWatch(num_series=4))
