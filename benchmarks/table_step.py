"""A step of a table, look-up and gradient written back: ours against FBGEMM's CPU table and torch's sparse ones.

Timed is a whole step of one batch that stands ready as int64 ids: rows looked up for 8,192 ids (ten times as many in
the ten-field case), a ready gradient given, rows and state updated. Nothing else of a model is in it. Ids follow Zipf's
law (exponent 1.05), hashed over their range; no batch is repeated before hundreds of others, so a step finds its rows
where training does: mostly in memory. Ours, FBGEMM and the touch kernel keep one float of state a row (row-wise
AdaGrad); torch's optimizers keep one or two a weight. Contenders are processes of their own and take turns.

The touch kernel is what memory alone takes for the same ids, distinct rows known beforehand: each entry's row copied
out and its gradient read, each distinct row and state read and written once; "rows only" is the last part alone.

    python benchmarks/table_step.py [--json FILE] [--without-peers] [--rows N] [--seen N ...] [--threads N ...]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contenders.environment import python_of
from contenders.findings import Findings
from contenders.touch import has_compiler
from contenders.turns import Contender, Figures, take_turns
from contenders.zipf import scattered, zipf_ranks

BATCH, WIDTH, NUM_FIELDS = 8192, 16, 10
OURS, FBGEMM, TOUCH = "rankwell", "FBGEMM", "touch kernel"
NUM_POSSIBLE = 10**9


def ids_file(folder: Path, name: str, *, num_ranks: int, num_ids: int, num_fields: int, num_steps: int) -> str:
    """Writes ids S × F × B, the ranks of field f scattered by salt f; returns the file's path."""
    rng = np.random.default_rng(num_ranks)
    ids_SFB = np.empty((num_steps, num_fields, BATCH), np.int64)
    for field in range(num_fields):
        ids_SFB[:, field] = scattered(zipf_ranks((num_steps, BATCH), num_ranks, rng), num_ids, salt=field)
    path = folder / f"{name}.npy"
    np.save(path, ids_SFB)
    return str(path)


def compare(
    programs: Sequence[tuple[str, str, Mapping[str, Any]]], given: argparse.Namespace, threads: int
) -> dict[str, Figures]:
    """Let the programs (name, module, settings) take turns."""
    contenders = []
    for name, module, settings in programs:
        python = python_of("fbgemm") if module.startswith("fbgemm") else None
        contenders.append(Contender(name, module, settings, threads=threads, python=python))
    return take_turns(contenders, rounds=given.rounds, num_steps=given.steps, warm_up=given.steps)


def note_steps(findings: Findings, case: str, figures: Mapping[str, Figures]) -> None:
    """Wall and CPU time of each contender, and its shortest step."""
    for name, figure in figures.items():
        findings.add(f"{case}/{name}/wall", figure.wall_ms, "ms")
        findings.add(f"{case}/{name}/cpu", figure.cpu_ms, "ms")
        findings.add(f"{case}/{name}/shortest wall", figure.least_ms, "ms")


def direct(findings: Findings, given: argparse.Namespace, folder: Path) -> None:
    """One directly addressed table."""
    batches = given.steps * (given.rounds + 1)
    ids = ids_file(folder, "direct", num_ranks=given.rows, num_ids=given.rows, num_fields=1, num_steps=batches)
    asked = {"ids": ids, "sizes": [given.rows], "width": WIDTH}
    best: dict[str, float] = {}
    for threads in given.threads:
        programs: list[tuple[str, str, Mapping[str, Any]]] = [(OURS, "rankwell_table", asked)]
        if not given.without_peers:
            programs.append((FBGEMM, "fbgemm_table", asked))
        programs += [
            (f"torch {optimizer}", "torch_table", {**asked, "optimizer": optimizer})
            for optimizer in ("SparseAdam", "Adagrad")
        ]
        figures = compare(programs, given, threads)
        note_steps(findings, f"{given.rows:,} direct ids, {threads} thread(s)", figures)
        for name, figure in figures.items():
            best[name] = min(best.get(name, np.inf), figure.wall_ms)
    case = f"{given.rows:,} direct ids, each at its better number of threads"
    findings.add(f"{case}: wall time, ours / FBGEMM's", best[OURS] / best.get(FBGEMM, np.nan), at_most=0.8)
    findings.add(f"{case}: wall time, SparseAdam's / ours", best["torch SparseAdam"] / best[OURS], at_least=7)
    findings.add(f"{case}: wall time, sparse Adagrad's / ours", best["torch Adagrad"] / best[OURS])


def ten_fields(findings: Findings, given: argparse.Namespace, folder: Path) -> None:
    """Ten fields in one step, each a growing table that has seen as many ids as FBGEMM's has rows."""
    batches, size = given.steps * (given.rounds + 1), given.rows // 10
    ids = ids_file(folder, "ten", num_ranks=size, num_ids=size, num_fields=NUM_FIELDS, num_steps=batches)
    asked = {"ids": ids, "sizes": [size] * NUM_FIELDS, "width": WIDTH}
    grown = {**asked, "growing": True, "num_seen": size}
    cpu: dict[str, float] = {}
    for threads in given.threads:
        programs: list[tuple[str, str, Mapping[str, Any]]] = [
            (f"{OURS}, {layout}", "rankwell_table", {**grown, "layout": layout}) for layout in given.layouts
        ]
        if has_compiler():
            programs.append((TOUCH, "touch", {**asked, "only_rows": False}))
            programs.append((f"{TOUCH}, rows only", "touch", {**asked, "only_rows": True}))
        if not given.without_peers:
            programs.append((FBGEMM, "fbgemm_table", asked))
        figures = compare(programs, given, threads)
        case = f"ten fields of {size:,} ids, {threads} thread(s)"
        note_steps(findings, case, figures)
        ours = figures[programs[0][0]]
        findings.add(f"{case}: wall ns an id", 1e6 * ours.wall_ms / (NUM_FIELDS * BATCH), "ns")
        for name in (TOUCH, f"{TOUCH}, rows only"):
            share = figures[name].wall_ms / ours.wall_ms if name in figures else np.nan
            findings.add(f"{case}: our rate / that of the {name}", share, at_least=0.45 if name == TOUCH else None)
        for name, figure in figures.items():
            cpu[name] = min(cpu.get(name, np.inf), figure.cpu_ms)
    ratio = cpu[programs[0][0]] / cpu.get(FBGEMM, np.nan)
    findings.add("ten fields, each at its better number of threads: CPU time, ours / FBGEMM's", ratio, at_most=0.5)


def growth(findings: Findings, given: argparse.Namespace, folder: Path) -> None:
    """One growing table that has seen more and more of 10⁹ possible ids; what memory alone takes for it, beside it."""
    batches = given.steps * (given.rounds + 1)
    programs: list[tuple[str, str, Mapping[str, Any]]] = []
    for seen in given.seen:
        ids = ids_file(folder, f"seen{seen}", num_ranks=seen, num_ids=NUM_POSSIBLE, num_fields=1, num_steps=batches)
        asked = {"ids": ids, "sizes": [NUM_POSSIBLE], "width": WIDTH, "growing": True, "num_seen": seen}
        programs.append((f"{OURS}, {seen:,} seen", "rankwell_table", asked))
        if has_compiler():
            ids = ids_file(folder, f"slots{seen}", num_ranks=seen, num_ids=seen, num_fields=1, num_steps=batches)
            asked = {"ids": ids, "sizes": [seen], "width": WIDTH, "only_rows": False}
            programs.append((f"{TOUCH}, {seen:,} rows", "touch", asked))
    threads = given.threads[0]
    figures = compare(programs, given, threads)
    case = f"of {NUM_POSSIBLE:,} possible ids, {threads} thread(s)"
    note_steps(findings, case, figures)
    for program in (OURS, TOUCH):
        own = {name: figure for name, figure in figures.items() if name.startswith(program)}
        if not own:
            continue
        median = statistics.median(figure.wall_ms for figure in own.values())
        for name, figure in own.items():
            apart = figure.wall_ms / median - 1
            if program == OURS:
                findings.add(f"{case}/{name}/MiB", figure.facts["num_bytes"] / 2**20, "MiB")
                findings.add(f"{case}/{name}: apart from the median of all", abs(apart), at_most=0.3)
            else:
                findings.add(f"{case}/{name}: apart from the median of all", apart)


def main() -> None:
    """Measure all cases and print them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--without-peers", action="store_true", help="no FBGEMM, and no environment for it")
    arguments.add_argument("--rows", type=int, default=10**7, help="ids of the direct case; a tenth in each of ten")
    arguments.add_argument("--seen", type=int, nargs="+", default=[10**5, 10**6, 10**7, 5 * 10**7], help="ids seen")
    arguments.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to try")
    arguments.add_argument(
        "--layouts", nargs="+", default=["split"], choices=["packed", "split"], help="of our records"
    )
    arguments.add_argument("--rounds", type=int, default=5, help="of which the median is printed")
    arguments.add_argument("--steps", type=int, default=60, help="steps a round")
    arguments.add_argument(
        "--cases", nargs="+", default=["direct", "ten_fields", "growth"], choices=["direct", "ten_fields", "growth"]
    )
    given = arguments.parse_args()
    findings = Findings(f"a step of {BATCH:,} ids (ten fields: {NUM_FIELDS * BATCH:,}), rows of {WIDTH}")
    with tempfile.TemporaryDirectory() as folder:
        for case in (direct, ten_fields, growth):
            if case.__name__ in given.cases:
                case(findings, given, Path(folder))
    findings.print()
    if given.without_peers:
        print("FBGEMM was not run: --without-peers")
    elif not has_compiler():
        print("the touch kernel was not run: there is no C++ compiler")
    findings.write(given.json)


if __name__ == "__main__":
    main()
