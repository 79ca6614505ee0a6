"""Another bundle mixed in through the loop; the world serves the mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from served_world import BUNDLES, PLAN, SEGMENTS, World, pointer

from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan

HURT = SEGMENTS.index(3)
BLENDED = replace(PLAN, blend_bundle="bundles/fast", may_fall_back=False)


def run(world: World, plan: MitigationPlan, minutes: int) -> list[str]:
    with MitigationFolder(world.root, plan, now_us=lambda: world.now_us) as folder:
        return [decision.kind for decision in world.run(minutes, folder)]


def test_a_blend_follows_the_drift_in_steps_and_is_gone_when_it_ends(tmp_path: Path) -> None:
    pointer(tmp_path)

    def error(minute: int) -> Mapping[int, float]:  # another one each hour, so that no offset lasts
        return {3: 0.5 if minute // 60 % 2 else 0.35} if 120 <= minute < 300 else {}

    world = World(tmp_path, error, clicks=400.0, drift=lambda minute: 4.0 if 120 <= minute < 300 else 0.0)
    whole, weights, kinds = world.readings, [], []
    # The detector of this world forgets slowly; a watch's alarms end when what they are of ends.
    world.readings = lambda settled_us: whole(settled_us)[: None if world.minute <= 300 else 1]  # type: ignore[method-assign]
    with MitigationFolder(tmp_path, replace(BLENDED, most_adjusted=0), now_us=lambda: world.now_us) as folder:
        while world.minute < 420:
            kinds += [decision.kind for decision in world.run(15, folder)]
            weights.append(round(world.weight(), 2))
    assert kinds[:5] == ["detect", "apply", "revert", "apply", "adjust"]  # an offset at first
    begun = weights.index(0.3)
    assert weights[begun : begun + 3] == [0.3, 0.6, 0.9]
    assert weights[300 // 15 - 1 :] == [0.9, 0.6, 0.3] + [0.0] * 6  # the logits are told to be well at minute 315
    assert kinds[-1] == "end"
    assert world.true_ratio(270, 300)[HURT] < 1 + 0.1 * math.expm1(0.5) + 0.01
    assert np.abs(world.true_ratio(375, 420) - 1).max() < 1e-9


def test_a_blend_that_puts_others_off_or_does_not_suffice_is_taken_back(tmp_path: Path) -> None:
    for name, other in (("others", {5: math.log(9.0)}), ("insufficient", {3: 3.5})):
        (root := tmp_path / name).mkdir()
        pointer(root)
        world = World(
            root, error=lambda minute: {3: 3.5} if minute >= 120 else {}, other_error=lambda _, other=other: other,
            clicks=100.0,
        )  # fmt: skip
        kinds = run(world, BLENDED, 330)
        assert kinds.count("revert") == 2  # the offset, which is bounded by 2, and the blend
        assert kinds[-1] == "page"
        assert world.correction() is None


def test_a_blend_waits_for_approval_and_a_killed_loop_takes_it_as_it_is(tmp_path: Path) -> None:
    pointer(tmp_path, BUNDLES[0])
    world = World(tmp_path, error=lambda minute: {3: 3.5} if minute >= 120 else {}, clicks=100.0)
    plan, proposed = replace(BLENDED, mode="ask"), []
    while world.weight() == 0 and world.minute < 480:
        kinds = run(world, plan, 15)  # a process a window
        for path in (tmp_path / "mitigation/proposals").glob("*.json"):
            path.with_suffix(".approved").touch()
        proposed += [kind for kind in kinds if kind in ("propose", "apply")]
    assert proposed == ["propose", "apply", "propose", "apply"]
    assert world.weight() > 0
    (tmp_path / "mitigation/state.json").unlink()
    assert run(world, plan, 15)[0] == "adopt"
    assert world.weight() > 0
