"""The time that a server goes by, passed in from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

__all__ = ["ServerClock"]


@final
@dataclass(frozen=True, slots=True)
class ServerClock:
    """When it is, and how long something took: two clocks, since the first may be set back while a request runs.

    Args:
        now_us: UTC microseconds: times of requests, expiry of corrections, age of segments.
        elapsed_s: Seconds from anywhere that never go backwards: deadlines and latencies.
    """

    now_us: Callable[[], int]
    elapsed_s: Callable[[], float]

    @classmethod
    def of_the_system(cls) -> ServerClock:
        """The operating system's."""
        return cls(now_us=lambda: time.time_ns() // 1_000, elapsed_s=time.perf_counter)
