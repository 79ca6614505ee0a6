from __future__ import annotations

import numpy as np
import pytest

from rankwell.schema import Categorical, Sequence
from rankwell.serving.feature_counts import FeatureCounts, LookUps
from rankwell.serving.feature_store import StoredEvents

NOW_US = 1_700_000_000_000_000
HISTORY = Sequence(name="history", fields=(Categorical(name="item", on="event"),), max_length=3)


def seen(ages_us: list[int], *, delay_s: float, time_us: int | None = NOW_US) -> tuple[list[int], int]:
    """The ages of the events that a request sees, in microseconds, and how many of the oldest are cut."""
    ages = np.array(ages_us, np.int64)
    events = StoredEvents({"item": ages}, NOW_US - ages).at(time_us, HISTORY, ingest_delay_s=delay_s)
    assert events.num_cut_R is not None
    assert events.offsets.tolist() == [0, len(events.columns["item"])]
    return events.columns["item"].tolist(), int(events.num_cut_R)


@pytest.mark.parametrize(
    ("ages_us", "delay_s", "expected"),
    [
        ([], 0.0, ([], 0)),
        ([1], 0.0, ([1], 0)),
        ([1, 0], 0.0, ([1], 0)),  # of the request's own microsecond: it may be what the request led to
        ([2_500_001, 2_500_000, 2_499_999], 2.5, ([2_500_001], 0)),  # more than the delay, not as much
        ([5, 4, 3, 2, 1], 0.0, ([3, 2, 1], 2)),
        ([5, 4, 3, 2, 1, -7], 0.0, ([3, 2, 1], 2)),  # of the future: a request is asked for again
        ([9, 9, 9, 9, 0, 0], 0.0, ([9, 9, 9], 1)),
        ([1, 0], 1.0, ([], 0)),
    ],
)
def test_a_request_sees_what_was_known_of_it(ages_us, delay_s: float, expected) -> None:
    assert seen(ages_us, delay_s=delay_s) == expected


def test_without_a_time_all_events_are_seen_and_no_age_is_known() -> None:
    assert seen([3, 2, 1, 0], delay_s=9.0, time_us=None) == ([2, 1, 0], 1)
    events = StoredEvents({"item": np.array([7, 8])}, None).at(NOW_US, HISTORY, ingest_delay_s=9.0)
    assert list(events.columns) == ["item"]
    assert events.columns["item"].tolist() == [7, 8]


def test_ages_are_those_that_the_reader_of_logs_computes() -> None:
    """(time − event) / 10⁶ in float64, rounded once."""
    ages_us = np.array([2**40 + 1, 123_456_789, 1])
    events = StoredEvents({"item": ages_us}, NOW_US - ages_us).at(NOW_US, HISTORY, ingest_delay_s=0.0)
    assert events.columns["age_s"].tolist() == [float(np.float32(age / 1_000_000)) for age in ages_us.tolist()]


def test_counts_add_up() -> None:
    counts = FeatureCounts()
    counts.add(items=LookUps(5, 1, 2, 1), members=LookUps(1, num_failed=1))
    counts.add(items=LookUps(5, 1, 2, 1))
    assert counts.items == LookUps(10, 2, 4, 2)
    assert counts.members == LookUps(1, 0, 0, 1)
