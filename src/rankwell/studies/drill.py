"""A rehearsed outage: a real server, a real log and a real watcher in simulated time, and a truth to judge them by.

Letters in names: R requests · C candidates, flat · G segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from rankwell.data.replay import request_of_batch
from rankwell.mitigation.folder_watch import FolderWatch
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.mitigation.watch_round import RoundReport, WatchRound
from rankwell.monitoring.calibration_watch import CalibrationWatch
from rankwell.monitoring.drift_watch import DriftWatch
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout
from rankwell.monitoring.tick_history import TICK_US
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.ranking.slot_exploration import SlotExploration
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.correction import CORRECTIONS, read_correction
from rankwell.serving.rollout import RolloutFolder
from rankwell.simulation.incident import Incident
from rankwell.studies.drill_baseline import SEGMENT, calibrated_to, click_delays_s, scored, write_day
from rankwell.studies.drill_server import DrillServer
from rankwell.studies.drill_window import DrillWindow
from rankwell.studies.drill_world import Asked, DrillWorld, batches_of

__all__ = ["Drill", "DrillSettings", "Happening", "run_drill"]

_HOUR_US: Final = 3_600_000_000
_S_US: Final = 1_000_000
_LEARNED_H: Final = 24
_BASELINE_H: Final = 25
_ONSET_H: Final = 24 + 24 + 1 + 9  # Wednesday, ten in the morning
_LOOK_AFTER_US: Final = 5 * _S_US
_SERVE_AFTER_US: Final = 10 * _S_US
_SMALLEST_SHARE: Final = 0.04
_NUMERIC: Final = ("retrieval_score", "salary", "min_experience", "experience_years")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSettings:
    """How large a drill is.

    Args:
        seed: Of the marketplace and of all draws.
        baseline_per_day: Requests of the day before, and of the day on which the bundle was calibrated.
        requests_per_day: From the onset on, on average over the week; at ten in the morning it is 1.5 times that.
        num_hurt: Quarter-hours until people deploy what is right.
        num_after: Quarter-hours after that.
    """

    seed: int = 0
    baseline_per_day: int = 4_000
    requests_per_day: int = 32_000
    num_hurt: int = 8
    num_after: int = 1


@final
@dataclass(frozen=True, slots=True)
class Happening:
    """A line of the timeline.

    Args:
        time_us: UTC microseconds.
        kind: "injected", "detected", "explained", "mitigated", "recovered", "fixed", "decided".
        what: In words.
    """

    time_us: int
    kind: str
    what: str


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
    incident: Incident, bundle: Bundle, folder: Path, settings: DrillSettings, *, say: Callable[[str], None]
) -> Drill:
    """Rehearse an incident.

    Args:
        incident: What befalls.
        bundle: Of the marketplace's schema; its clicks are calibrated anew to the drill's world.
        folder: Empty; it holds bundles, log and corrections afterwards.
        settings: Of the drill.
        say: Told what is going on.

    Raises:
        RankwellError: The server does not start, or refuses.
    """
    torch.set_num_threads(1)  # small batches, one after the other
    rng = np.random.default_rng([settings.seed, 17])
    world = DrillWorld.create(settings.seed)
    onset_us = world.start_us + _ONSET_H * _HOUR_US
    day_us = onset_us - _BASELINE_H * _HOUR_US
    per_day = settings.baseline_per_day
    learned = world.asked(day_us - _LEARNED_H * _HOUR_US, day_us, requests_per_day=per_day, stream=0)
    right = calibrated_to(bundle, learned, learned.clicks(rng))
    wrong = incident.deployed(right)
    rollout = RolloutFolder(folder / "root")
    for name, made in (("right", right), ("wrong", wrong)):
        write_bundle(made, folder / name)
    right_id = rollout.deploy(folder / "right").current
    day = world.asked(day_us, onset_us, requests_per_day=per_day, stream=1)
    num_shown = write_day(day, right, folder / "log", bundle_id=right_id, policy=SlotExploration(), rng=rng)
    say(f"a day of {day.table.num_rows:,} requests, {num_shown:,} jobs shown")
    segments = _segments(day)
    fixed_us = onset_us + settings.num_hurt * TICK_US
    drill = Drill(incident, settings, onset_us, fixed_us, segments.top, num_shown=num_shown)
    with DrillServer(folder / "root", folder / "log", folder / "clock", now_us=onset_us) as server:
        plan = MitigationPlan(action="click", feature=SEGMENT, segments=segments.top)
        with MitigationFolder(folder / "root", plan, now_us=server.now_us) as mitigation:
            watch = _watch(folder, right, day, segments, mitigation)
            _play(drill, world, watch, server, rollout, folder, (right, wrong), rng, say)
    return drill


def _play(
    drill: Drill, world: DrillWorld, watch: WatchRound, server: DrillServer, rollout: RolloutFolder, folder: Path,
    bundles: tuple[Bundle, Bundle], rng: np.random.Generator, say: Callable[[str], None],
) -> None:  # fmt: skip
    right, wrong = bundles
    settings, waiting = drill.settings, np.zeros((0, 3), np.int64)
    watch.after(now_us=server.now_us())  # all is well, and the loop knows the bundle that answers
    for number in range(settings.num_hurt + settings.num_after + 1):
        start_us = drill.onset_us + number * TICK_US
        server.set_time(start_us + _LOOK_AFTER_US)
        if number == 0:
            rollout.deploy(folder / "wrong")
        if number == settings.num_hurt:
            rollout.deploy(folder / "right")
        report = watch.after(now_us=server.now_us())
        drill.rounds.append(report)
        say(_said(number, report))
        if number == settings.num_hurt + settings.num_after:
            return
        drill.pick_up_s.append(
            server.wait_for(bundle_id=rollout.read().current, correction_id=_in_force(folder, rollout, server.now_us()))
        )
        is_hurt = number < settings.num_hurt
        asked = world.asked(
            start_us + _SERVE_AFTER_US, start_us + TICK_US, requests_per_day=settings.requests_per_day,
            stream=2 + number,
        )  # fmt: skip
        sent = Asked(drill.incident.sent(asked.table), asked.click_logits_C) if is_hurt else asked
        logits_C = drill.incident.wanted(asked.click_logits_C, asked.table) if is_hurt else asked.click_logits_C
        batches = batches_of(sent.table, right.schema)
        requests = [
            request_of_batch(batch, r, right.schema) for batch in batches for r in range(batch.features.num_requests)
        ]
        answers = server.rank_all(requests)
        true_C = expit(logits_C)
        drill.windows.append(
            _window(drill, start_us, asked, answers, true_C, scored(wrong if is_hurt else right, sent),
                    scored(right, asked))
        )  # fmt: skip
        clicked_C = rng.random(len(true_C)) < true_C
        delays_s = click_delays_s(rng, int(clicked_C.sum()))
        if is_hurt:
            delays_s = drill.incident.reported_after_s(delays_s)
        waiting = np.concatenate([waiting, _actions(asked, clicked_C, delays_s)])
        is_due = waiting[:, 2] < start_us + TICK_US
        server.report(
            [
                {"request_id": request_id, "item_id": item_id, "action": "click", "time_us": time_us}
                for request_id, item_id, time_us in waiting[is_due].tolist()
            ]
        )
        waiting = waiting[~is_due]


def _segments(day: Asked) -> CategoricalBins:
    values_V, counts_V = np.unique(day.of_candidates(SEGMENT), return_counts=True)
    is_large_V = counts_V >= _SMALLEST_SHARE * counts_V.sum()
    return CategoricalBins(
        name=SEGMENT, top=tuple(values_V[is_large_V].tolist()), known=tuple(values_V[~is_large_V].tolist())
    )


def _watch(
    folder: Path, bundle: Bundle, day: Asked, segments: CategoricalBins, mitigation: MitigationFolder
) -> WatchRound:
    p_C = scored(bundle, day)
    lengths_R = np.diff(day.offsets_R)
    columns = [
        NumericBins.of_values("served_probability_click", p_C),
        NumericBins.of_values("served_logit_click", np.log(p_C / (1 - p_C))),
    ]
    for name in _NUMERIC:
        is_of_request = name == "experience_years"
        values = np.repeat(day.table[name].to_numpy(), lengths_R) if is_of_request else day.of_candidates(name)
        columns.append(NumericBins.of_values(name, values))
    layout = PaneLayout(columns=tuple(columns), segments=segments)

    def refuse(error: Exception) -> None:
        raise error

    counts = WatchCounts(bundle.schema, layout, "click")
    follow = FolderWatch(folder / "log", counts, folder / "watch.checkpoint", on_damage=refuse)
    calibration = CalibrationWatch(num_series=2 * len(segments.top))
    return WatchRound(follow, DriftWatch(layout), calibration, mitigation)


def _in_force(folder: Path, rollout: RolloutFolder, now_us: int) -> str | None:
    path = folder / "root" / CORRECTIONS
    if not path.exists():
        return None
    correction = read_correction(path)
    is_on = now_us < correction.expires_us and correction.bundle_id in (None, rollout.read().current)
    return correction.id if is_on else None


def _window(
    drill: Drill, start_us: int, asked: Asked, answers: Sequence[dict[str, Any]], true_C: NDArray[np.float64],
    without_C: NDArray[np.float64], oracle_C: NDArray[np.float64],
) -> DrillWindow:  # fmt: skip
    shown = [
        (int(first) + place, p)
        for first, answer in zip(asked.offsets_R[:-1], answers, strict=True)
        for place, p in zip(answer["items"]["place"], answer["items"]["probability"]["click"], strict=True)
    ]
    row_C, promised_C = (np.array(column) for column in zip(*shown, strict=True))
    return DrillWindow.of(
        start_us=start_us,
        segments=drill.segments,
        segment_C=asked.of_candidates(SEGMENT)[row_C],
        bids_C=asked.of_candidates("bid_micros")[row_C],
        true_C=true_C[row_C],
        promised_C=promised_C,
        without_C=without_C[row_C],
        oracle_C=oracle_C[row_C],
        num_requests=len(answers),
        correction_ids=frozenset(answer["correction_id"] for answer in answers if answer["correction_id"] is not None),
    )


def _actions(asked: Asked, clicked_C: NDArray[np.bool_], delays_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Request, item and time of each click."""
    request_C = np.repeat(np.arange(asked.table.num_rows), np.diff(asked.offsets_R))[clicked_C]
    times_us = asked.table["time_us"].to_numpy()[request_C] + (delays_s * _S_US).astype(np.int64)
    items = asked.of_candidates("job_id")[clicked_C]
    return np.column_stack([asked.table["request_id"].to_numpy()[request_C], items, times_us])


def _said(number: int, report: RoundReport) -> str:
    alarms = sorted({f"{run.name} of {run.column} in {run.segment}" for run in report.new_alarms})
    decisions = [f"{decision.kind}: {decision.reason}" for decision in report.decisions]
    return f"+{number * 15} min: " + ("; ".join([*alarms, *decisions]) or "nothing")
