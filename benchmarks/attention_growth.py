"""How the cost of candidates that see each other grows with their number: full, local and linear attention.

Eager PyTorch, one thread, float32, one request: a layer of attention alone, and a `ListEncoder` of two layers of width
64 as models use it. All cases take turns; a figure is the median of its rounds, so that ratios are within one run.
Times are the process's own, which is what one thread takes where nothing else runs; one request of 500, the baseline
of serving, is timed by the wall, too, as whoever waits has it. Memory is what a training pass allocates at most beyond
what stood before, counted allocation by allocation.

    python benchmarks/attention_growth.py [--json FILE] [--rounds N] [--requests N] [--width D] [--window N]
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it speaks at every start and stop; read when torch is loaded

import torch

from contenders.findings import Findings
from rankwell.models.candidate_list import ListSettings
from rankwell.models.list_attention import AttentionSettings, FullSettings, LinearSettings, LocalSettings
from rankwell.studies.list_cost import (
    RANK,
    Clock,
    Pass,
    attention_pass,
    encoder_pass,
    median_ms,
    peak_mib,
    times_in_turns,
)

SIZES: Final = (100, 500, 1000, 2000)
NUM_LAYERS: Final = 2
PARTS: Final = ("attention", "encoder")
PASSES: Final[tuple[Pass, ...]] = ("forward", "training")
AT_MOST: Final = {"full": 16.0, "local": 4.5, "linear": 4.5}

Case = tuple[str, str, int, Pass]
"""Kind of attention, part, number of candidates, pass."""


def settings_of(kind: str, window: int) -> AttentionSettings:
    """By the kind's name."""
    return {"full": FullSettings(), "local": LocalSettings(window=window), "linear": LinearSettings()}[kind]


def step_of(case: Case, given: argparse.Namespace) -> Callable[[], None]:
    """One pass over one request."""
    kind, part, size, which = case
    attention = settings_of(kind, given.window)
    if part == "attention":
        return attention_pass(attention, which, size=size, width=given.width)
    settings = ListSettings(attention=attention, num_layers=NUM_LAYERS, rank=RANK)
    return encoder_pass(settings, which, size=size, width=given.width)


def measure(given: argparse.Namespace) -> Findings:
    """Times, memory, and percentiles of what serving would do."""
    torch.set_num_threads(1)
    findings = Findings(
        f"candidates that see each other: width {given.width}, window {given.window}, one thread, {given.rounds} rounds"
    )
    cases: list[Case] = list(itertools.product(AT_MOST, PARTS, SIZES, PASSES))
    times = median_ms(times_in_turns({case: step_of(case, given) for case in cases}, rounds=given.rounds))
    for part, which, kind in itertools.product(PARTS, PASSES, AT_MOST):
        add_growth(findings, f"{part}, {kind}, {which}", kind, "ms", [times[kind, part, n, which] for n in SIZES])
    for part, kind in itertools.product(PARTS, AT_MOST):
        peaks = [peak_mib(step_of((kind, part, n, "training"), given)) for n in SIZES]
        add_growth(findings, f"{part}, {kind}, memory", kind, "MiB", peaks)
    add_serving_baseline(findings, given)
    return findings


def add_growth(findings: Findings, name: str, kind: str, unit: str, costs: Sequence[float]) -> None:
    """The cost at each size, and how many times as much the last is as that of 500."""
    for size, cost in zip(SIZES, costs, strict=True):
        findings.add(f"{name}: {size:,} candidates", cost, unit)
    findings.add(f"{name}: times from 500 to 2,000", costs[-1] / costs[SIZES.index(500)], at_most=AT_MOST[kind])


def add_serving_baseline(findings: Findings, given: argparse.Namespace) -> None:
    """Percentiles of one request of 500 candidates, forward, the kinds in turns."""
    steps = {kind: step_of((kind, "encoder", 500, "forward"), given) for kind in AT_MOST}
    clocks: dict[str, Clock] = {"wall": time.perf_counter, "process": time.process_time}
    for name, clock in clocks.items():
        for kind, seconds in times_in_turns(steps, rounds=given.requests, clock=clock).items():
            percentiles = statistics.quantiles(seconds, n=20)
            for percent in (50, 95):
                findings.add(
                    f"one request, 500 candidates, {NUM_LAYERS} layers, {kind}: P{percent}, {name} time",
                    1e3 * percentiles[percent // 5 - 1], "ms",
                )  # fmt: skip


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--requests", type=int, default=200, help="for the percentiles of serving")
    arguments.add_argument("--width", type=int, default=64)
    arguments.add_argument("--window", type=int, default=50)
    given = arguments.parse_args()
    findings = measure(given)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
