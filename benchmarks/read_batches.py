"""How fast a flat click log is read, against the ways one would read it otherwise; and how much memory that takes.

    python benchmarks/read_batches.py [--rows N] [--json FILE]

Ten int64 id columns and a label, batches of 8,192, Parquet as pyarrow writes it with row groups of 65,536. All readers
run in turn, several times over, and medians are printed: wall seconds and seconds of processor time (all threads).
`to_batches` only decodes: its rows are neither checked nor shuffled nor tensors.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table, open_log
from rankwell.data.split import HashSplit, Split, WholeLog
from rankwell.schema import Action, Categorical, Schema

NUM_COLUMNS = 10
BATCH = 8_192
SCHEMA = Schema(
    features=tuple(Categorical(name=f"c{i}") for i in range(NUM_COLUMNS)),
    actions=(Action(name="click"),),
    request_id=None,
    member_id=None,
    time=None,
)


def write_log(path: Path, num_rows: int) -> None:
    """A log of ids in [0, 10⁶), written part by part."""
    random = np.random.default_rng(0)
    writer = None
    for first in range(0, num_rows, 2**20):
        rows = min(2**20, num_rows - first)
        columns: dict[str, Any] = {f"c{i}": random.integers(0, 10**6, rows) for i in range(NUM_COLUMNS)}
        table = pa.table(columns | {"click": random.integers(0, 2, rows).astype(np.int8)})
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=65_536)
    assert writer is not None
    writer.close()


def through_batches(path: Path, *, seed: int | None, split: Split) -> Callable[[], int]:
    """The real thing: every value checked, tensors out."""
    batches = Batches(open_log(path, SCHEMA, layout="flat"), split, "train", num_requests=BATCH, seed=seed)
    epochs = iter(range(10**9))
    _ = batches.num_requests_total
    return lambda: sum(batch.features.num_candidates for _, batch in batches.epoch(next(epochs)))


def through_to_batches(path: Path) -> Callable[[], int]:
    """pyarrow's dataset scanner, bare."""
    names = [*(f"c{i}" for i in range(NUM_COLUMNS)), "click"]
    dataset = pyarrow.dataset.dataset(path)
    return lambda: sum(batch.num_rows for batch in dataset.to_batches(columns=names, batch_size=BATCH))


def through_data_loader(path: Path) -> Callable[[], int]:
    """A DataLoader with a shuffling batch sampler over tensors that are in memory already."""
    table = pq.read_table(path)
    ids = torch.stack([torch.from_numpy(table.column(f"c{i}").to_numpy()) for i in range(NUM_COLUMNS)], dim=1)
    dataset = TensorDataset(ids, torch.from_numpy(table.column("click").to_numpy().astype(np.float32)))
    sampler = BatchSampler(RandomSampler(dataset), BATCH, drop_last=False)
    loader = DataLoader(dataset, sampler=sampler, batch_size=None)
    return lambda: sum(len(ids) for ids, _ in loader)


def measured(readers: dict[str, Callable[[], int]], repeats: int) -> Iterator[dict[str, Any]]:
    """Each reader in turn, `repeats` times over; medians."""
    wall: dict[str, list[float]] = {name: [] for name in readers}
    cpu: dict[str, list[float]] = {name: [] for name in readers}
    num_rows = {}
    for _ in range(repeats + 1):  # the first round warms the page cache and the allocator
        for name, read in readers.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            num_rows[name] = read()
            wall[name].append(time.perf_counter() - wall_s)
            cpu[name].append(time.process_time() - cpu_s)
    for name in readers:
        seconds, processor = statistics.median(wall[name][1:]), statistics.median(cpu[name][1:])
        yield {
            "reader": name,
            "rows": num_rows[name],
            "rows_per_s": num_rows[name] / seconds,
            "rows_per_cpu_s": num_rows[name] / processor,
        }


def small_batches(num_rows: int, batch: int, repeats: int) -> float:
    """Wall µs a batch of a log in memory, shuffled: what a training loop on a small log pays."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {f"c{i}": random.integers(0, 10**6, num_rows) for i in range(NUM_COLUMNS)}
    log = log_from_table(pa.table(columns | {"click": random.integers(0, 2, num_rows).astype(np.int8)}), SCHEMA)
    batches = Batches(log, WholeLog("train"), "train", num_requests=batch, seed=0)
    times = []
    for epoch in range(repeats + 1):
        start = time.perf_counter()
        num_batches = sum(1 for _ in batches.epoch(epoch))
        times.append((time.perf_counter() - start) / num_batches * 1e6)
    return statistics.median(times[1:])


def peak_mib(path: Path, seed: int | None) -> float:
    """Peak resident memory of a fresh process that reads the file once."""
    command = [sys.executable, __file__, "--peak", str(path), *([] if seed is None else ["--seed", str(seed)])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(path: Path, seed: int | None) -> None:
    """Read once, and print the peak."""
    through_batches(path, seed=seed, split=WholeLog("train"))()
    status = Path("/proc/self/status")
    if status.exists():  # there getrusage counts what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        print(int(line.split()[1]) / 1024)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak is not None:
        print_peak(arguments.peak, arguments.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        path, longer = Path(folder) / "log.parquet", Path(folder) / "longer.parquet"
        write_log(path, arguments.rows)
        rows = list(
            measured(
                {
                    "Batches, file order": through_batches(path, seed=None, split=WholeLog("train")),
                    "Batches, shuffled": through_batches(path, seed=0, split=WholeLog("train")),
                    "Batches, shuffled, 70 % by hash": through_batches(path, seed=0, split=HashSplit()),
                    "pyarrow to_batches, bare": through_to_batches(path),
                    "DataLoader over tensors in memory": through_data_loader(path),
                },
                arguments.repeats,
            )
        )
        print(f"{'reader':<36}{'M rows/s':>10}{'M rows/CPU-s':>14}")
        for row in rows:
            print(f"{row['reader']:<36}{row['rows_per_s'] / 1e6:>10.2f}{row['rows_per_cpu_s'] / 1e6:>14.2f}")
        per_batch = {batch: small_batches(200_000, batch, arguments.repeats) for batch in (256, 4096)}
        print("\nlog in memory, shuffled: " + ", ".join(f"{us:.0f} µs a batch of {b}" for b, us in per_batch.items()))
        write_log(longer, 4 * arguments.rows)
        peaks = {
            name: {"1×": peak_mib(path, seed), "4×": peak_mib(longer, seed)}
            for name, seed in (("file order", None), ("shuffled", 0))
        }
        for name, peak in peaks.items():
            print(f"peak memory, {name}: {peak['1×']:.0f} MiB, of a file four times as long {peak['4×']:.0f} MiB")
    if arguments.json is not None:
        results = {"readers": rows, "us_per_batch_in_memory": per_batch, "peak_mib": peaks}
        arguments.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
