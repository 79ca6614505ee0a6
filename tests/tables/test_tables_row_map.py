"""Which row each id reads, against a dictionary that does the same one id at a time."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.errors import LogError, SchemaError
from rankwell.schema import TableSpec
from rankwell.tables.row_map import NUM_OWN_ROWS, RowMap

SPECS = (TableSpec(name="direct", num_ids=10), TableSpec(name="hashed", num_rows=7))


def bounds(*lengths: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def row_map(admission: int = 1, default_rate: float = 0.0) -> RowMap:
    return RowMap(SPECS, admission=admission, default_rate=default_rate, seed=3)


def test_own_rows_and_regions_do_not_overlap() -> None:
    m = row_map()
    assert m.region("direct") == (0, 12)
    assert m.region("hashed") == (12, 9)
    assert m.num_slots == 21


def test_direct_ids_have_their_own_row_and_larger_ids_the_default_row() -> None:
    m = row_map()
    sightings = np.full(m.num_slots, 5, dtype=np.uint8)
    slots = m.slots(np.array([0, 9, 10, 2**62, -1]), bounds(5), np.array([0]), sightings)
    assert slots.tolist() == [2, 11, 0, 0, 1]  # 0 is the default row, 1 the missing row


def test_ids_beyond_2_to_the_53_stay_apart() -> None:
    m = RowMap([TableSpec(name="h", num_rows=2**20)], admission=1, default_rate=0, seed=0)
    sightings = np.ones(m.num_slots, dtype=np.uint8)
    slots = m.slots(np.array([2**53, 2**53 + 1, 2**63 - 1]), bounds(3), np.array([0]), sightings)
    assert len(set(slots.tolist())) == 3


def test_an_unseen_id_reads_the_default_row_outside_training() -> None:
    m = row_map()
    sightings = np.zeros(m.num_slots, dtype=np.uint8)
    assert m.slots(np.array([4, 4]), bounds(1, 1), np.array([0, 1]), sightings).tolist() == [0, 12]
    m.needed(np.array([4]), bounds(1), np.array([0]), sightings, step=0)
    assert m.slots(np.array([4]), bounds(1), np.array([0]), sightings).tolist() == [6]


def test_admission_lets_a_row_in_at_its_kth_sighting() -> None:
    m = row_map(admission=3)
    sightings = np.zeros(m.num_slots, dtype=np.uint8)
    read = [int(m.needed(np.array([4]), bounds(1), np.array([0]), sightings, step=s).slots_U[0]) for s in range(4)]
    assert read == [0, 0, 6, 6]


def test_dropped_ids_are_drawn_by_seed_and_step_and_count_no_sighting() -> None:
    m = row_map(default_rate=0.5)
    ids = np.full(4000, 4, dtype=np.int64)
    sightings = np.zeros(m.num_slots, dtype=np.uint8)
    first = m.needed(ids, bounds(4000), np.array([0]), sightings, step=1)
    again = m.needed(ids, bounds(4000), np.array([0]), np.zeros_like(sightings), step=1)
    other = m.needed(ids, bounds(4000), np.array([0]), np.zeros_like(sightings), step=2)
    dropped = (first.slots_U[first.index_n] == 0).mean()
    assert 0.46 < dropped < 0.54  # 4,000 draws: four standard deviations are .032
    assert np.array_equal(first.index_n, again.index_n)
    assert not np.array_equal(first.slots_U[first.index_n], other.slots_U[other.index_n])


def test_a_row_that_was_only_ever_dropped_stays_unseen() -> None:
    m = row_map(default_rate=0.999999)
    sightings = np.zeros(m.num_slots, dtype=np.uint8)
    m.needed(np.array([4]), bounds(1), np.array([0]), sightings, step=0)
    assert sightings.sum() == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    columns=st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(-1, 40), max_size=60)), min_size=1, max_size=5),
    admission=st.integers(1, 4),
)
def test_needed_is_what_a_dictionary_finds(columns: list[tuple[int, list[int]]], admission: int) -> None:
    m = row_map(admission=admission)
    sightings = np.zeros(m.num_slots, dtype=np.uint8)
    ids = np.array([i for _, column in columns for i in column], dtype=np.int64)
    tables = np.array([t for t, _ in columns])
    all_seen = np.full(m.num_slots, 255, dtype=np.uint8)
    own = m.slots(ids, bounds(*(len(c) for _, c in columns)), tables, all_seen)
    for step in range(2):  # twice: the scratch set must have been handed back empty
        counts = sightings.astype(int)
        expected = []
        for slot, table in zip(own, np.repeat(tables, [len(c) for _, c in columns]), strict=True):
            base = m.region(SPECS[table].name)[0]
            if slot - base >= NUM_OWN_ROWS:
                counts[slot] = min(counts[slot] + 1, 255)
                expected.append(slot if counts[slot] >= admission else base)
            else:
                expected.append(slot)
        found = m.needed(ids, bounds(*(len(c) for _, c in columns)), tables, sightings, step=step)
        assert found.slots_U[found.index_n].tolist() == expected
        assert len(set(found.slots_U.tolist())) == len(found.slots_U)
        assert sightings.astype(int).tolist() == counts.tolist()


def test_a_batch_larger_than_the_scratch_set() -> None:
    m = RowMap([TableSpec(name="d", num_ids=100_000)], admission=1, default_rate=0, seed=0)
    ids = np.random.default_rng(0).integers(0, 100_000, 20_000)
    found = m.needed(ids, bounds(20_000), np.array([0]), np.zeros(m.num_slots, dtype=np.uint8), step=0)
    assert np.array_equal(found.slots_U[found.index_n], ids + NUM_OWN_ROWS)


@pytest.mark.parametrize("training", [True, False])
def test_negative_ids_are_refused(training: bool) -> None:
    m = row_map()
    sightings = np.zeros(m.num_slots, dtype=np.uint8)
    ask = partial(m.needed, step=0) if training else m.slots
    with pytest.raises(LogError, match=r"negative; found: -7; allowed: 0 … 2\^63 - 1"):
        ask(np.array([3, -7]), bounds(2), np.array([0]), sightings)
    assert m.needed(np.array([3]), bounds(1), np.array([0]), sightings, step=0).slots_U.tolist() == [5]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SchemaError, match="admission"):
        row_map(admission=0)
    with pytest.raises(SchemaError, match="default_rate"):
        row_map(default_rate=1.0)
