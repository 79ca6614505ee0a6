"""Time is told by the clock that is given, of requests of the size asked for; the frontier is what nothing beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.errors import RecipeError
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.schema import Schema
from rankwell.serving.budget import Latency, frontier, measure_latency, requests_of_size
from rankwell.serving.scorer import Scorer, Scores
from rankwell.types import Batch, Ragged

LOG = log_from_table(every_kind_table(12, 0), EVERY_KIND, layout="requests")
BATCHES = list(Batches(LOG, WholeLog("tune"), "tune", num_requests=6, seed=None))


class Clock:
    """Stands still but where a scorer moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Taking(Scorer):
    """Takes so many seconds, in turn, and remembers what it was asked."""

    def __init__(self, clock: Clock, seconds: Sequence[float], asked: list[tuple[str, int]], name: str) -> None:
        self._clock, self._seconds, self._asked, self._name = clock, seconds, asked, name
        self._num = 0

    @property
    def schema(self) -> Schema:
        """See `Scorer`."""
        return EVERY_KIND

    @property
    def calibrate_by(self) -> tuple[str, ...]:
        """See `Scorer`."""
        return ()

    def score(self, batch: Batch) -> Scores:
        """See `Scorer`."""
        self._clock.now_s += self._seconds[self._num % len(self._seconds)]
        self._num += 1
        self._asked.append((self._name, int(batch.audit.request_ids_R[0])))
        return Scores(torch.zeros(0, 2), torch.zeros(0, 2))


def test_percentiles_of_known_times() -> None:
    latency = Latency.of([k / 1000 for k in range(101)])  # 0 … 100 ms
    assert (latency.p50_ms, latency.p95_ms, latency.p99_ms) == pytest.approx((50.0, 95.0, 99.0))
    assert latency.num_requests == 101
    assert Latency.of([0.004]).p99_ms == pytest.approx(4.0)


def test_each_scorer_is_timed_by_its_own_time_in_turns() -> None:
    requests = requests_of_size(BATCHES, num_candidates=3, num_requests=4)
    clock, asked = Clock(), list[tuple[str, int]]()
    quick, slow = (Taking(clock, [seconds], asked, name) for name, seconds in (("quick", 0.002), ("slow", 0.03)))
    found = measure_latency({"quick": quick, "slow": slow}, requests, clock_s=clock, num_warm_ups=1)
    assert found["quick"].p95_ms == pytest.approx(2.0)
    assert found["slow"].p95_ms == pytest.approx(30.0)
    assert found["slow"].num_requests == 4
    assert [name for name, _ in asked] == [
        "quick", "slow", "quick", "slow", "slow", "quick", "quick", "slow", "slow", "quick",
    ]  # fmt: skip


def test_warm_ups_are_not_counted() -> None:
    requests = requests_of_size(BATCHES, num_candidates=3, num_requests=4)
    clock = Clock()
    scorer = Taking(clock, [5.0, 5.0, 0.001, 0.001, 0.001, 0.001], [], "cold")
    assert measure_latency({"": scorer}, requests, clock_s=clock, num_warm_ups=2)[""].p99_ms == pytest.approx(1.0)
    with pytest.raises(RecipeError, match="no request"):
        measure_latency({"": scorer}, [], clock_s=clock)


@pytest.mark.parametrize("num_candidates", [1, 4, 500])
def test_a_request_is_filled_with_the_candidates_after_it(num_candidates: int) -> None:
    found = requests_of_size(BATCHES, num_candidates=num_candidates, num_requests=9)
    assert len(found) == 9
    for k, batch in enumerate(found):
        whole, request = BATCHES[k // 6], k % 6
        features, source = batch.features, whole.features
        assert (features.num_requests, features.num_candidates) == (1, num_candidates)
        assert batch.audit.request_ids_R.tolist() == [int(whole.audit.request_ids_R[request])]
        rows = [(int(source.offsets[request]) + n) % source.num_candidates for n in range(num_candidates)]
        for name, column in features.candidates.items():
            origin = source.candidates[name]
            if isinstance(column, Ragged):
                assert isinstance(origin, Ragged)
                lists = [origin.values[origin.offsets[row] : origin.offsets[row + 1]].tolist() for row in rows]
                ends = column.offsets.tolist()
                assert [column.values[a:b].tolist() for a, b in pairwise(ends)] == lists
            else:
                torch.testing.assert_close(column, origin[rows], equal_nan=True)
        events, own = features.history["history"], source.history["history"]
        start, stop = int(own.offsets[request]), int(own.offsets[request + 1])
        assert events.offsets.tolist() == [0, stop - start]
        for name, values in events.columns.items():
            torch.testing.assert_close(values, own.columns[name][start:stop], equal_nan=True)
        assert batch.targets.labels_CA.isnan().all()
        assert not batch.targets.observed_CA.any()


def test_such_requests_are_scored_as_they_stand() -> None:
    model = RankingTransformer(EVERY_KIND, measure_numerics(BATCHES, EVERY_KIND), TransformerSettings(), seed=0).eval()
    (own,) = (batch for batch in requests_of_size(BATCHES, num_candidates=1, num_requests=1))
    (first, *_) = BATCHES
    of_one = requests_of_size(BATCHES, num_candidates=int(first.features.offsets[1]), num_requests=1)[0]
    expected_CA = model(first.features)[: int(first.features.offsets[1])]
    torch.testing.assert_close(model(of_one.features), expected_CA, rtol=1e-4, atol=1e-5)
    assert model(own.features).shape == (1, 2)


def test_sizes_that_measure_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="no candidates"):
        requests_of_size(BATCHES, num_candidates=0, num_requests=1)
    assert requests_of_size([], num_candidates=3, num_requests=1) == []
    assert len(requests_of_size(BATCHES, num_candidates=3, num_requests=100)) == 12


def test_the_frontier_is_what_a_plain_loop_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        places = torch.randint(0, 6, (12, 2), generator=generator).tolist()
        points = {str(n): (float(cost), float(worth)) for n, (cost, worth) in enumerate(places)}
        expected = set()
        for name, (cost, worth) in points.items():
            beaten = False
            for c, w in points.values():
                if (c < cost and w >= worth) or (c <= cost and w > worth):
                    beaten = True
            if not beaten:
                expected.add(name)
        found = frontier(points)
        assert set(found) == expected
        assert [points[name] for name in found] == sorted(points[name] for name in found)


def test_the_frontier_of_equals_nothing_and_the_unknown() -> None:
    assert frontier({}) == ()
    assert frontier({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ("a", "b")
    assert frontier({"a": (1.0, 1.0), "unknown": (0.5, math.nan)}) == ("a",)
