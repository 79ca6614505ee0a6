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
    ("minutes", "since"),
    [
        ([], 0),
        (["bb", "bb"], 0),
        (["aa", "aa", "bb", "bb"], 2),
        (["aa", "aab", "bb"], 2),  # the minute of the change is the other's
        (["aa", "abb", "bb"], 2),  # or nobody's
        (["aa", "ab", "bb"], 2),
        (["bb", "aa", "bb", "bb"], 2),  # it came back
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
