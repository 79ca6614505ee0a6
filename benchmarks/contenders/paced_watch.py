"""A watch of a folder whose rounds follow each other by so many seconds, in place of one a quarter-hour.

python benchmarks/contenders/paced_watch.py FOLDER SEGMENT SECONDS

It says of each round, in a line of JSON, how many rows of the log came and what CPU time it took, until SIGTERM.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rankwell.mitigation.kept_watch import KeptWatch, WatchSettings


def main() -> None:
    """Round after round."""
    folder, segment, seconds = sys.argv[1:]
    settings = WatchSettings(folder=Path(folder), segment=segment)
    with KeptWatch(
        settings, now_us=lambda: time.time_ns() // 1_000, say=lambda text: print(text, file=sys.stderr)
    ) as watch:
        while True:
            began_s, cpu_s = time.perf_counter(), time.process_time()
            num_rows = watch.look().report.num_rows
            watch.keep()
            print(json.dumps({"rows": num_rows, "cpu_s": time.process_time() - cpu_s}), flush=True)
            time.sleep(max(0.0, began_s + float(seconds) - time.perf_counter()))


if __name__ == "__main__":
    main()
