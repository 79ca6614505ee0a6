"""Load that does not wait for answers: requests leave when they are due, and their latency counts from then.

A client that sends the next request when the last one is answered slows down with the server and never sees the queue.
While it waits it keeps its core busy: give it one of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Load", "drive"]

_LONGEST_S = 30.0


@dataclass(frozen=True)
class Load:
    """What became of the requests of one run.

    Args:
        latencies_ms: Of those that were answered with 200, from when they were due.
        statuses: How often each status came; 0 where the connection broke or no answer came in 30 s.
        lateness_ms: How late the client itself was, at the 99th percentile: a client that lags measures itself.
        seconds: From the first that was due to the last answer.
    """

    latencies_ms: np.ndarray
    statuses: Counter[int]
    lateness_ms: float
    seconds: float

    def percentile(self, q: float) -> float:
        """Of the latencies, in ms; NaN where nothing was answered."""
        return float(np.percentile(self.latencies_ms, q)) if len(self.latencies_ms) else float("nan")


def drive(port: int, bodies: Sequence[bytes], *, rate: float, num: int, seed: int | None = 0) -> Load:
    """Send `num` requests at so many a second, over as many connections as it takes.

    Args:
        port: Of a server on this machine.
        bodies: What is asked, in turns.
        rate: A second.
        num: Of requests.
        seed: Of the random moments (Poisson) at which they are due; None: evenly spaced, so that next to none meets
            another.
    """
    gaps_s = np.full(num, 1 / rate) if seed is None else np.random.default_rng(seed).exponential(1 / rate, num)
    return asyncio.run(_drive(port, bodies, np.cumsum(gaps_s)))


async def _drive(port: int, bodies: Sequence[bytes], due_s: np.ndarray) -> Load:
    heads = [
        f"POST /v1/rank HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    latencies, lateness, statuses = [], [], Counter[int]()
    start = time.perf_counter() + 0.05

    async def one(i: int) -> None:
        lateness.append(time.perf_counter() - start - due_s[i])
        try:
            status = await asyncio.wait_for(_ask(port, free, heads[i % len(heads)]), _LONGEST_S)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, ValueError):
            status = 0
        statuses[status] += 1
        if status == 200:
            latencies.append(1e3 * (time.perf_counter() - start - due_s[i]))

    async with asyncio.TaskGroup() as tasks:
        for i in range(len(due_s)):
            # A client that sleeps adds its own waking, and caches that went cold, to what it measures: 2 ms and more.
            while time.perf_counter() < start + due_s[i]:
                await asyncio.sleep(0)
            tasks.create_task(one(i))
    for _, writer in free:
        writer.close()
    late_ms = 1e3 * float(np.percentile(lateness, 99))
    return Load(np.array(latencies), statuses, late_ms, time.perf_counter() - start)


async def _ask(port: int, free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]], message: bytes) -> int:
    while free:
        connection = free.pop()
        try:
            return await _ask_over(connection, free, message)
        except _IdleClosedError:  # a server may close what stands idle, and every client takes another connection then
            continue
    connection = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    return await _ask_over(connection, free, message)


class _IdleClosedError(ConnectionError):
    """The connection was closed before a byte of the answer came."""


async def _ask_over(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    message: bytes,
) -> int:
    reader, writer = connection
    try:
        writer.write(message)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError) as error:
            if not getattr(error, "partial", b""):
                raise _IdleClosedError from error
            raise
        status = int(head[9:12])
        fields = dict(line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:] if b":" in line)
        await reader.readexactly(int(fields.get(b"content-length", b"0")))
    except BaseException:
        writer.close()
        raise
    if fields.get(b"connection", b"").strip() == b"close":
        writer.close()
    else:
        free.append(connection)
    return status
