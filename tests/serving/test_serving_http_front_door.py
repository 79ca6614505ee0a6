from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import http_example as example
import pytest
from http_example import local_server

from rankwell.serving.bundle import write_bundle
from rankwell.serving.http.front_door import FrontDoor
from rankwell.serving.http.server_state import ServerLimits


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(example.bundle(), folder)
    return folder


@pytest.mark.parametrize(
    ("num_waiting", "asked", "status"),
    [(0, "/v1/rank", 415), (1, "/v1/rank", 415), (2, "/v1/rank", 503), (2, "/v1/rank/", 503), (2, "/v2/health", None)],
)
def test_what_finds_no_place_is_refused_at_the_door(
    path: Path, num_waiting: int, asked: str, status: int | None
) -> None:
    """Who is let in is asked for the type of its body first; of other paths nothing is asked here."""
    behind: list[str] = []
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        behind.append(scope["path"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("its body is not read")

    with local_server(path, limits=ServerLimits(max_waiting=2)) as server:

        async def play() -> None:
            queue = server.state.queue
            waiting = [
                asyncio.ensure_future(queue.run(lambda: None, client="c", deadline_s=9.0)) for _ in range(num_waiting)
            ]
            await asyncio.sleep(0)  # they stand in the queue, and none was begun
            scope = {"type": "http", "path": asked, "method": "POST", "headers": []}
            await FrontDoor(application, server.state)(scope, receive, send)
            await asyncio.gather(*waiting)
            await queue.close()

        asyncio.run(play())
        assert behind == ([] if status else [asked])
        if status is not None:
            head, body = sent
            assert head["status"] == json.loads(body["body"])["status"] == status
        if status == 503:
            assert (b"retry-after", b"1") in head["headers"]
            text = server.client.get("/metrics").text
            assert 'rankwell_requests_total{route="/v1/rank",status="503"} 1.0' in text
            assert 'rankwell_shed_total{why="full"} 1.0' in text


def test_other_methods_are_told_which_one_there_is(path: Path) -> None:
    with local_server(path) as server:
        for method in ("GET", "PUT", "OPTIONS"):
            response = server.client.request(method, "/v1/rank")
            assert response.status_code == 405
            assert response.headers["allow"] == "POST"
        assert server.client.get("/v1/actions").status_code == 405


def test_connections_are_closed_by_a_worker_that_is_told_to_end(path: Path) -> None:
    with local_server(path) as server:
        assert "connection" not in server.rank({}).headers
        server.state.is_draining = True
        assert server.rank({}).headers["connection"] == "close"


def test_a_body_that_ends_with_its_connection_is_refused(path: Path) -> None:
    sent: list[dict[str, Any]] = []
    messages = iter([{"type": "http.request", "body": b'{"candi', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the door answers by itself")

    with local_server(path) as server:
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "path": "/v1/rank", "method": "POST", "headers": headers}
        asyncio.run(FrontDoor(application, server.state)(scope, receive, send))
    assert sent[0]["status"] == 400
    assert "7 bytes" in json.loads(sent[1]["body"])["detail"]
