"""Requests that are almost right: whatever comes, an answer of its own or a refusal. `benchmarks/fuzz.py` asks more."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import http_example as example
import pytest
from http_example import LocalServer, local_server, server_process
from mutated_request import mutated

from rankwell.serving.bundle import write_bundle
from rankwell.serving.rollout import RolloutFolder

REFUSED = {400, 408, 413, 415, 429}
HEAD = "POST /v1/rank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(example.bundle(), folder)
    return folder


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[LocalServer]:
    with local_server(path) as running:
        yield running


def check(status: int, content: Any, id_: int | None, items: set[int] | None) -> None:
    """The answer is to this request, or says why there is none."""
    if status != 200:
        assert status in REFUSED, (status, content)
        assert content["status"] == status
        assert content["detail"]
        return
    if id_ is not None:
        assert content["request_id"] == id_
    listed = content["items"]
    if items is not None:
        assert set(listed["item_id"]) <= items
    assert len(listed["item_id"]) == len(set(listed["item_id"])) > 0
    for values in listed["probability"].values():
        assert all(0 < p < 1 for p in values)
    assert listed["utility"] == sorted(listed["utility"], reverse=True)


def test_a_few_hundred_requests_that_are_almost_right(server: LocalServer) -> None:
    statuses: Counter[int] = Counter()
    for seed in range(400):
        body, id_, items = mutated(random.Random(seed))
        response = server.client.post("/v1/rank", content=body, headers={"content-type": "application/json"})
        statuses[response.status_code] += 1
        check(response.status_code, response.json(), id_, items)
    assert statuses[200] > 40
    assert statuses[400] > 100


@pytest.mark.slow
def test_many_requests_that_are_almost_right_over_sockets(path: Path, tmp_path: Path) -> None:
    num = 5_000
    RolloutFolder(tmp_path / "root").deploy(path)
    with server_process([str(tmp_path / "root"), "--log", str(tmp_path / "log")]) as (process, url):
        host, _, port = url.removeprefix("http://").partition(":")
        statuses: Counter[int] = Counter()

        async def ask(seeds: Iterator[int]) -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            for seed in seeds:
                body, id_, items = mutated(random.Random(seed))
                writer.write(HEAD.format(len(body)).encode() + body)
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                [length] = [line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length")]
                content = json.loads(await reader.readexactly(int(length)))
                status = int(head.split()[1])
                statuses[status] += 1
                if status != 503:  # declared: a queue may be full
                    if status == 200:
                        content["items"]["utility"] = []  # two positions explore
                    check(status, content, id_, items)
                if "connection: close" in head:
                    reader, writer = await asyncio.open_connection(host, int(port))
            writer.close()

        async def ask_all() -> None:
            seeds = iter(range(1_000_000, 1_000_000 + num))
            await asyncio.gather(*(ask(seeds) for _ in range(8)))

        asyncio.run(ask_all())
        assert process.poll() is None
    assert sum(statuses.values()) == num
    assert statuses[503] < num // 20, statuses
    assert statuses[200] > num // 10, statuses
