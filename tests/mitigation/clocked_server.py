"""`rankwell serve` of a folder of bundles, by a clock that stands in a file: one int64, UTC microseconds.

python tests/mitigation/clocked_server.py ROOT LOG CLOCK
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from rankwell.serving.http.serve_settings import ServeSettings
from rankwell.serving.http.server_state import ServerLimits
from rankwell.serving.http.supervisor import serve
from rankwell.serving.server_clock import ServerClock


def main() -> int:
    """Serve until SIGTERM."""
    root, log, clock = map(Path, sys.argv[1:])
    time_us = np.memmap(clock, np.int64, "r", shape=(1,))
    settings = ServeSettings(root, port=0, log=log, limits=ServerLimits(deadline_ms=60_000.0))
    return serve(settings, clock=ServerClock(lambda: int(time_us[0]), time.perf_counter), on_ready=_say)


def _say(url: str) -> None:
    sys.stdout.write(f"answering at {url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
