from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from served_world import BUNDLES, PLAN, World, pointer

from rankwell.errors import MitigationError
from rankwell.mitigation import mitigation_folder
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.mitigation_plan import MitigationPlan
from rankwell.serving.correction import read_correction


def world_of(root: Path, *, until: int = 10_000) -> World:
    pointer(root)
    return World(root, error=lambda minute: {3: math.log(3.0)} if 120 <= minute < until else {}, clicks=400.0)


def folder_of(world: World, plan: MitigationPlan = PLAN) -> MitigationFolder:
    return MitigationFolder(world.root, plan, now_us=lambda: world.now_us)


def test_a_dry_run_writes_its_audit_lines_and_nothing_else(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with folder_of(world, replace(PLAN, mode="watch")) as folder:
        kinds = [decision.kind for decision in world.run(300, folder)]
    assert kinds[:2] == ["detect", "propose"] and "apply" not in kinds  # noqa: PT018
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"rollout.json", "mitigation/audit.jsonl"}
    assert [json.loads(line)["kind"] for line in folder.audit.path.read_text().splitlines()] == kinds


def test_a_proposal_waits_for_approval_and_a_refused_one_is_left_to_people(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with folder_of(world, replace(PLAN, mode="ask")) as folder:
        world.run(165, folder)
        (proposal,) = (tmp_path / "mitigation/proposals").glob("*.json")
        assert not (tmp_path / "corrections.json").exists()
        assert read_correction(proposal).log_odds_offsets["click"]["title"]["3"] < -0.5
        proposal.with_suffix(".approved").touch()
        assert "apply" in [decision.kind for decision in world.run(15, folder)]
        assert (tmp_path / "corrections.json").exists()
        assert not list(proposal.parent.iterdir())
    (tmp_path / "other").mkdir()
    world = world_of(tmp_path / "other")
    with folder_of(world, replace(PLAN, mode="ask")) as folder:
        world.run(165, folder)
        (proposal,) = (world.root / "mitigation/proposals").glob("*.json")
        proposal.with_suffix(".refused").touch()
        assert [decision.kind for decision in world.run(60, folder)] == ["withdraw"]
        assert folder.state.phase == "left_to_people"


def test_the_kill_switch_takes_back_what_is_in_force(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with folder_of(world) as folder:
        world.run(165, folder)
        assert (tmp_path / "corrections.json").exists()
        folder.stop_file.touch()
        assert [decision.kind for decision in world.run(30, folder)] == ["stop"]
        assert not (tmp_path / "corrections.json").exists()
        folder.stop_file.unlink()
        assert "apply" in [decision.kind for decision in world.run(45, folder)]


def test_without_a_loop_a_correction_is_gone_by_itself(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with folder_of(world) as folder:
        world.run(165, folder)
    assert world.offsets()[3] < -0.5
    world.run(PLAN.lifetime_us // 60_000_000)
    assert not world.offsets().any()
    with folder_of(world) as folder:
        kinds = [decision.kind for decision in world.run(15, folder)]
    assert kinds[0] == "expire"


@pytest.mark.parametrize("name", ["append", "_do", "_write"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_ended_at_any_point_it_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    calls, of = [0], mitigation_folder.AuditLog if name == "append" else MitigationFolder
    whole = getattr(of, name)

    def ended(*args: object) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        whole(*args)

    world = world_of(tmp_path)
    monkeypatch.setattr(of, name, ended)
    while world.minute < 300:
        with folder_of(world) as folder:
            try:
                world.run(300 - world.minute, folder)
            except KeyboardInterrupt:
                continue
    assert calls[0] > at
    assert world.offsets()[3] == pytest.approx(-math.log(3), abs=0.15)
    assert abs(world.true_ratio(240, 300)[3] - 1) < 0.12
    assert folder.state.correction == read_correction(tmp_path / "corrections.json")


def test_damaged_files_are_put_aside_and_said(tmp_path: Path) -> None:
    world, said = world_of(tmp_path), []
    with folder_of(world) as folder:
        world.run(165, folder)
    (tmp_path / "mitigation/state.json").write_text("{")
    (tmp_path / "corrections.json").write_text('{"id": 3}')
    with MitigationFolder(tmp_path, PLAN, now_us=lambda: world.now_us, say=said.append) as folder:
        world.run(60, folder)
    assert len(said) == 2
    assert list(tmp_path.glob("corrections.json.damaged-*"))
    assert list((tmp_path / "mitigation").glob("state.json.damaged-*"))
    assert world.offsets()[3] < -0.5


def test_a_correction_of_somebody_else_stays_and_people_are_told(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    text = f'{{"id": "by-hand", "created_us": {world.now_us}, "expires_us": {world.now_us + 10**11}, "reason": "x"}}'
    (tmp_path / "corrections.json").write_text(text)
    with folder_of(world) as folder:
        kinds = [decision.kind for decision in world.run(240, folder)]
    assert kinds == ["detect", "page"]
    assert (tmp_path / "corrections.json").read_text() == text


def test_what_does_harm_is_reverted_and_the_next_rung_is_climbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, back = world_of(tmp_path, until=152), []
    world.late = 0

    def fall_back(folder: object, *, from_bundle: str, to_bundle: str) -> None:
        back.append((from_bundle, to_bundle))
        pointer(tmp_path, to_bundle, from_bundle)

    monkeypatch.setattr(mitigation_folder, "fall_back", fall_back)
    with folder_of(world) as folder:  # the world returns as soon as the offset is there
        kinds = [decision.kind for decision in world.run(240, folder)]
    assert kinds[:2] == ["detect", "apply"]
    assert "revert" in kinds
    assert back in ([], [BUNDLES])
    assert not world.offsets().any()


def test_labels_that_are_late_delay_the_end_and_no_more(tmp_path: Path) -> None:
    world = world_of(tmp_path, until=152)
    with folder_of(world) as folder:
        kinds = [decision.kind for decision in world.run(240, folder)]
    assert "end" in kinds
    assert not world.offsets().any()


def test_two_loops_in_one_folder_are_refused(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    with folder_of(world), pytest.raises(MitigationError, match="another loop"):
        folder_of(world)
