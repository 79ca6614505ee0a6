"""``POST /v1/rank`` is answered here, and without a framework: it is what a worker does all day.

An application of ASGI around the other. Requests that have no place are refused before anything else is done for them:
under overload they are the most. Whoever asks, and for how long it may take, is looked at behind that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, final

from rankwell.serving.http.call import Call, Message, Receive, Reply, Send
from rankwell.serving.http.rank_routes import RANK, rank
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.server_state import ServerState

__all__ = ["FrontDoor"]

_Application = Callable[[Any, Any, Any], Awaitable[None]]
_PATHS: Final = (RANK, f"{RANK}/")


@final
class FrontDoor:
    """Lets a request in where the queue has a place for it.

    Args:
        application: Behind it, for all other paths.
        state: The worker's.
    """

    def __init__(self, application: _Application, state: ServerState) -> None:
        self._application, self._state = application, state
        self._deadline_s = state.limits.deadline_ms / 1e3

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Of ASGI."""
        if scope["type"] != "http" or scope["path"] not in _PATHS:
            await self._application(scope, receive, send)
            return
        try:
            reply = await self._ranked(scope, receive)
        except Exception as error:
            reply = self._state.refused(error, RANK)
        if self._state.is_draining:
            reply.headers["connection"] = "close"
        await reply.send(send)

    async def _ranked(self, scope: Message, receive: Receive) -> Reply:
        if len(self._state.queue):
            self._state.queue.check_room(self._deadline_s)
        if scope["method"] != "POST":
            raise RefusalError(405, "Method Not Allowed", allowed="POST")
        return await rank(self._state, Call(scope, receive))
