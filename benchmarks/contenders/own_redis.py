"""A Redis server of a benchmark's own, on a free port, that can be stopped, killed and slowed."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self, final

from rankwell.serving.redis_connection import RedisAddress, packed_command
from rankwell.serving.redis_pool import RedisPool
from rankwell.serving.redis_rows import write_redis_features
from rankwell.serving.stored_columns import StoredColumns

__all__ = ["REDIS", "OwnRedis"]

REDIS: Final = shutil.which("redis-server")
"""Its program; None where there is none."""


@final
class OwnRedis:
    """It runs for a block.

    Args:
        folder: Where `save` writes to.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}"
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._command = [str(REDIS), *options, "--dir", str(folder)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def start(self) -> None:
        """Start it, with what was saved."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(500):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            time.sleep(0.01)
        raise SystemExit("redis-server did not come up")

    @contextmanager
    def killed(self) -> Iterator[None]:
        """SIGKILL, and a new one at the end."""
        self._end()
        yield
        self.start()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It no longer answers, keeps its connections, and answers what came meanwhile at the end."""
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def slowed(self) -> Iterator[None]:
        """Again and again it answers nobody for 1 … 10 ms: about half of what is asked comes late."""
        ends = threading.Event()

        def pause() -> None:
            rng = random.Random(0)
            while not ends.wait(rng.uniform(0.0, 0.01)):
                self._ask("CLIENT", "PAUSE", str(rng.randint(1, 10)), "ALL")

        thread = threading.Thread(target=pause)
        thread.start()
        yield
        ends.set()
        thread.join()

    def fill(self, stored: StoredColumns, rows: dict[str, Any]) -> None:
        """Write features to it, and let them outlive it."""
        write_redis_features(self.url, stored, **rows)
        self._ask("SAVE")

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, *words: str) -> None:
        with RedisPool(RedisAddress.of(self.url)) as pool:
            pool.ask(packed_command(*words), 1, timeout_us=10_000_000)
