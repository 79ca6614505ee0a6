"""How the cost of candidates that see each other grows with their number: full, local and linear attention.

Eager PyTorch, one thread, float32, one request: a layer of attention alone, and a `ListEncoder` of two layers of width
64 as models use it. All cases take turns, in an order that moves on by one each round, each after a step of its own
that is not counted (what ran before it has filled the caches); a figure is the median of its rounds, so that ratios are
within one run. Memory is what a training pass allocates at most beyond what stood before, counted allocation by
allocation by PyTorch's profiler: what the process holds besides doesn't blur it.

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
from torch.profiler import ProfilerActivity, profile

from contenders.findings import Findings
from rankwell.models.candidate_list import ListEncoder, ListSettings
from rankwell.models.list_attention import (
    AttentionSettings,
    FullSettings,
    LinearSettings,
    LocalSettings,
    make_list_attention,
)
from rankwell.schema import Action, Categorical, Numeric, Schema

SIZES: Final = (100, 500, 1000, 2000)
NUM_LAYERS: Final = 2
PARTS: Final = ("attention", "encoder")
PASSES: Final = ("forward", "training")
AT_MOST: Final = {"full": 16.0, "local": 4.5, "linear": 4.5}
RANK: Final = "retrieval_score"
SCHEMA: Final = Schema(features=(Categorical(name="job"), Numeric(name=RANK)), actions=(Action(name="click"),))

Case = tuple[str, str, int, str]
"""Kind of attention, part, number of candidates, pass."""


def settings_of(kind: str, window: int) -> AttentionSettings:
    """By the kind's name."""
    return {"full": FullSettings(), "local": LocalSettings(window=window), "linear": LinearSettings()}[kind]


def step_of(case: Case, width: int, window: int) -> Callable[[], None]:
    """One pass over one request."""
    kind, part, size, passes = case
    torch.manual_seed(0)
    x_CD = torch.randn(size, width, requires_grad=passes == "training")
    if part == "attention":
        attention = make_list_attention(settings_of(kind, window), width)
        valid_BL = torch.ones(1, size, dtype=torch.bool)

        def run() -> torch.Tensor:
            x_BLD = x_CD.unsqueeze(0)
            return attention(x_BLD, x_BLD, valid_BL)
    else:
        settings = ListSettings(attention=settings_of(kind, window), num_layers=NUM_LAYERS, rank=RANK)
        encoder = ListEncoder(SCHEMA, settings, width=width).train(passes == "training")
        offsets, rank_C = torch.tensor([0, size]), torch.randn(size)

        def run() -> torch.Tensor:
            return encoder(x_CD, offsets, rank_C)

    def forward() -> None:
        with torch.inference_mode():
            run()

    def training() -> None:
        run().sum().backward()

    return forward if passes == "forward" else training


def seconds_of(cases: Sequence[Case], given: argparse.Namespace) -> dict[Case, list[float]]:
    """Each case's time in each round; the first round warms up."""
    steps = {case: step_of(case, given.width, given.window) for case in cases}
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    for k in range(given.rounds + 1):
        first = k % len(cases)
        for case in (*cases[first:], *cases[:first]):
            steps[case]()
            began = time.perf_counter()
            steps[case]()
            if k:
                seconds[case].append(time.perf_counter() - began)
    return seconds


def peak_bytes(case: Case, given: argparse.Namespace) -> int:
    """What stands at most during one step, less what stood before."""
    step = step_of(case, given.width, given.window)
    step()  # gradients stand from now on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as observed:
        step()
    changes = [event for event in observed.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in changes), initial=0))


def measure(given: argparse.Namespace) -> Findings:
    """Times, memory, and percentiles of what serving would do."""
    torch.set_num_threads(1)
    findings = Findings(
        f"candidates that see each other: width {given.width}, window {given.window}, one thread, {given.rounds} rounds"
    )
    cases: list[Case] = list(itertools.product(AT_MOST, PARTS, SIZES, PASSES))
    times = {case: 1e3 * statistics.median(seconds) for case, seconds in seconds_of(cases, given).items()}
    for part, passes, kind in itertools.product(PARTS, PASSES, AT_MOST):
        add_growth(findings, f"{part}, {kind}, {passes}", kind, "ms", [times[kind, part, n, passes] for n in SIZES])
    for part, kind in itertools.product(PARTS, AT_MOST):
        peaks = [peak_bytes((kind, part, n, "training"), given) / 2**20 for n in SIZES]
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
    cases: list[Case] = [(kind, "encoder", 500, "forward") for kind in AT_MOST]
    repeated = argparse.Namespace(**{**vars(given), "rounds": given.requests})
    for (kind, *_), seconds in seconds_of(cases, repeated).items():
        percentiles = statistics.quantiles(seconds, n=20)
        for percent in (50, 95):
            findings.add(
                f"one request, 500 candidates, {NUM_LAYERS} layers, {kind}: P{percent}",
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
