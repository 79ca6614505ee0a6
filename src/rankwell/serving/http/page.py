"""A page to try the server with, and what it asks besides: an example of a request, and what heads attend to."""

from __future__ import annotations

from dataclasses import asdict
from importlib import resources
from typing import Any, Final

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from rankwell.data.replay import request_of_batch
from rankwell.serving.example_request import example_request, most_events
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.server_state import JSON, Asked, ServerState, bytes_response

__all__ = ["page_routes"]

_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_EVENTS: Final = 10
_MOST_LOOKED_AT: Final = 200


def page_routes(state: ServerState) -> list[HTTPRouteHandler]:
    """The page at ``/``, and its routes."""
    content = resources.files(__package__).joinpath("page.html").read_bytes()

    @get("/")
    async def page(request: Asked) -> Response[bytes]:
        state.metrics.answered("/", 200)
        return bytes_response(content, "text/html; charset=utf-8", headers=_HEADERS)

    @get("/v1/example")
    async def example(request: Asked) -> Response[bytes]:
        given = request.query_params.get("num_candidates", "20")
        num = int(given) if given.isascii() and given.isdecimal() and len(given) < 10 else 0
        if not 1 <= num <= state.limits.max_candidates:
            raise RefusalError(
                400, "'num_candidates' is no number of candidates", found=str(given)[:40],
                allowed=f"1 … {state.limits.max_candidates}",
            )  # fmt: skip
        state.metrics.answered("/v1/example", 200)
        return bytes_response(msgspec.json.format(msgspec.json.encode(_example(state, num)), indent=1), JSON)

    @post("/v1/attention", status_code=200)
    async def attention(request: Asked) -> Response[bytes]:
        client = state.client(request, "rank").name
        state.content_type(request, JSON)
        deadline_s = state.deadline_s(request)
        state.queue.check(client, deadline_s)
        body = await state.body(request, max_bytes=state.limits.max_body_bytes)
        found = await state.queue.run(lambda: _attended(state, body), client=client, deadline_s=deadline_s)
        return state.json(request, found)

    return [page, example, attention]


def _example(state: ServerState, num: int) -> dict[str, Any]:
    bundle = state.live.current.bundle
    schema, num_events = bundle.schema, min(_EVENTS, most_events(bundle.schema))
    batch = example_request(schema, bundle.statistics, num_candidates=num, num_events=num_events, seed=num)
    now_us = state.clock.now_us()
    plain = request_of_batch(batch, 0, schema)
    if schema.time is not None:  # it is asked now, and its events are as old as they were
        for sequence in schema.sequences:
            if sequence.time is not None:
                times = plain["history"][sequence.name][sequence.time]
                later_us = now_us - plain["time_us"]
                plain["history"][sequence.name][sequence.time] = [time_us + later_us for time_us in times]
        plain["time_us"] = now_us
    if schema.bid is not None:
        plain["candidates"][schema.bid] = [100_000 * (1 + place % 9) for place in range(num)]
    del plain["request_id"]
    return plain


def _attended(state: ServerState, body: bytes) -> dict[str, Any]:
    if state.heads is None:
        raise RefusalError(
            409, "this server looks into no model",
            do="if it answers with a transformer, start it with --heads BUNDLE, the bundle that it was exported from",
        )  # fmt: skip
    answering = state.live.current.bundle
    if state.heads.created_us != answering.created_us:
        raise RefusalError(
            409, f"the heads are those of another bundle than {answering.id}, which answers",
            found=f"created_us {state.heads.created_us}", allowed=answering.created_us,
            do="start it with --heads BUNDLE, the bundle that the one in use was exported from",
        )  # fmt: skip
    content = state.decoded(body)
    if not isinstance(content, dict):
        raise RefusalError(400, "the request is no object", found=type(content).__name__, do="send one JSON object")
    request = {name: value for name, value in content.items() if name != "length"}
    if request.get("time_us") is None:
        request["time_us"] = state.clock.now_us()
    batch = state.live.current.reader.read(request).batch
    if not 1 <= batch.features.num_candidates <= _MOST_LOOKED_AT:
        raise RefusalError(
            413, "heads are not looked at over this many candidates", found=batch.features.num_candidates,
            allowed=f"1 … {_MOST_LOOKED_AT}", do="send fewer",
        )  # fmt: skip
    heads = [asdict(head) for head in state.heads.look(batch)]
    return {"heads": [{**head, "entry_id": head.pop("entry_ids"), "share": head.pop("shares")} for head in heads]}
