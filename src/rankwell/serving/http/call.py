"""A request as ASGI has it, and its answer: what ranking needs of HTTP, without a framework between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol, final

__all__ = ["Call", "Incoming", "Message", "Receive", "Reply", "Send"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Incoming(Protocol):
    """What rules for all requests look at: litestar's requests have it, and so has a `Call`."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By their names in small letters; of one that stands twice, the first."""
        ...

    @property
    def receive(self) -> Receive:
        """Of ASGI."""
        ...


@final
class Call:
    """A request.

    Args:
        scope: Of ASGI.
        receive: Of ASGI.

    >>> call = Call({"headers": [(b"deadline-ms", b"50"), (b"deadline-ms", b"20")]}, receive=None)
    >>> call.headers
    {'deadline-ms': '50'}
    """

    __slots__ = ("headers", "receive")

    def __init__(self, scope: Mapping[str, Any], receive: Receive) -> None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        self.headers, self.receive = headers, receive


@final
class Reply:
    """An answer whose bytes are ready.

    Args:
        content: The body.
        media_type: Of the body.
        status: Of HTTP.
        headers: Further ones, by their names in small letters.
    """

    __slots__ = ("content", "headers", "status")

    def __init__(
        self, content: bytes, media_type: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.content, self.status = content, status
        self.headers = {"content-type": media_type, **(headers or {})}

    async def send(self, send: Send) -> None:
        """Give it to ASGI."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        headers.append((b"content-length", b"%d" % len(self.content)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.content, "more_body": False})
