"""A bundle to serve over HTTP, requests for it, and a server in this process or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import serving_example as example

from rankwell.calibration.platt import Platt
from rankwell.models.wide_deep import DeepSettings, WideDeep, WideDeepSettings
from rankwell.schema.actions import Exposure
from rankwell.serving.bundle import Bundle

SCHEMA = example.SCHEMA.model_copy(
    update={"exposure": Exposure(position="position", propensity="propensity"), "bid": "bid_micros"}
)
NOW_US = 1_790_000_000_000_000


def bundle(*, offset: float = -1.0) -> Bundle:
    """Wide & Deep as it is made, which is fast; the offset tells bundles apart."""
    settings = WideDeepSettings(deep=DeepSettings(width=4, hidden=(8,)))
    model = example.trained(WideDeep(SCHEMA, example.STATISTICS, settings, seed=3))
    return Bundle(model=model, calibrators={"click": Platt(0.9, offset), "apply": Platt(0.8, offset)}, created_us=0)


def request(num: int = 20, **changes: Any) -> dict[str, Any]:
    """A request with all features, of items 0 … num - 1."""
    plain = {
        "request_id": 77,
        "member_id": 5,
        "time_us": NOW_US,
        "context": {"years": 4.5},
        "history": {"history": {"item": [3, 9], "time_us": [NOW_US - 9_000_000, NOW_US - 5_000_000]}},
        "candidates": {
            "job": list(range(num)),
            "title": [item % 20 for item in range(num)],
            "skills": [[item % 50] for item in range(num)],
            "pay": [float(item % 90) for item in range(num)],
        },
    }
    return plain | changes


@dataclass
class StoppedClock:
    """Clocks that go when they are told to."""

    now_us: int = NOW_US
    elapsed_s: float = 0.0
    step_s: float = field(default=0.001)

    def time_us(self) -> int:
        return self.now_us

    def seconds(self) -> float:
        self.elapsed_s += self.step_s
        return self.elapsed_s


@dataclass
class LocalServer:
    """A worker in this process, with a client that speaks to it without a socket."""

    client: Any
    state: Any
    clock: StoppedClock

    def rank(self, content: Any, **headers: str) -> Any:
        return self.client.post("/v1/rank", json=content, headers=headers)


@contextmanager
def local_server(source: Path, **settings: Any) -> Iterator[LocalServer]:
    """The application of a worker; a clock that stands still but for a millisecond a look."""
    from litestar.testing import TestClient

    from rankwell.serving.http.application import application
    from rankwell.serving.http.front_door import FrontDoor
    from rankwell.serving.http.serve_settings import ServeSettings
    from rankwell.serving.http.worker import server_state
    from rankwell.serving.server_clock import ServerClock

    clock = StoppedClock()
    with ExitStack() as logs:
        state = server_state(
            ServeSettings(source, **settings),
            worker="w0",
            server="test",
            clock=ServerClock(clock.time_us, clock.seconds),
            logs=logs,
        )
        with TestClient(FrontDoor(application(state), state), raise_server_exceptions=False) as client:
            yield LocalServer(client, state, clock)


@contextmanager
def server_process(arguments: Sequence[str], *, env: dict[str, str] | None = None) -> Iterator[tuple[Any, str]]:
    """`rankwell serve` in a process of its own, and its URL; it is ended by SIGTERM."""
    command = [sys.executable, "-c", "from rankwell.app.entry import main; main()", "serve"]
    command += ["--port", "0", "--deadline-ms", "5000", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("answering at "), (line, process.communicate()[1])
        yield process, line.removeprefix("answering at ").strip()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
