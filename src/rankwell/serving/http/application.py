"""The application of a worker: all routes but that of ranking, and what every error becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Litestar, Response, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from rankwell.serving.http.action_routes import action_routes
from rankwell.serving.http.admin_routes import admin_routes
from rankwell.serving.http.metrics import CONTENT_TYPE
from rankwell.serving.http.open_api import open_api
from rankwell.serving.http.page import page_routes
from rankwell.serving.http.protocol_v2 import protocol_v2_routes
from rankwell.serving.http.readiness import report
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.server_state import Asked, ServerState, bytes_response

__all__ = ["application"]


def application(state: ServerState) -> Litestar:
    """What stands behind a worker's `FrontDoor`."""
    routes = [
        *action_routes(state),
        *admin_routes(state),
        *protocol_v2_routes(state),
        *page_routes(state),
        *_own_routes(state),
    ]

    paths = {path for route in routes for path in route.paths}

    def refused(request: Asked, error: Exception) -> Response[bytes]:
        reply = state.refused(error, request.url.path if request.url.path in paths else "other")
        return Response(reply.content, status_code=reply.status, headers=reply.headers)

    def of_http(request: Asked, error: HTTPException) -> Response[bytes]:
        refusal = RefusalError(error.status_code, "there is nothing here" if error.status_code == 404 else error.detail)
        response = refused(request, refusal)
        for name, value in (error.headers or {}).items():
            response.headers[name] = value
        return response

    handlers: Mapping[Any, Any] = {HTTPException: of_http, Exception: refused}

    async def last_one(response: Response[Any]) -> Response[Any]:  # one that isn't async is run in another thread
        if state.is_draining:
            response.headers["connection"] = "close"
        return response

    return Litestar(
        routes,
        exception_handlers=dict(handlers),
        after_request=last_one,
        openapi_config=None,
        logging_config=None,
        request_max_body_size=None,
    )


def _own_routes(state: ServerState) -> list[HTTPRouteHandler]:
    live = state.service.live
    document = open_api(
        live.state.current.bundle.schema, state.limits, has_tokens=not state.tokens.is_open, has_key=live.has_key
    )

    @get("/metrics")
    async def metrics(request: Asked) -> Response[bytes]:
        await state.in_thread(lambda: report(state))
        return bytes_response(state.metrics.text(), CONTENT_TYPE)

    @get("/schema/openapi.json")
    async def openapi(request: Asked) -> Response[bytes]:
        return state.json(request, document)

    return [metrics, openapi]
