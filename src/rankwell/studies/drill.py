"""A rehearsed outage: log, watcher and server are real, time is simulated, and the truth is known.

Letters in names: R requests · C candidates, flat · G segments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.watch_round import RoundReport, WatchRound
from rankwell.mitigation.watch_view import WatchView
from rankwell.monitoring.tick_history import TICK_US, TICKS_PER_DAY
from rankwell.ranking.slot_exploration import SlotExploration
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.correction import correction_in_force
from rankwell.serving.rollout import RolloutFolder
from rankwell.simulation.incident import Incident
from rankwell.studies.drill_baseline import calibrated_to, click_delays_s, clicks_of, scored, write_day
from rankwell.studies.drill_desk import DrillDesk
from rankwell.studies.drill_server import DrillServer
from rankwell.studies.drill_service import Answered, DrillService
from rankwell.studies.drill_watch import segments_of, watch_of
from rankwell.studies.drill_window import DrillWindow
from rankwell.studies.drill_world import Asked, DrillWorld

__all__ = ["Drill", "DrillSettings", "run_drill"]

_HOUR_US: Final = 3_600_000_000
_S_US: Final = 1_000_000
_LEARNED_H: Final = 24
_BASELINE_H: Final = 25
_ONSET_H: Final = 24 + 24 + 1 + 9  # Wednesday, ten in the morning
_LOOK_AFTER_US: Final = 5 * _S_US
_SERVE_AFTER_US: Final = 10 * _S_US
_HTTP_AT_MOST: Final = TICKS_PER_DAY
"""Quarter-hours; a longer drill would take a server an hour."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSettings:
    """How large a drill is.

    Args:
        seed: Of the marketplace and of all draws.
        baseline_per_day: Requests of the day before, and of the day on which the bundle was calibrated.
        requests_per_day: From the onset on, on average over the week, times the incident's `traffic`; at ten in the
            morning it is 1.5 times that.
        has_server: Whether requests go to a server over HTTP; else the same scorer answers in this process. What is
            longer than a day never does.
    """

    seed: int = 0
    baseline_per_day: int = 4_000
    requests_per_day: int = 32_000
    has_server: bool = True


@final
@dataclass(slots=True)
class Drill:
    """What came of it.

    Args:
        incident: What befell.
        settings: Of the drill.
        onset_us, fixed_us: When the incident began, and when people ended it.
        segments: That were watched, G of them.
        windows: Quarter-hours from the onset on.
        rounds: Of the watcher, one at the beginning of each quarter-hour, and one at the end of the last.
        pick_up_s: How long the server took to follow each change of its folder, real seconds.
        num_shown: Candidates of the baseline.
    """

    incident: Incident
    settings: DrillSettings
    onset_us: int
    fixed_us: int
    segments: tuple[int, ...]
    windows: list[DrillWindow] = field(default_factory=list)
    rounds: list[RoundReport] = field(default_factory=list)
    pick_up_s: list[float] = field(default_factory=list)
    num_shown: int = 0


def run_drill(
    incident: Incident,
    bundle: Bundle,
    folder: Path,
    settings: DrillSettings,
    *,
    say: Callable[[str], None],
    tell: Callable[[WatchView], None] | None = None,
) -> Drill:
    """Rehearse an incident.

    Args:
        incident: What befalls.
        bundle: Of the marketplace's schema; its clicks are calibrated anew to the drill's world.
        folder: Empty; it holds bundles, log and corrections afterwards.
        settings: Of the drill.
        say: Told what is going on.
        tell: Told of each round of the watch, as an `AlarmSink` is; None: nobody is.

    Raises:
        RankwellError: The server does not start, or refuses.
    """
    torch.set_num_threads(1)  # small batches, one after the other
    world = DrillWorld.create(settings.seed)
    onset_us = world.start_us + _ONSET_H * _HOUR_US
    root, log, schema = folder / "root", folder / "log", bundle.schema
    is_short = incident.num_windows + incident.num_after <= _HTTP_AT_MOST
    service: DrillService = (
        DrillServer(root, log, folder / "clock", schema, now_us=onset_us)
        if settings.has_server and is_short
        else DrillDesk(root, log, schema, now_us=onset_us)
    )
    with service:
        rng = np.random.default_rng([settings.seed, 17])
        day_us, per_day = onset_us - _BASELINE_H * _HOUR_US, settings.baseline_per_day
        learned = world.asked(day_us - _LEARNED_H * _HOUR_US, day_us, requests_per_day=per_day, stream=0)
        right = calibrated_to(bundle, learned, learned.clicks(rng), segment_by=incident.segment_by)
        wrong = incident.deployed(right)
        rollout = RolloutFolder(root)
        for name, made in (("right", right), ("wrong", wrong)):
            write_bundle(made, folder / name)
        right_id = rollout.deploy(folder / "right").current
        day = world.asked(day_us, onset_us, requests_per_day=per_day, stream=1)
        num_shown = write_day(day, right, log, bundle_id=right_id, policy=SlotExploration(), rng=rng)
        say(f"a day of {day.table.num_rows:,} requests, {num_shown:,} jobs shown")
        segments = segments_of(day, incident.segment_by, among=incident.segments)
        fixed_us = onset_us + incident.num_windows * TICK_US
        drill = Drill(incident, settings, onset_us, fixed_us, segments.top, num_shown=num_shown)
        service.start()
        plan = MitigationPlan(action="click", feature=incident.segment_by, segments=segments.top)
        with MitigationFolder(root, plan, now_us=service.now_us) as mitigation:
            watch = watch_of(folder, right, day, segments, mitigation)
            _Play(drill, world, watch, service, rollout, folder, right, wrong, rng, say, tell).play()
    return drill


@final
@dataclass(slots=True)
class _Play:
    """The quarter-hours of a drill, one after the other."""

    drill: Drill
    world: DrillWorld
    watch: WatchRound
    service: DrillService
    rollout: RolloutFolder
    folder: Path
    right: Bundle
    wrong: Bundle
    rng: np.random.Generator
    say: Callable[[str], None]
    tell: Callable[[WatchView], None] | None
    waiting: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), np.int64))

    def play(self) -> None:
        incident, service = self.drill.incident, self.service
        self.watch.after(now_us=service.now_us())  # all is well, and the loop knows the bundle that answers
        for number, (start_us, asked) in enumerate(self._asked()):
            self._look(number, start_us)
            bundle_id = self.rollout.read().current
            correction = correction_in_force(self.rollout.root, bundle_id=bundle_id, now_us=service.now_us())
            correction_id = None if correction is None else correction.id
            self.drill.pick_up_s.append(service.wait_for(bundle_id=bundle_id, correction_id=correction_id))
            self._serve(start_us, asked, is_hurt=number < incident.num_windows)
        self._look(number + 1, start_us + TICK_US)

    def _asked(self) -> Iterator[tuple[int, Asked]]:
        """What is asked in each quarter-hour; of a drill of days, a day's is drawn at once."""
        drill, incident = self.drill, self.drill.incident
        num, stretch = incident.num_windows + incident.num_after, 1
        per_day = drill.settings.requests_per_day * incident.traffic
        if num > _HTTP_AT_MOST:
            stretch, per_day = TICKS_PER_DAY, drill.settings.baseline_per_day
        for first in range(0, num, stretch):
            start_us = drill.onset_us + first * TICK_US
            is_hurt = first < incident.num_windows
            market = self.world.marketplace
            world = dataclasses.replace(self.world, marketplace=incident.offered(market) if is_hurt else market)
            asked = world.asked(start_us, start_us + stretch * TICK_US, requests_per_day=per_day, stream=2 + first)
            for time_us in range(start_us, start_us + min(stretch, num - first) * TICK_US, TICK_US):
                yield time_us, asked.between(time_us + _SERVE_AFTER_US, time_us + TICK_US)

    def _look(self, number: int, start_us: int) -> None:
        drill = self.drill
        self.service.set_time(start_us + _LOOK_AFTER_US)
        if number == 0:
            self.rollout.deploy(self.folder / "wrong")
        if number == drill.incident.num_windows:
            self.rollout.deploy(self.folder / "right")
        now_us, before = self.service.now_us(), self.watch.alarms.standing
        report = self.watch.after(now_us=now_us, known_bundles=self.rollout.bundle_ids())
        drill.rounds.append(report)
        self.say(_said(number, report))
        if self.tell is not None:
            bundle_id = self.rollout.read().current
            correction = correction_in_force(self.rollout.root, bundle_id=bundle_id, now_us=now_us)
            self.tell(
                WatchView.after(
                    self.watch, report, now_us=now_us, before=before, bundle_id=bundle_id, correction=correction
                )
            )

    def _serve(self, start_us: int, asked: Asked, *, is_hurt: bool) -> None:
        """Ask, and report what is clicked on, piece by piece."""
        incident = self.drill.incident
        sent = Asked(incident.sent(asked.table), asked.click_logits_C) if is_hurt else asked
        logits_C = incident.wanted(asked.click_logits_C, asked.table) if is_hurt else asked.click_logits_C
        true_C = expit(logits_C)
        clicked_C = self.rng.random(len(true_C)) < true_C
        delays_s = click_delays_s(self.rng, int(clicked_C.sum()))
        clicks = clicks_of(asked, clicked_C, delays_s)
        later_s = incident.reported_after_s(delays_s) - delays_s if is_hurt else np.zeros(len(clicks))
        reported_us = clicks[:, 2] + (later_s * _S_US).astype(np.int64)
        self.waiting = np.concatenate([self.waiting, np.column_stack([clicks, reported_us])])
        parts, first, piece_us = [], 0, self.service.piece_us
        for from_us in range(start_us, start_us + TICK_US, piece_us):
            part = sent.between(from_us, from_us + piece_us)
            if part.table.num_rows:
                answered = self.service.answered(part)
                parts.append(dataclasses.replace(answered, row_C=first + answered.row_C))
                first += len(part.click_logits_C)
            is_due = self.waiting[:, 3] < from_us + piece_us
            self.service.set_time(from_us + piece_us - 1)
            self.service.report(self.waiting[is_due])
            self.waiting = self.waiting[~is_due]
        without_C = scored(self.wrong if is_hurt else self.right, sent)
        oracle_C = scored(self.right, asked)
        self.drill.windows.append(_window(self.drill, start_us, asked, parts, true_C, without_C, oracle_C))


def _window(
    drill: Drill, start_us: int, asked: Asked, parts: list[Answered], true_C: NDArray[np.float64],
    without_C: NDArray[np.float64], oracle_C: NDArray[np.float64],
) -> DrillWindow:  # fmt: skip
    row_C = np.concatenate([part.row_C for part in parts])
    return DrillWindow.of(
        start_us=start_us,
        segments=drill.segments,
        segment_C=asked.of_candidates(drill.incident.segment_by)[row_C],
        bids_C=asked.of_candidates("bid_micros")[row_C],
        true_C=true_C[row_C],
        promised_C=np.concatenate([part.promised_C for part in parts]),
        without_C=without_C[row_C],
        oracle_C=oracle_C[row_C],
        num_requests=asked.table.num_rows,
        correction_ids=frozenset().union(*(part.correction_ids for part in parts)),
    )


def _said(number: int, report: RoundReport) -> str:
    alarms = sorted({f"{run.name} of {run.column} in {run.segment}" for run in report.new_alarms})
    decisions = [f"{decision.kind}: {decision.reason}" for decision in report.decisions]
    return f"+{number * 15} min: " + ("; ".join([*alarms, *decisions]) or "nothing")
