"""The server of a drill: `rankwell serve`'s own, in processes of its own, by a clock that the drill sets.

python -m rankwell.studies.drill_server ROOT LOG CLOCK

CLOCK is a file of one int64: UTC microseconds, mapped by all workers, so that it is the same time for all of them. It
begins when it is told to by a line, so that it is ready while something else is still being written.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.data.replay import request_of_batch
from rankwell.errors import MissingExtraError, RequestError
from rankwell.monitoring.pane import MINUTE_US
from rankwell.ranking.utility import Utility
from rankwell.schema import Schema
from rankwell.serving.server_clock import ServerClock
from rankwell.studies.drill_service import Answered, DrillService
from rankwell.studies.drill_world import Asked, batches_of

__all__ = ["DrillServer"]

_LONGEST_S: Final = 60.0
_WORKERS: Final = 2
_CLIENTS: Final = 6
_DEADLINE_MS: Final = 60_000.0
"""A drill waits for its answers: its time stands still until they are there."""
_NEEDED: Final = ("granian", "litestar", "msgspec", "prometheus_client")
_LOOKS: Final = 12
"""Connections that are opened to hear from every worker: the kernel shares them out, one is missed in 2^11."""
_ANSWERING: Final = "answering at "


@final
class DrillServer(DrillService):
    """The server; what it costs to start is paid while it is made, beside whatever else is done.

    Args:
        root: Of the `RolloutFolder` that it follows.
        log: Folder of what is served and of what follows.
        clock: The file of the time; it is made here.
        schema: Of the bundles.
        now_us: The time at the beginning, UTC microseconds.

    Raises:
        MissingExtraError: The libraries of a server aren't installed.
    """

    piece_us: ClassVar[int] = MINUTE_US

    def __init__(self, root: Path, log: Path, clock: Path, schema: Schema, *, now_us: int) -> None:
        missing = next((name for name in _NEEDED if find_spec(name) is None), None)
        if missing is not None:
            raise MissingExtraError(
                "a server over HTTP needs libraries that aren't installed", found=missing,
                do="pip install 'rankwell[serve]', or drill with --no-server",
            )  # fmt: skip
        self._time = np.memmap(clock, np.int64, "w+", shape=(1,))
        self._time[0] = now_us
        self._said, self._schema, self.host = clock.with_name("server.txt"), schema, ""
        self._clients = ThreadPoolExecutor(_CLIENTS)
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(root), str(log), str(clock)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def start(self) -> None:
        """See `DrillService`.

        Raises:
            RequestError: It does not start.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line.startswith(_ANSWERING):
            raise RequestError(
                "the server of the drill did not start", found=self._said.read_text()[-500:], allowed="it listens",
                do="start it by hand with `rankwell serve`, and see",
            )  # fmt: skip
        self.host = line.removeprefix(f"{_ANSWERING}http://").strip()

    def close(self) -> None:
        """See `DrillService`; by SIGTERM."""
        self._clients.shutdown()
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=_LONGEST_S)

    def now_us(self) -> int:
        """See `DrillService`."""
        return int(self._time[0])

    def set_time(self, now_us: int) -> None:
        """See `DrillService`; it is the same for all workers."""
        self._time[0] = now_us

    def wait_for(self, *, bundle_id: str, correction_id: str | None) -> float:
        """See `DrillService`.

        Raises:
            RequestError: It doesn't within a minute.
        """
        expected = {"bundle_id": bundle_id, "correction_id": correction_id}
        begun_s, num_right, said = time.monotonic(), 0, dict[str, Any]()
        while time.monotonic() < begun_s + _LONGEST_S:
            connection = http.client.HTTPConnection(self.host, timeout=_LONGEST_S)
            said = self._asked(connection, "GET", "/v2/health/ready", None)
            connection.close()
            num_right = num_right + 1 if all(said.get(name) == value for name, value in expected.items()) else 0
            if num_right == _LOOKS:
                return time.monotonic() - begun_s
            if not num_right:
                time.sleep(0.02)
        raise RequestError("the server did not follow the folder", found=str(said)[:500], allowed=expected)

    def answered(self, sent: Asked) -> Answered:
        """See `DrillService`."""
        answers = self._ranked(
            [
                request_of_batch(batch, r, self._schema)
                for batch in batches_of(sent.table, self._schema)
                for r in range(batch.features.num_requests)
            ]
        )
        rows = [
            int(first) + np.array(answer["items"]["place"], np.int64)
            for first, answer in zip(sent.offsets_R[:-1], answers, strict=True)
        ]
        promised = [np.array(answer["items"]["probability"]["click"]) for answer in answers]
        ids = frozenset(answer["correction_id"] for answer in answers if answer["correction_id"] is not None)
        return Answered(np.concatenate(rows), np.concatenate(promised), ids)

    def report(self, clicks: NDArray[np.int64]) -> None:
        """See `DrillService`."""
        actions = [
            {"request_id": request_id, "item_id": item_id, "action": "click", "time_us": time_us}
            for request_id, item_id, time_us, _ in clicks.tolist()
        ]
        connection = http.client.HTTPConnection(self.host, timeout=_LONGEST_S)
        for first in range(0, len(actions), 5_000):
            self._asked(connection, "POST", "/v1/actions", {"actions": actions[first : first + 5_000]})
        connection.close()

    def _ranked(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers to requests, in their order."""

        answers: list[dict[str, Any]] = [{}] * len(requests)
        waiting = deque(range(len(requests)))  # the kernel deals connections out to workers, not always evenly

        def ranked(_: int) -> None:
            connection = http.client.HTTPConnection(self.host, timeout=_LONGEST_S)
            with suppress(IndexError):
                while True:
                    place = waiting.popleft()
                    self.set_time(max(self.now_us(), requests[place]["time_us"]))
                    answers[place] = self._asked(connection, "POST", "/v1/rank", requests[place])
            connection.close()

        list(self._clients.map(ranked, range(_CLIENTS)))
        return answers

    def _asked(self, connection: http.client.HTTPConnection, method: str, path: str, body: Any) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, {"content-type": "application/json"} if content else {})
        answer = connection.getresponse()
        said: dict[str, Any] = json.loads(answer.read())
        if answer.status != 200:
            raise RequestError(f"the server refuses {path}", found=f"{answer.status}: {said}"[:500], allowed=200)
        return said


def main() -> int:
    """Serve, once told to, until SIGTERM."""
    from rankwell.serving.http.serve_settings import ServeSettings  # of an extra, and this process's alone
    from rankwell.serving.http.server_state import ServerLimits
    from rankwell.serving.http.supervisor import serve

    root, log, clock = map(Path, sys.argv[1:])
    time_us = np.memmap(clock, np.int64, "r", shape=(1,))
    settings = ServeSettings(
        root,
        port=0,
        num_workers=_WORKERS,
        log=log,
        utility=Utility(bid_on="click"),
        limits=ServerLimits(deadline_ms=_DEADLINE_MS),
    )
    if not sys.stdin.readline():
        return 0  # who started it is gone
    return serve(settings, clock=ServerClock(lambda: int(time_us[0]), time.perf_counter), on_ready=_say)


def _say(url: str) -> None:
    sys.stdout.write(f"{_ANSWERING}{url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
