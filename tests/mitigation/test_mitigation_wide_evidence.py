"""Letters: n rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankwell.mitigation.attributed_rows import AttributedRows
from rankwell.mitigation.mitigation_state import InForce
from rankwell.mitigation.wide_evidence import WideEvidence, gain_z
from rankwell.mitigation.wide_update import ProximalUpdate

UPDATE = ProximalUpdate(step=0.02, largest_change=1.0)


def rows_of(num: int, moved: float, seed: int = 0, *, from_row: int = 0) -> AttributedRows:
    """Two rows a request of ten jobs; job 4 has moved from a row on."""
    rng = np.random.default_rng(seed)
    job_n, logits_n = rng.integers(0, 10, num), rng.normal(-1.5, 0.3, num)
    true_n = logits_n + moved * (job_n == 4) * (np.arange(num) >= from_row)
    return AttributedRows(
        parts=("wide", "crosses"), tables=("job", "pair"), keys_nF=np.stack([job_n, rng.integers(-1, 3, num)], axis=1),
        times_us_n=np.arange(num), requests_n=np.arange(num) // 2, corrections_n=np.full(num, ""), logits_n=logits_n,
        labels_n=(rng.random(num) < 1 / (1 + np.exp(-true_n))).astype(float), action=1, num_actions=2,
    )  # fmt: skip


def test_one_key_is_found_and_sized_and_the_gain_is_of_later_rows() -> None:
    evidence = WideEvidence(rows_of(30_000, 0.6), [], UPDATE)
    moved = evidence.moved()
    assert {table: [*keys] for table, keys in moved.changes.items()} == {"job": [4]}
    assert moved.changes["job"][4] == pytest.approx(0.6, abs=0.25)
    assert moved.changes == evidence.wanted()
    assert moved.gain_z > 4
    # Σ of ½·δ²·p(1 − p), roughly, over job 4's rows of the later pieces
    assert moved.gain == pytest.approx(30_000 * 0.1 * 7 / 8 * 0.18 * 0.6**2 / 2 * 1.1, rel=0.35)
    row = evidence.row_changes(moved.changes)
    assert {part: [*tables] for part, tables in row.items()} == {"wide": ["job"]}
    assert row["wide"]["job"]["4"] == (0.0, moved.changes["job"][4])


def test_what_comes_last_has_no_part_in_what_is_gained() -> None:
    rows = rows_of(48_000, 1.8, from_row=42_000)  # the last piece alone: it is chosen, and predicted by none
    moved = WideEvidence(rows, [], UPDATE).moved()
    assert 4 in moved.changes["job"]
    assert (moved.gain_z, moved.gain) == (0.0, 0.0)


def test_nothing_is_found_in_noise_in_no_rows_and_in_few_clicks() -> None:
    for seed in range(20):
        moved = WideEvidence(rows_of(4_000, 0.0, seed), [], UPDATE).moved()
        assert (moved.changes, moved.gain_z) == ({}, 0.0)
    assert WideEvidence(rows_of(0, 0.0), [], UPDATE).moved().changes == {}
    assert WideEvidence(rows_of(1, 0.0), [], UPDATE).moved().changes == {}
    rows = rows_of(40, 0.0)
    rows.logits_n[:] = -9.0  # clicks are all but impossible: a few are many standard errors, and too few all the same
    rows.labels_n[:] = np.arange(40) < 8
    rows.keys_nF[:] = np.array([5, -1])
    assert WideEvidence(rows, [], UPDATE).moved().changes == {}


def test_rows_of_one_request_are_one_observation() -> None:
    rows = rows_of(4_000, 0.0)
    rows.keys_nF[:] = np.array([5, -1])
    rows.logits_n[:] = 0.0
    rows.labels_n[:] = np.arange(4_000) % 10 < 7
    assert WideEvidence(rows, [], UPDATE).wanted() == {"job": {5: pytest.approx(1.0, abs=0.5)}}
    rows.requests_n[:] = np.arange(4_000) % 10
    assert WideEvidence(rows, [], UPDATE).wanted() == {}, "ten requests tell nothing"


def test_what_was_added_is_taken_off_first_and_other_corrections_rows_are_left_out() -> None:
    rows = rows_of(20_000, 0.6)
    plain = WideEvidence(rows, [], UPDATE).wanted()
    changes = {"wide": {"job": {"4": (0.0, 0.5)}}}
    later = np.arange(20_000) >= 12_000
    served = AttributedRows(
        parts=rows.parts, tables=rows.tables, keys_nF=rows.keys_nF, times_us_n=rows.times_us_n,
        requests_n=rows.requests_n, corrections_n=np.where(later, "c1", ""),
        logits_n=rows.logits_n + 0.5 * later * (rows.keys_nF[:, 0] == 4), labels_n=rows.labels_n, action=1,
        num_actions=2,
    )  # fmt: skip
    history = [InForce(from_us=0), InForce(from_us=12_000, wide_changes=changes, correction_id="c1")]
    evidence = WideEvidence(served, history, UPDATE)
    assert evidence.wanted()["job"][4] == pytest.approx(plain["job"][4], abs=1e-9)
    z, gain = evidence.served_gain(0)
    mine = later & (rows.keys_nF[:, 0] == 4)
    before, after = rows.logits_n[mine], rows.logits_n[mine] + 0.5
    y = rows.labels_n[mine]
    plainly = [
        math.log1p(math.exp(a)) - math.log1p(math.exp(b)) + 0.5 * c for a, b, c in zip(before, after, y, strict=True)
    ]
    assert gain == pytest.approx(sum(plainly))
    assert z > 2
    assert evidence.served_gain(30_000) == (0.0, 0.0)
    offset = [InForce(from_us=0), InForce(from_us=12_000, offsets={3: 0.1}, correction_id="c1")]
    assert len(WideEvidence(served, offset, UPDATE).rows) == 12_000


def test_a_sum_by_requests() -> None:
    assert gain_z(np.zeros(0), np.zeros(0, np.int64)) == 0.0
    assert gain_z(np.zeros(3), np.arange(3)) == 0.0
    assert gain_z(np.ones(100), np.arange(100)) == pytest.approx(10.0)
    assert gain_z(np.ones(100), np.zeros(100, np.int64)) == pytest.approx(1.0)
