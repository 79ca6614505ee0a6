"""``POST /v1/actions``: what members did."""

from __future__ import annotations

from typing import Any, Final

from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from rankwell.serving.action_log import ReportedAction
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.server_state import JSON, Asked, ServerState

__all__ = ["action_routes"]

_MOST_ACTIONS: Final = 10_000
_ACTION_FIELDS: Final = {"request_id", "item_id", "action", "time_us", "grade", "key"}


def action_routes(state: ServerState) -> list[HTTPRouteHandler]:
    """The route of clients that report."""

    @post("/v1/actions", status_code=200)
    async def actions(request: Asked) -> Response[bytes]:
        state.client(request, "rank")
        state.content_type(request, JSON)
        content = state.decoded(await state.body(request, max_bytes=state.limits.max_body_bytes))
        reported = _actions(content)
        if state.action_log is None:
            raise RefusalError(503, "this server logs nothing", do="start it with --log FOLDER", retry_after_s=60)
        return state.json(request, {"num_new": state.action_log.append(reported), "num_sent": len(reported)})

    return [actions]


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
