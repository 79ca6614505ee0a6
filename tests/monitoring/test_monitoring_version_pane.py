"""Since when a bundle answers, by what the log says of each minute."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rankwell.monitoring.pane import MINUTE_US
from rankwell.monitoring.version_pane import VersionPane


def answered(minutes: list[str]) -> VersionPane:
    """A letter for each request of each minute: the bundle that answered it."""
    rows = [(minute, bundle) for minute, bundles in enumerate(minutes) for bundle in bundles]
    served = pa.table(
        {
            "served_bundle_id": pa.array([bundle for _, bundle in rows], pa.string()),
            "served_correction_id": pa.nulls(len(rows), pa.string()),
        }
    )
    return VersionPane.of(served, np.array([minute * MINUTE_US + 5 for minute, _ in rows], np.int64))


@pytest.mark.parametrize(
    ("minutes", "trials"),
    [
        (["aa", "aa"], []),
        (["aac", "aa", "aca", "a"], [(2, "c")]),  # a canary, and what came before the other's first
        (["ac", "a", "ac"] + ["c"] * 20, [(1, "a"), (2, "a")]),  # it takes over, and answers more by and by
        (["aa", "aa", "bb"], []),  # a deploy
        (["aaa", "aab", "bbb"], []),  # in the midst of a minute
        (["a"] * 20 + ["b"] + ["a"] * 20, [(20, "b")]),  # and back, within the quarter-hour
        (["a"] * 20 + ["b"] * 40 + ["a"] * 20, []),  # and back
        (["aa", "bbca", "bb"], []),  # nothing of b stands before it
        (["aa", "bb", "bbca", "bb"], [(2, "c"), (2, "a")]),
        (["a", "c", "", "c", "", "", "a", "a"], [(1, "c"), (3, "c")]),  # hardly a request a minute
        (["a", "c"] + [""] * 20 + ["a"] * 9, []),
        (["c" * 3 + "a" * 4] * 20, [(minute, "c") for minute in range(1, 19) for _ in range(3)]),
    ],
)  # fmt: skip
def test_a_bundle_is_on_trial_while_another_answers_more(minutes: list[str], trials: list[tuple[int, str]]) -> None:
    rows = [(minute, bundle) for minute, bundles in enumerate(minutes) for bundle in bundles]
    times_us = np.array([minute * MINUTE_US + 7 for minute, _ in rows], np.int64)
    found = answered(minutes).trials([bundle for _, bundle in rows], times_us)
    assert [(minute, trial) for (minute, _), trial in zip(rows, found, strict=True) if trial] == trials


def test_who_is_unknown_is_on_no_trial() -> None:
    pane = answered(["aa", "aab", "aa"])
    assert pane.trials([None, "b"], np.array([MINUTE_US] * 2)) == [None, "b"]
    assert pane.trials(["b"], np.array([60 * MINUTE_US])) == [None], "nobody answered then"
    assert VersionPane().trials(["a"], np.array([0])) == [None]
    assert pane.trials([], np.zeros(0, np.int64)) == []


@pytest.mark.parametrize(
    ("minutes", "since"),
    [
        ([], 0),
        (["bb", "bb"], 0),
        (["aa", "aa", "bb", "bb"], 2),
        (["aa", "aab", "bb"], 2),  # the minute of the change is the other's
        (["aa", "abb", "bb"], 2),  # or nobody's
        (["aa", "ab", "bb"], 2),
        (["bb", "aa", "bb", "bb"], 0),  # for a minute another answered
        (["b"] * 20 + ["a"] * 20 + ["b"] * 5, 40),  # it came back
        (["bba", "b", "ba", "b"], 1),  # a canary once a bundle stands on both sides
        (["b", "a", "b", "", "ba", "b"], 0),  # hardly a request a minute
        (["aa", "", "", "bb"], 1),
        (["aa", "bbba", "bbba", "bbba"], 2),  # a canary beside it
        (["bb", "aa"], 2),  # it has not answered since
        (["aa"], 1),
    ],
)
def test_a_bundle_answers_since_others_last_answered_as_many(minutes: list[str], since: int) -> None:
    pane = answered(minutes)
    assert pane.answers_since_us("b") == since * MINUTE_US
    assert (pane + pane).answers_since_us("b") == since * MINUTE_US
