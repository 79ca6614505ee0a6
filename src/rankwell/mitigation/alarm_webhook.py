"""Alarms by HTTP: a signed POST of JSON, tried again, by a thread that nobody waits for."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import urlsplit

from rankwell.errors import RequestError
from rankwell.mitigation.watch_view import WatchView, segment_text
from rankwell.monitoring.alarm_runs import AlarmRun

__all__ = ["SIGNATURE", "TIMESTAMP", "WebhookSink", "alarm_message", "read_webhook_key", "signature"]

SIGNATURE: Final = "X-Rankwell-Signature"
TIMESTAMP: Final = "X-Rankwell-Timestamp"
_LOG: Final = logging.getLogger("rankwell.watching")
_LEAST_KEY: Final = 16
_MOST_WAITING: Final = 100
_AGAIN: Final = (408, 425, 429)


def signature(key: bytes, timestamp_s: int, body: bytes) -> str:
    """``hex(HMAC-SHA256(key, timestamp + "." + body))``: the body can't be changed, nor an old one be sent as new.

    >>> signature(b"k" * 16, 1_800_000_000, b"{}")[:12]
    '8a76cee95b6f'
    """
    return hmac.new(key, f"{timestamp_s}.".encode() + body, hashlib.sha256).hexdigest()


def read_webhook_key(path: str | Path) -> bytes:
    """The key in a file, without the white space around it.

    Raises:
        RequestError: It can't be read, or is short enough to be guessed.
    """
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise RequestError(f"no key at {path}", found=error.strerror, do="openssl rand -hex 32 > FILE") from None
    if len(key) < _LEAST_KEY:
        raise RequestError(
            "the webhook's key is short", found=f"{len(key)} bytes", allowed=f"{_LEAST_KEY} and more",
            do="openssl rand -hex 32 > FILE",
        )  # fmt: skip
    return key


def alarm_message(view: WatchView) -> dict[str, Any]:
    """What is sent of a round: what is new, what is over, what was decided, and all that is in force."""

    def plain(run: AlarmRun) -> dict[str, Any]:
        found = next(
            (
                one for one in view.report.readings
                if one.is_alarm and one.key == run.key
            ),
            None,
        )  # fmt: skip
        numbers = {} if found is None else {
            name: value if math.isfinite(value) else None
            for name, value in (("value", found.value), ("limit", found.limit), ("num_rows", found.num_rows))
        }  # fmt: skip
        return {**asdict(run), "where": segment_text(view.feature, run.segment), **numbers}

    return {
        "format_version": 1,
        "now_us": view.now_us,
        "window_end_us": view.report.window_end_us,
        "bundle_id": view.bundle_id,
        "action": view.action,
        "new": [plain(run) for run in view.report.new_alarms],
        "over": [plain(run) for run in view.ended],
        "in_force": [plain(run) for run in view.standing],
        "correction": None if view.correction is None else view.correction.model_dump(mode="json"),
        "decisions": [
            {"sequence": one.sequence, "kind": one.kind, "reason": one.reason} for one in view.report.decisions
        ],
    }


@final
class WebhookSink:
    """Sends a message for each round with news, oldest first, each tried several times within its time.

    Anything but 2xx is a failure: 408, 425, 429, 5xx and what the network does are tried again, others are not. No
    redirect is followed. What can't be sent is said in the process's log; the next message holds all alarms in force.

    Args:
        url: http or https.
        key: Of the signature.
        now_us: UTC microseconds, for the timestamp.
        timeout_s: Of one attempt's every wait for the network.
        give_up_s: After so long no further attempt at a message is begun.
        first_pause_s: Before the second attempt; each further one is twice as long.
        close_s: So long `close` waits for what is under way.
        elapsed_s: Seconds that never go backwards.

    Raises:
        RequestError: The URL is none.
    """

    def __init__(
        self,
        url: str,
        key: bytes,
        *,
        now_us: Callable[[], int],
        timeout_s: float = 5.0,
        give_up_s: float = 120.0,
        first_pause_s: float = 1.0,
        close_s: float = 5.0,
        elapsed_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = _checked(url)
        self._key, self._now_us, self._elapsed_s = key, now_us, elapsed_s
        self._timeout_s, self._give_up_s, self._first_pause_s = timeout_s, give_up_s, first_pause_s
        self._close_s = close_s
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._is_closing = threading.Event()
        self.num_sent = 0
        self.num_lost = 0
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def tell(self, view: WatchView) -> None:
        """See `AlarmSink`."""
        if not view.is_news:
            return
        try:
            self._waiting.put_nowait(json.dumps(alarm_message(view), allow_nan=False).encode())
        except queue.Full:
            self._lost("too many messages wait")

    def close(self) -> None:
        """See `AlarmSink`: an attempt under way is waited for, no pause."""
        self._is_closing.set()
        with suppress(queue.Full):  # then it ends with the process
            self._waiting.put_nowait(None)
        self._thread.join(self._close_s)

    def _run(self) -> None:
        while True:
            body = self._waiting.get()
            if body is None:
                return
            try:
                self._deliver(body)
            except Exception as error:  # one message that can't be sent must not be the last
                self._lost(f"{type(error).__name__}: {error}")

    def _deliver(self, body: bytes) -> None:
        until_s, pause_s, why = self._elapsed_s() + self._give_up_s, self._first_pause_s, ""
        while True:
            try:
                status = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                status, why = 0, f"{type(error).__name__}: {error}"
            if 200 <= status < 300:
                self.num_sent += 1
                return
            why = f"status {status}" if status else why
            is_final = bool(status) and status < 500 and status not in _AGAIN
            if is_final or self._elapsed_s() + pause_s > until_s or self._is_closing.wait(pause_s):
                self._lost(why)
                return
            pause_s *= 2

    def _post(self, body: bytes) -> int:
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self._timeout_s)
        timestamp_s = self._now_us() // 1_000_000
        headers: Mapping[str, str] = {
            "Content-Type": "application/json",
            TIMESTAMP: str(timestamp_s),
            SIGNATURE: f"sha256={signature(self._key, timestamp_s, body)}",
        }
        try:
            connection.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def _lost(self, why: str) -> None:
        self.num_lost += 1
        _LOG.error("a message to the webhook at %s was not taken: %s", urlsplit(self._url).hostname, why)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url or not url.isascii() or any(sign <= " " for sign in url):
        raise RequestError("the webhook's URL is none", found=url[:100], allowed="http://… or https://…")
    return url
