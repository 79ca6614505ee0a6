"""A world of jobs of a few titles whose clicks may move apart, served with what `corrections.json` says at the time.

It stands in for the log that rows are read again from (`rankwell.mitigation.attributed_rows.AttributedLog`).

Letters: C candidates of a minute · n rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from served_world import BUNDLES, MINUTE_US, START_US, WINDOW

from rankwell.mitigation.attributed_rows import AttributedRows
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.mitigation_state import Decision
from rankwell.mitigation.wide_update import ProximalUpdate
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.reading import Reading
from rankwell.serving.correction import CORRECTIONS, Correction, read_correction

NUM_JOBS, NUM_TITLES, NUM_CITIES = 20, 4, 5
PLAN = MitigationPlan(
    action="click", feature="title", segments=(0, 1, 2, 3), may_fall_back=False,
    wide=ProximalUpdate(step=0.02, largest_change=1.0),
)  # fmt: skip


@dataclass
class WideWorld:
    """Minute by minute; a job's title is its number mod 4, and a row's city is drawn.

    Args:
        root: The servers' folder.
        moved: What clicks of jobs have in log-odds more than the bundle knows, at a minute.
        rows: Shown in a minute, four a request.
        is_alarm: Whether an alarm about the rate of clicks stands, at a minute.
        is_exported: Whether the bundle's rows can be changed.
    """

    root: Path
    moved: Callable[[int], Mapping[int, float]]
    rows: int = 600
    is_alarm: Callable[[int], bool] = lambda _: True
    is_exported: bool = True
    seed: int = 0
    late: int = 15
    minute: int = 0
    outcomes: OutcomePane = field(default_factory=lambda: OutcomePane.nothing("click"))
    seen: list[AttributedRows] = field(default_factory=list)
    true: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    @property
    def now_us(self) -> int:
        return START_US + self.minute * MINUTE_US

    def correction(self) -> Correction | None:
        path = self.root / CORRECTIONS
        correction = read_correction(path) if path.exists() else None
        return correction if correction and correction.applies(bundle_id=BUNDLES[0], now_us=self.now_us) else None

    def changes(self) -> dict[tuple[str, int], float]:
        """In force, by table and key."""
        correction = self.correction()
        tables = {} if correction is None else correction.wide_changes.get("wide", {})
        return {(table, int(key)): row[0] for table, rows in tables.items() for key, row in rows.items()}

    def _serve(self) -> None:
        num = self.rows
        job_C, city_C = self.rng.integers(0, NUM_JOBS, num), self.rng.integers(0, NUM_CITIES, num)
        request_C = self.minute * num + np.arange(num) // 4
        logit_C = self.rng.normal(-1.8, 0.4, num)
        mood_C = np.repeat(self.rng.normal(0.0, 0.3, num // 4 + 1), 4)[:num]
        moved, correction = self.moved(self.minute), self.correction()
        true_C = logit_C + np.array([moved.get(job, 0.0) for job in job_C.tolist()])
        clicks_C = self.rng.random(num) < 1 / (1 + np.exp(-(true_C + mood_C - 0.03)))
        rows = AttributedRows(
            parts=("wide", "wide", "wide"), tables=("job", "title", "city"),
            keys_nF=np.stack([job_C, job_C % NUM_TITLES, city_C], axis=1), times_us_n=np.full(num, self.now_us),
            requests_n=request_C, corrections_n=np.full(num, correction.id if correction else ""), logits_n=logit_C,
            labels_n=clicks_C.astype(float), action=0, num_actions=1,
        )  # fmt: skip
        if correction is not None:
            title = correction.log_odds_offsets.get("click", {}).get("title", {})
            offset_C = np.array([title.get(str(job % NUM_TITLES), 0.0) for job in job_C.tolist()])
            rows.logits_n[:] += rows.added_by(correction.wide_changes) + offset_C
        self.seen.append(rows)
        self.true.append(true_C)
        self.outcomes = self.outcomes.between(self.now_us - 3 * 3600 * 10**6, self.now_us) + OutcomePane.of(
            "click", times_us_C=rows.times_us_n, request_C=request_C, segment_C=job_C % NUM_TITLES,
            probabilities_C=1 / (1 + np.exp(-rows.logits_n)), labels_C=clicks_C, propensity_C=np.ones(num),
            price_micros_C=np.zeros(num),
        )  # fmt: skip
        self.minute += 1

    def read(self, bundle_id: str, *, since_us: int, until_us: int, now_us: int) -> AttributedRows | None:
        """As `AttributedLog.read`."""
        assert bundle_id == BUNDLES[0]
        assert until_us <= now_us - self.late * MINUTE_US
        mine = [rows for rows in self.seen if since_us <= rows.times_us_n[0] < until_us]
        if not mine or not self.is_exported:
            return None
        columns = ("keys_nF", "times_us_n", "requests_n", "corrections_n", "logits_n", "labels_n")
        joined = {name: np.concatenate([getattr(rows, name) for rows in mine]) for name in columns}
        return AttributedRows(parts=mine[0].parts, tables=mine[0].tables, action=0, num_actions=1, **joined)

    def readings(self, settled_us: int) -> list[Reading]:
        """One, of the rate of all clicks."""
        stands = self.is_alarm(self.minute - 1)
        return [
            Reading(
                "rate", "click", -3, 2.0 if stands else 0.0, "nats", 1.0, math.nan, 0.1, 1000, 1000,
                settled_us - WINDOW * MINUTE_US, settled_us, stands,
            )
        ]  # fmt: skip

    def run(self, minutes: int, plan: MitigationPlan = PLAN) -> list[Decision]:
        """Serve, and have a loop of its own process look after each quarter-hour."""
        decisions: list[Decision] = []
        with MitigationFolder(self.root, plan, now_us=lambda: self.now_us, log=self) as folder:  # type: ignore[arg-type]
            for _ in range(minutes):
                self._serve()
                if self.minute % WINDOW == 0:
                    settled_us = self.now_us - self.late * MINUTE_US
                    decisions += folder.look(self.readings(settled_us), self.outcomes, settled_us=settled_us)
        return decisions

    def error(self, job: int, from_minute: int, until_minute: int) -> float:
        """What a job's log-odds are served with too many, on average."""
        parts = [
            (rows.logits_n - true_n)[rows.keys_nF[:, 0] == job]
            for rows, true_n in zip(
                self.seen[from_minute:until_minute], self.true[from_minute:until_minute], strict=True
            )
        ]
        return float(np.concatenate(parts).mean())
