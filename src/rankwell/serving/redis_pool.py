"""Connections to one Redis server, lent to whoever asks, opened again when they are lost."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Final, final

from rankwell.errors import FeatureStoreError
from rankwell.serving.redis_connection import RedisAddress, RedisConnection, hiredis_module

__all__ = ["RedisPool", "monotonic_us"]

_RETRY_US: Final = 100_000


def monotonic_us() -> int:
    """Microseconds of a clock that only goes forward."""
    return time.monotonic_ns() // 1_000


@final
class RedisPool:
    """Asks a server, from any number of threads, each with a connection of its own for as long as it asks.

    A connection that was lost is opened again by the next who asks, within that one's own time. When it cannot be
    opened nobody tries for 100 ms: whoever asks meanwhile is told at once.

    Args:
        address: Of the server, whose name is resolved here.
        now_us: A clock that only goes forward, in microseconds.

    Raises:
        FeatureStoreError: The server's name is not known.
        MissingExtraError: hiredis is not installed.
    """

    def __init__(self, address: RedisAddress, *, now_us: Callable[[], int] = monotonic_us) -> None:
        hiredis_module()
        self._address, self._now_us = address, now_us
        self._tls = ssl.create_default_context() if address.has_tls else None  # reading certificates takes its time
        self._endpoints = address.resolved()
        self._idle: list[RedisConnection] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._no_try_before_us: int | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the last try to connect failed."""
        return self._no_try_before_us is not None

    def ask(self, commands: bytes, num_replies: int, *, timeout_us: int) -> list[Any]:
        """The replies to commands sent at once; errors of the server are among them, not raised.

        Raises:
            TimeoutError: Not all replies were there in time.
            OSError: The server cannot be reached.
            FeatureStoreError: The server refuses the connection.
        """
        deadline_us = self._now_us() + timeout_us
        connection = self._taken()
        if connection is not None:
            try:
                return self._asked(connection, commands, num_replies, deadline_us)
            except TimeoutError:
                raise
            except OSError:  # as after a restart, when all idle ones are lost
                self.close()
        return self._asked(self._opened(deadline_us), commands, num_replies, deadline_us)

    def _asked(self, connection: RedisConnection, commands: bytes, num_replies: int, deadline_us: int) -> list[Any]:
        try:
            replies = connection.ask(commands, num_replies, deadline_us=deadline_us)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)
        return replies

    def _taken(self) -> RedisConnection | None:
        with self._lock:
            if self._process != os.getpid():  # a fork: these are the parent's, and replies must not be shared out
                self._idle, self._process = [], os.getpid()
            return self._idle.pop() if self._idle else None

    def _opened(self, deadline_us: int) -> RedisConnection:
        no_try_before_us = self._no_try_before_us
        if no_try_before_us is not None and self._now_us() < no_try_before_us:
            raise ConnectionError("the server could not be reached a moment ago")
        failure: Exception = ConnectionError("the server has no address")
        for endpoint in self._endpoints:
            try:
                opened = RedisConnection(
                    self._address, endpoint, self._tls, deadline_us=deadline_us, now_us=self._now_us
                )
            except (OSError, FeatureStoreError) as error:
                failure = error
                self._endpoints = [*self._endpoints[1:], *self._endpoints[:1]]  # the next one begins with another
            else:
                self._no_try_before_us = None
                return opened
        self._no_try_before_us = self._now_us() + _RETRY_US
        raise failure

    def resolve(self) -> None:
        """Look the server's name up again, for it may have moved; never on a request's way.

        Raises:
            FeatureStoreError: The name is not known; the addresses known before stay in use.
        """
        self._endpoints = self._address.resolved()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> RedisPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
