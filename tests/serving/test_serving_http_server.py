"""`rankwell serve` as a process of its own, spoken to over sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import http_example as example
import pyarrow.parquet as pq
import pytest
from http_example import server_process

from rankwell.calibration.platt import Platt
from rankwell.serving.bundle import write_bundle
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.rollout import RolloutFolder

BUNDLES = {"first": -1.0, "second": -0.5}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    first = example.bundle()
    for name, offset in BUNDLES.items():
        calibrators = {"click": Platt(0.9, offset), "apply": Platt(0.8, offset)}
        write_bundle(replace(first, calibrators=calibrators), folder / name)
    return folder


def root_of(bundles: Path, folder: Path) -> Path:
    RolloutFolder(folder / "root").deploy(bundles / "first")
    return folder / "root"


@pytest.fixture(scope="module")
def url(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = root_of(bundles, tmp_path_factory.mktemp("shared"))
    with server_process([str(root), "--drain-s", "0.1"]) as (_, url):
        yield url


def ask(url: str, path: str = "/v1/rank", content: Any = None) -> tuple[int, Any]:
    """One request on a connection of its own: status and JSON; status 0 where the connection broke."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url + path, data=body, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except (OSError, ValueError):
        return 0, None


class Load:
    """Requests from a few threads, one after the other in each, until the block ends."""

    def __init__(self, url: str, num_threads: int = 3) -> None:
        self.answers: list[tuple[int, Any]] = []
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url, n)) for n in range(num_threads)]

    def _ask(self, url: str, thread: int) -> None:
        num = 0
        while not self._ends.is_set():
            num += 1
            id_ = thread * 1_000_000 + num
            self.answers.append(ask(url, content=example.request(20, request_id=id_, member_id=num, length=5)))

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for status, _ in self.answers)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()


def wait_for(condition: Any, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def socket_to(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_it_answers_and_says_that_it_is_ready(url: str) -> None:
    status, answer = ask(url, content=example.request(20, length=3))
    assert (status, len(answer["items"]["item_id"])) == (200, 3)
    assert ask(url, "/v2/health/live") == (200, {"live": True})
    assert ask(url, "/v2/health/ready")[1]["ready"]
    with urllib.request.urlopen(url + "/metrics") as response:
        text = response.read().decode()
    assert 'rankwell_requests_total{route="/v1/rank",status="200"} 1.0' in text
    assert "rankwell_bundle_info{" in text


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/rank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        b"POST /v1/rank HTTP/1.1\r\nhost: a\r\ncont",
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
    ],
)
def test_a_connection_that_breaks_off_breaks_nothing(url: str, sent: bytes) -> None:
    with socket_to(url) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        received = connection.recv(1000)
    assert received == b"" or received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))
    assert ask(url, content=example.request(5))[0] == 200


@pytest.mark.slow
def test_a_port_that_is_taken_is_not_shared(url: str, bundles: Path) -> None:
    port = url.rpartition(":")[2]
    command = [sys.executable, "-c", "from rankwell.app.entry import main; main()", "serve", "--port", port]
    found = subprocess.run([*command, str(bundles / "first")], capture_output=True, text=True, timeout=120)
    assert (found.returncode, "can't listen" in found.stderr) == (2, True)


@pytest.mark.slow
def test_slow_bodies_are_let_go_and_hold_nobody_up(url: str) -> None:
    head = b"POST /v1/rank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n{"
    slow = [socket_to(url) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(head)
        started = time.monotonic()
        assert ask(url, content=example.request(5))[0] == 200
        assert time.monotonic() - started < 2.0  # the bodies have 5 s
        first = slow[0].recv(1000)
        assert first.startswith(b"HTTP/1.1 408 ")
    finally:
        for connection in slow:
            connection.close()
    with socket_to(url) as connection:
        connection.sendall(head[:40])
        connection.settimeout(15)
        assert connection.recv(1000)[:15] in (b"", b"HTTP/1.1 408 Re")


@pytest.mark.slow
def test_sigterm_lets_running_requests_finish_and_readiness_fall_first(bundles: Path, tmp_path: Path) -> None:
    root = root_of(bundles, tmp_path)
    with server_process([str(root), "--drain-s", "1.0", "--log", str(tmp_path / "log")]) as (process, url):
        with Load(url) as load:
            wait_for(lambda: len(load.answers) > 20)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: ask(url, "/v2/health/ready")[0] == 503)
            num = len(load.answers)
            wait_for(lambda: len(load.answers) > num + 5)  # not ready, but answering
            assert set(load.statuses) == {200}
        assert process.wait(timeout=20) == 0
    logged = [answer["request_id"] for status, answer in load.answers if status == 200 and answer["is_logged"]]
    assert len(logged) == load.statuses[200]
    compact_served(tmp_path / "log")
    rows = pq.read_table(tmp_path / "log" / "served" / "parquet")
    assert set(logged) <= set(rows["request_id"].to_pylist())


@pytest.mark.slow
def test_a_switch_and_a_rollback_under_load_fail_no_request(bundles: Path, tmp_path: Path) -> None:
    root = root_of(bundles, tmp_path)
    with server_process([str(root), "--workers", "2"]) as (_, url), Load(url) as load:
        ids = [RolloutFolder(root).read().current]
        for move in (lambda: RolloutFolder(root).deploy(bundles / "second"), RolloutFolder(root).rollback):
            wanted = move().current
            wait_for(lambda wanted=wanted: [a[1]["bundle_id"] for a in load.answers[-20:] if a[1]] == [wanted] * 20)
            ids.append(wanted)
        assert ids[0] == ids[2] != ids[1]
    assert set(load.statuses) == {200}
    assert {answer["bundle_id"] for _, answer in load.answers} == set(ids)


@pytest.mark.slow
def test_a_killed_worker_is_started_anew_and_loses_no_logged_answer(bundles: Path, tmp_path: Path) -> None:
    root = root_of(bundles, tmp_path)
    arguments = [str(root), "--workers", "2", "--log", str(tmp_path / "log")]
    with server_process(arguments) as (process, url), Load(url, num_threads=4) as load:
        for _ in range(3):
            num = len(load.answers)
            wait_for(lambda num=num: len(load.answers) > num + 40)
            wait_for(lambda: num_listening(url) == 2)
            before = workers_of(process.pid)
            os.kill(before[0], signal.SIGKILL)
            wait_for(lambda before=before: len(set(workers_of(process.pid)) - set(before)) == 1)
        num = len(load.answers)
        wait_for(lambda: len(load.answers) > num + 40)
    assert set(load.statuses) <= {200, 0}
    # What a worker had in hand when it was killed; and one more a thread, for while the kernel frees its memory, its
    # socket still takes connections, which nobody will answer: the one that follows a cut one may be among them.
    assert load.statuses[0] <= 3 * 4 * 2
    logged = {answer["request_id"] for status, answer in load.answers if status == 200 and answer["is_logged"]}
    assert len(logged) == load.statuses[200]
    compact_served(tmp_path / "log")
    rows = pq.read_table(tmp_path / "log" / "served" / "parquet")
    assert logged <= set(rows["request_id"].to_pylist())


def num_listening(url: str) -> int:
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = int(url.rpartition(":")[2])
    return sum(int(fields[1].partition(":")[2], 16) == port and fields[3] == "0A" for fields in lines)


def workers_of(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.slow
def test_two_servers_do_not_write_one_folder(bundles: Path, tmp_path: Path) -> None:
    root, log = root_of(bundles, tmp_path), str(tmp_path / "log")
    command = [sys.executable, "-c", "from rankwell.app.entry import main; main()", "serve", "--port", "0"]
    with server_process([str(root), "--log", log]) as (_, url):
        second = subprocess.run([*command, str(root), "--log", log], capture_output=True, text=True, timeout=120)
        assert second.returncode == 2
        assert "LogError" in second.stderr
        status, answer = ask(url, content=example.request(5))
        assert (status, answer["is_logged"]) == (200, True)


@pytest.mark.slow
def test_what_cannot_be_served_ends_with_a_message(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from rankwell.app.entry import main; main()", "serve", "--port", "0"]
    for arguments, said in (
        ([str(tmp_path / "nothing")], "BundleError"),
        ([str(tmp_path), "--host", "0.0.0.0"], "without tokens"),
    ):
        found = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
        assert found.returncode == 2
        assert said in found.stderr
