"""Letters: G segments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from served_world import BUNDLES, MINUTE_US, PLAN, SEGMENTS, START_US, World, pointer

from rankwell.mitigation.evidence import Seen
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_loop import MitigationLoop
from rankwell.mitigation.mitigation_state import LoopState

HURT = SEGMENTS.index(3)


def test_a_hurt_segment_is_calibrated_within_two_windows_and_left_alone_when_the_world_returns(tmp_path: Path) -> None:
    pointer(tmp_path)
    world = World(tmp_path, error=lambda minute: {3: math.log(3.0)} if 120 <= minute < 360 else {}, clicks=600.0)
    with MitigationFolder(tmp_path, PLAN, now_us=lambda: world.now_us) as folder:
        decisions = world.run(540, folder)
    detected = next(d for d in decisions if d.kind == "detect")
    assert detected.now_us == world.now_us - (540 - 150) * 60_000_000  # the first window whose labels are in
    assert world.true_ratio(135, 150)[HURT] > 2.5
    assert (np.abs(world.true_ratio(165, 360)[HURT] - 1) < 0.05).all()
    healthy = np.delete(world.true_ratio(0, 540), HURT)
    assert np.abs(healthy - 1).max() < 1e-9  # their bits are as they were
    assert "end" in [d.kind for d in decisions]
    assert abs(world.true_ratio(435, 540)[HURT] - 1) < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_a_correction_ends_with_the_first_labels_of_another_world_though_two_minutes_are_of_the_one_before(
    tmp_path: Path, seed: int
) -> None:
    pointer(tmp_path)
    error = {3: math.log(2.0)}
    world = World(tmp_path, lambda minute: error if 60 <= minute < 180 else {}, clicks=400.0, late=32, seed=seed)
    with MitigationFolder(tmp_path, PLAN, now_us=lambda: world.now_us) as folder:
        decisions = world.run(240, folder)
    # Labels until minute 193 are in at 225, and the newest quarter-hour of them begins at 178.
    assert ("end", 225) in [(d.kind, 240 - (world.now_us - d.now_us) // MINUTE_US) for d in decisions]


def test_nothing_is_done_where_nothing_is_wrong(tmp_path: Path) -> None:
    pointer(tmp_path)
    world = World(tmp_path, error=lambda _: {}, clicks=200.0, seed=3)
    with MitigationFolder(tmp_path, PLAN, now_us=lambda: world.now_us) as folder:
        assert world.run(24 * 60, folder) == []
    assert not (tmp_path / "corrections.json").exists()


@pytest.mark.parametrize("has_looked_before", [False, True])
def test_rows_of_the_bundle_before_say_nothing_of_the_one_that_answers(tmp_path: Path, has_looked_before: bool) -> None:
    world = World(tmp_path, error=lambda minute: {3: math.log(3.0)} if minute >= 120 else {}, clicks=1500.0)
    world.run(165)
    deployed_us, settled_us = START_US + 120 * MINUTE_US, START_US + 150 * MINUTE_US
    hour = [replace(r, window_start_us=settled_us - 60 * MINUTE_US) for r in world.readings(settled_us)]
    state = LoopState(bundle_id=BUNDLES[1]) if has_looked_before else LoopState()
    found = {}
    for since_us in (0, deployed_us):
        seen = Seen(
            readings=hour, outcomes=world.outcomes, settled_us=settled_us, bundle_id=BUNDLES[0],
            answers_since_us=since_us,
        )  # fmt: skip
        after, _ = MitigationLoop(PLAN).after(state, seen, world.now_us)
        found[since_us] = after.history[-1].offsets.get(3, 0.0)
    assert found[deployed_us] == pytest.approx(-math.log(3), abs=0.1)
    assert abs(found[0]) < 0.8  # half the rows are right; or all are from before it looked
    newer = replace(seen, answers_since_us=settled_us)
    assert not MitigationLoop(PLAN).after(state, newer, world.now_us)[0].history[-1].offsets


def test_an_alarm_about_rows_of_the_bundle_before_opens_no_incident(tmp_path: Path) -> None:
    world = World(tmp_path, error=lambda _: {3: math.log(3.0)})
    world.run(30)
    seen = Seen(readings=world.readings(world.now_us), outcomes=world.outcomes, settled_us=world.now_us, bundle_id="b")
    assert MitigationLoop(PLAN).after(LoopState(), seen, world.now_us)[0].phase == "in_force"
    newer = replace(seen, answers_since_us=world.now_us)
    assert MitigationLoop(PLAN).after(LoopState(), newer, world.now_us) == (LoopState(bundle_id="b"), ())


@pytest.mark.slow
@pytest.mark.parametrize(("clicks", "least"), [(50, 0.3), (100, 0.3), (200, 0.5), (400, 0.8), (800, 0.8), (1600, 0.9)])
def test_how_often_so_much_traffic_brings_a_segment_within_5_percent_in_the_second_window(
    tmp_path: Path, record_property: Callable[[str, object], None], clicks: float, least: float
) -> None:
    errors, moved = [], 0.0
    for seed in range(20):
        (root := tmp_path / str(seed)).mkdir()
        pointer(root)
        world = World(root, lambda minute: {3: math.log(3.0)} if 120 <= minute < 360 else {}, clicks, seed=seed)
        with MitigationFolder(root, PLAN, now_us=lambda world=world: world.now_us) as folder:
            decisions = world.run(480, folder)
        applied = next(d for d in decisions if d.kind == "apply").now_us
        second = 480 - (world.now_us - applied) // 60_000_000 + 15
        errors.append(world.true_ratio(second, second + 15)[HURT] - 1)
        moved = max(moved, float(np.abs(np.delete(world.true_ratio(0, 480), HURT) - 1).max()))
        assert not world.offsets().any()
    share = float((np.abs(errors) < 0.05).mean())
    record_property("share within 5 %", share)
    record_property("largest move of a healthy segment", moved)
    assert share >= least
    assert moved < 0.02
