"""One connection to a Redis server whose every step keeps a deadline.

Clients of Redis bound each read of a socket. A server that sends a little now and then stays within every such bound
and holds a request for as long as it likes; here the time that is left bounds each step, so a deadline is one.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final
from urllib.parse import unquote, urlsplit

from rankwell.errors import FeatureStoreError, MissingExtraError

__all__ = ["RedisAddress", "RedisConnection", "hiredis_module", "packed_command"]

_MICROS: Final = 1_000_000
_PORT: Final = 6379
_BLOCK: Final = 1 << 18


@final
@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a server is, and who asks.

    Args:
        host: A name or an address; empty for a socket of the file system.
        port: Of the host.
        path: Of a socket of the file system, else empty.
        database: Its number.
        has_tls: Whether the connection is encrypted, and the server's certificate checked.
        user, password: Empty where the server asks for none. Never printed.

    >>> RedisAddress.of("rediss://ranker:secret@features.example:7000/2")
    RedisAddress(host='features.example', port=7000, path='', database=2, has_tls=True, user='ranker')
    """

    host: str
    port: int
    path: str
    database: int
    has_tls: bool
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str) -> RedisAddress:
        """``redis://[user[:password]@]host[:port][/database]``, ``rediss://…`` with TLS, or ``unix:///path``.

        Raises:
            FeatureStoreError: It is none of these; the message does not show it, because it may hold a password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or _PORT
            database = int(parts.path.strip("/") or 0) if parts.scheme != "unix" else 0
        except ValueError:
            parts, port, database = urlsplit(""), 0, 0
        is_unix = parts.scheme == "unix" and parts.path != ""
        if not is_unix and (parts.scheme not in ("redis", "rediss") or not parts.hostname or database < 0):
            raise FeatureStoreError(
                "this is no address of a Redis server", found=f"scheme {parts.scheme!r}",
                allowed="redis://host:port/database, rediss://… with TLS, unix:///path", do="mend the URL",
            )  # fmt: skip
        return cls(
            "" if is_unix else parts.hostname or "",
            port,
            parts.path if is_unix else "",
            database,
            parts.scheme == "rediss",
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )

    def resolved(self) -> list[tuple[int, Any]]:
        """Socket families and addresses, to be tried in turn. It may take its time: never on a request's way.

        Raises:
            FeatureStoreError: The name is not known.
        """
        if self.path:
            return [(socket.AF_UNIX, self.path)]
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise FeatureStoreError(
                f"the name of the Redis server {self.host!r} is not known", found=str(error), do="mend the URL"
            ) from None
        return [(family, address) for family, _, _, _, address in found]


@final
class RedisConnection:
    """A connection that is open; of one thread at a time.

    Args:
        address: Of the server.
        endpoint: One of ``address.resolved()``.
        tls: How to encrypt; None: not at all.
        deadline_us: By when it must be open, on the clock.
        now_us: A clock that only goes forward, in microseconds.

    Raises:
        TimeoutError: It was not open by then.
        OSError: It cannot be opened.
        FeatureStoreError: The server refuses the user, the password or the database.
        MissingExtraError: hiredis is not installed.
    """

    def __init__(
        self,
        address: RedisAddress,
        endpoint: tuple[int, Any],
        tls: ssl.SSLContext | None,
        *,
        deadline_us: int,
        now_us: Callable[[], int],
    ) -> None:
        self._now_us = now_us
        self._reader = hiredis_module().Reader()
        self._socket = socket.socket(endpoint[0], socket.SOCK_STREAM)
        try:
            self._bound(deadline_us)
            self._socket.connect(endpoint[1])
            if not address.path:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._bound(deadline_us)
                self._socket = tls.wrap_socket(self._socket, server_hostname=address.host)
            greeting: list[bytes] = []
            if address.password:
                greeting.append(packed_command("AUTH", *([address.user] if address.user else []), address.password))
            if address.database:
                greeting.append(packed_command("SELECT", str(address.database)))
            for reply in self.ask(b"".join(greeting), len(greeting), deadline_us=deadline_us):
                if isinstance(reply, Exception):
                    raise FeatureStoreError(
                        "the Redis server refuses the connection", found=str(reply),
                        do="mend the user, the password or the database of the URL",
                    )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def ask(self, commands: bytes, num_replies: int, *, deadline_us: int) -> list[Any]:
        """The replies to commands sent at once; errors of the server are among them, not raised.

        After an exception the connection is of no more use: a reply may still be on its way.

        Raises:
            TimeoutError: Not all replies were there by the deadline.
            OSError: The connection is lost.
        """
        if num_replies == 0:
            return []
        self._bound(deadline_us)
        self._socket.sendall(commands)
        replies: list[Any] = []
        while len(replies) < num_replies:
            self._bound(deadline_us)
            received = self._socket.recv(_BLOCK)
            if not received:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(received)
            try:
                while len(replies) < num_replies and (reply := self._reader.gets()) is not False:
                    replies.append(reply)
            except hiredis_module().HiredisError as error:
                raise ConnectionError(f"the server does not speak Redis: {error}") from None
        return replies

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _bound(self, deadline_us: int) -> None:
        left_us = deadline_us - self._now_us()
        if left_us <= 0:
            raise TimeoutError
        self._socket.settimeout(left_us / _MICROS)


def packed_command(*words: str | bytes) -> bytes:
    """A command as it is sent.

    >>> packed_command("SELECT", "2")
    b'*2\\r\\n$6\\r\\nSELECT\\r\\n$1\\r\\n2\\r\\n'
    """
    parts: Sequence[bytes] = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def hiredis_module() -> Any:
    """The parser of replies.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import hiredis
    except ImportError as error:
        raise MissingExtraError(
            "replies of Redis are read by hiredis", found=str(error), do="pip install 'rankwell[stores]'"
        ) from error
    return hiredis
