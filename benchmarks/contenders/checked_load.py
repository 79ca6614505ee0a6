"""Steady load whose answers are kept: requests leave when they are due, each under an id of its own."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self, final

import numpy as np

__all__ = ["Sent", "SteadyLoad"]

_LONGEST_S: Final = 20.0
_IDS: Final = itertools.count(1_000_000)
_MOST_USES: Final = 20
"""Of a connection: a worker that was started anew gets its share of requests only by new ones."""


@final
@dataclass(slots=True)
class Sent:
    """A request and what became of it.

    Args:
        request_id: No other request has it.
        number: Of what was asked, among the known requests.
        due_s, ended_s: `time.perf_counter`.
        status: 0 where the connection broke, or no answer came in 20 s.
        content: Of the answer.
    """

    request_id: int
    number: int
    due_s: float
    ended_s: float = 0.0
    status: int = 0
    content: bytes = b""


@final
@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    num_uses: int = 0


@final
class SteadyLoad:
    """Sends requests at random moments (Poisson) from a thread, from its beginning to the end of its block.

    Args:
        port: Of the server.
        body: Of a request by its number and id.
        num: Of numbers.
        rate: A second.
    """

    def __init__(self, port: int, body: Callable[[int, int], bytes], *, num: int, rate: float) -> None:
        self.sent: list[Sent] = []
        self._port, self._body, self._num, self._rate = port, body, num, rate
        self._free: deque[_Connection] = deque()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()))

    @property
    def ended(self) -> list[Sent]:
        """Those that came to an end so far, in the order in which they were due."""
        return [one for one in list(self.sent) if one.ended_s]

    @property
    def statuses(self) -> Counter[int]:
        """How often each status came so far."""
        return Counter(one.status for one in self.ended)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    async def _drive(self) -> None:
        rng = np.random.default_rng(int(self._rate))
        due_s = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            while not self._ends.is_set():
                due_s += float(rng.exponential(1 / self._rate))
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                one = Sent(next(_IDS), int(rng.integers(self._num)), due_s)
                self.sent.append(one)
                tasks.create_task(self._one(one))
        for connection in self._free:
            connection.writer.close()

    async def _one(self, one: Sent) -> None:
        with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, ValueError):
            one.status, one.content = await asyncio.wait_for(self._ask(one), _LONGEST_S)
        one.ended_s = time.perf_counter()

    async def _ask(self, one: Sent) -> tuple[int, bytes]:
        connection = await self._connection()
        body = self._body(one.number, one.request_id)
        head = f"POST /v1/rank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        try:
            connection.writer.write(head.encode() + b"\r\n" + body)
            answer = await connection.reader.readuntil(b"\r\n\r\n")
            fields = dict(line.split(b":", 1) for line in answer.lower().split(b"\r\n")[1:] if b":" in line)
            content = await connection.reader.readexactly(int(fields[b"content-length"]))
        except BaseException:
            connection.writer.close()
            raise
        connection.num_uses += 1
        if fields.get(b"connection", b"").strip() == b"close" or connection.num_uses == _MOST_USES:
            connection.writer.close()
        else:
            self._free.append(connection)
        return int(answer[9:12]), content

    async def _connection(self) -> _Connection:
        while self._free:
            connection = self._free.popleft()
            if not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.writer.close()  # its worker is gone
        return _Connection(*await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24))
