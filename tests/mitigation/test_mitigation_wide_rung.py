"""Clicks of two jobs of one title move against each other: no offset of the title brings them back, weights do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from served_world import pointer
from wide_world import PLAN, WideWorld

from rankwell.errors import LogError
from rankwell.mitigation import mitigation_folder
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.wide_update import ProximalUpdate

UP, DOWN, MOVED = 7, 11, 0.7
"""Jobs, both of title 3."""


def world_of(root: Path, *, until: int = 10_000, **settings: object) -> WideWorld:
    """Moved from minute 60 on; the alarm stands for as long as windows are of another world than the day before."""
    pointer(root, previous=None)

    def moved(minute: int) -> Mapping[int, float]:
        return {UP: MOVED, DOWN: -MOVED} if 60 <= minute < until else {}

    settings = {"is_alarm": lambda minute: 75 <= minute < until + 30, **settings}
    return WideWorld(root, moved, **settings)  # type: ignore[arg-type]


def test_weights_of_what_has_moved_follow_and_are_taken_back_when_it_returns(tmp_path: Path) -> None:
    world = world_of(tmp_path, until=300)
    decisions = world.run(300)
    kinds = [decision.kind for decision in decisions]
    assert kinds[:2] == ["detect", "apply"]
    assert "keep" in kinds
    assert "job 11 -" in decisions[1].reason
    changes = world.changes()
    assert {*changes} == {("job", UP), ("job", DOWN)}, "neither their title, nor a city, nor another job"
    assert changes["job", UP] == pytest.approx(MOVED, abs=0.3)
    assert changes["job", DOWN] == pytest.approx(-MOVED, abs=0.3)
    assert world.error(UP, 60, 120) == pytest.approx(-MOVED)
    assert max(abs(world.error(job, 240, 300)) for job in (UP, DOWN)) < 0.2
    kinds = [decision.kind for decision in world.run(150)]
    assert "end" in kinds
    assert world.correction() is None
    assert all(
        world.error(job, 200, 300) == pytest.approx(0.0, abs=1e-12) for job in range(20) if job not in (UP, DOWN)
    )


def test_no_weight_leaves_the_trust_region(tmp_path: Path) -> None:
    plan = replace(PLAN, wide=ProximalUpdate(step=0.05, largest_change=0.3))
    world, largest = world_of(tmp_path), 0.0
    while world.minute < 210:
        world.run(15, plan)
        largest = max([largest, *map(abs, world.changes().values())])
    assert largest == pytest.approx(0.3)
    assert -0.45 < world.error(UP, 180, 210) < -0.35


@pytest.mark.slow  # three hours of twenty worlds
def test_where_nothing_has_moved_nothing_is_changed_in_twenty_worlds(tmp_path: Path) -> None:
    for seed in range(20):
        (root := tmp_path / str(seed)).mkdir()
        pointer(root, previous=None)
        world = WideWorld(root, lambda _: {}, rows=400, seed=seed)  # an alarm stands all the time
        assert [decision.kind for decision in world.run(180)] == ["detect"]
        assert world.correction() is None


@pytest.mark.parametrize(
    "settings", [{"is_exported": False}, {"is_alarm": lambda _: False}, {"rows": 24}], ids=["eager", "quiet", "few"]
)
def test_without_a_deployment_an_alarm_or_enough_clicks_nothing_is_changed(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    world = world_of(tmp_path, **settings)
    kinds = [decision.kind for decision in world.run(240)]
    assert kinds in ([], ["detect"])
    assert world.correction() is None


def test_what_is_new_waits_for_approval(tmp_path: Path) -> None:
    world, plan = world_of(tmp_path), replace(PLAN, mode="ask")
    kinds = [decision.kind for decision in world.run(150, plan)]
    assert kinds == ["detect", "propose"]
    assert world.correction() is None
    (proposal,) = (tmp_path / "mitigation/proposals").glob("*.json")
    proposal.with_suffix(".approved").touch()
    kinds = [decision.kind for decision in world.run(90, plan)]
    assert kinds[0] == "apply"
    assert "adjust" in kinds, "within its bounds, without asking again"
    assert world.changes()["job", UP] > 0.3


def test_a_loop_that_lost_its_state_takes_it_as_it_is(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.run(150)
    known = world.changes()
    (tmp_path / "mitigation/state.json").unlink()
    assert world.run(15)[0].kind == "adopt"
    assert {*world.changes()} == {*known}
    assert "keep" in [decision.kind for decision in world.run(60)]


@pytest.mark.parametrize("name", ["append", "_do", "_write"])
def test_ended_at_any_point_it_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls, of = [0], mitigation_folder.AuditLog if name == "append" else MitigationFolder
    whole = getattr(of, name)

    def ended(*args: object) -> None:
        calls[0] += 1
        if calls[0] == 2:  # as it is applied
            raise KeyboardInterrupt
        whole(*args)

    world = world_of(tmp_path)
    monkeypatch.setattr(of, name, ended)
    while world.minute < 195:
        try:
            world.run(195 - world.minute)
        except KeyboardInterrupt:
            continue
    assert calls[0] > 2
    assert world.changes()["job", UP] == pytest.approx(MOVED, abs=0.3)
    assert max(abs(world.error(job, 165, 195)) for job in (UP, DOWN)) < 0.3


def test_what_does_harm_is_reverted_before_it_was_found_to_do_good(tmp_path: Path) -> None:
    world = world_of(tmp_path, until=121)  # the world returns as it is applied
    kinds = [decision.kind for decision in world.run(300)]
    assert "apply" in kinds
    assert "keep" not in kinds
    assert "revert" in kinds
    assert world.correction() is None


def test_what_does_not_suffice_is_taken_back_and_people_are_called(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.run(180)
    assert world.changes()
    calm, world.moved = world.moved, lambda minute: {**calm(minute), **dict.fromkeys((3, 15, 19), -1.5)}
    # too little for what comes on top
    plan = replace(PLAN, wide=ProximalUpdate(step=0.02, largest_change=0.4), most_adjusted=2)
    whole = world.readings
    world.readings = lambda settled_us: [  # type: ignore[method-assign]
        *whole(settled_us), replace(whole(settled_us)[0], name="calibration_served", segment=3, is_alarm=True)
    ]  # fmt: skip
    kinds = [decision.kind for decision in world.run(240, plan)]
    assert "revert" in kinds
    assert kinds[-1] == "page", "no blend, and no bundle to go back to"
    assert world.correction() is None


def test_a_log_that_cannot_be_read_is_said_and_changes_nothing(tmp_path: Path) -> None:
    class Broken:
        def read(self, bundle_id: str, **times: int) -> None:
            raise LogError("no such log", found=bundle_id)

    world, said = world_of(tmp_path), list[str]()
    world.run(90)
    with MitigationFolder(
        tmp_path, PLAN, now_us=lambda: world.now_us, say=said.append, log=Broken()  # type: ignore[arg-type]
    ) as folder:  # fmt: skip
        settled_us = world.now_us
        assert folder.look(world.readings(settled_us), world.outcomes, settled_us=settled_us) == ()
    assert ["no rows to learn from" in text for text in said] == [True]


def test_offsets_come_first_where_the_title_is_off(tmp_path: Path) -> None:
    pointer(tmp_path, previous=None)
    world = WideWorld(tmp_path, lambda minute: dict.fromkeys((3, 7, 11, 15, 19), 0.5) if minute >= 60 else {})
    world.run(180)
    correction = world.correction()
    assert correction is not None
    assert not correction.wide_changes
    assert {*correction.log_odds_offsets["click"]["title"]} == {"3"}
