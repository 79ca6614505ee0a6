"""A world of requests whose click probabilities are known, served with whatever `corrections.json` says at the time.

Letters: G segments · C candidates of a minute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from rankwell.data.atomic_file import AtomicFile
from rankwell.evaluation.calibration_detector import CalibrationDetector
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import Decision
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane_layout import ALL_ROWS
from rankwell.monitoring.reading import Reading
from rankwell.monitoring.version_pane import VersionPane
from rankwell.serving.correction import CORRECTIONS, Correction, read_correction

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

    What `rollout.json` names answers: the first of two bundles, which errs, or the one before it, which a blend
    mixes in.

    Args:
        root: The servers' folder.
        bundles: Ids of the two.
        clicks: Expected of one segment in a quarter-hour.
        error: Of the first bundle's log-odds, by segment, at a minute.
        other_error: Of the second one's.
        drift: Of the logits' PSI at a minute, over its limit; above 1 it is an alarm.
        rate: The mean true probability.
        late: Minutes until labels are known.
    """

    root: Path
    error: Callable[[int], Mapping[int, float]]
    clicks: float = 200.0
    other_error: Callable[[int], Mapping[int, float]] = lambda _: {}
    bundles: tuple[str, str] = BUNDLES
    drift: Callable[[int], float] = lambda _: 0.0
    rate: float = 0.05
    late: int = 15
    seed: int = 0
    minute: int = 0
    versions: VersionPane = field(default_factory=VersionPane)
    outcomes: OutcomePane = field(default_factory=lambda: OutcomePane.nothing("click"))
    served: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.detector = CalibrationDetector(2880.0 * len(SEGMENTS))
        self.watch = self.detector.started(len(SEGMENTS))
        for _ in range(2):  # the detector knows how clicks depend before it begins
            quiet = self._minute()[0].sums("served", SEGMENTS)
            self.watch = self.detector.after(self.watch, quiet + quiet + quiet)
        self.quiet_watch, self.watched_since_us = self.watch, 0

    @property
    def now_us(self) -> int:
        return START_US + self.minute * MINUTE_US

    def answering(self) -> str:
        """The bundle that `rollout.json` names."""
        path = self.root / "rollout.json"
        return json.loads(path.read_text())["current"] if path.exists() else self.bundles[0]

    def correction(self) -> Correction | None:
        """What is in force."""
        try:
            correction = read_correction(self.root / CORRECTIONS)
        except Exception:
            return None
        return correction if correction.applies(bundle_id=self.answering(), now_us=self.now_us) else None

    def offsets(self) -> np.ndarray:
        correction = self.correction()
        if correction is None:
            return np.zeros(len(SEGMENTS))
        values = correction.log_odds_offsets.get("click", {}).get("title", {})
        return np.array([values.get(str(segment), 0.0) for segment in SEGMENTS])

    def weight(self) -> float:
        """Of the other bundle."""
        correction = self.correction()
        return 0.0 if correction is None or correction.blend is None else correction.blend.weight

    def _errors(self) -> list[np.ndarray]:
        """Of the bundle that answers, and of the other one."""
        errors = [self.error(self.minute), self.other_error(self.minute)]
        if self.answering() == self.bundles[1]:
            errors.reverse()
        return [np.array([error.get(segment, 0.0) for segment in SEGMENTS]) for error in errors]

    def _minute(self) -> tuple[OutcomePane, np.ndarray, np.ndarray]:
        """Requests of four candidates of one segment, whose clicks depend on each other by a common mood."""
        num = max(round(self.clicks / WINDOW / self.rate / 4), 1)
        segment_C = np.repeat(np.arange(len(SEGMENTS)), num * 4)
        request_C = np.repeat(np.arange(len(SEGMENTS) * num), 4)
        logit_C = self.rng.normal(math.log(self.rate / (1 - self.rate)) - 0.1, 0.5, len(segment_C))
        mood_C = np.repeat(self.rng.gamma(4.0, 0.25, len(SEGMENTS) * num), 4)
        true_C = 1 / (1 + np.exp(-logit_C))
        clicks_C = self.rng.random(len(segment_C)) < np.minimum(true_C * mood_C, 1.0)
        (error_G, other_G), weight = self._errors(), self.weight()
        served_C = 1 / (1 + np.exp(-(logit_C + (error_G + self.offsets())[segment_C])))
        if weight:
            served_C = (1 - weight) * served_C + weight / (1 + np.exp(-(logit_C + other_G[segment_C])))
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
            pane, *self.served[self.minute] = self._minute()
            self.versions = self.versions + self._version()
            self.outcomes = self.outcomes.between(self.now_us - PLAN.memory_us - 3600 * 10**6, self.now_us) + pane
            self.minute += 1
            if self.minute % WINDOW == 0 and folder is not None:
                settled_us = self.now_us - self.late * MINUTE_US
                decisions += folder.look(
                    self.readings(settled_us), self.outcomes, settled_us=settled_us, versions=self.versions
                )
        return decisions

    def _version(self) -> VersionPane:
        bundle_id = pa.array([self.answering()], pa.string())
        served = pa.table({"served_bundle_id": bundle_id, "served_correction_id": pa.nulls(1, pa.string())})
        return VersionPane.of(served, np.array([self.now_us]))

    def readings(self, settled_us: int) -> list[Reading]:
        """The calibration of the newest settled window, by segment; another bundle is watched from its first row on."""
        since_us = self.versions.answers_since_us(self.answering())
        if since_us > self.watched_since_us:
            self.watched_since_us, self.watch = since_us, self.quiet_watch
        start_us = settled_us - WINDOW * MINUTE_US
        pane = self.outcomes.between(max(start_us, since_us), settled_us).sums("served", SEGMENTS)
        self.watch = self.detector.after(self.watch, pane)
        evidence_G, alarms_G = self.detector.log_evidence(self.watch), self.detector.alarms(self.watch)
        drift = self.drift(self.minute - 1)
        logits = Reading(
            "psi", "served_logit_click", ALL_ROWS, drift, "nats", 1.0, math.nan, 0.1, 1000, 1000,
            self.now_us - WINDOW * MINUTE_US, self.now_us, drift > 1,
        )  # fmt: skip
        return [logits] + [
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
