"""Features that drift and return: what is remembered of them, and what becomes of corrections that were made meanwhile.

Letters: C rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_world import BUNDLES, MINUTE_US, PLAN, START_US, World, pointer

from rankwell.mitigation.evidence import Seen
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_loop import MitigationLoop
from rankwell.mitigation.mitigation_state import Decision, LoopState
from rankwell.mitigation.upstream_drift import UpstreamDrift, known_drifts, near, that_are_over
from rankwell.monitoring.column_counts import ColumnCounts
from rankwell.monitoring.divergences import psi
from rankwell.monitoring.drift_watch import DriftWatch
from rankwell.monitoring.flat_rows import FlatRows
from rankwell.monitoring.outcome_pane import OutcomePane
from rankwell.monitoring.pane import Pane
from rankwell.monitoring.pane_layout import ALL_ROWS, NumericBins, PaneLayout
from rankwell.monitoring.reading import Reading

EDGES = (2.0, 5.0, 10.0, 20.0)
YEARS = NumericBins(name="years", edges=EDGES)
DAY = 24 * 60
Drifted = Callable[[int], bool]


def pane_of(until: int, **is_drifted: Drifted) -> Pane:
    """A day and more of forty rows a minute, of 1 to 24; where a column has drifted they are twelve times as many.

    Minutes are those since START_US.
    """
    rng = np.random.default_rng(5)
    minutes = np.arange(-DAY - 75, until)
    minute_C = np.repeat(minutes, 40)
    columns = {}
    for name, has_drifted in (is_drifted or {"years": lambda _: False}).items():
        times = np.array([12.0 if has_drifted(minute) else 1.0 for minute in minutes.tolist()])
        columns[name] = rng.uniform(1.0, 24.0, len(minute_C)) * np.repeat(times, 40)
    layout = PaneLayout(columns=tuple(NumericBins(name=name, edges=EDGES) for name in columns))
    return Pane.of(layout, FlatRows(START_US + minute_C * MINUTE_US, columns))


def readings_of(pane: Pane, minute: int) -> list[Reading]:
    end_us = START_US + minute * MINUTE_US
    return DriftWatch(pane.layout, means_too=False).readings(pane.between(0, end_us), end_us)


def alarms(readings: Sequence[Reading], column: str) -> bool:
    return any(r.is_alarm and r.column == column and r.window_s == 900 and r.name == "psi" for r in readings)


def known(pane: Pane, minute: int, drifts: Sequence[UpstreamDrift] = ()) -> tuple[UpstreamDrift, ...]:
    return known_drifts(drifts, readings_of(pane, minute), pane)


def are_over(drifts: Sequence[UpstreamDrift], readings: Sequence[Reading], pane: Pane) -> bool:
    return len(that_are_over(drifts, readings, pane)) == len(drifts)


@dataclass
class Watched:
    """A mitigation folder that is shown panes and readings of features, too."""

    folder: MitigationFolder
    world: World
    pane: Pane

    def look(self, readings: Sequence[Reading], outcomes: OutcomePane, **others: Any) -> tuple[Decision, ...]:
        pane = self.pane.between(0, self.world.now_us)
        return self.folder.look([*readings, *readings_of(pane, self.world.minute)], outcomes, pane=pane, **others)


def run(world: World, minutes: int, *, mode: str = "act", **is_drifted: Drifted) -> tuple[list[Decision], LoopState]:
    """A fresh loop of the folder looks after each quarter-hour."""
    plan = replace(PLAN, mode=mode)  # type: ignore[arg-type]
    pane = pane_of(world.minute + minutes, **is_drifted)
    with MitigationFolder(world.root, plan, now_us=lambda: world.now_us) as folder:
        decisions = world.run(minutes, Watched(folder, world, pane))  # type: ignore[arg-type]
        return decisions, folder.state


def world_of(root: Path, *, from_minute: int = 120, until: int, **settings: Any) -> World:
    """Odds of segment 3 are three times too high for as long."""
    root.mkdir(exist_ok=True)
    pointer(root)
    error = {3: math.log(3.0)}
    return World(root, lambda minute: error if from_minute <= minute < until else {}, clicks=200.0, late=30, **settings)


def between(first: int, until: int) -> Drifted:
    return lambda minute: first <= minute < until


def at(decision: Decision) -> int:
    return (decision.now_us - START_US) // MINUTE_US


def test_it_is_over_when_it_is_within_its_limit_of_before_and_nearer_to_that_than_to_since() -> None:
    bins = NumericBins(name="years", edges=(10.0,))
    drift = UpstreamDrift(
        bins=bins, segment=ALL_ROWS, onset_us=0, limit=0.5, before_B=(8000, 2000, 0), during_B=(5000, 5000, 0)
    )
    # PSI from .8 to .65 is .15 · ln(.8 · .35 / (.65 · .2)) = .115, from .5 .15 · ln(.65 · .5 / (.35 · .5)) = .093
    for now_B, is_over in (
        ([800, 200, 0], True),
        ([700, 300, 0], True),
        ([650, 350, 0], False),
        ([500, 500, 0], False),
    ):
        assert drift.is_over(ColumnCounts(bins, np.array(now_B)), math.nan) is is_over, now_B
    tighter = drift.model_copy(update={"limit": 0.05})  # from .8 to .7: .1 · ln(.8 · .3 / (.7 · .2)) = .054
    assert psi(ColumnCounts(bins, np.array(drift.before_B)), ColumnCounts(bins, np.array([700, 300, 0]))) > 0.05
    assert not tighter.is_over(ColumnCounts(bins, np.array([700, 300, 0])), math.nan)
    assert not tighter.is_over(ColumnCounts(bins, np.array([700, 300, 0])), 0.06)
    assert tighter.is_over(ColumnCounts(bins, np.array([700, 300, 0])), 0.04)  # the baseline knows the hour
    assert not tighter.is_over(ColumnCounts(bins, np.array([500, 500, 0])), 0.0)  # and knows nothing but the drift
    other = ColumnCounts(bins, np.array([10_000, 0, 0]))  # nothing like it was, and yet farther from what it became
    assert psi(ColumnCounts(bins, np.array(drift.before_B)), other) > 0.5
    assert not drift.is_over(other, math.nan)
    assert not drift.is_there_again(other)
    assert drift.is_there_again(ColumnCounts(bins, np.array([200, 800, 0])))  # .6 · ln(.8 · .8 / (.2 · .2)) = 1.7 away
    assert not drift.is_over(ColumnCounts(bins, np.zeros(3, np.int64)), 0.0)


def test_what_has_stood_for_half_an_hour_is_known_with_its_onset() -> None:
    pane = pane_of(200, years=between(100, 200))
    assert known(pane, 105) == ()
    assert known(pane, 120) == ()  # for twenty minutes
    (drift,) = known(pane, 135)
    assert drift.bins == YEARS
    assert abs(drift.onset_us - START_US - 100 * MINUTE_US) <= MINUTE_US
    assert sum(drift.before_B) == 40 * DAY
    assert sum(drift.during_B) == 40 * 35
    (same,) = known(pane, 150, (drift,))
    assert same == drift  # known once is known


def test_neither_chance_nor_what_stood_long_before_nor_what_was_served_is_taken_for_the_cause() -> None:
    brief = pane_of(200, years=between(120, 135))
    assert alarms(readings_of(brief, 135), "years")
    assert known(brief, 135) == ()
    assert known(pane_of(200, served_logit_click=between(100, 200)), 150) == ()
    assert known(pane_of(200), 195) == ()
    (drift,) = known(pane_of(60, years=between(0, 60)), 60)
    assert near((drift,), drift.onset_us + 59 * MINUTE_US) == (drift,)
    assert near((drift,), drift.onset_us + 60 * MINUTE_US) == ()
    over = drift.model_copy(update={"returned_us": 0})
    assert near((over,), drift.onset_us + 60 * MINUTE_US) == (over,)  # it ends nothing, and is a memory


def test_a_drift_that_the_baseline_has_absorbed_is_not_over() -> None:
    pane = pane_of(1800, years=between(0, 1740))  # for 29 hours; the baseline is a day, and the hour before now
    (drift,) = known(pane, 45)
    for minute in (45, 600, 1200, 1725):
        assert not are_over((drift,), readings_of(pane, minute), pane), minute
    assert alarms(readings_of(pane, 45), "years")
    assert not alarms(readings_of(pane, 1725), "years")  # it has fallen silent all the same
    back = readings_of(pane, 1755)
    assert alarms(back, "years")  # and now what is right raises one
    assert are_over((drift,), back, pane)


def test_of_rows_that_are_not_there_nothing_is_over() -> None:
    pane = pane_of(200, years=between(100, 150))
    (drift,) = known(pane, 150)
    readings = readings_of(pane, 180)
    assert are_over((drift,), readings, pane)
    assert not are_over((drift.model_copy(update={"segment": 7}),), readings, pane)
    assert not are_over((drift.model_copy(update={"bins": NumericBins(name="years", edges=(2.0,))}),), readings, pane)
    assert not are_over((drift,), [], pane)


def test_what_drifts_again_is_compared_with_what_it_was_before_the_first_time() -> None:
    twice = pane_of(700, years=lambda minute: 100 <= minute < 400 or 460 <= minute < 600)
    (first,) = known(twice, 150)
    back = first.model_copy(update={"returned_us": START_US + 400 * MINUTE_US})
    assert known(twice, 450, (back,)) == (back,)
    assert not alarms(readings_of(twice, 495), "years")  # what windows of a day of which five hours were in months do
    (again,) = known(twice, 495, (back,))
    assert again.returned_us is None
    assert again.before_B == first.before_B
    assert abs(again.onset_us - START_US - 460 * MINUTE_US) <= MINUTE_US
    assert not are_over((again,), readings_of(twice, 600), twice)
    assert are_over((again,), readings_of(twice, 615), twice)
    forgotten = back.model_copy(update={"returned_us": START_US + (495 - DAY) * MINUTE_US})
    assert known(pane_of(495), 495, (forgotten,)) == ()


def test_a_correction_ends_with_the_drift_it_was_made_under_and_long_before_labels_would_say_so(tmp_path: Path) -> None:
    world = world_of(tmp_path, until=360)  # labels of the first quarter-hour since then are known at 405
    decisions, state = run(world, 450, years=between(120, 360))
    assert at(next(d for d in decisions if d.kind == "apply")) < 240
    (end,) = (d for d in decisions if d.kind == "end")
    assert at(end) == 375
    assert end.reason.startswith("years: again as before ")
    assert end.correction is not None
    assert "apply" not in [d.kind for d in decisions if at(d) >= 375]
    assert np.abs(world.true_ratio(375, 450) - 1).max() < 1e-9
    assert state.drifts[0].returned_us == START_US + 360 * MINUTE_US
    assert state.onset_us >= START_US + 360 * MINUTE_US


def test_what_is_wrong_after_the_return_is_corrected_anew_by_rows_since_then_alone(tmp_path: Path) -> None:
    world = world_of(tmp_path, until=450)  # it was not the feature
    decisions, _ = run(world, 450, years=between(120, 360))
    ended = next(at(d) for d in decisions if d.kind == "end")
    again = next(d for d in decisions if d.kind == "apply" and at(d) > ended)
    assert ended == 375
    assert at(again) >= 360 + 15 + 30  # a quarter-hour since the return, and its labels
    assert again.correction is not None
    offsets = again.correction.log_odds_offsets["click"]["title"]
    assert offsets["3"] == pytest.approx(-math.log(3.0), abs=0.2)


def test_of_two_features_that_drifted_the_last_one_to_return_ends_it(tmp_path: Path) -> None:
    world = world_of(tmp_path, until=330)
    decisions, _ = run(world, 360, years=between(120, 240), salary=between(120, 330))
    (end,) = (d for d in decisions if d.kind == "end")
    assert at(end) == 345
    assert end.reason.startswith("salary, years: ")


def test_a_feature_that_drifts_again_is_corrected_again_and_ends_it_again(tmp_path: Path) -> None:
    pointer(tmp_path)
    is_wrong: Drifted = lambda minute: 120 <= minute < 240 or 330 <= minute < 465  # noqa: E731
    world = World(tmp_path, lambda minute: {3: math.log(3.0)} if is_wrong(minute) else {}, clicks=200.0, late=30)
    decisions, _ = run(world, 510, years=is_wrong)
    kinds = [(d.kind, at(d)) for d in decisions if d.kind in ("apply", "end")]
    assert [kind for kind, _ in kinds] == ["apply", "end", "apply", "end"]
    assert [minute for kind, minute in kinds if kind == "end"] == [255, 480]
    assert np.abs(world.true_ratio(255, 330) - 1).max() < 1e-9
    assert np.abs(world.true_ratio(480, 510) - 1).max() < 1e-9


def test_a_loop_that_was_killed_knows_what_had_drifted(tmp_path: Path) -> None:
    world = world_of(tmp_path, until=360)
    years = between(120, 360)
    before = run(world, 300, years=years)[1]
    assert before.phase == "in_force"
    assert len(before.drifts) == 1
    state = tmp_path / "mitigation/state.json"
    assert LoopState.from_json(state.read_bytes()) == before
    for _ in range(5):  # a fresh loop each quarter-hour
        decisions, after = run(world, 15, years=years)
    assert [d.kind for d in decisions] == ["end"]
    assert at(decisions[0]) == 375
    assert after.phase == "quiet"
    older = LoopState().model_dump(mode="json")
    del older["drifts"]
    assert LoopState.model_validate(older) == LoopState()


def test_a_proposal_is_withdrawn_when_the_feature_returns(tmp_path: Path) -> None:
    world = world_of(tmp_path, until=240)
    decisions, state = run(world, 255, mode="ask", years=between(120, 240))
    assert [d.kind for d in decisions][:2] == ["detect", "propose"]
    assert decisions[-1].kind == "withdraw"
    assert "years: again as before" in decisions[-1].reason
    assert state.proposal is None
    assert not list((tmp_path / "mitigation/proposals").iterdir())


def test_an_alarm_of_a_feature_under_a_correction_neither_ends_it_nor_keeps_it(tmp_path: Path) -> None:
    world = world_of(tmp_path, until=330)
    decisions, state = run(world, 330, salary=between(240, 300))
    assert "end" not in [d.kind for d in decisions]
    assert state.drifts == ()
    assert state.phase == "in_force"


def test_without_a_correction_an_incident_passes_when_its_feature_returns() -> None:
    pane = pane_of(200, years=between(100, 170))
    (drift,) = known(pane, 165)
    state = LoopState(phase="watching", bundle_id=BUNDLES[0], onset_us=START_US, last_alarm_us=2**60, drifts=(drift,))
    for minute, kinds in ((165, []), (195, ["pass"])):
        seen = Seen(
            readings=readings_of(pane, minute), outcomes=OutcomePane.nothing("click"),
            settled_us=START_US + 135 * MINUTE_US, bundle_id=BUNDLES[0], pane=pane,
        )  # fmt: skip
        after, decisions = MitigationLoop(PLAN).after(state, seen, START_US + minute * MINUTE_US)
        assert [d.kind for d in decisions] == kinds
    assert after.phase == "quiet"
    assert after.onset_us == START_US + 180 * MINUTE_US  # and not the older minute until which labels are known
