"""Requests that have no place are refused before anything else is done for them: under overload they are the most.

An application of ASGI around the other; it looks at ``POST /v1/rank`` alone, and at the queue alone. Whoever asks, and
for how long it may take, is looked at behind it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, final

import msgspec

from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.server_state import PROBLEM, ServerState

__all__ = ["FrontDoor"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[Any, Any, Any], Awaitable[None]]
_RANK: Final = "/v1/rank"


@final
class FrontDoor:
    """Lets a request in where the queue has a place for it.

    Args:
        application: Behind it.
        state: The worker's.
    """

    def __init__(self, application: _Application, state: ServerState) -> None:
        self._application, self._state = application, state
        self._deadline_s = state.limits.deadline_ms / 1e3

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Of ASGI."""
        if scope["type"] == "http" and scope["path"] == _RANK and len(self._state.queue):
            try:
                self._state.queue.check_room(self._deadline_s)
            except RefusalError as error:
                self._state.metrics.answered(_RANK, error.status)
                head, body = self._written(error)
                await send(head)
                await send(body)
                return
        await self._application(scope, receive, send)

    def _written(self, error: RefusalError) -> tuple[_Message, _Message]:
        content = msgspec.json.encode(error.plain())
        headers = {"content-type": PROBLEM, "content-length": str(len(content)), **error.headers()}
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        head = {"type": "http.response.start", "status": error.status, "headers": named}
        return head, {"type": "http.response.body", "body": content, "more_body": False}
