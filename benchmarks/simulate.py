"""How fast the marketplace simulates: candidate rows a second, in memory and to files, on two threads.

    python benchmarks/simulate.py [--requests N] [--repeats N] [--json FILE]

The reach is 200,000 candidate rows a second on 2 cores. CPU-µs a row say the same on a machine with other load.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from rankwell.simulation.marketplace import CHUNK_REQUESTS, Marketplace, MarketplaceSettings
from rankwell.simulation.simulate import simulate, simulate_tables

REACH = 200_000


def best(run: Callable[[], int], repeats: int) -> tuple[float, float, int]:
    """The least wall and CPU seconds of some runs, and the rows of one."""
    walls, cpus, num_rows = [], [], 0
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        num_rows = run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus), num_rows


def rows_of(log: pa.Table) -> int:
    return int(sum(len(chunk.flatten()) for chunk in log["job_id"].chunks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=40_960)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the measurements here")
    arguments = parser.parse_args()
    settings, requests = MarketplaceSettings(), arguments.requests
    marketplace = Marketplace.create(settings, 1)

    def draw() -> int:
        chunks = range(-(-requests // CHUNK_REQUESTS))
        return sum(len(marketplace.chunk(number).pages.job_C) for number in chunks)

    def write() -> int:
        with tempfile.TemporaryDirectory() as folder:
            paths = simulate(settings, 1, num_requests=requests, directory=folder)
            return sum(rows_of(pq.read_table(part, columns=["job_id"])) for part in paths.log.iterdir())

    stages: dict[str, Callable[[], int]] = {
        "arrays, one thread": draw,
        "Arrow tables, two threads": lambda: rows_of(simulate_tables(settings, 1, requests)[0]),
        "log and truth as files, two threads": write,
    }
    measured = {}
    table = Table("stage", "candidate rows", "wall s", "rows/s", "CPU-µs/row", f"≥ {REACH:,}/s")
    for stage, run in stages.items():
        wall_s, cpu_s, num_rows = best(run, arguments.repeats)
        rate = num_rows / wall_s
        measured[stage] = {
            "rows": num_rows,
            "wall_s": wall_s,
            "rows_per_s": rate,
            "cpu_us_per_row": cpu_s / num_rows * 1e6,
        }
        met = "yes" if rate >= REACH else "no"
        table.add_row(stage, f"{num_rows:,}", f"{wall_s:.2f}", f"{rate:,.0f}", f"{cpu_s / num_rows * 1e6:.2f}", met)
    Console().print(table)
    if arguments.json is not None:
        machine = {"processor": platform.processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
        arguments.json.write_text(json.dumps({"machine": machine, "requests": requests, "stages": measured}, indent=1))


if __name__ == "__main__":
    main()
