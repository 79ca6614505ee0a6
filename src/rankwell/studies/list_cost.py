"""What it costs that candidates see each other: time and memory of one request's forward and training pass.

Letters: C candidates of the request · D width.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from rankwell.models.candidate_list import ListEncoder, ListSettings
from rankwell.models.list_attention import AttentionSettings, make_list_attention
from rankwell.schema import Action, Categorical, Numeric, Schema

__all__ = ["RANK", "Clock", "Pass", "attention_pass", "encoder_pass", "median_ms", "peak_mib", "times_in_turns"]

Pass = Literal["forward", "training"]
Clock = Callable[[], float]
Case = TypeVar("Case")

RANK: Final = "retrieval_score"
_SCHEMA: Final = Schema(features=(Categorical(name="job"), Numeric(name=RANK)), actions=(Action(name="click"),))


def attention_pass(settings: AttentionSettings, which: Pass, *, size: int, width: int) -> Callable[[], None]:
    """One layer of attention alone, over one request at random.

    Args:
        settings: Who sees whom.
        which: Forward as in serving, or forward and backward.
        size: C.
        width: D.
    """
    torch.manual_seed(0)
    attention = make_list_attention(settings, width).train(which == "training")
    x_CD = torch.randn(size, width, requires_grad=which == "training")
    valid_BL = torch.ones(1, size, dtype=torch.bool)

    def run() -> torch.Tensor:
        x_BLD = x_CD.unsqueeze(0)
        mixed_BLD: torch.Tensor = attention(x_BLD, x_BLD, valid_BL)
        return mixed_BLD

    return _passed(run, which)


def encoder_pass(settings: ListSettings, which: Pass, *, size: int, width: int) -> Callable[[], None]:
    """A whole `ListEncoder`, over one request at random.

    Args:
        settings: Whose rank, if any, is named `RANK`.
        which: Forward as in serving, or forward and backward.
        size: C.
        width: D.

    >>> from rankwell.models.list_attention import LinearSettings
    >>> step = encoder_pass(ListSettings(attention=LinearSettings()), "training", size=5, width=8)
    >>> step()
    """
    torch.manual_seed(0)
    encoder = ListEncoder(_SCHEMA, settings, width=width).train(which == "training")
    x_CD = torch.randn(size, width, requires_grad=which == "training")
    offsets, rank_C = torch.tensor([0, size]), None if settings.rank is None else torch.randn(size)

    def run() -> torch.Tensor:
        encoded_CD: torch.Tensor = encoder(x_CD, offsets, rank_C)
        return encoded_CD

    return _passed(run, which)


def _passed(run: Callable[[], torch.Tensor], which: Pass) -> Callable[[], None]:
    def forward() -> None:
        with torch.inference_mode():
            run()

    def training() -> None:
        run().sum().backward()  # type: ignore[no-untyped-call]

    return forward if which == "forward" else training


def times_in_turns(
    steps: Mapping[Case, Callable[[], None]], *, rounds: int, clock: Clock = time.process_time
) -> dict[Case, list[float]]:
    """Seconds of each step in each round, the steps taking turns in an order that moves on by one each round.

    Each is run once uncounted before it is run counted, because what ran before it has filled the caches, and the whole
    first round isn't counted.

    Args:
        steps: By case.
        rounds: That count.
        clock: By default the process's own time: with one thread that is what a step takes where nothing else runs, and
            what others take from a shared machine isn't in it.

    >>> {case: len(seconds) for case, seconds in times_in_turns({"nothing": lambda: None}, rounds=3).items()}
    {'nothing': 3}
    """
    cases = list(steps)
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    for k in range(rounds + 1):
        first = k % len(cases)
        for case in (*cases[first:], *cases[:first]):
            steps[case]()
            began = clock()
            steps[case]()
            if k:
                seconds[case].append(clock() - began)
    return seconds


def median_ms(times: Mapping[Case, list[float]]) -> dict[Case, float]:
    """Of each case, in milliseconds."""
    return {case: 1e3 * statistics.median(seconds) for case, seconds in times.items()}


def peak_mib(step: Callable[[], None]) -> float:
    """What a step allocates at most beyond what stood before, in MiB, counted allocation by allocation.

    The process's own peak would hold all that it ever did besides.

    >>> kept = []
    >>> round(peak_mib(lambda: kept.append(torch.zeros(2**18) + 1)), 2)  # 1 MiB of zeros, and 1 MiB of ones
    2.0
    """
    step()  # gradients stand from now on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as observed:
        step()
    results = observed.profiler.kineto_results
    changes = [event for event in results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    most: int = max(itertools.accumulate((event.nbytes() for event in changes), initial=0))
    return most / 2**20
