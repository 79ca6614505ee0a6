"""Rows that go: by age, by frequency, bounded, counted, and fresh when their ids come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from rankwell.errors import SchemaError
from rankwell.tables.adam import Adam
from rankwell.tables.sgd import Sgd
from rankwell.tables.storage import Eviction, Storage
from rankwell.tables.table import Table
from table_play import JOB, MEMBER, in_plain, lend, needs_native, new_table, read, stored, train_on
from table_state import load_state, state_of

SGD = Sgd(learning_rate=0.5)
MAX_ROWS = 16_384


@pytest.fixture(autouse=True, params=[pytest.param("compiled", marks=needs_native), "plain"])
def store(request: pytest.FixtureRequest) -> Iterator[None]:
    with in_plain() if request.param == "plain" else nullcontext():
        yield


def by_age(max_age_steps: int, **settings: object) -> Table:
    storage = Storage(eviction=Eviction(max_age_steps=max_age_steps))
    return new_table(MEMBER, storage=storage, **({"rule": SGD} | settings))


def test_a_row_not_lent_goes_between_its_age_and_a_quarter_more() -> None:
    table = by_age(40)
    table.track_removed(on=True)
    train_on(table, "member", range(1000))
    alive = []
    for _ in range(60):
        train_on(table, "member", [0, 1])
        alive.append(table.num_seen)
    assert alive[38] == 1000  # after step 40
    assert 2 < alive[44] < 1000
    assert alive[50] == 2
    assert table.num_evicted(by_age=True) == 998
    assert table.num_evicted(by_age=False) == 0
    assert table.take_removed("member").sort().values.tolist() == list(range(2, 1000))
    assert table.take_removed("member").tolist() == []


def test_an_id_evicted_reads_the_default_row_and_comes_back_as_new() -> None:
    table = by_age(16)
    start = lend(table, "member", [7]).detach().clone()
    table.abandon()
    train_on(table, "member", [7, 8])
    for _ in range(25):
        train_on(table, "member", [8])
    assert read(table, "member", [7]).eq(0).all()
    assert torch.equal(lend(table, "member", [7]).detach(), start)
    rows = stored(table, "member")
    assert rows.sightings_n[rows.keys_n == 7].tolist() == [1]


def test_looking_keeps_nobody_young() -> None:
    """Nor does a rule that brings rows up to date."""
    table = by_age(16, rule=Adam(learning_rate=0.1))
    train_on(table, "member", [7, 8])
    for _ in range(25):
        train_on(table, "member", [8])
        read(table, "member", [7])
        stored(table, "member")
    assert table.num_seen == 1


def test_who_waits_for_a_row_is_forgotten_too() -> None:
    table = by_age(16, admission=3)
    train_on(table, "member", [7, 7])
    for _ in range(40):
        train_on(table, "member", [8])
    assert torch.equal(lend(table, "member", [7]), read(table, "member", [99]))  # the default row: its first again
    rows = stored(table, "member")
    assert rows.sightings_n[rows.keys_n == 7].tolist() == [1]


def test_who_waits_is_counted() -> None:
    table = by_age(16, admission=3)
    for ids, num_waiting, num_seen in (([7, 7, 8], 2, 0), ([7], 1, 1), ([8, 9], 2, 1), ([7] * 9, 2, 1), ([8], 1, 2)):
        train_on(table, "member", ids)
        assert (table.num_waiting, table.num_seen) == (num_waiting, num_seen)
    for _ in range(40):
        train_on(table, "member", [-1])
    assert (table.num_waiting, table.num_seen, table.num_evicted(by_age=True)) == (0, 0, 2)
    direct = new_table(JOB, rule=SGD, admission=3)
    train_on(direct, "job", [7])
    assert direct.num_waiting == 0


def test_what_was_evicted_stays_counted_over_starts_and_cleared_tables() -> None:
    table = by_age(16)
    train_on(table, "member", range(100))
    for _ in range(40):
        train_on(table, "member", [0])
    table.clear()
    assert (table.num_seen, table.num_evicted(by_age=True), table.num_evicted(by_age=False)) == (0, 99, 0)
    again = by_age(16)
    load_state(again, state_of(table))
    train_on(again, "member", range(100, 110))
    for _ in range(40):
        train_on(again, "member", [0])
    assert again.num_evicted(by_age=True) == 109
    again.load_progress(again.progress())
    assert (again.num_evicted(by_age=True), again.num_evicted(by_age=False)) == (109, 0)
    again.train_with(SGD)
    assert again.num_evicted(by_age=True) == 0


def test_slots_of_rows_gone_are_used_again() -> None:
    table = by_age(16)
    for k in range(100):
        train_on(table, "member", range(1000 * k, 1000 * k + 1000))
        assert table.num_rows <= 21_002
    assert table.num_bytes < 40_000 * 64 * 8


@pytest.mark.parametrize("admission", [1, 2])
def test_no_more_rows_than_asked_for_and_the_popular_stay(admission: int) -> None:
    table = new_table(
        MEMBER, rule=SGD, admission=admission, width=1, storage=Storage(eviction=Eviction(max_rows=MAX_ROWS))
    )
    generator, popular = torch.Generator().manual_seed(0), torch.arange(500)
    for _ in range(20):
        strangers = torch.randint(1000, 10**12, (2500,), generator=generator).repeat(admission)
        train_on(table, "member", torch.cat([popular.repeat(3), strangers]))
        assert table.num_seen <= len(stored(table, "member")) - 2 <= MAX_ROWS
    assert table.num_evicted(by_age=False) > 10_000
    assert table.num_evicted(by_age=True) == 0
    rows = stored(table, "member")
    kept_n = torch.isin(rows.keys_n, popular)
    assert kept_n.sum() == 500
    assert rows.sightings_n[kept_n].max() < 60  # halved, so that what was popular once can be overtaken
    assert table.num_seen > MAX_ROWS // 2


def test_rows_lent_now_are_never_taken_away_before_they_have_moved() -> None:
    """More new ids in one batch than the table may keep: each has a row of its own until the step is done."""
    table = new_table(MEMBER, rule=SGD, width=1, storage=Storage(eviction=Eviction(max_rows=MAX_ROWS)))
    ids = torch.arange(40_000)
    start = lend(new_table(MEMBER, rule=SGD, width=1), "member", ids).detach()
    lent = lend(table, "member", ids)
    assert torch.equal(lent.detach(), start)
    lent.backward(torch.ones(40_000, 1))
    assert table.collect() == 40_000
    table.apply()
    rows = stored(table, "member")
    assert 8000 < len(rows) - 2 <= MAX_ROWS
    assert torch.equal(rows.rows_nW[2:], start[rows.keys_n[2:]] - 0.5)


def test_only_growing_tables_evict_and_limits_have_limits() -> None:
    with pytest.raises(SchemaError, match="only growing tables"):
        new_table(JOB, storage=Storage(eviction=Eviction(max_age_steps=20)))
    for limits in ({"max_age_steps": 15}, {"max_rows": 1000}, {"max_rows": 2**31}):
        with pytest.raises(SchemaError, match="out of range"):
            Eviction(**limits)
