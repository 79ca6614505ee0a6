"""``POST /v1/rank``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from rankwell.errors import RankwellError
from rankwell.serving.http.arrow_requests import answers_table, requests_of, table_bytes
from rankwell.serving.http.call import Incoming, Reply
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.server_state import ARROW, JSON, ServerState
from rankwell.serving.rank_service import Answer

__all__ = ["RANK", "rank"]

RANK = "/v1/rank"


async def rank(state: ServerState, request: Incoming) -> Reply:
    """The answer to a request, or to many of them.

    Raises:
        RefusalError, RankwellError: There is none.
    """
    client = state.client(request, "rank").name
    if state.content_type(request, JSON, ARROW) == ARROW:
        return await _rank_many(state, request, client)
    started_s = state.clock.elapsed_s()
    deadline_s = state.deadline_s(request)
    state.queue.check(client, deadline_s)
    body = await state.body(request, max_bytes=state.limits.max_body_bytes)
    answer, content, written_s = await state.queue.run(
        lambda: _written(state, _answered(state, _plain_request(state, body))), client=client, deadline_s=deadline_s
    )
    _shadow_later(state, answer)
    taken = {**answer.seconds, "write": written_s, "all": state.clock.elapsed_s() - started_s}
    state.metrics.observe(taken)
    timing = ", ".join(f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in taken.items())
    state.metrics.answered(RANK, 200)
    return Reply(content, JSON, headers={"server-timing": timing})


def _plain_request(state: ServerState, body: bytes) -> dict[str, Any]:
    content = state.decoded(body)
    if not isinstance(content, dict):
        raise RefusalError(400, "the request is no object", found=type(content).__name__, do="send one JSON object")
    candidates, item = content.get("candidates"), state.live.current.bundle.schema.item
    given = candidates.get(item) if isinstance(candidates, dict) else None
    if isinstance(given, list) and len(given) > state.limits.max_candidates:
        raise RefusalError(
            413, "the request has too many candidates", found=len(given), allowed=state.limits.max_candidates,
            do="let retrieval keep fewer",
        )  # fmt: skip
    return content


def _written(state: ServerState, answer: Answer) -> tuple[Answer, bytes, float]:
    started_s = state.clock.elapsed_s()
    content = msgspec.json.encode(answer.plain())
    return answer, content, state.clock.elapsed_s() - started_s


def _answered(state: ServerState, content: Mapping[str, Any]) -> Answer:
    request = {name: value for name, value in content.items() if name != "length"}
    length = content.get("length")
    if length is not None and (type(length) is not int or not 1 <= length < 2**31):
        raise RefusalError(400, "'length' is no length of a list", found=str(length)[:40], allowed="1 or more")
    answer = state.service.rank(request, length=length)
    state.metrics.scored(len(answer.read.batch.audit.item_ids_C))
    return answer


def _shadow_later(state: ServerState, answer: Answer) -> None:
    if state.live.shadowing(answer.request_id) is None:
        return

    def compare() -> None:
        try:
            found = state.service.shadow(answer)
        except RankwellError:
            state.metrics.shadow_dropped.inc()
        else:
            if found is not None:
                state.metrics.shadow_difference.observe(found[1])

    if not state.queue.run_later(compare):
        state.metrics.shadow_dropped.inc()


async def _rank_many(state: ServerState, request: Incoming, client: str) -> Reply:
    """Each request of a table in its turn, between those of others; one that is refused refuses no other."""
    deadline_s = state.limits.body_timeout_s
    state.queue.check(client, deadline_s)
    body = await state.body(request, max_bytes=state.limits.max_bulk_bytes)
    answers: list[Answer | RefusalError] = []
    for plain in requests_of(body, state.live.current.bundle.schema, state.limits.max_candidates):
        try:
            if isinstance(plain, RefusalError):
                raise plain
            answer = await state.queue.run(partial(_answered, state, plain), client=client, deadline_s=deadline_s)
            _shadow_later(state, answer)
            answers.append(answer)
        except RefusalError as error:
            answers.append(error)
        except RankwellError as error:
            answers.append(state.refusal_of(error))
    state.metrics.answered(RANK, 200)
    return Reply(table_bytes(answers_table(answers, state.live.current.bundle.schema)), ARROW)
