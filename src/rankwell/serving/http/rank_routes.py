"""``POST /v1/rank`` and ``POST /v1/actions``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from rankwell.errors import RankwellError
from rankwell.serving.action_log import ReportedAction
from rankwell.serving.http.arrow_requests import answers_table, requests_of, table_bytes
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.server_state import ARROW, JSON, Asked, ServerState, bytes_response
from rankwell.serving.rank_service import Answer

__all__ = ["rank_routes"]

_MOST_ACTIONS: Final = 10_000
_ACTION_FIELDS: Final = {"request_id", "item_id", "action", "time_us", "grade", "key"}


def rank_routes(state: ServerState) -> list[HTTPRouteHandler]:
    """The routes of clients."""

    @post("/v1/rank", status_code=200)
    async def rank(request: Asked) -> Response[bytes]:
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
        state.metrics.answered(request.url.path, 200)
        return bytes_response(content, JSON, headers={"server-timing": timing})

    @post("/v1/actions", status_code=200)
    async def actions(request: Asked) -> Response[bytes]:
        state.client(request, "rank")
        state.content_type(request, JSON)
        content = state.decoded(await state.body(request, max_bytes=state.limits.max_body_bytes))
        reported = _actions(content)
        if state.action_log is None:
            raise RefusalError(503, "this server logs nothing", do="start it with --log FOLDER", retry_after_s=60)
        return state.json(request, {"num_new": state.action_log.append(reported), "num_sent": len(reported)})

    return [rank, actions]


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


async def _rank_many(state: ServerState, request: Asked, client: str) -> Response[bytes]:
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
    state.metrics.answered(request.url.path, 200)
    return bytes_response(table_bytes(answers_table(answers, state.live.current.bundle.schema)), ARROW)


def _actions(content: object) -> list[ReportedAction]:
    if isinstance(content, dict) and set(content) == {"actions"}:
        content = content["actions"]
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise RefusalError(
            400, "the body holds no actions", found=type(content).__name__,
            allowed='{"actions": [{"request_id": …, "item_id": …, "action": …, "time_us": …}]}', do="send a list",
        )  # fmt: skip
    if len(content) > _MOST_ACTIONS:
        raise RefusalError(413, "there are too many actions", found=len(content), allowed=_MOST_ACTIONS)
    return [_action(entry, place) for place, entry in enumerate(content)]


def _action(entry: dict[str, Any], place: int) -> ReportedAction:
    needed = {"request_id": int, "item_id": int, "action": str, "time_us": int}
    wrong = [name for name, kind in needed.items() if type(entry.get(name)) is not kind]
    grade, key = entry.get("grade"), entry.get("key")
    wrong += ["grade"] if grade is not None and type(grade) is not int else []
    wrong += ["key"] if key is not None and (type(key) is not str or len(key) > 1_000) else []
    wrong += sorted(map(str, set(entry) - _ACTION_FIELDS))
    if wrong:
        raise RefusalError(
            400, f"action {place} (from 0) is not as it should be", found=wrong, allowed=sorted(_ACTION_FIELDS),
            do="send whole numbers for ids and times, names as text, and nothing else",
        )  # fmt: skip
    return ReportedAction(entry["request_id"], entry["item_id"], entry["action"], entry["time_us"], grade, key)
