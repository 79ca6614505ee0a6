"""How fast a server answers, from its own metrics, read by a thread beside the watch."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from rankwell.errors import RequestError

__all__ = ["NUM_MINUTES", "LatencyPoint", "ServerLatency", "bucket_quantile"]

NUM_MINUTES: Final = 120
"""That are remembered."""

_BUCKET: Final = re.compile(r"^rankwell_stage_seconds_bucket\{(?P<labels>[^}]*)\} (?P<count>\S+)", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_MOST_BYTES: Final = 4 * 2**20
_TIMEOUT_S: Final = 3.0
_EVERY_S: Final = 10.0

_MINUTE_S: Final = 60.0

_Buckets = dict[float, float]


@final
@dataclass(frozen=True, slots=True)
class LatencyPoint:
    """The requests of a minute.

    Args:
        minute: Counted from when the server was first asked.
        p50_ms, p95_ms: ∞ where it is beyond the server's last bucket.
    """

    minute: int
    p50_ms: float
    p95_ms: float


@final
class ServerLatency:
    """Asks for the metrics every ten seconds; what is shown is of the requests between the last two answers.

    Args:
        url: Of the server, as `http://127.0.0.1:8000`.
        elapsed_s: Seconds that never go backwards.

    Raises:
        RequestError: It is no URL of HTTP.
    """

    def __init__(self, url: str, *, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        if not url.startswith(("http://", "https://")):
            raise RequestError("the server's URL is none", found=url[:100], allowed="http://… or https://…")
        self._url, self._elapsed_s = f"{url.rstrip('/')}/metrics", elapsed_s
        self._before: tuple[float, _Buckets] | None = None
        self._shown = {"the server's latency": "–"}
        self._began_s = elapsed_s()
        self._minute: tuple[int, _Buckets] | None = None
        self._points: deque[LatencyPoint] = deque(maxlen=NUM_MINUTES)
        self._is_over = threading.Event()
        threading.Thread(target=self._run, name="latency", daemon=True).start()

    def shown(self) -> dict[str, str]:
        """What it is to text, for a page."""
        return self._shown

    def points(self) -> tuple[LatencyPoint, ...]:
        """Of the last two hours, the oldest first; none of a minute without requests, or in which it was not heard."""
        return tuple(self._points)

    def close(self) -> None:
        """Ask no more."""
        self._is_over.set()

    def look(self) -> None:
        """Ask once."""
        try:
            with urllib.request.urlopen(self._url, timeout=_TIMEOUT_S) as answer:
                counts = _buckets(answer.read(_MOST_BYTES).decode("utf-8", "replace"))
        except (OSError, ValueError):
            self._before = self._minute = None
            self._shown = {"the server does not say its latency": "–"}
            return
        now_s, before = self._elapsed_s(), self._before
        self._before = now_s, counts
        self._remember(int((now_s - self._began_s) / _MINUTE_S), counts)
        if before is None:
            return
        since = _since(before[1], counts)
        num = max(since.values(), default=0.0)
        if num == 0:
            self._shown = {f"requests in {now_s - before[0]:.0f} s": "0"}
            return
        p50, p95 = (bucket_quantile(since, share) for share in (0.5, 0.95))
        self._shown = {
            "ms, P50 / P95 of requests": f"{_ms(p50)} / {_ms(p95)}",
            "requests a second": f"{num / max(now_s - before[0], 1e-9):.1f}",
        }

    def _remember(self, minute: int, counts: _Buckets) -> None:
        """A point where a minute is over."""
        if self._minute is not None and minute == self._minute[0]:
            return
        if self._minute is not None:
            since = _since(self._minute[1], counts)
            if max(since.values(), default=0.0) > 0:
                p50, p95 = (1e3 * bucket_quantile(since, share) for share in (0.5, 0.95))
                self._points.append(LatencyPoint(self._minute[0], p50, p95))
        self._minute = minute, counts

    def _run(self) -> None:
        while not self._is_over.is_set():
            self.look()
            self._is_over.wait(_EVERY_S)


def bucket_quantile(counts: _Buckets, share: float) -> float:
    """A quantile from cumulative counts by upper edge, evenly spread within a bucket; ∞ above the last finite edge.

    >>> bucket_quantile({0.001: 50.0, 0.002: 90.0, float("inf"): 100.0}, 0.7)
    0.0015
    """
    wanted, low, below = share * max(counts.values()), 0.0, 0.0
    for edge, count in sorted(counts.items()):
        if count >= wanted:
            within = (wanted - below) / (count - below) if count > below else 1.0
            return edge if edge == float("inf") else low + (edge - low) * within
        low, below = edge, count
    return float("inf")


def _buckets(text: str) -> _Buckets:
    found: _Buckets = {}
    for match in _BUCKET.finditer(text):
        labels = dict(_LABEL.findall(match["labels"]))
        if labels.get("stage") == "all":
            edge = float(labels["le"])
            found[edge] = found.get(edge, 0.0) + float(match["count"])
    return found


def _since(before: _Buckets, counts: _Buckets) -> _Buckets:
    """What was counted between two looks; a server that was started anew counts from 0."""
    return {edge: max(count - before.get(edge, 0.0), 0.0) for edge, count in counts.items()}


def _ms(seconds: float) -> str:
    return "> 100" if seconds == float("inf") else f"{1e3 * seconds:.1f}"
