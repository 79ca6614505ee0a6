"""What an administrator may change while the server runs: the bundles that answer."""

from __future__ import annotations

from typing import Any, Literal

from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.server_state import JSON, Asked, ServerState
from rankwell.serving.rollout import Rollout, RolloutFolder

__all__ = ["admin_routes"]


def admin_routes(state: ServerState) -> list[HTTPRouteHandler]:
    """The routes of administrators. What they change holds for all servers of the folder, within a second."""

    @post("/v1/admin/deploy", status_code=200)
    async def deploy(request: Asked) -> Response[bytes]:
        given = await _fields(state, request, path=True)
        folder = _folder(state)
        return await _moved(state, request, lambda: folder.deploy(given["path"]))

    @post("/v1/admin/rollback", status_code=200)
    async def rollback(request: Asked) -> Response[bytes]:
        state.client(request, "admin")
        folder = _folder(state)
        return await _moved(state, request, folder.rollback)

    @post("/v1/admin/canary", status_code=200)
    async def canary(request: Asked) -> Response[bytes]:
        return await _trial(state, request, "canary")

    @post("/v1/admin/shadow", status_code=200)
    async def shadow(request: Asked) -> Response[bytes]:
        return await _trial(state, request, "shadow")

    return [deploy, rollback, canary, shadow]


async def _trial(state: ServerState, request: Asked, role: Literal["canary", "shadow"]) -> Response[bytes]:
    given = await _fields(state, request, path=False)
    folder, path, share = _folder(state), given.get("path"), given.get("share", 0.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise RefusalError(400, "'share' is no share", found=str(share)[:40], allowed="0 to 1", do="send a number")
    return await _moved(state, request, lambda: folder.try_on(role, path, float(share)))


async def _moved(state: ServerState, request: Asked, move: Any) -> Response[bytes]:
    def move_and_look() -> Rollout:
        rollout: Rollout = move()
        state.service.live.poll()  # this worker at once, the others within a second
        return rollout

    return state.json(request, (await state.in_thread(move_and_look)).model_dump())


async def _fields(state: ServerState, request: Asked, *, path: bool) -> dict[str, Any]:
    state.client(request, "admin")
    state.content_type(request, JSON)
    content = state.decoded(await state.body(request, max_bytes=state.limits.max_body_bytes))
    allowed = {"path"} if path else {"path", "share"}
    is_known = isinstance(content, dict) and set(content) <= allowed and (not path or "path" in content)
    if not is_known or not isinstance(content.get("path"), str if path else str | None):
        raise RefusalError(
            400, "the body does not say what to deploy", allowed='{"path": "a bundle"}' if path else
            '{"path": "a bundle", "share": 0.05}, or {"path": null} to end the trial', do="send one JSON object",
        )  # fmt: skip
    if "\0" in (content.get("path") or ""):
        raise RefusalError(400, "'path' is no path", do="send the path of a bundle on the server's disk")
    found: dict[str, Any] = content
    return found


def _folder(state: ServerState) -> RolloutFolder:
    folder = state.service.live.folder
    if folder is None:
        raise RefusalError(
            409, "this server serves one bundle, and follows no folder",
            do="rankwell deploy ROOT BUNDLE, and start it with rankwell serve ROOT",
        )  # fmt: skip
    return folder
