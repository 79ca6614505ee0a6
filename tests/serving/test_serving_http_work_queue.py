from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.work_queue import WorkQueue


@dataclass
class Played:
    """A queue whose work takes the time that it says, by a clock that nothing else moves."""

    now_s: float = 0.0
    waits: list[float] = field(default_factory=list)
    shed: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def queue(self, *, limit: int = 4, share: float = 1.0) -> WorkQueue:
        return WorkQueue(
            lambda: self.now_s, limit=limit, share=share, on_wait=self.waits.append, on_shed=self.shed.append
        )

    def work(self, name: str, takes_s: float = 0.01) -> Callable[[], str]:
        def run() -> str:
            self.now_s += takes_s
            self.done.append(name)
            return name

        return run


async def outcomes(
    played: Played, queue: WorkQueue, names: str, deadline_s: float = 1.0, client: str = "c"
) -> list[str]:
    asked = [queue.run(played.work(name), client=client, deadline_s=deadline_s) for name in names]
    found = await asyncio.gather(*asked, return_exceptions=True)
    await queue.close()
    return [f"{one.status}" if isinstance(one, RefusalError) else str(one) for one in found]


def test_work_is_done_in_turn_and_what_finds_no_place_is_refused() -> None:
    played = Played()
    found = asyncio.run(outcomes(played, played.queue(limit=4), "abcdef"))
    assert found == ["a", "b", "c", "d", "503", "503"]
    assert played.done == ["a", "b", "c", "d"]
    assert played.shed == ["full", "full"]
    assert played.waits == pytest.approx([0.0, 0.01, 0.02, 0.03])


def test_one_client_has_its_share_and_leaves_room_for_others() -> None:
    played = Played()

    async def play() -> tuple[list[str], list[str]]:
        queue = played.queue(limit=4, share=0.5)
        first, second = await asyncio.gather(
            outcomes(played, queue, "abc", client="greedy"), outcomes(played, queue, "xy", client="other")
        )
        return first, second

    assert asyncio.run(play()) == (["a", "b", "429"], ["x", "y"])
    assert played.shed == ["share"]


def test_what_would_come_too_late_is_refused_at_once_and_what_is_late_is_not_begun() -> None:
    played = Played()

    async def play() -> list[str]:
        queue = played.queue(limit=100)
        for _ in range(100):  # until the queue knows that work takes 10 ms
            await queue.run(played.work("-"), client="c", deadline_s=1.0)
        return await outcomes(played, queue, "abcdefgh", deadline_s=0.0351)

    assert asyncio.run(play()) == ["a", "b", "c", "503", "503", "503", "503", "503"]
    assert set(played.shed) == {"deadline"}
    played = Played()
    assert asyncio.run(outcomes(played, played.queue(limit=9), "abcd", deadline_s=0.015)) == ["a", "b", "503", "503"]
    assert (played.done, played.shed) == (["a", "b"], ["late", "late"])  # it could not know


def test_an_idle_queue_takes_work_however_slow_the_last_was() -> None:
    played = Played()

    async def play() -> list[str]:
        queue = played.queue()
        for _ in range(60):
            await queue.run(played.work("slow", takes_s=9.0), client="c", deadline_s=1.0)
        return await outcomes(played, queue, "a", deadline_s=0.1)

    assert asyncio.run(play()) == ["a"]


def test_an_error_is_its_own_and_no_one_elses() -> None:
    played = Played()

    def fails() -> str:
        raise ValueError("no")

    async def play() -> list[object]:
        queue = played.queue()
        asked = [queue.run(work, client="c", deadline_s=1.0) for work in (fails, played.work("a"))]
        return await asyncio.gather(*asked, return_exceptions=True)

    error, answer = asyncio.run(play())
    assert isinstance(error, ValueError)
    assert answer == "a"


def test_whoever_has_gone_is_not_worked_for() -> None:
    played = Played()

    async def play() -> None:
        queue = played.queue()
        gone = asyncio.ensure_future(queue.run(played.work("gone"), client="c", deadline_s=1.0))
        kept = asyncio.ensure_future(queue.run(played.work("kept"), client="c", deadline_s=1.0))
        await asyncio.sleep(0)
        gone.cancel()
        await kept
        await queue.close()
        assert len(queue) == 0
        assert queue.is_idle

    asyncio.run(play())
    assert played.done == ["kept"]


def test_work_for_later_waits_until_nothing_else_does() -> None:
    played = Played()

    async def play() -> None:
        queue = played.queue(limit=9)
        assert all(queue.run_later(lambda: played.done.append("later")) for _ in range(64))
        assert not queue.run_later(lambda: None)
        assert await outcomes(played, queue, "abc") == ["a", "b", "c"]

    asyncio.run(play())
    assert played.done[:3] == ["a", "b", "c"]
