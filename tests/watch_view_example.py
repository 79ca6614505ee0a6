"""A view of a watch: one alarm that is new, one that is over, a correction, and a day of outcomes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rankwell.mitigation.explanation import Explanation, SegmentOutcome, Suspect
from rankwell.mitigation.mitigation_state import Decision
from rankwell.mitigation.requests_to_look_at import RequestToLookAt
from rankwell.mitigation.watch_round import RoundReport
from rankwell.mitigation.watch_view import WatchView
from rankwell.monitoring.alarm_runs import AlarmRun
from rankwell.monitoring.causes import Cause
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane_layout import ALL_ROWS
from rankwell.monitoring.reading import Reading
from rankwell.serving.correction import Correction

MINUTE_US, TICK_US, DAY_US = 60_000_000, 900_000_000, 86_400_000_000
NOW_US = 1_790_000_100_000_000 // TICK_US * TICK_US + 7_000_000


def reading(name: str, column: str, segment: int, value: float, limit: float, **changes: Any) -> Reading:
    end_us = NOW_US // TICK_US * TICK_US
    given = {
        "name": name, "column": column, "segment": segment, "value": value, "limit": limit, "unit": "nats",
        "p_value": math.nan, "minimum_detectable": 0.1, "num_rows": 500, "num_reference_rows": 9_000,
        "window_start_us": end_us - TICK_US, "window_end_us": end_us, "is_alarm": value > limit,
    }  # fmt: skip
    return Reading(**{**given, **changes})


def outcomes(*, wrong_from: int = 90, clicks: bool = True) -> OutcomePane:
    """Title 3 and 7, 96 quarter-hours; from `wrong_from` on title 7 is promised twice the clicks it gets."""
    until_us, total = NOW_US // TICK_US * TICK_US, OutcomePane.nothing("click")
    for tick in range(96):
        at_us = until_us - (96 - tick) * TICK_US
        p_C = np.repeat([0.2, 0.4 if tick >= wrong_from else 0.2], 50)
        labels_C = np.tile(np.arange(50) % 5 == 0, 2) if clicks else np.zeros(100)
        total = total + OutcomePane.of(
            "click", times_us_C=np.full(100, at_us), request_C=np.arange(100) % 50, segment_C=np.repeat([3, 7], 50),
            probabilities_C=p_C, labels_C=labels_C, propensity_C=np.ones(100), price_micros_C=p_C * 1e6,
        )  # fmt: skip
    return total


def explanation() -> Explanation:
    """Of title 7, by a bundle that was deployed two minutes before."""
    began_us = NOW_US // TICK_US * TICK_US - 6 * TICK_US
    clicks = reading("calibration_served", "click", 7, 30.0, 9.0, window_start_us=began_us)
    causes = (Cause(reading("psi", "years", 7, 0.31, 0.12), 0.4, 1.03), Cause(clicks, 0.4, 1.33))
    suspects = (
        Suspect("bundle", began_us - 2 * MINUTE_US, "bundle bb began to answer, after aa: 2 min before the onset"),
        Suspect("upstream", began_us, "years moved: psi 0.31 nats, 2.6 × its limit"),
    )
    requests = (RequestToLookAt(5, began_us + MINUTE_US, 42, 1, "bb", None, 0.4, 400_000, 36.0),)
    outcomes = (SegmentOutcome(3, 60.0, 60.0, 60_000_000), SegmentOutcome(7, 60.0, 120.0, 120_000_000))
    end_us = NOW_US // TICK_US * TICK_US
    return Explanation("click", "title", end_us, end_us, began_us, causes, suspects, outcomes, requests)


def view(**changes: Any) -> WatchView:
    started = AlarmRun("psi", "years", 7, NOW_US, NOW_US)
    stands = AlarmRun("calibration_served", "click", 7, NOW_US - 90 * MINUTE_US, NOW_US)
    over = AlarmRun("psi", "<b>pay</b>", ALL_ROWS, NOW_US - 9 * TICK_US, NOW_US - 5 * TICK_US)
    readings = (
        reading("psi", "years", 7, 0.31, 0.12),
        reading("kl", "years", 7, 0.15, 0.06, is_alarm=False),
        reading("psi", "years", 3, 0.01, 0.12),
        reading("psi", "<b>pay</b>", 3, math.nan, math.inf, num_rows=0),
        reading("calibration_served", "click", 7, 30.0, 9.0, window_start_us=NOW_US - 6 * TICK_US),
        reading("calibration_served", "click", 3, -math.inf, 9.0),
    )
    decision = Decision(sequence=4, now_us=NOW_US, kind="apply", reason="title 7 has half the clicks promised")
    correction = Correction(
        id="loop-4", created_us=NOW_US, expires_us=NOW_US + 60 * MINUTE_US, reason="title 7 has <half> its clicks.",
        log_odds_offsets={"click": {"title": {"7": -0.5}}},
    )  # fmt: skip
    given = {
        "now_us": NOW_US, "action": "click", "feature": "title", "segments": (3, 7),
        "report": RoundReport(
            NOW_US // TICK_US * TICK_US, 800, readings, (started,), (decision,), {3: 5, 7: 2_000_000},
            explanation(),
        ),
        "standing": (stands, started), "ended": (over,), "outcomes": outcomes(),
        "settled_us": NOW_US // TICK_US * TICK_US, "bundle_id": "0123456789abcdef", "correction": correction,
    }  # fmt: skip
    return WatchView(**{**given, **changes})
