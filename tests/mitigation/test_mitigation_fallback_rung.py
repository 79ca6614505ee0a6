"""A ladder of real bundles in a real `RolloutFolder`, climbed to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from served_world import PLAN, SEGMENTS, World

from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import MitigationError
from rankwell.mitigation.fallback import fall_back
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.rollout import RolloutFolder

HURT = SEGMENTS.index(3)
SCHEMA = Schema(features=(Categorical(name="title", num_ids=9),), actions=(Action(name="click"),))


def deployed(root: Path) -> tuple[RolloutFolder, str, str]:
    """Two bundles, the second of which answers, and their ids."""
    rollout, ids = RolloutFolder(root), []
    for number in range(2):
        bundle = Bundle(
            model=Logistic(SCHEMA, NumericStatistics(), seed=0),
            calibrators={"click": Uncalibrated()},
            created_us=number,
        )
        write_bundle(bundle, root / f"made-{number}")
        ids.append(rollout.deploy(root / f"made-{number}").current)
    return rollout, ids[0], ids[1]


def world_of(root: Path, wrong: str, right: str, *, right_until: int = 10_000) -> World:
    """A bundle that is off by more than an offset may be, and one that goes wrong later, if ever."""
    return World(
        root, error=lambda minute: {3: 3.5} if minute >= 120 else {},
        other_error=lambda minute: {3: 3.5} if minute >= right_until else {},
        clicks=100.0, bundles=(wrong, right),
    )  # fmt: skip


def folder_of(world: World, plan: MitigationPlan = PLAN) -> MitigationFolder:
    return MitigationFolder(world.root, plan, now_us=lambda: world.now_us)


def test_what_no_offset_mends_goes_back_to_the_bundle_before_and_that_one_is_kept(tmp_path: Path) -> None:
    rollout, right, wrong = deployed(tmp_path)
    world = world_of(tmp_path, wrong, right)
    with folder_of(world) as folder:
        decisions = world.run(300, folder)
        kinds = [decision.kind for decision in decisions]
        assert kinds == ["detect", "apply", "adjust", "revert", "fall_back", "keep"]
        assert folder.state.phase == "quiet"
    assert decisions[4].bundles == (wrong, right)
    assert (rollout.read().current, rollout.read().previous) == (right, wrong)
    assert not (tmp_path / "corrections.json").exists()
    assert world.true_ratio(120, 135)[HURT] > 5
    assert np.abs(world.true_ratio(270, 300) - 1).max() < 1e-9


def test_it_does_not_go_back_to_a_bundle_that_it_left(tmp_path: Path) -> None:
    rollout, right, wrong = deployed(tmp_path)
    world = world_of(tmp_path, wrong, right, right_until=240)
    with folder_of(world) as folder:
        kinds = [decision.kind for decision in world.run(390, folder)]
    assert kinds.count("fall_back") == 1
    assert kinds[-1] == "page"
    assert rollout.read().current == right
    with folder_of(world) as folder:  # nor does the next process
        assert "fall_back" not in [decision.kind for decision in world.run(60, folder)]
    assert rollout.read().current == right


def test_the_bundle_before_is_off_too_and_people_are_told(tmp_path: Path) -> None:
    rollout, right, wrong = deployed(tmp_path)
    world = world_of(tmp_path, wrong, right, right_until=120)
    with folder_of(world) as folder:
        decisions = world.run(270, folder)
        assert folder.state.phase == "left_to_people"
    assert [decision.kind for decision in decisions][-2:] == ["fall_back", "page"]
    assert decisions[-1].reason == "the previous bundle is off, too"
    assert rollout.read().current == right


def test_a_bundle_that_broke_since_is_not_gone_back_to(tmp_path: Path) -> None:
    rollout, right, wrong = deployed(tmp_path)
    for path in rollout.path_of(right).rglob("*"):
        if path.is_file():
            path.unlink()  # linked: what it was copied from stays whole
    world = world_of(tmp_path, wrong, right)
    with folder_of(world) as folder:
        decisions = world.run(300, folder)
        assert folder.state.phase == "left_to_people"
    assert [decision.kind for decision in decisions][-2:] == ["fall_back", "fail"]
    assert rollout.read().current == wrong


def test_a_fallback_waits_for_approval_where_people_are_asked(tmp_path: Path) -> None:
    rollout, right, wrong = deployed(tmp_path)
    world = world_of(tmp_path, wrong, right)
    with folder_of(world, replace(PLAN, mode="ask")) as folder:
        for _ in range(20):
            world.run(15, folder)
            for proposal in (tmp_path / "mitigation/proposals").glob("*.json"):
                if folder.state.mitigation == "fallback":
                    assert rollout.read().current == wrong
                proposal.with_suffix(".approved").touch()
        assert rollout.read().current == right
        assert folder.state.phase == "quiet"
        assert not list((tmp_path / "mitigation/proposals").iterdir())


def test_done_twice_it_is_done_once_and_others_are_left_alone(tmp_path: Path) -> None:
    rollout, right, wrong = deployed(tmp_path)
    assert fall_back(rollout, from_bundle=wrong, to_bundle=right).current == right
    assert fall_back(rollout, from_bundle=wrong, to_bundle=right).current == right
    bundle = Bundle(
        model=Logistic(SCHEMA, NumericStatistics(), seed=0), calibrators={"click": Uncalibrated()}, created_us=2
    )
    write_bundle(bundle, tmp_path / "made-2")
    newest = rollout.deploy(tmp_path / "made-2").current
    with pytest.raises(MitigationError, match="not those"):
        fall_back(rollout, from_bundle=wrong, to_bundle=right + "0")
    assert rollout.read().current == newest
