"""Bundles in operation: what is deployed, refused, rolled back, put on trial and corrected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import http_example as example
import pytest
import torch
from http_example import LocalServer, local_server

from rankwell.calibration.platt import Platt
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import BundleError
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.live_bundles import LiveBundles
from rankwell.serving.ranker import Ranker
from rankwell.serving.rollout import RolloutFolder

OTHER_SCHEMA = Bundle(
    model=Logistic(
        Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job"),
        NumericStatistics(),
        seed=0,
    ),
    calibrators={"click": Platt(1.0, 0.0)},
    created_us=0,
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    first = example.bundle(offset=-1.0)
    for name, offset in (("first", -1.0), ("second", -0.5), ("third", 0.5)):
        calibrators = {"click": Platt(0.9, offset), "apply": Platt(0.8, offset)}
        write_bundle(replace(first, calibrators=calibrators), folder / name)
    write_bundle(OTHER_SCHEMA, folder / "other_schema")
    return folder


@pytest.fixture
def root(bundles: Path, tmp_path: Path) -> Path:
    RolloutFolder(tmp_path / "root").deploy(bundles / "first")
    return tmp_path / "root"


@pytest.fixture
def server(root: Path) -> Iterator[LocalServer]:
    with local_server(root) as running:
        yield running


def answered_by(server: LocalServer, **changes: Any) -> str:
    response = server.rank(example.request(5, **changes))
    assert response.status_code == 200, response.text
    found: str = response.json()["bundle_id"]
    return found


def poll(server: LocalServer) -> None:
    server.state.service.live.poll()


def problems(server: LocalServer) -> dict[str, str]:
    found: dict[str, str] = server.client.get("/v2/health/ready").json()["problems"]
    return found


def test_a_deployed_bundle_answers_and_a_rollback_brings_the_old_one_back(
    server: LocalServer, root: Path, bundles: Path
) -> None:
    first = answered_by(server)
    rollout = RolloutFolder(root).deploy(bundles / "second")
    assert (rollout.previous, answered_by(server)) == (first, first)  # until it is looked for
    poll(server)
    assert answered_by(server) == rollout.current != first
    RolloutFolder(root).rollback()
    poll(server)
    assert answered_by(server) == first
    assert problems(server) == {}


def test_what_fails_its_checks_never_becomes_the_pointer(root: Path, bundles: Path, tmp_path: Path) -> None:
    before = (root / "rollout.json").read_bytes()
    shutil.copytree(bundles / "second", tmp_path / "damaged")
    dense = tmp_path / "damaged" / "dense.safetensors"
    dense.write_bytes(dense.read_bytes()[:-1] + b"\xff")
    shutil.copytree(bundles / "second", tmp_path / "newer")
    manifest = tmp_path / "newer" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format_version": 99}))
    for path in (tmp_path / "damaged", tmp_path / "newer", bundles / "other_schema", tmp_path / "nothing"):
        with pytest.raises(BundleError):
            RolloutFolder(root).deploy(path)
    assert (root / "rollout.json").read_bytes() == before


def test_a_bundle_that_broke_on_its_way_takes_no_traffic_and_is_not_tried_again(
    server: LocalServer, root: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answered_by(server)
    second = RolloutFolder(root).deploy(bundles / "second").current
    dense = root / "bundles" / second / "dense.safetensors"
    whole = dense.read_bytes()
    dense.unlink()  # files of the folder are links: a bundle is replaced, not written in place
    dense.write_bytes(whole[:-1] + b"\xff")
    poll(server)
    assert answered_by(server) == first
    assert "is refused" in problems(server)["current"]
    assert "rankwell_problems 1.0" in server.client.get("/metrics").text
    calls: list[Path] = []
    monkeypatch.setattr("rankwell.serving.live_bundles.load_bundle", lambda path, **_: calls.append(path))
    poll(server)
    assert calls == []
    assert "is refused" in problems(server)["current"]
    monkeypatch.undo()
    shutil.rmtree(root / "bundles" / second)
    shutil.copytree(bundles / "second", root / "bundles" / second)  # it changes: it is looked at again
    (root / "bundles" / second / "manifest.json").touch()
    poll(server)
    assert answered_by(server) == second
    assert problems(server) == {}


def test_a_worker_starts_with_the_one_before_where_the_current_one_broke(root: Path, bundles: Path) -> None:
    first = RolloutFolder(root).read().current
    second = RolloutFolder(root).deploy(bundles / "second").current
    (root / "bundles" / second / "schema.json").unlink()
    with local_server(root) as server:
        assert answered_by(server) == first
        assert "current" in problems(server)


def test_a_damaged_pointer_changes_nothing(server: LocalServer, root: Path) -> None:
    first = answered_by(server)
    pointer = root / "rollout.json"
    whole = pointer.read_text()
    for text in (whole[:20], "", json.dumps(json.loads(whole) | {"format_version": 2})):
        pointer.write_text(text)
        poll(server)
        assert answered_by(server) == first
        assert "rollout" in problems(server)
    pointer.write_text(whole)
    poll(server)
    assert problems(server) == {}


def test_there_is_nothing_to_go_back_to_at_first(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing to go back to"):
        RolloutFolder(root).rollback()
    with pytest.raises(BundleError, match="nothing is deployed"):
        RolloutFolder(tmp_path / "empty").rollback()


def test_a_canary_answers_the_same_share_of_the_members(server: LocalServer, root: Path, bundles: Path) -> None:
    first = answered_by(server)
    folder = RolloutFolder(root)
    second = folder.try_on("canary", bundles / "second", 0.25).canary
    assert second is not None
    poll(server)
    by_member = {member: answered_by(server, member_id=member, request_id=member) for member in range(400)}
    drawn = {member for member, found in by_member.items() if found == second.bundle_id}
    assert set(by_member.values()) == {first, second.bundle_id}
    assert 70 < len(drawn) < 130  # of 400, 100 are expected with a standard deviation of 9
    again = {m for m in range(50) if answered_by(server, member_id=m, request_id=9_999) == second.bundle_id}
    assert again == {m for m in drawn if m < 50}
    folder.try_on("canary", bundles / "second", 0.5)
    poll(server)
    wider = {m for m in range(50) if answered_by(server, member_id=m) == second.bundle_id}
    assert wider > again  # who is in stays in
    folder.try_on("canary", None)
    poll(server)
    assert {answered_by(server, member_id=member) for member in range(20)} == {first}


def test_a_shadow_is_scored_and_never_seen(server: LocalServer, root: Path, bundles: Path) -> None:
    first = answered_by(server)
    RolloutFolder(root).try_on("shadow", bundles / "third", 1.0)
    poll(server)
    assert {answered_by(server, request_id=id_) for id_ in range(10)} == {first}
    lines = server.client.get("/metrics").text.splitlines()
    counted = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith("rankwell")}
    assert counted["rankwell_shadow_difference_count"] == 10
    assert counted['rankwell_shadow_difference_bucket{le="1e-06"}'] == 0  # it is another bundle
    assert any(name.startswith('rankwell_bundle_info{bundle_id="') and "shadow" in name for name in counted)


def write_correction(root: Path, **changes: Any) -> None:
    content = {
        "id": "c1", "created_us": example.NOW_US, "expires_us": example.NOW_US + 1_000_000, "reason": "a test",
        "log_odds_offsets": {"click": {"title": {"1": 1.0}}},
    }  # fmt: skip
    (root / "corrections.new").write_text(json.dumps(content | changes))
    (root / "corrections.new").replace(root / "corrections.json")


def test_a_correction_is_picked_up_and_let_go_when_it_expires(server: LocalServer, root: Path) -> None:
    def click(item: int) -> tuple[float, str | None]:
        answer = server.rank(example.request(5)).json()
        place = answer["items"]["item_id"].index(item)
        return answer["items"]["probability"]["click"][place], answer["correction_id"]

    before, none = click(1)
    assert none is None
    write_correction(root)
    poll(server)
    after, id_ = click(1)
    assert id_ == "c1"
    assert after == float(torch.sigmoid(torch.logit(torch.tensor(before, dtype=torch.float64)) + 1.0))
    assert "rankwell_corrections_in_force 1.0" in server.client.get("/metrics").text
    server.clock.now_us += 999_999
    assert click(1) == (after, "c1")
    server.clock.now_us += 1  # no file has changed, and nobody has looked
    assert click(1) == (before, None)
    assert server.client.get("/v2/health/ready").json()["correction_id"] is None
    assert "rankwell_corrections_in_force 0.0" in server.client.get("/metrics").text


def test_a_correction_that_is_none_is_ignored_and_said(server: LocalServer, root: Path) -> None:
    for changes, said in (
        ({"log_odds_offsets": {"click": {"title": {"1": 9.0}}}}, "is no correction"),
        ({"log_odds_offsets": {"click": {"town": {"1": 1.0}}}}, "no segment"),
        ({"blend": {"bundle": "nowhere", "weight": 0.5}}, "nowhere"),
    ):
        write_correction(root, **changes)
        poll(server)
        poll(server)
        assert server.rank(example.request(5)).json()["correction_id"] is None
        assert said in problems(server)["correction"]
    write_correction(root, bundle_id="0" * 16)  # of another bundle: there is nothing wrong with it
    poll(server)
    assert server.rank(example.request(5)).json()["correction_id"] is None
    assert problems(server) == {}
    (root / "corrections.json").unlink()
    poll(server)
    assert problems(server) == {}


def test_a_blend_mixes_another_bundle_in(server: LocalServer, root: Path, bundles: Path) -> None:
    alone = server.rank(example.request(5)).json()["items"]
    write_correction(root, log_odds_offsets={}, blend={"bundle": str(bundles / "third"), "weight": 0.5})
    poll(server)
    blended = server.rank(example.request(5)).json()
    other = Ranker(bundles / "third").rank(example.request(5)).scores.probabilities_CA[:, 0]
    for item, p in zip(blended["items"]["item_id"], blended["items"]["probability"]["click"], strict=True):
        mine = alone["probability"]["click"][alone["item_id"].index(item)]
        assert p == pytest.approx(0.5 * mine + 0.5 * float(other[item]), rel=1e-12)


def test_what_stays_loaded_is_what_is_used(root: Path, bundles: Path) -> None:
    live = LiveBundles(root, make_ranker=Ranker)
    for name in ("second", "third", "first", "second"):
        RolloutFolder(root).deploy(bundles / name)
        live.poll()
    assert len(live._served) == 1


# --- by its administrator


def test_an_administrator_deploys_and_rolls_back(root: Path, bundles: Path) -> None:
    from rankwell.serving.http.tokens import Tokens

    with local_server(root, tokens=Tokens.of({"rank": "r", "admin": "a"})) as server:
        admin, rank = {"authorization": "Bearer a"}, {"authorization": "Bearer r"}
        path = {"path": str(bundles / "second")}
        assert server.client.post("/v1/admin/deploy", json=path, headers=rank).status_code == 403
        assert server.client.post("/v1/admin/deploy", json=path).status_code == 401
        assert server.client.post("/v1/rank", json=example.request(3), headers=admin).status_code == 403
        rollout = server.client.post("/v1/admin/deploy", json=path, headers=admin).json()
        answer = server.client.post("/v1/rank", json=example.request(3), headers=rank).json()
        assert answer["bundle_id"] == rollout["current"]
        for broken in ({"path": str(bundles / "other_schema")}, {"path": "/nowhere"}):
            assert server.client.post("/v1/admin/deploy", json=broken, headers=admin).status_code == 409
        for broken in ({}, {"path": 7}, {"path": "a\0b"}, {"path": "a", "share": 1}, []):
            assert server.client.post("/v1/admin/deploy", json=broken, headers=admin).status_code == 400
        trial = {"path": str(bundles / "third"), "share": 0.1}
        assert server.client.post("/v1/admin/canary", json=trial, headers=admin).json()["canary"]["share"] == 0.1
        assert server.client.post("/v1/admin/shadow", json={**trial, "share": 2}, headers=admin).status_code == 400
        assert server.client.post("/v1/admin/rollback", headers=admin).json()["current"] == rollout["previous"]


def test_a_server_of_one_bundle_follows_no_folder(bundles: Path) -> None:
    from rankwell.serving.http.tokens import Tokens

    with local_server(bundles / "first", tokens=Tokens.of({"admin": "a"})) as server:
        response = server.client.post("/v1/admin/rollback", headers={"authorization": "Bearer a"})
        assert response.status_code == 409
    with local_server(bundles / "first") as server:
        assert server.client.post("/v1/admin/rollback").status_code == 403
