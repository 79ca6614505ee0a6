"""What a growing table takes: bytes a row as resident memory, the longest pause while it grows, and with eviction.

A table of its own process is filled with new ids by training steps, 8,192 a step, row-wise AdaGrad, until all have a
row. Bytes a row are what the process has grown by, index, row, state and slack included, over the ids seen. The pause
is the longest step of the fill less the median one. A machine that is shared, or only lent, has pauses of its own in
there: how long they are is read from as many steps that follow on the same ids, when nothing grows any more. With
eviction, ids of Zipf's law over 10⁹ possible ones keep coming, and memory is read ten times on the way.

    python benchmarks/row_memory.py [--json FILE] [--rows N] [--samples N] [--max-rows N]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from contenders.findings import Findings
from contenders.turns import Contender
from contenders.zipf import scattered, zipf_ranks

BATCH, WIDTH, NUM_POSSIBLE = 8192, 16, 10**9
MOST_BYTES = {"float32": 115, "bfloat16": 81}


def new_ids(path: Path, num_rows: int) -> None:
    """Ids that all differ, S × 1 × B."""
    ranks = np.arange(num_rows // BATCH * BATCH).reshape(-1, 1, BATCH)
    np.save(path, scattered(ranks, NUM_POSSIBLE))


def zipf_ids(path: Path, num_samples: int) -> None:
    """Ids of which many were met and many are new, S × 1 × B."""
    shape = (num_samples // BATCH, 1, BATCH)
    np.save(path, scattered(zipf_ranks(shape, NUM_POSSIBLE, np.random.default_rng(0)), NUM_POSSIBLE))


def fill(findings: Findings, dtype: str, ids: Path, num_rows: int, given: argparse.Namespace) -> None:
    """Fill a table, a few times over, and say what it took."""
    asked = {"ids": str(ids), "sizes": [NUM_POSSIBLE], "width": WIDTH, "growing": True, "dtype": dtype}
    pauses, still = [], []
    for _ in range(given.fills):
        contender = Contender(dtype, "rankwell_table", asked, threads=given.threads)
        contender.round(num_rows // BATCH)
        contender.round(num_rows // BATCH)  # the same ids once more
        contender.leave()
        figures, again = contender.figures(0, 1), contender.figures(1, 2)
        pauses.append(figures.longest_ms - figures.wall_ms)
        still.append(again.longest_ms - again.wall_ms)
    seen = figures.facts["num_seen"]
    case = f"{seen:,} rows × {WIDTH} in {dtype}"
    findings.add(f"{case}: resident bytes a row", figures.facts["grown/VmRSS"] / seen, at_most=MOST_BYTES[dtype])
    findings.add(f"{case}: bytes a row by the table's own count", figures.facts["num_bytes"] / seen)
    findings.add(f"{case}: longest pause while growing, median of fills", statistics.median(pauses), "ms", at_most=20)
    findings.add(f"{case}: longest pause while growing, of all fills", max(pauses), "ms")
    findings.add(f"{case}: longest pause while nothing grows, median of fills", statistics.median(still), "ms")
    findings.add(f"{case}: longest pause while nothing grows, of all fills", max(still), "ms")
    findings.add(f"{case}: median step of {BATCH:,} new ids", figures.wall_ms, "ms")


def evict(findings: Findings, ids: Path, given: argparse.Namespace) -> None:
    """Let ids come and go, and say whether memory stays."""
    asked = {"ids": str(ids), "sizes": [NUM_POSSIBLE], "width": WIDTH, "growing": True, "max_rows": given.max_rows}
    contender = Contender("eviction", "rankwell_table", asked, threads=given.threads)
    num_steps = given.samples // BATCH
    for tenth in range(10):
        contender.round(num_steps * (tenth + 1) // 10 - num_steps * tenth // 10)
    contender.leave()
    figures = contender.figures()
    resident = figures.resident_bytes[2:]  # by then it has been full for a while
    case = f"{given.samples:,} samples, at most {given.max_rows:,} rows"
    findings.add(f"{case}: rows at the end", figures.facts["num_seen"], at_most=given.max_rows)
    findings.add(f"{case}: grown by, at the end", figures.facts["grown/VmRSS"] / 2**20, "MiB")
    findings.add(
        f"{case}: most / least memory after each tenth from the third", max(resident) / min(resident), at_most=1.05
    )
    findings.add(f"{case}: longest pause", figures.longest_ms - figures.wall_ms, "ms")


def main() -> None:
    """Fill, evict, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--rows", type=int, default=5 * 10**7, help="that a table is filled with")
    arguments.add_argument("--samples", type=int, default=5 * 10**7, help="that pass by a table with eviction")
    arguments.add_argument("--max-rows", type=int, default=2 * 10**6, help="that such a table keeps")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--fills", type=int, default=3, help="of a table, of which the median pause is printed")
    given = arguments.parse_args()
    findings = Findings("memory of a growing table")
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder) / "ids.npy"
        new_ids(ids, given.rows)
        for dtype in MOST_BYTES:
            fill(findings, dtype, ids, given.rows, given)
        zipf_ids(ids, given.samples)
        evict(findings, ids, given)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
