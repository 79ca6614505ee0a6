"""A server in processes of its own, its workers, and what it says of itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self, final

__all__ = ["LiveServer", "eventually"]

_LONGEST_S: Final = 60.0
_LOOKS: Final = 16
"""Connections that are opened to hear from every worker: the kernel shares them out, one of two is missed in 2^15."""


def eventually(condition: Callable[[], bool], timeout_s: float = _LONGEST_S) -> bool:
    """Whether something comes true in time."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


@final
class LiveServer:
    """A server from the beginning of a block until SIGTERM at its end.

    Args:
        arguments: Of `rankwell serve`; or of a program that prints the same line when it listens.
        program: That one; by default `rankwell serve`.
        stderr: File that its messages are written to.
    """

    def __init__(self, arguments: Sequence[str], *, stderr: Path, program: Path | None = None) -> None:
        own = [str(Path(sys.executable).parent / "rankwell"), "serve", "--port", "0"]
        self._command = [*(own if program is None else [sys.executable, str(program)]), *arguments]
        self._stderr = stderr
        self.exit_status: int | None = None

    def __enter__(self) -> Self:
        with self._stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                self._command,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("answering at "):
            raise SystemExit(f"the server did not start: {self._stderr.read_text()[-2000:]}")
        self.url = line.removeprefix("answering at ").strip()
        self.port = int(self.url.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=_LONGEST_S)
        self.exit_status = self._process.returncode

    @property
    def is_running(self) -> bool:
        """Whether the parent of the workers is there."""
        return self._process.poll() is None

    def said(self) -> str:
        """Its messages."""
        return self._stderr.read_text(errors="replace")

    def workers(self) -> list[int]:
        """Process ids of the workers that are there."""
        parent = self._process.pid
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    def num_listening(self) -> int:
        """How many sockets listen at the port: one a worker."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(int(line[1].rpartition(":")[2], 16) == self.port and line[3] == "0A" for line in lines)

    def get(self, path: str) -> tuple[int, bytes]:
        """One request on a connection of its own; status 0 where there is no answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def readiness(self) -> list[dict[str, Any]]:
        """What the workers say of themselves; asked often enough that each is heard."""
        found = [self.get("/v2/health/ready") for _ in range(_LOOKS)]
        return [json.loads(content) if status in (200, 503) else {} for status, content in found]

    def all_say(self, **expected: object) -> bool:
        """Whether all workers say so of themselves; `problems` are compared by their names."""
        return all(
            (sorted(said.get(name, {"?": 1})) if name == "problems" else said.get(name)) == wanted
            for said in self.readiness()
            for name, wanted in expected.items()
        )

    def metrics(self) -> dict[str, float]:
        """All metrics, by name and labels as they are written."""
        text = self.get("/metrics")[1].decode()
        return {name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}
