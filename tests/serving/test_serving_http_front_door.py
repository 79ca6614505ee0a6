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
    ("num_waiting", "asked", "is_let_in"),
    [(0, "/v1/rank", True), (1, "/v1/rank", True), (2, "/v1/rank", False), (2, "/v2/health/ready", True)],
)
def test_what_finds_no_place_is_refused_at_the_door(path: Path, num_waiting: int, asked: str, is_let_in: bool) -> None:
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
            await FrontDoor(application, server.state)({"type": "http", "path": asked}, receive, send)
            await asyncio.gather(*waiting)
            await queue.close()

        asyncio.run(play())
        assert behind == ([asked] if is_let_in else [])
        if not is_let_in:
            head, body = sent
            assert head["status"] == json.loads(body["body"])["status"] == 503
            assert (b"retry-after", b"1") in head["headers"]
            text = server.client.get("/metrics").text
            assert 'rankwell_requests_total{route="/v1/rank",status="503"} 1.0' in text
            assert 'rankwell_shed_total{why="full"} 1.0' in text
