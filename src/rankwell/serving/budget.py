"""What a scorer costs: the time that it takes for requests of a log, at so many candidates each.

Letters: R requests · C candidates, flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from rankwell.errors import RecipeError
from rankwell.serving.scorer import Scorer
from rankwell.types import Audit, Batch, Column, Events, Features, Ragged, Targets

__all__ = ["Latency", "frontier", "measure_latency", "requests_of_size"]


@final
@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of what single requests took.

    Args:
        p50_ms, p95_ms, p99_ms: Milliseconds.
        num_requests: How many were timed.

    >>> Latency.of([0.001, 0.002, 0.003]).p50_ms
    2.0
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    num_requests: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """The percentiles of these times, in seconds, interpolated."""
        p50, p95, p99 = (1e3 * np.quantile(np.asarray(seconds), (0.5, 0.95, 0.99))).tolist()
        return cls(p50, p95, p99, len(seconds))


def measure_latency(
    scorers: Mapping[str, Scorer], requests: Sequence[Batch], *, clock_s: Callable[[], float], num_warm_ups: int = 3
) -> dict[str, Latency]:
    """What each scorer takes for the same requests, all taking turns in an order that moves on by one each request.

    So what else the machine does meanwhile falls on all of them alike. The first requests come once more beforehand,
    uncounted.

    Args:
        scorers: By name.
        requests: At least one, of one request each.
        clock_s: Seconds, such as `time.perf_counter`.
        num_warm_ups: So many requests are scored uncounted.

    Raises:
        RecipeError: There is no request.
    """
    if not requests:
        raise RecipeError("no request to measure by", found=0, allowed="≥ 1", do="take a split that holds requests")
    names = list(scorers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for batch in requests[:num_warm_ups]:
        for name in names:
            scorers[name].score(batch)
    for k, batch in enumerate(requests):
        first = k % len(names)
        for name in (*names[first:], *names[:first]):
            began = clock_s()
            scorers[name].score(batch)
            seconds[name].append(clock_s() - began)
    return {name: Latency.of(times) for name, times in seconds.items()}


def requests_of_size(batches: Iterable[Batch], *, num_candidates: int, num_requests: int) -> list[Batch]:
    """Requests of a log with so many candidates each: their own first, then those of the requests after them.

    Context and history are the request's own. Where a batch holds fewer candidates, they come again.

    Args:
        batches: Of any split, each of some requests.
        num_candidates: Of each request, ≥ 1.
        num_requests: At most so many, from the batches in their order.

    Returns:
        Batches of one request each, without labels; fewer where the batches hold fewer.

    Raises:
        RecipeError: There would be no candidate.
    """
    if num_candidates < 1:
        raise RecipeError("a request of no candidates measures nothing", found=num_candidates, allowed="≥ 1")
    found: list[Batch] = []
    for batch in batches:
        if not batch.features.num_candidates:
            continue
        for request in range(batch.features.num_requests):
            if len(found) == num_requests:
                return found
            found.append(_resized(batch, request, num_candidates))
    return found


def frontier(points: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """The points that no other is better than: as cheap and as good, and one of the two surely.

    Args:
        points: By name, cost (less is better) and worth (more is better).

    Returns:
        Their names, the cheapest first; of equal points all. Points that are NaN are none.

    >>> frontier({"small": (1.0, 0.70), "slow": (9.0, 0.69), "large": (9.0, 0.75), "middling": (2.0, 0.70)})
    ('small', 'large')
    """
    known = {name: point for name, point in points.items() if not any(map(np.isnan, point))}

    def is_beaten(cost: float, worth: float) -> bool:
        return any(c <= cost and w >= worth and (c, w) != (cost, worth) for c, w in known.values())

    return tuple(sorted((name for name, point in known.items() if not is_beaten(*point)), key=lambda n: known[n]))


def _resized(batch: Batch, request: int, num_candidates: int) -> Batch:
    features, audit = batch.features, batch.audit
    row_C = (torch.arange(num_candidates) + features.offsets[request]) % features.num_candidates
    row_1 = torch.tensor([request])
    history = {name: _events(events, request) for name, events in features.history.items()}
    num_actions = batch.targets.labels_CA.shape[1]
    return Batch(
        Features(
            context={name: _taken(column, row_1) for name, column in features.context.items()},
            history=history,
            candidates={name: _taken(column, row_C) for name, column in features.candidates.items()},
            offsets=torch.tensor([0, num_candidates]),
            request_C=torch.zeros(num_candidates, dtype=torch.int64),
        ),
        Targets(
            labels_CA=torch.full((num_candidates, num_actions), torch.nan),
            observed_CA=torch.zeros(num_candidates, num_actions, dtype=torch.bool),
            weights_C=torch.ones(num_candidates),
            position_C=torch.zeros(num_candidates, dtype=torch.int64),
            propensity_C=torch.ones(num_candidates),
        ),
        Audit(
            request_ids_R=audit.request_ids_R[row_1],
            member_ids_R=audit.member_ids_R[row_1],
            times_us_R=audit.times_us_R[row_1],
            item_ids_C=audit.item_ids_C[row_C],
            columns={},
        ),
    )


def _events(events: Events, request: int) -> Events:
    start, stop = int(events.offsets[request]), int(events.offsets[request + 1])
    columns = {name: column[start:stop].clone() for name, column in events.columns.items()}
    return Events(columns, torch.tensor([0, stop - start]))


def _taken(column: Column, row_n: Tensor) -> Column:
    if isinstance(column, Tensor):
        return column[row_n]
    length_n = column.lengths[row_n]
    offsets = torch.cat([length_n.new_zeros(1), length_n.cumsum(0)])
    place = torch.arange(int(offsets[-1])) + (column.offsets[row_n] - offsets[:-1]).repeat_interleave(length_n)
    return Ragged(column.values[place], offsets)
