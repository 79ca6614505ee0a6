"""A world of requests whose click probabilities are known, served with whatever `corrections.json` says at the time.

Letters: G segments · C candidates of a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rankwell.data.atomic_file import AtomicFile
from rankwell.evaluation.calibration_detector import CalibrationDetector
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import Decision
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.reading import Reading
from rankwell.serving.correction import CORRECTIONS, read_correction

MINUTE_US = 60_000_000
WINDOW = 15
SEGMENTS = (0, 1, 2, 3, 4, 5, 6, 7)
START_US = 1_790_000_000_000_000 // (WINDOW * MINUTE_US) * (WINDOW * MINUTE_US)
BUNDLES = ("0123456789abcdef", "fedcba9876543210")
PLAN = MitigationPlan(action="click", feature="title", segments=SEGMENTS)


def pointer(root: Path, current: str = BUNDLES[0], previous: str | None = BUNDLES[1]) -> None:
    """A rollout folder as far as a loop looks at it: the pointer."""
    before = "null" if previous is None else f'"{previous}"'
    with AtomicFile(root / "rollout.json") as file:
        file.write(f'{{"format_version": 1, "current": "{current}", "previous": {before}}}'.encode())


@dataclass
class World:
    """Minute by minute: true probabilities, those of the bundle, and what is served of them.

    Args:
        root: The servers' folder.
        clicks: Expected of one segment in a quarter-hour.
        error: Of the bundle's log-odds, by segment, at a minute.
        rate: The mean true probability.
        late: Minutes until labels are known.
    """

    root: Path
    error: Callable[[int], Mapping[int, float]]
    clicks: float = 200.0
    rate: float = 0.05
    late: int = 15
    seed: int = 0
    minute: int = 0
    outcomes: OutcomePane = field(default_factory=lambda: OutcomePane.nothing("click"))
    served: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.detector = CalibrationDetector(2880.0 * len(SEGMENTS))
        self.watch = self.detector.started(len(SEGMENTS))
        for _ in range(2):  # the detector knows how clicks depend before it begins
            quiet = self._minute(np.zeros(len(SEGMENTS)), np.zeros(len(SEGMENTS)))[0].sums("served", SEGMENTS)
            self.watch = self.detector.after(self.watch, quiet + quiet + quiet)

    @property
    def now_us(self) -> int:
        return START_US + self.minute * MINUTE_US

    def offsets(self) -> np.ndarray:
        try:
            correction = read_correction(self.root / CORRECTIONS)
        except Exception:
            return np.zeros(len(SEGMENTS))
        if not correction.applies(bundle_id=BUNDLES[0], now_us=self.now_us):
            return np.zeros(len(SEGMENTS))
        values = correction.log_odds_offsets.get("click", {}).get("title", {})
        return np.array([values.get(str(segment), 0.0) for segment in SEGMENTS])

    def _minute(self, error_G: np.ndarray, offsets_G: np.ndarray) -> tuple[OutcomePane, np.ndarray, np.ndarray]:
        """Requests of four candidates of one segment, whose clicks depend on each other by a common mood."""
        num = max(round(self.clicks / WINDOW / self.rate / 4), 1)
        segment_C = np.repeat(np.arange(len(SEGMENTS)), num * 4)
        request_C = np.repeat(np.arange(len(SEGMENTS) * num), 4)
        logit_C = self.rng.normal(math.log(self.rate / (1 - self.rate)) - 0.1, 0.5, len(segment_C))
        mood_C = np.repeat(self.rng.gamma(4.0, 0.25, len(SEGMENTS) * num), 4)
        true_C = 1 / (1 + np.exp(-logit_C))
        clicks_C = self.rng.random(len(segment_C)) < np.minimum(true_C * mood_C, 1.0)
        served_C = 1 / (1 + np.exp(-(logit_C + error_G[segment_C] + offsets_G[segment_C])))
        pane = OutcomePane.of(
            "click", times_us_C=np.full(len(segment_C), self.now_us), request_C=request_C, segment_C=segment_C,
            probabilities_C=served_C, labels_C=clicks_C, propensity_C=np.ones(len(segment_C)),
            price_micros_C=np.zeros(len(segment_C)),
        )  # fmt: skip
        of_segment = [np.bincount(segment_C, p_C, len(SEGMENTS)) for p_C in (served_C, true_C)]
        return pane, of_segment[0], of_segment[1]

    def run(self, minutes: int, folder: MitigationFolder | None = None) -> list[Decision]:
        """Serve, and have the loop look after each quarter-hour."""
        decisions: list[Decision] = []
        for _ in range(minutes):
            error_G = np.zeros(len(SEGMENTS))
            for segment, error in self.error(self.minute).items():
                error_G[SEGMENTS.index(segment)] = error
            pane, *self.served[self.minute] = self._minute(error_G, self.offsets())
            self.outcomes = self.outcomes.between(self.now_us - PLAN.memory_us - 3600 * 10**6, self.now_us) + pane
            self.minute += 1
            if self.minute % WINDOW == 0 and folder is not None:
                settled_us = self.now_us - self.late * MINUTE_US
                decisions += folder.look(self.readings(settled_us), self.outcomes, settled_us=settled_us)
        return decisions

    def readings(self, settled_us: int) -> list[Reading]:
        """The calibration of the newest settled window, by segment."""
        start_us = settled_us - WINDOW * MINUTE_US
        pane = self.outcomes.between(start_us, settled_us).sums("served", SEGMENTS)
        self.watch = self.detector.after(self.watch, pane)
        evidence_G, alarms_G = self.detector.log_evidence(self.watch), self.detector.alarms(self.watch)
        return [
            Reading(
                name="calibration", column="click", segment=segment, value=float(evidence_G[g]), unit="nats",
                limit=math.log(self.detector.panes_per_false_alarm), p_value=math.nan, minimum_detectable=0.2,
                num_rows=int(pane.num_requests_G[g]), num_reference_rows=0, window_start_us=start_us,
                window_end_us=settled_us, is_alarm=bool(alarms_G[g]),
            )
            for g, segment in enumerate(SEGMENTS)
        ]  # fmt: skip

    def true_ratio(self, from_minute: int, until_minute: int) -> np.ndarray:
        """Served / true probability, by segment."""
        parts = [self.served[minute] for minute in range(from_minute, until_minute)]
        return sum(served for served, _ in parts) / sum(true for _, true in parts)
