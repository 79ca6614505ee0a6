"""A growing table in a file: what a step takes at first and when warm, and whether its memory keeps to the setting.

*First touch* are the first steps of an empty table: most ids get a row, and a page of the file with it. *Warm* are the
same batches again. The bounded table has seen many more rows than it may keep resident and is asked for them by Zipf's
law; what it keeps is what the kernel counts as this process's mapped files. A table in memory stands beside both.

    python benchmarks/file_table.py [--json FILE] [--rows N] [--resident-mib N] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from contenders.findings import Findings
from contenders.turns import Contender, take_turns
from contenders.zipf import scattered, zipf_ranks

BATCH, WIDTH, NUM_POSSIBLE = 8192, 16, 10**9


def first_and_warm(findings: Findings, asked: dict[str, Any], given: argparse.Namespace, folder: Path) -> None:
    """An empty table in a file, and one in memory."""
    contenders = [
        Contender("in a file", "rankwell_table", {**asked, "folder": str(folder)}, threads=given.threads),
        Contender("in memory", "rankwell_table", asked, threads=given.threads),
    ]
    for contender in contenders:
        contender.wait_until_ready()
    for _ in range(given.rounds + 1):
        for contender in contenders:
            contender.round(given.steps)
    for contender in contenders:
        contender.leave()
        in_file = contender.name == "in a file"
        first, warm = contender.figures(0, 1), contender.figures(1)
        findings.add(f"{contender.name}, first touch", first.wall_ms, "ms", at_most=2 if in_file else None)
        findings.add(f"{contender.name}, first touch, longest step", first.longest_ms, "ms")
        findings.add(f"{contender.name}, warm", warm.wall_ms, "ms", at_most=1 if in_file else None)
        findings.add(f"{contender.name}, warm, CPU", warm.cpu_ms, "ms")


def bounded(findings: Findings, asked: dict[str, Any], given: argparse.Namespace, folder: Path) -> None:
    """A full table in a file, of which a part may stay in memory."""
    most = given.resident_mib * 2**20
    settings = {**asked, "num_seen": given.rows, "folder": str(folder), "resident_bytes": most}
    contenders = [
        Contender("bounded", "rankwell_table", settings, threads=given.threads),
        Contender("not bounded", "rankwell_table", {**asked, "num_seen": given.rows}, threads=given.threads),
    ]
    figures = take_turns(contenders, rounds=given.rounds, num_steps=given.steps, warm_up=given.steps)
    case = f"{given.rows:,} rows seen, {given.resident_mib} MiB resident"
    kept = figures["bounded"].facts
    findings.add(f"{case}: resident of the file", kept["grown/RssFile"] / 2**20, "MiB", at_most=given.resident_mib)
    findings.add(f"{case}: grown by in all, index included", kept["grown/VmRSS"] / 2**20, "MiB")
    findings.add(f"{case}: the same in memory", figures["not bounded"].facts["grown/VmRSS"] / 2**20, "MiB")
    findings.add(f"{case}: step", figures["bounded"].wall_ms, "ms")
    findings.add(f"{case}: step in memory", figures["not bounded"].wall_ms, "ms")


def main() -> None:
    """Measure both and print them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--rows", type=int, default=10**7, help="seen by the bounded table; ranks of the ids")
    arguments.add_argument("--resident-mib", type=int, default=256, help="that the bounded table may keep in memory")
    arguments.add_argument("--folder", type=Path, help="where the files are; a temporary one unless said")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=5, help="of which the median is printed")
    arguments.add_argument("--steps", type=int, default=200, help="steps a round")
    given = arguments.parse_args()
    findings = Findings(f"a table in a file, {BATCH:,} Zipf ids a step, rows of {WIDTH}")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        ranks = zipf_ranks((given.steps, 1, BATCH), given.rows, np.random.default_rng(0))
        np.save(folder / "ids.npy", scattered(ranks, NUM_POSSIBLE))
        asked = {"ids": str(folder / "ids.npy"), "sizes": [NUM_POSSIBLE], "width": WIDTH, "growing": True}
        first_and_warm(findings, asked, given, folder / "first.rows")
        bounded(findings, asked, given, folder / "bounded.rows")
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
