"""A server whose clock is stepped from outside: `rankwell serve`'s own, by the system's clock plus a shift.

python benchmarks/contenders/stepped_server.py ROOT FEATURES LOG SHIFT WORKERS

SHIFT is a file of one int64: microseconds, mapped by all workers, so that a step holds for all of them at once.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from rankwell.serving.http.serve_settings import ServeSettings, StoreSettings
from rankwell.serving.http.supervisor import serve
from rankwell.serving.server_clock import ServerClock


def main() -> int:
    """Serve until SIGTERM."""
    root, features, log, shift_file, workers = sys.argv[1:]
    shift_us = np.memmap(shift_file, np.int64, "r", shape=(1,))
    clock = ServerClock(lambda: time.time_ns() // 1_000 + int(shift_us[0]), time.perf_counter)
    store = StoreSettings(features)
    settings = ServeSettings(Path(root), port=0, num_workers=int(workers), store=store, log=Path(log))
    return serve(settings, clock=clock, on_ready=lambda url: print(f"answering at {url}", flush=True))


if __name__ == "__main__":
    sys.exit(main())
