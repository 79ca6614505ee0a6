"""The Open Inference Protocol, version 2: health, what the model is, and its scores without a list.

A tensor is named by its side and its feature: ``candidates.pay`` (FP32 of K), ``context.years`` (FP32 of 1),
``history.history.item`` (INT64 of H), ``candidates.skills`` (INT64, flat) beside ``candidates.skills.lengths`` (INT64
of K), ``candidates.office`` (FP32 of K × 2). Ids that are missing are -1, numbers that are missing null.

Letters: K candidates of the request · H events of a sequence · A actions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, Final

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

import rankwell
from rankwell.schema import Bag, Categorical, Numeric, Place, Schema, Vector
from rankwell.serving.http.readiness import readiness
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.server_state import JSON, Asked, ServerState
from rankwell.types import MISSING_ID

__all__ = ["MODEL", "inputs_of", "protocol_v2_routes"]

MODEL: Final = "rankwell"
"""The one model of a server: whichever bundle is current."""
_KINDS: Final = {"INT64": (int,), "FP32": (int, float), "FP64": (int, float)}


def protocol_v2_routes(state: ServerState) -> list[HTTPRouteHandler]:
    """The routes of the protocol."""

    @get("/v2")
    async def server(request: Asked) -> Response[bytes]:
        return state.json(request, {"name": "rankwell", "version": rankwell.__version__, "extensions": []})

    @get("/v2/health/live")
    async def live(request: Asked) -> Response[bytes]:
        return state.json(request, {"live": True})

    @get("/v2/health/ready")
    async def ready(request: Asked) -> Response[bytes]:
        found = await state.in_thread(lambda: readiness(state))
        return state.json(request, found, 200 if found["ready"] else 503)

    @get("/v2/models/{name:str}")
    async def model(request: Asked, name: FromPath[str]) -> Response[bytes]:
        _check_name(name)
        bundle = state.live.current.bundle
        actions = len(bundle.schema.actions)
        outputs = [
            {"name": "logits", "datatype": "FP32", "shape": [-1, actions]},
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, actions]},
        ]
        inputs = [
            {"name": n, "datatype": kind, "shape": shape} for n, (kind, shape) in inputs_of(bundle.schema).items()
        ]
        return state.json(
            request,
            {"name": MODEL, "versions": [bundle.id], "platform": "rankwell", "inputs": inputs, "outputs": outputs},
        )

    @get("/v2/models/{name:str}/ready")
    async def model_ready(request: Asked, name: FromPath[str]) -> Response[bytes]:
        _check_name(name)
        is_ready = not state.is_draining
        return state.json(request, {"name": MODEL, "ready": is_ready}, 200 if is_ready else 503)

    @post("/v2/models/{name:str}/infer", status_code=200)
    async def infer(request: Asked, name: FromPath[str]) -> Response[bytes]:
        _check_name(name)
        client = state.client(request, "rank").name
        state.content_type(request, JSON)
        deadline_s = state.deadline_s(request)
        state.queue.check(client, deadline_s)
        body = await state.body(request, max_bytes=state.limits.max_body_bytes)
        content = await state.queue.run(lambda: _inferred(state, body), client=client, deadline_s=deadline_s)
        return state.json(request, content)

    return [server, live, ready, model, model_ready, infer]


def _check_name(name: str) -> None:
    if name != MODEL:
        raise RefusalError(404, "there is no such model", found=name[:100], allowed=MODEL, do="ask for this one")


def inputs_of(schema: Schema) -> dict[str, tuple[str, list[int]]]:
    """The tensors that a schema takes: name to type and shape, -1 where it is free."""
    found: dict[str, tuple[str, list[int]]] = {}
    for feature in schema.visible_features:
        on_request = feature.on == "request"
        name, num = f"{'context' if on_request else 'candidates'}.{feature.name}", 1 if on_request else -1
        match feature:
            case Categorical():
                found[name] = ("INT64", [num])
            case Numeric():
                found[name] = ("FP32", [num])
            case Bag():
                found[name], found[f"{name}.lengths"] = ("INT64", [-1]), ("INT64", [num])
            case Vector() | Place():
                found[name] = ("FP32", [num, feature.width if isinstance(feature, Vector) else 2])
    for sequence in schema.sequences:
        for field in sequence.fields:
            kind = "INT64" if isinstance(field, Categorical) else "FP32"
            found[f"history.{sequence.name}.{field.name}"] = (kind, [-1])
        if sequence.time is not None and schema.time is not None:
            found[f"history.{sequence.name}.{sequence.time}"] = ("INT64", [-1])
    found["member_id"] = found["time_us"] = ("INT64", [1])
    return found


def _inferred(state: ServerState, body: bytes) -> dict[str, Any]:
    served = state.live.current
    schema = served.bundle.schema
    content = state.decoded(body)
    inputs = content.get("inputs") if isinstance(content, dict) else None
    if not isinstance(inputs, list) or not all(isinstance(one, dict) for one in inputs):
        raise RefusalError(
            400, "the body has no inputs", allowed='{"inputs": [{"name": …, "shape": …}]}', do="send them"
        )
    tensors = _tensors(inputs, inputs_of(schema))
    request = _request(tensors, schema)
    request["time_us"] = request.get("time_us", state.clock.now_us())
    batch = served.reader.read(request).batch
    num = batch.features.num_candidates
    if not 1 <= num <= state.limits.max_candidates:
        raise RefusalError(
            413 if num else 400, "a request cannot have this number of candidates", found=num,
            allowed=f"1 … {state.limits.max_candidates}",
        )  # fmt: skip
    scores = served.bundle.scorer.score(batch)
    state.metrics.scored(num)
    outputs = [
        {"name": name, "datatype": kind, "shape": list(of_CA.shape), "data": of_CA.flatten().tolist()}
        for name, kind, of_CA in (
            ("logits", "FP32", scores.logits_CA),
            ("probabilities", "FP64", scores.probabilities_CA),
        )
    ]
    answer = {"model_name": MODEL, "model_version": served.bundle.id, "outputs": outputs}
    return {**answer, "id": content["id"]} if isinstance(content.get("id"), str) else answer


def _tensors(inputs: list[dict[str, Any]], known: Mapping[str, tuple[str, list[int]]]) -> dict[str, list[Any]]:
    tensors: dict[str, list[Any]] = {}
    for one in inputs:
        name, shape, data = one.get("name"), one.get("shape"), one.get("data")
        if not isinstance(name, str) or name not in known or name in tensors:
            raise RefusalError(
                400, "an input is unknown, or stands twice", found=str(name)[:100], allowed=sorted(known)
            )
        kind, expected = known[name]
        if one.get("datatype") != kind and not (kind == "FP32" and one.get("datatype") == "FP64"):
            raise RefusalError(
                400, f"input {name!r} has another type", found=str(one.get("datatype"))[:20], allowed=kind
            )
        sizes: list[int] = shape if isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape) else []
        fits = len(sizes) == len(expected) and all(e in (-1, n) for n, e in zip(sizes, expected, strict=True))
        size = math.prod(sizes) if fits else -1
        if not isinstance(data, list) or len(data) != size:
            raise RefusalError(400, f"input {name!r} has another shape", found=str(shape)[:100], allowed=expected)
        if not set(map(type, data)) <= {*_KINDS[kind], type(None)}:
            raise RefusalError(400, f"input {name!r} holds what is no {kind}", do="send a flat list of numbers")
        tensors[name] = data
    return tensors


def _request(tensors: Mapping[str, list[Any]], schema: Schema) -> dict[str, Any]:
    request: dict[str, Any] = {"context": {}, "candidates": {}, "history": {}}
    for key in ("member_id", "time_us"):
        if key in tensors:
            request[key] = tensors[key][0]
    for feature in schema.visible_features:
        side = "context" if feature.on == "request" else "candidates"
        name = f"{side}.{feature.name}"
        if name not in tensors:
            continue
        values = tensors[name]
        match feature:
            case Categorical():
                values = [None if value == MISSING_ID else value for value in values]
            case Bag():
                values = _split(values, tensors.get(f"{name}.lengths", []), name)
            case Vector() | Place():
                width = feature.width if isinstance(feature, Vector) else 2
                values = [values[start : start + width] for start in range(0, len(values), width)]
        request[side][feature.name] = values[0] if side == "context" else values
    for sequence in schema.sequences:
        prefix = f"history.{sequence.name}."
        fields = {name.removeprefix(prefix): data for name, data in tensors.items() if name.startswith(prefix)}
        ids = {field.name for field in sequence.fields if isinstance(field, Categorical)}
        if fields:
            request["history"][sequence.name] = {
                name: [None if value == MISSING_ID else value for value in data] if name in ids else data
                for name, data in fields.items()
            }
    return request


def _split(values: list[Any], lengths: list[Any], name: str) -> list[list[Any]]:
    if any(type(n) is not int or n < 0 for n in lengths) or sum(lengths) != len(values):
        raise RefusalError(
            400,
            f"the lists of input {name!r} don't add up",
            found=len(values),
            allowed=f"as many as {name}.lengths says",
        )
    ends = list(accumulate(lengths))
    return [values[end - n : end] for end, n in zip(ends, lengths, strict=True)]
