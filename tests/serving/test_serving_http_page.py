"""The page, in a browser where there is one, and what it asks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import http_example as example
import pytest
import serving_example
from http_example import LocalServer, local_server, server_process

from headless_browser import opened
from rankwell.calibration.platt import Platt
from rankwell.data.request import batch_from_request
from rankwell.errors import BundleError
from rankwell.models.candidate_list import ListSettings
from rankwell.models.history import HistorySettings
from rankwell.models.list_attention import FullSettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.serving.attended import HeadsOfRequest
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.serving.rollout import RolloutFolder


def transformer() -> Bundle:
    settings = TransformerSettings(
        row_width=4,
        width=8,
        history=HistorySettings(width=8, num_layers=2),
        list=ListSettings(attention=FullSettings(), num_layers=1),
    )
    model = RankingTransformer(example.SCHEMA, serving_example.STATISTICS, settings, seed=0)
    calibrators = {"click": Platt(0.9, -1.0), "apply": Platt(0.8, -1.0)}
    return Bundle(model=model, calibrators=calibrators, created_us=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(transformer(), folder)
    return folder


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[LocalServer]:
    with local_server(path, heads=path) as running:
        yield running


@pytest.mark.parametrize("num", [1, 20, 300])
def test_an_example_can_be_ranked(server: LocalServer, num: int) -> None:
    content = server.client.get(f"/v1/example?num_candidates={num}").json()
    response = server.rank(content)
    assert response.status_code == 200, response.text
    assert len(response.json()["items"]["item_id"]) == num
    assert "evc_micros" in response.json()["items"]


@pytest.mark.parametrize("given", ["0", "2001", "-1", "x", "٣", "1e2", ""])
def test_an_example_of_no_size_is_refused(server: LocalServer, given: str) -> None:
    assert server.client.get("/v1/example", params={"num_candidates": given}).status_code == 400


def test_heads_show_what_they_attend_to(server: LocalServer) -> None:
    response = server.client.post("/v1/attention", json=example.request(20))
    assert response.status_code == 200, response.text
    heads = response.json()["heads"]
    assert {head["layer"] for head in heads} == {"history.0", "history.1", "list.0"}
    for head in heads:
        assert head["share"] == sorted(head["share"], reverse=True)
        assert 0 < sum(head["share"]) <= 1 + 1e-6
        known = {3, 9} if head["entries"] == "item" else set(range(20))
        assert set(head["entry_id"]) <= known
    assert server.client.post("/v1/attention", json=example.request(201)).status_code == 413
    assert server.client.post("/v1/attention", json=[]).status_code == 400


def test_shares_are_the_mean_over_those_that_ask() -> None:
    bundle = transformer()
    looked_at = HeadsOfRequest(bundle)
    batch = batch_from_request(example.request(3), example.SCHEMA)
    [head, *_] = [head for head in looked_at.look(batch) if head.layer == "list.0"]
    maps_QL = bundle.model.encode(batch.features).attention["list.0.maps"][0, 0]
    expected = {item: float(maps_QL[:3, item].detach().mean()) for item in range(3)}
    assert dict(zip(head.entry_ids, head.shares, strict=True)) == pytest.approx(expected)
    with pytest.raises(BundleError, match="transformers alone"):
        HeadsOfRequest(example.bundle())


def test_an_empty_history_and_one_candidate_have_heads_too(server: LocalServer) -> None:
    content = example.request(1, history={"history": {"item": [], "time_us": []}})
    response = server.client.post("/v1/attention", json=content)
    assert response.status_code == 200, response.text


def test_without_a_model_nothing_is_looked_into(path: Path) -> None:
    with local_server(path) as server:
        assert server.client.post("/v1/attention", json=example.request(3)).status_code == 409


def test_heads_of_another_bundle_than_the_one_that_answers_are_refused(path: Path, tmp_path: Path) -> None:
    write_bundle(replace(transformer(), created_us=1), tmp_path / "later")
    with local_server(tmp_path / "later", heads=path) as server:
        response = server.client.post("/v1/attention", json=example.request(3))
        assert response.status_code == 409
        assert "another bundle" in response.json()["detail"]


def test_the_page_says_why_no_heads_are_shown(path: Path, tmp_path: Path) -> None:
    with server_process([str(path), "--drain-s", "0"]) as (_, url):
        page = opened(f"{url}/?send", tmp_path / "profile", size="900,900", budget_ms=3000)
    assert 'data-done="yes"' in page
    [unseen] = re.findall(r'<p id="unseen">(.*?)</p>', page, flags=re.DOTALL)
    assert "--heads" in html.unescape(unseen)


def test_the_page_ranks_in_a_browser(path: Path, tmp_path: Path) -> None:
    RolloutFolder(tmp_path / "root").deploy(path)
    with server_process([str(tmp_path / "root"), "--heads", str(path), "--drain-s", "0"]) as (_, url):
        page = opened(f"{url}/?send", tmp_path / "profile", size="900,900", budget_ms=3000)
    assert 'data-done="yes"' in page
    said = html.unescape(re.findall(r'<p id="said"[^>]*>(.*?)</p>', page, flags=re.DOTALL)[0])
    assert "not logged" in said
    tables = dict(re.findall(r'<table id="(\w+)">(.*?)</table>', page, flags=re.DOTALL))
    assert tables["items"].count("<tr>") == 1 + 5
    assert all(word in tables["items"] for word in ("p(click)", "p(apply)", "EVC", "propensity"))
    assert all(f"<td>{stage}</td>" in tables["stages"] for stage in ("read", "rank", "write", "all", "browser"))
    assert all(layer in tables["shares"] for layer in ("history.0", "history.1", "list.0"))
