"""The OpenAPI document of a server, with the columns of its schema in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import rankwell
from rankwell.schema import Bag, Categorical, Numeric, Place, Schema, Vector
from rankwell.schema.columns import Feature
from rankwell.serving.http.server_state import ARROW, JSON, PROBLEM, ServerLimits

__all__ = ["open_api"]

_Json = dict[str, Any]
_ID: Final[_Json] = {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, {"type": "string"}]}
_WHOLE: Final[_Json] = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_NUMBER: Final[_Json] = {"type": "number", "minimum": -3.4e38, "maximum": 3.4e38}
_WHAT: Final = {
    400: "The request is not as the schema says", 401: "No known token", 403: "The token lacks the scope",
    404: "There is no such model", 408: "The body came too slowly", 409: "The bundle is refused",
    413: "The body, or the number of candidates, is too large", 415: "Another content type",
    429: "The client has its share of the queue", 503: "Busy, draining, or the disk of the log is full",
}  # fmt: skip


def open_api(schema: Schema, limits: ServerLimits, *, has_tokens: bool, has_key: bool) -> _Json:
    """The document.

    Args:
        schema: Of the bundles that are served.
        limits: Of the server.
        has_tokens: Whether a token is asked for.
        has_key: Whether member ids are raw, and may be text.
    """
    secured: _Json = {"security": [{"token": []}]} if has_tokens else {}
    request, answer = _request(schema, limits, has_key), _answer(schema)
    deadline = {
        "name": "Deadline-Ms", "in": "header", "required": False,
        "schema": {"type": "number", "minimum": 1, "maximum": limits.deadline_ms},
    }  # fmt: skip
    arrow = {"schema": {"type": "string", "format": "binary"}}
    asked = (400, 401, 403, 408, 413, 415, 429, 503)
    admin = (400, 401, 403, 408, 409, 413, 415)
    path, share = {"type": "string", "minLength": 1}, {"type": "number", "minimum": 0, "maximum": 1}
    trial = {"type": "object", "required": [], "additionalProperties": False,
             "properties": {"path": {**path, "type": ["string", "null"]}, "share": share}}  # fmt: skip
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": ["rankwell"]}}
    paths: _Json = {
        "/v1/rank": {"post": {
            **secured, "summary": "Rank the candidates of a request", "parameters": [deadline],
            "requestBody": {"required": True, "content": {JSON: {"schema": request}, ARROW: arrow}},
            "responses": {
                "200": {"description": "The list, best first", "content": {JSON: {"schema": answer}, ARROW: arrow}},
                **_refused(*asked),
            },
        }},
        "/v1/actions": {"post": {
            **secured, "summary": "Report what members did", "requestBody": _body(_actions(schema)),
            "responses": {**_ok(_object(num_new=_WHOLE, num_sent=_WHOLE)), **_refused(*asked)},
        }},
        **{f"/v1/admin/{verb}": {"post": {
            **secured, "summary": what, **({} if body is None else {"requestBody": _body(body)}),
            "responses": {**_ok({"type": "object"}), **_refused(*admin)},
        }} for verb, what, body in (
            ("deploy", "Let a bundle answer", {**_object(path=path), "additionalProperties": False}),
            ("rollback", "Go back to the bundle before", None),
            ("canary", "Let a bundle answer a share of the members", trial),
            ("shadow", "Let a bundle score a share of the requests, unseen", trial),
        )},
        "/v2": {"get": {"summary": "The server", "responses": _ok(_object(name={"type": "string"}))}},
        "/v2/health/live": {"get": {"summary": "Whether it runs", "responses": _ok(_object(live={"type": "boolean"}))}},
        "/v2/health/ready": {"get": {
            "summary": "Whether it takes requests, and what is wrong",
            "responses": {**_ok(_ready()), "503": {"description": "Draining", "content": {JSON: {"schema": _ready()}}}},
        }},
        "/v2/models/{name}": {"get": {
            "summary": "Inputs and outputs", "parameters": [name],
            "responses": {**_ok(_object(name={"type": "string"})), **_refused(404)},
        }},
        "/v2/models/{name}/ready": {"get": {
            "summary": "Whether it answers", "parameters": [name],
            "responses": {**_ok(_object(ready={"type": "boolean"})), **_refused(404),
                          "503": {"description": "Draining", "content": {JSON: {"schema": {"type": "object"}}}}},
        }},
        "/v2/models/{name}/infer": {"post": {
            **secured, "summary": "Logits and probabilities", "parameters": [name, deadline],
            "requestBody": _body(_object(inputs={"type": "array", "items": _tensor()})),
            "responses": {
                **_ok(_object(outputs={"type": "array", "items": {"type": "object"}})), **_refused(404, *asked),
            },
        }},
        "/v1/example": {"get": {
            "summary": "A request that is made up",
            "parameters": [{"name": "num_candidates", "in": "query", "required": False,
                            "schema": {"type": "integer", "minimum": 1, "maximum": limits.max_candidates}}],
            "responses": {**_ok(request), **_refused(400)},
        }},
        "/v1/attention": {"post": {
            **secured, "summary": "What heads of attention attend to", "parameters": [deadline],
            "requestBody": _body(request),
            "responses": {
                **_ok(_object(heads={"type": "array", "items": {"type": "object"}})), **_refused(409, *asked),
            },
        }},
        "/metrics": {"get": {"summary": "For Prometheus", "responses": {
            "200": {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}}}},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "rankwell", "version": rankwell.__version__},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if has_tokens else {},
    }


def _member(has_key: bool) -> _Json:
    return _ID if has_key else _WHOLE


def _request(schema: Schema, limits: ServerLimits, has_key: bool) -> _Json:
    sides: dict[str, _Json] = {"context": {}, "candidates": {}}
    for feature in (*schema.features, *schema.protected):
        if feature.on == "request":
            is_member = isinstance(feature, Categorical) and (feature.column or feature.name) == schema.member_id
            sides["context"][feature.name] = _member(has_key) if is_member else _value(feature)
        else:
            sides["candidates"][feature.name] = _list(_value(feature))
    if schema.bid is not None:
        sides["candidates"][schema.bid] = _list(_WHOLE)
    if schema.item is not None:
        at_most = {"minItems": 1, "maxItems": limits.max_candidates, "uniqueItems": True}
        sides["candidates"][schema.item] = {**sides["candidates"][schema.item], **at_most}
    history: _Json = {}
    for sequence in schema.sequences:
        fields = {field.name: _list(_value(field)) for field in sequence.fields}
        if sequence.time is not None:
            fields[sequence.time] = _list(_WHOLE)
        history[sequence.name] = {"type": "object", "properties": fields, "required": list(fields)}
    candidates = _closed(sides["candidates"])
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["candidates"],
        "properties": {
            "request_id": {"anyOf": [_ID, {"type": "null"}]},
            "member_id": {"anyOf": [_member(has_key), {"type": "null"}]},
            "time_us": {"anyOf": [_WHOLE, {"type": "null"}]},
            "context": _closed(sides["context"]),
            "history": _closed(history),
            "candidates": {**candidates, "required": [schema.item]} if schema.item is not None else candidates,
            "length": {"type": ["integer", "null"], "minimum": 1, "maximum": 2**31 - 1},
        },
    }


def _value(feature: Feature) -> _Json:
    match feature:
        case Categorical():
            return {"anyOf": [_ID, {"type": "null"}]} if feature.missing == "row" else _ID
        case Numeric():
            return _NUMBER if feature.missing == "refuse" else {**_NUMBER, "type": ["number", "null"]}
        case Bag():
            return _list(_ID)
        case Vector() | Place():
            width = feature.width if isinstance(feature, Vector) else 2
            return {**_list(_NUMBER), "minItems": width, "maxItems": width}


def _answer(schema: Schema) -> _Json:
    ints, floats = _list(_WHOLE), _list({"type": "number"})
    items = _object(
        item_id=ints, place=ints, position=ints, propensity=floats, utility=floats,
        probability=_object(**{action.name: floats for action in schema.actions}),
    )  # fmt: skip
    return _object(
        request_id=_WHOLE, bundle_id={"type": "string"}, correction_id={"type": ["string", "null"]},
        is_logged={"type": "boolean"}, action={"type": "string"}, items=items,
        num_missing=_object(items=_WHOLE, member=_WHOLE), num_cut_events={"type": "object"},
    )  # fmt: skip


def _actions(schema: Schema) -> _Json:
    kinds = []
    for action in schema.actions:
        entry = _object(request_id=_WHOLE, item_id=_WHOLE, action={"const": action.name}, time_us=_WHOLE)
        if action.kind == "graded":
            entry["properties"]["grade"] = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
            entry["required"].append("grade")
        else:
            entry["properties"]["grade"] = {"type": "null"}
        entry["properties"]["key"] = {"type": ["string", "null"], "maxLength": 1_000}
        kinds.append({**entry, "additionalProperties": False})
    entries = {"type": "array", "maxItems": 10_000, "items": {"oneOf": kinds}}
    return {**_object(actions=entries), "additionalProperties": False}


def _tensor() -> _Json:
    return _object(
        name={"type": "string"},
        shape=_list(_WHOLE),
        datatype={"type": "string", "enum": ["INT64", "FP32", "FP64"]},
        data=_list({"type": ["number", "null"]}),
    )


def _ready() -> _Json:
    return _object(ready={"type": "boolean"}, is_draining={"type": "boolean"}, problems={"type": "object"})


def _list(items: Mapping[str, Any]) -> _Json:
    return {"type": "array", "items": dict(items)}


def _object(**properties: Mapping[str, Any]) -> _Json:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _closed(properties: Mapping[str, Any]) -> _Json:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _body(schema: Mapping[str, Any]) -> _Json:
    return {"required": True, "content": {JSON: {"schema": dict(schema)}}}


def _ok(schema: Mapping[str, Any]) -> _Json:
    return {"200": {"description": "The answer", "content": {JSON: {"schema": dict(schema)}}}}


def _refused(*statuses: int) -> _Json:
    problem = _object(status={"type": "integer"}, title={"type": "string"}, detail={"type": "string"})
    return {
        str(status): {"description": _WHAT[status], "content": {PROBLEM: {"schema": problem}}} for status in statuses
    }
