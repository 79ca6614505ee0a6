"""Requests over HTTP: what is answered, what is logged, and what is refused with which status."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import http_example as example
import numpy as np
import pyarrow as pa
import pytest
from http_example import LocalServer, local_server
from redis_server import RedisServer, needs_redis

from full_disk import files_of_at_most
from rankwell.data.pseudonyms import create_key, pseudonymise
from rankwell.ranking.slot_exploration import SlotExploration
from rankwell.serving.bundle import read_bundle, write_bundle
from rankwell.serving.feature_table import write_feature_table
from rankwell.serving.http.application import application
from rankwell.serving.http.rank_routes import RANK
from rankwell.serving.http.readiness import report
from rankwell.serving.http.serve_settings import StoreSettings
from rankwell.serving.http.server_state import ServerLimits
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.ranker import Ranker
from rankwell.serving.redis_rows import write_redis_features
from rankwell.serving.stored_columns import StoredColumns

SMALL = ServerLimits(max_body_bytes=20_000, max_candidates=50, body_timeout_s=0.2)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(example.bundle(), folder)
    return folder


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[LocalServer]:
    with local_server(path, limits=SMALL) as running:
        yield running


def test_an_answer_is_what_the_ranker_says(server: LocalServer, path: Path) -> None:
    response = server.rank(example.request(20, length=7))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert [part.partition(";")[0] for part in response.headers["server-timing"].split(", ")] == [
        "read", "rank", "log", "write", "all",
    ]  # fmt: skip
    answer, items = response.json(), response.json()["items"]
    ranking = Ranker(read_bundle(path)).rank(example.request(20), length=7)
    assert items["item_id"] == items["place"] == ranking.ranked.item_ids.tolist()
    assert items["position"] == [1, 2, 3, 4, 5, 6, 7]
    assert items["utility"] == items["probability"]["click"] == ranking.ranked.probabilities.tolist()
    p_KA = ranking.scores.probabilities_CA.numpy()
    assert items["probability"]["apply"] == p_KA[items["place"], 1].tolist()
    assert items["propensity"] == [1.0] * 7
    assert answer["request_id"] == 77
    assert len(answer["bundle_id"]) == 16
    assert answer["correction_id"] is None
    assert not answer["is_logged"]
    assert "evc_micros" not in items


def test_bids_give_the_expected_value_of_a_click(server: LocalServer) -> None:
    content = example.request(5)
    content["candidates"]["bid_micros"] = [1_000_000, 2_000_000, 0, 4_000_000, 5_000_000]
    items = server.rank(content).json()["items"]
    bids = np.array(content["candidates"]["bid_micros"])[items["place"]]
    assert items["evc_micros"] == pytest.approx((bids * np.array(items["probability"]["click"])).tolist())


def test_a_request_without_an_id_or_a_time_gets_them(server: LocalServer) -> None:
    content = example.request(3)
    del content["request_id"], content["time_us"]
    ids = {server.rank(content).json()["request_id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(0 <= id_ < 2**53 for id_ in ids)


def changed(where: str, name: str, value: Any) -> dict[str, Any]:
    content = example.request(3)
    content[where] = {**content[where], name: value}
    return content


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (example.request(0), 400, "number of candidates"),
        (example.request(51), 413, "too many candidates"),
        (changed("candidates", "job", [1, 1, 2]), 400, "stand twice"),
        (changed("candidates", "jbo", [1, 2, 3]), 400, "unknown feature"),
        (changed("candidates", "pay", ["much", 1, 2]), 400, "no number"),
        (changed("candidates", "pay", [1e39, 1, 2]), 400, "float32"),
        (changed("candidates", "pay", [10**400, 1, 2]), 400, "no number"),
        (changed("candidates", "job", [1, 2**63, 2]), 400, "no id"),
        (changed("candidates", "job", [1, -2, 2]), 400, "no id"),
        (changed("candidates", "job", [1, 2]), 400, "unequal length"),
        (changed("candidates", "skills", [1, 2, 3]), 400, "not a list"),
        (changed("context", "years", None), 400, "missing value"),
        (changed("context", "years", [4]), 400, "no number"),
        (example.request(3, colour="red"), 400, "unknown key"),
        (example.request(3, member_id="ann@example.org"), 400, "raw member id"),
        (example.request(3, time_us=-1), 400, "before 1970"),
        (example.request(3, length=0), 400, "length"),
        (example.request(3, length=True), 400, "length"),
        (example.request(3, history={"history": {"item": [1], "time_us": [example.NOW_US]}}), 400, "too new"),
        ([], 400, "no object"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_its_reason(
    server: LocalServer, content: Any, status: int, said: str
) -> None:
    response = server.rank(content)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert said in response.json()["detail"]
    assert "ann@" not in response.text  # a raw member id ends up in no answer
    assert response.json()["status"] == status


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"candidates": {"job": [1', "application/json", 400),
        (b'{"candidates": {"job": [NaN]}}', "application/json", 400),
        (b'{"candidates": {"job": [1e999]}}', "application/json", 400),
        (b"[" * 15_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"", "application/json", 400),
        (b"null", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"{" + b" " * 20_000 + b"}", "application/json", 413),
        (b"not arrow", "application/vnd.apache.arrow.stream", 400),
    ],
)
def test_a_body_that_is_none_is_refused(server: LocalServer, body: bytes, kind: str, status: int) -> None:
    response = server.client.post("/v1/rank", content=body, headers={"content-type": kind})
    assert response.status_code == status, response.text
    assert response.json()["status"] == status


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "inf", "1e9"])
def test_a_deadline_that_is_none_is_refused(server: LocalServer, given: str) -> None:
    assert server.rank(example.request(3), **{"deadline-ms": given}).status_code == 400


def test_paths_that_are_none_make_no_metrics(server: LocalServer) -> None:
    for path in ("/v1/%ff", "/a", "/b?x=%zz", "/v2/models/x/infer", "//", "/v1/rank/"):
        server.client.get(path)
    assert not re.search(r'route="/(a|b|v2/models/x|v1/%)', server.client.get("/metrics").text)


def test_other_methods_and_paths_are_none(server: LocalServer) -> None:
    assert server.client.get("/v1/rank").status_code == 405
    assert server.client.get("/v1/rnak").status_code == 404
    assert server.client.post("/metrics").status_code == 405


# --- in Arrow


def test_a_table_may_leave_lists_empty_and_hold_nulls(server: LocalServer) -> None:
    content = example.request(3, history={"history": {"item": [], "time_us": []}})
    content["candidates"]["title"] = [None, 1, 2]
    content["candidates"]["pay"] = [None, 2.0, float("nan")]
    row = {
        **{name: content[name] for name in ("request_id", "member_id", "time_us")},
        "years": 4.5,
        **content["candidates"],
        "history_item": [],
        "history_time_us": [],
    }
    schema = pa.schema(
        {"request_id": pa.int64(), "member_id": pa.int64(), "time_us": pa.int64(), "years": pa.float32(),
         "job": pa.list_(pa.int64()), "title": pa.list_(pa.int64()), "skills": pa.list_(pa.list_(pa.int64())),
         "pay": pa.list_(pa.float64()), "history_item": pa.list_(pa.int64()), "history_time_us": pa.list_(pa.int64())}
    )  # fmt: skip
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist([row], schema=schema))
    kind = "application/vnd.apache.arrow.stream"
    response = server.client.post("/v1/rank", content=bytes(sink.getvalue()), headers={"content-type": kind})
    [answer] = pa.ipc.open_stream(response.content).read_all().to_pylist()
    assert answer["error"] is None
    content["candidates"]["pay"][2] = None
    alone = server.rank(content).json()["items"]
    assert answer["item_id"] == alone["item_id"]
    assert answer["probability_click"] == alone["probability"]["click"]


def test_a_table_of_requests_is_answered_row_by_row(server: LocalServer) -> None:
    contents = [example.request(num, request_id=num, member_id=num) for num in (3, 51, 7)]
    rows = [
        {
            "request_id": content["request_id"],
            "member_id": content["member_id"],
            "time_us": content["time_us"],
            "years": content["context"]["years"],
            **content["candidates"],
            "history_item": content["history"]["history"]["item"],
            "history_time_us": content["history"]["history"]["time_us"],
        }
        for content in contents
    ]
    table = pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    kind = "application/vnd.apache.arrow.stream"
    response = server.client.post("/v1/rank", content=bytes(sink.getvalue()), headers={"content-type": kind})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == kind
    answers = pa.ipc.open_stream(response.content).read_all().to_pylist()
    assert "too many candidates" in answers[1]["error"]
    for answer, content in ((answers[0], contents[0]), (answers[2], contents[2])):
        alone = server.rank(content).json()
        assert answer["error"] is None
        assert answer["request_id"] == content["request_id"]
        assert answer["item_id"] == alone["items"]["item_id"]
        assert answer["probability_apply"] == alone["items"]["probability"]["apply"]


# --- logged


def test_what_is_answered_is_logged_as_it_was(path: Path, tmp_path: Path) -> None:
    with local_server(path, log=tmp_path / "log", exploration=SlotExploration(slots=(2,), pool=3)) as server:
        answers = [server.rank(example.request(9, request_id=id_, length=4)).json() for id_ in range(5)]
        assert all(answer["is_logged"] for answer in answers)
        assert answers[0]["items"]["propensity"] == [1.0, pytest.approx(1 / 3), 1.0, 1.0]
        actions = [{"request_id": 3, "item_id": answers[3]["items"]["item_id"][0], "action": "click", "time_us": 5}]
        response = server.client.post("/v1/actions", json={"actions": actions * 2})
        assert response.json() == {"num_new": 1, "num_sent": 2}
        ready = server.client.get("/v2/health/ready").json()
        assert ready["problems"] == {}
    compact_served(tmp_path / "log")
    table = pa.parquet.read_table(tmp_path / "log" / "served" / "parquet")
    rows = {row["request_id"]: row for row in table.to_pylist()}
    assert sorted(rows) == [0, 1, 2, 3, 4]
    for answer in answers:
        row = rows[answer["request_id"]]
        assert row["job"][:4] == answer["items"]["item_id"]
        assert row["position"][:4] == [1, 2, 3, 4]
        assert row["propensity"][:4] == pytest.approx(answer["items"]["propensity"])
        assert row["served_bundle_id"] == answer["bundle_id"]
        assert row["served_probability_click"][:4] == pytest.approx(answer["items"]["probability"]["click"])


def test_raw_member_ids_become_pseudonyms_where_there_is_a_key(path: Path, tmp_path: Path) -> None:
    key = create_key(tmp_path / "member.key")
    with local_server(path, member_key=tmp_path / "member.key", log=tmp_path / "log") as server:
        response = server.rank(example.request(3, member_id="ann@example.org"))
        assert response.status_code == 200
        assert "ann@" not in response.text
    compact_served(tmp_path / "log")
    [logged] = pa.parquet.read_table(tmp_path / "log" / "served" / "parquet")["member_id"].to_pylist()
    assert logged == pseudonymise(pa.array(["ann@example.org"]), key)[0].as_py()


def test_with_a_full_disk_requests_are_answered_and_it_is_said_that_they_are_not_logged(
    path: Path, tmp_path: Path
) -> None:
    actions = {"actions": [{"request_id": 1, "item_id": 2, "action": "click", "time_us": 5}]}
    with local_server(path, log=tmp_path) as server:
        assert server.rank(example.request(5)).json()["is_logged"]
        with files_of_at_most(100):
            answers = [server.rank(example.request(5, request_id=id_)) for id_ in range(3)]
            assert [answer.status_code for answer in answers] == [200] * 3
            assert not any(answer.json()["is_logged"] for answer in answers)
            refused = server.client.post("/v1/actions", json=actions)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            ready = server.client.get("/v2/health/ready")
            assert ready.status_code == 200
            assert set(ready.json()["problems"]) == {"served log", "action log"}
            text = server.client.get("/metrics").text
            assert "rankwell_log_is_healthy 0.0" in text
            assert 'rankwell_log_rows_total{log="served",outcome="disk_full"} 3.0' in text
        assert server.client.get("/v2/health/ready").json()["problems"] == {}
        assert server.rank(example.request(5, request_id=9)).json()["is_logged"]
        assert server.client.post("/v1/actions", json=actions).json()["num_new"] == 1
        assert "rankwell_log_is_healthy 1.0" in server.client.get("/metrics").text


def test_features_that_a_store_does_not_have_are_counted(path: Path, tmp_path: Path) -> None:
    stored = StoredColumns(example.SCHEMA, not_stored=("title",))
    items = {"job": [0, 1, 2], "skills": [[0], [1], [2]], "pay": [0.0, 1.0, 2.0]}
    history = {"history_item": [[3, 9]], "history_time_us": [[example.NOW_US - 9_000_000, example.NOW_US - 5_000_000]]}
    members = {"member_id": [5], "years": [4.5], **history}
    write_feature_table(tmp_path / "features", stored, items=items, members=members)
    with local_server(path, store=StoreSettings(str(tmp_path / "features"))) as server:
        whole = server.rank(example.request(3)).json()
        by_id = example.request(3)
        del by_id["context"], by_id["history"], by_id["candidates"]["skills"], by_id["candidates"]["pay"]
        answer = server.rank(by_id).json()
        assert answer["items"] == whole["items"]
        assert answer["num_missing"] == {"items": 0, "member": 0}
        by_id["candidates"] = {"job": [1, 7], "title": [1, 7]}
        assert server.rank(by_id | {"member_id": 8}).json()["num_missing"] == {"items": 1, "member": 1}
        text = server.client.get("/metrics").text
        assert 'rankwell_feature_lookups_total{found="missing",of="members"} ' in text
        assert server.rank({"candidates": {"job": [1]}}).status_code == 400  # no store has the title


@needs_redis
def test_a_store_that_is_lost_is_said_until_it_is_found_again(path: Path, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    stored = StoredColumns(example.SCHEMA, not_stored=("title", "skills", "pay", "history"))
    members = {"member_id": [5], "years": [9.0]}
    write_redis_features(redis.url, stored, members=members)
    store = StoreSettings(redis.url, stored.not_stored, deadline_ms=500.0)
    by_id = example.request(3)
    del by_id["context"]
    try:
        with local_server(path, store=store) as server:

            def problems_after_a_request() -> dict[str, str]:
                assert server.rank(by_id).status_code == 200
                report(server.state)
                found: dict[str, str] = server.client.get("/v2/health/ready").json()["problems"]
                return found

            assert problems_after_a_request() == {}
            redis.kill()
            assert "late or lost" in problems_after_a_request()["features"]
            report(server.state)  # nobody has asked since: it stays as it was
            assert server.state.features_lost
            assert "rankwell_problems 1.0" in server.client.get("/metrics").text
            redis.start()
            write_redis_features(redis.url, stored, members=members)
            time.sleep(0.15)  # a lost server is tried again every 100 ms
            assert problems_after_a_request() == {}
    finally:
        redis.kill()


@pytest.mark.parametrize(
    "actions",
    [
        {"actions": [{"request_id": 1, "item_id": 1, "action": "buy", "time_us": 5}]},
        {"actions": [{"request_id": 1, "item_id": 1, "action": "click"}]},
        {"actions": [{"request_id": 1, "item_id": 1, "action": "click", "time_us": 5, "grade": 2}]},
        {"actions": [{"request_id": True, "item_id": 1, "action": "click", "time_us": 5}]},
        {"actions": [{"request_id": 2**63, "item_id": 1, "action": "click", "time_us": 5}]},
        {"actions": [{"request_id": 1, "item_id": 1, "action": "click", "time_us": 5, "who": "ann"}]},
        {"actions": {}},
        {"acts": []},
        7,
    ],
)
def test_actions_that_are_none_are_refused(path: Path, tmp_path: Path, actions: Any) -> None:
    with local_server(path, log=tmp_path) as server:
        assert server.client.post("/v1/actions", json=actions).status_code == 400
        assert server.client.post("/v1/actions", json={"actions": []}).json() == {"num_new": 0, "num_sent": 0}


def test_actions_go_nowhere_without_a_log(server: LocalServer) -> None:
    assert server.client.post("/v1/actions", json={"actions": []}).status_code == 503


# --- the Open Inference Protocol, metrics, OpenAPI


def test_infer_gives_the_scores_in_the_order_of_the_candidates(server: LocalServer, path: Path) -> None:
    content = example.request(4)
    candidates = content["candidates"]

    def tensor(name: str, kind: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
        return {"name": name, "datatype": kind, "shape": shape, "data": data}

    inputs = [
        tensor("candidates.job", "INT64", [4], candidates["job"]),
        tensor("candidates.title", "INT64", [4], [-1, *candidates["title"][1:]]),
        tensor("candidates.skills", "INT64", [4], [ids[0] for ids in candidates["skills"]]),
        tensor("candidates.skills.lengths", "INT64", [4], [1] * 4),
        tensor("candidates.pay", "FP32", [4], candidates["pay"]),
        tensor("context.years", "FP32", [1], [4.5]),
        tensor("history.history.item", "INT64", [2], [3, 9]),
        tensor("history.history.time_us", "INT64", [2], content["history"]["history"]["time_us"]),
        tensor("member_id", "INT64", [1], [5]),
        tensor("time_us", "INT64", [1], [example.NOW_US]),
    ]
    response = server.client.post("/v2/models/rankwell/infer", json={"id": "a", "inputs": inputs})
    assert response.status_code == 200, response.text
    content["candidates"]["title"] = [None, *candidates["title"][1:]]
    scores = Ranker(read_bundle(path)).rank(content).scores
    outputs = {output["name"]: output for output in response.json()["outputs"]}
    assert outputs["probabilities"]["shape"] == [4, 2]
    assert np.array(outputs["probabilities"]["data"]).reshape(4, 2) == pytest.approx(
        scores.probabilities_CA.numpy(), rel=1e-6
    )
    assert response.json()["id"] == "a"
    described = server.client.get("/v2/models/rankwell").json()
    assert {one["name"] for one in described["inputs"]} >= {one["name"] for one in inputs}
    for broken in ([{**inputs[0], "shape": [5]}], [{**inputs[0], "datatype": "BYTES"}], [inputs[0], inputs[0]], "x"):
        assert server.client.post("/v2/models/rankwell/infer", json={"inputs": broken}).status_code == 400
    assert server.client.get("/v2/models/other").status_code == 404


def test_metrics_say_what_happened(path: Path) -> None:
    with local_server(path) as server:
        for _ in range(3):
            server.rank(example.request(4))
        server.rank(example.request(0))
        text = server.client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines['rankwell_requests_total{route="/v1/rank",status="200"}']) == 3
    assert float(lines['rankwell_requests_total{route="/v1/rank",status="400"}']) == 1
    assert float(lines["rankwell_candidates_total"]) == 12
    # the clock of the test goes on by a millisecond with each look: 1 ms of reading, and so on
    edges = ("0.001", "0.002", "0.005", "0.01", "0.025", "0.05", "0.1", "+Inf")
    assert [float(lines[f'rankwell_stage_seconds_bucket{{le="{edge}",stage="all"}}']) for edge in edges][-1] == 3
    assert float(lines['rankwell_stage_seconds_count{stage="rank"}']) == 3
    assert sum(float(v) for k, v in lines.items() if k.startswith("rankwell_bundle_info")) == 1


def test_the_openapi_document_has_the_columns_of_the_schema(server: LocalServer) -> None:
    document = json.loads(server.client.get("/schema/openapi.json").content)
    body = document["paths"]["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]["candidates"]["properties"]) == {"job", "title", "skills", "pay", "bid_micros"}
    assert body["properties"]["candidates"]["properties"]["job"]["maxItems"] == 50
    routes = {route.path for route in application(server.state).routes} | {RANK}
    templated = {path.replace("{name}", "{name:str}") for path in document["paths"]}
    assert routes - templated == {"/", "/schema/openapi.json"}


def test_the_page_is_whole(server: LocalServer) -> None:
    response = server.client.get("/")
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
