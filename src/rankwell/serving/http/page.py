"""A page to try the server with: a request in, its list out."""

from __future__ import annotations

from importlib import resources
from typing import Final

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from rankwell.serving.http.server_state import Asked, ServerState, bytes_response

__all__ = ["page_routes"]

_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def page_routes(state: ServerState) -> list[HTTPRouteHandler]:
    """The page at ``/``."""
    content = resources.files(__package__).joinpath("page.html").read_bytes()

    @get("/")
    async def page(request: Asked) -> Response[bytes]:
        state.metrics.answered("/", 200)
        return bytes_response(content, "text/html; charset=utf-8", headers=_HEADERS)

    return [page]
