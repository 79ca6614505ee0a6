"""What the routes of a worker share, and the rules that hold for each of them.

Letters: K candidates of one request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, final

import msgspec
from litestar import Request, Response

from rankwell.errors import BundleError, LogError, RankwellError
from rankwell.serving.action_log import ActionLog
from rankwell.serving.attended import HeadsOfRequest
from rankwell.serving.http.call import Incoming, Reply
from rankwell.serving.http.metrics import Metrics
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.tokens import Client, Tokens
from rankwell.serving.http.work_queue import WorkQueue
from rankwell.serving.live_bundles import LiveState
from rankwell.serving.rank_service import RankService
from rankwell.serving.served_log import ServedLog
from rankwell.serving.server_clock import ServerClock

__all__ = ["ARROW", "JSON", "PROBLEM", "Asked", "ServerLimits", "ServerState", "bytes_response"]

Asked = Request[Any, Any, Any]

_LOG: Final = logging.getLogger("rankwell.serving")
JSON: Final = "application/json"
ARROW: Final = "application/vnd.apache.arrow.stream"
PROBLEM: Final = "application/problem+json"


@final
@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a worker takes.

    Args:
        max_body_bytes: Of a request in JSON.
        max_bulk_bytes: Of many requests in Arrow.
        max_candidates: Of one request.
        max_waiting: Requests in the queue of a worker.
        client_share: Of that queue, in (0, 1].
        deadline_ms: Where a request names none; and the longest it may name.
        body_timeout_s: From the head of a request to the end of its body.
        drain_s: How long readiness is false before a worker takes no more.
    """

    max_body_bytes: int = 4 * 2**20
    max_bulk_bytes: int = 64 * 2**20
    max_candidates: int = 2_000
    max_waiting: int = 64
    client_share: float = 1.0
    deadline_ms: float = 100.0
    body_timeout_s: float = 5.0
    drain_s: float = 0.5


@final
@dataclass(slots=True, eq=False)
class ServerState:
    """A worker: its bundles, its logs, its queue, and who may ask.

    Args:
        service: Answers.
        limits: Of requests.
        tokens: Of clients.
        metrics: Of this worker.
        clock: The server's.
        served_log, action_log: None where nothing is logged.
        heads: What the page looks into; None for nothing.
        is_draining: Whether it has been told to end.
        features_lost: What is wrong with the feature store, as far as the last look-ups tell; "" where nothing is.
    """

    service: RankService
    limits: ServerLimits
    tokens: Tokens
    metrics: Metrics
    clock: ServerClock
    served_log: ServedLog | None = None
    action_log: ActionLog | None = None
    heads: HeadsOfRequest | None = None
    is_draining: bool = False
    features_lost: str = ""
    features_counted: dict[str, tuple[int, int]] = field(default_factory=dict)
    queue: WorkQueue = field(init=False)

    def __post_init__(self) -> None:
        self.queue = WorkQueue(
            self.clock.elapsed_s,
            limit=self.limits.max_waiting,
            share=self.limits.client_share,
            on_wait=lambda waited_s: self.metrics.observe({"queue": waited_s}),
            on_shed=self.metrics.shed,
        )

    @property
    def live(self) -> LiveState:
        """Who answers now."""
        return self.service.live.state

    # --- a request

    def client(self, request: Incoming, scope: str) -> Client:
        """Who asks.

        Raises:
            RefusalError: 401 or 403.
        """
        return self.tokens.client(request.headers.get("authorization"), scope)

    def deadline_s(self, request: Incoming) -> float:
        """The deadline of a request: its header ``Deadline-Ms``, or the server's.

        Raises:
            RefusalError: The header is no number of milliseconds, or too large.
        """
        given = request.headers.get("deadline-ms")
        if given is None:
            return self.limits.deadline_ms / 1e3
        try:
            deadline_ms = float(given)
        except ValueError:
            deadline_ms = -1.0
        if not 1 <= deadline_ms <= self.limits.deadline_ms:
            raise RefusalError(
                400, "the header Deadline-Ms is no deadline", found=given[:40],
                allowed=f"1 … {self.limits.deadline_ms:g}", do="leave it out, or shorten it",
            )  # fmt: skip
        return deadline_ms / 1e3

    async def body(self, request: Incoming, *, max_bytes: int) -> bytes:
        """All bytes of a request's body.

        Raises:
            RefusalError: 413 where they are too many, 408 where they are too slow, 400 where they end too soon.
        """
        too_large = RefusalError(
            413, "the body is too large", allowed=f"{max_bytes} bytes", do="send fewer candidates, or fewer requests"
        )
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > max_bytes:
            raise too_large
        chunks, num_bytes, has_more = [], 0, True
        try:
            async with asyncio.timeout(self.limits.body_timeout_s):
                while has_more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise RefusalError(
                            400, "the body ended too soon", found=f"{num_bytes} bytes", do="send all of it"
                        )
                    chunk, has_more = message.get("body", b""), message.get("more_body", False)
                    num_bytes += len(chunk)
                    if num_bytes > max_bytes:
                        raise too_large
                    chunks.append(chunk)
        except TimeoutError:
            raise RefusalError(
                408, "the body came too slowly", allowed=f"{self.limits.body_timeout_s:g} s", do="send it at once"
            ) from None
        return b"".join(chunks)

    def decoded(self, body: bytes) -> Any:
        """The JSON of a body.

        Raises:
            RefusalError: It is none, or too deep.
        """
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise RefusalError(
                400, "the body is not JSON", found=str(error)[:200], do="send one JSON object as UTF-8"
            ) from None

    @staticmethod
    def content_type(request: Incoming, *allowed: str) -> str:
        """Which of the allowed content types a request has.

        Raises:
            RefusalError: 415, another.
        """
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given not in allowed:
            raise RefusalError(
                415, "the body has another content type", found=given[:100] or "none", allowed=list(allowed),
                do="send JSON, and say so",
            )  # fmt: skip
        return given

    # --- an answer

    def refused(self, error: Exception, route: str) -> Reply:
        """The answer that is none, whatever was raised."""
        if not isinstance(error, RefusalError):
            error = self._refusal_of_any(error)
        self.metrics.answered(route, error.status)
        return Reply(msgspec.json.encode(error.plain()), PROBLEM, error.status, error.headers())

    def _refusal_of_any(self, error: Exception) -> RefusalError:
        if isinstance(error, RankwellError):
            return self.refusal_of(error)
        _LOG.error("a request failed", exc_info=error)
        return RefusalError(500, "the server failed", do="report it, with the server's log")

    def refusal_of(self, error: RankwellError) -> RefusalError:
        """An error of ours as a status."""
        status = 503 if isinstance(error, LogError) else 409 if isinstance(error, BundleError) else 400
        refusal = RefusalError.of(status, error)
        refusal.retry_after_s = 1 if status == 503 else None
        return refusal

    def json(self, request: Asked, content: object, status: int = 200, **headers: str) -> Response[bytes]:
        """An answer in JSON."""
        self.metrics.answered(request.url.path, status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return bytes_response(msgspec.json.encode(content), JSON, status, named)

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Do what waits for a disk beside the requests, and take in what it changed."""
        return await asyncio.to_thread(work)


def bytes_response(
    content: bytes, media_type: str, status: int = 200, headers: dict[str, str] | None = None
) -> Response[bytes]:
    """A response whose bytes are ready."""
    return Response(content, media_type=media_type, status_code=status, headers=headers)
