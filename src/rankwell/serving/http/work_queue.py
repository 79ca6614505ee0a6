"""The requests of a worker, one after the other; those that would wait too long are refused at once.

A worker process has one core. Ranking runs on its event loop, so that nothing is handed between threads, and between
two requests the loop takes in what arrived: a request is refused when at most one other has been ranked.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final

from rankwell.serving.http.refusal import RefusalError

__all__ = ["WorkQueue"]

_Result = TypeVar("_Result")
_WEIGHT: Final = 0.1
_LATER: Final = 64


@final
@dataclass(slots=True, eq=False)
class _Work:
    run: Callable[[], Any]
    client: str
    deadline_s: float
    submitted_s: float
    future: asyncio.Future[Any]


@final
class WorkQueue:
    """A bounded queue in front of one worker.

    Args:
        elapsed_s: Seconds that never go backwards.
        limit: So many requests may wait.
        share: Of the places, that one client may hold: (0, 1].
        on_wait: Told how long a request waited, when its work begins.
        on_shed: Told why a request was refused: "full", "share", "deadline" or "late".
    """

    def __init__(
        self,
        elapsed_s: Callable[[], float],
        *,
        limit: int,
        share: float,
        on_wait: Callable[[float], None],
        on_shed: Callable[[str], None],
    ) -> None:
        self._elapsed_s, self._limit = elapsed_s, limit
        self._client_limit = max(1, round(limit * share))
        self._on_wait, self._on_shed = on_wait, on_shed
        self._waiting: deque[_Work] = deque()
        self._of_client: Counter[str] = Counter()
        self._later: deque[Callable[[], None]] = deque()
        self._seconds = 0.0
        self._wakes = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_busy = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._is_busy

    def check(self, client: str, deadline_s: float) -> None:
        """Refuse a request that has no place, or would come too late; before its body is read, and again after.

        Args:
            client: Whose it is.
            deadline_s: From now on.

        Raises:
            RefusalError: 503 where the queue is full or the deadline cannot be met, 429 where the client has its share.
        """
        self.check_room(deadline_s)
        if self._of_client[client] >= self._client_limit:
            raise self._shed("share", 429, "too many requests of this client are waiting")

    def check_room(self, deadline_s: float) -> None:
        """`check`, whoever asks.

        Raises:
            RefusalError: 503.
        """
        if len(self._waiting) >= self._limit:
            raise self._shed("full", 503, "the server is busy: its queue is full")
        # an empty queue takes anything: what works take is only known by doing some
        if self._waiting and (len(self._waiting) + 1) * self._seconds > deadline_s:
            raise self._shed("deadline", 503, "the server is busy: the deadline can't be met")

    async def run(self, work: Callable[[], _Result], *, client: str, deadline_s: float) -> _Result:
        """Do some work when its turn comes.

        Args:
            work: What is to be done; it must not wait.
            client, deadline_s: As of `check`.

        Raises:
            RefusalError: As of `check`, or 503 where the deadline passed before the work could begin.
        """
        self.check(client, deadline_s)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        now_s = self._elapsed_s()
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Work(work, client, now_s + deadline_s, now_s, future))
        self._of_client[client] += 1
        self._wakes.set()
        return await future

    def run_later(self, work: Callable[[], None]) -> bool:
        """Do some work when nothing waits; False where there is too much of it already."""
        if len(self._later) >= _LATER:
            return False
        self._later.append(work)
        return True

    async def close(self) -> None:
        """Finish what waits."""
        while not self.is_idle:
            await asyncio.sleep(0.005)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _work(self) -> None:
        while True:
            if not self._waiting:
                if self._later:
                    self._later.popleft()()
                    await asyncio.sleep(0)
                    continue
                self._wakes.clear()
                await self._wakes.wait()
                continue
            work = self._waiting.popleft()
            self._of_client[work.client] -= 1
            if not self._of_client[work.client]:
                del self._of_client[work.client]
            if not work.future.done():  # whoever asked may be gone
                self._is_busy = True
                self._do(work)
                self._is_busy = False
            await asyncio.sleep(0)

    def _do(self, work: _Work) -> None:
        started_s = self._elapsed_s()
        self._on_wait(started_s - work.submitted_s)
        if started_s > work.deadline_s:
            work.future.set_exception(self._shed("late", 503, "the server is busy: the deadline has passed"))
            return
        try:
            result = work.run()
        except Exception as error:
            work.future.set_exception(error)
        else:
            work.future.set_result(result)
        taken_s = self._elapsed_s() - started_s
        self._seconds += _WEIGHT * (taken_s - self._seconds)

    def _shed(self, reason: str, status: int, what: str) -> RefusalError:
        self._on_shed(reason)
        return RefusalError(status, what, do="wait, and send it again", retry_after_s=1)
