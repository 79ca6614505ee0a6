"""The compiled store and the plain one do the same, whatever is done with a table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.schema import TableSpec
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.sgd import Sgd
from rankwell.tables.storage import Eviction, Storage
from table_play import (
    JOB,
    MEMBER,
    PAGE,
    RULES,
    Play,
    assert_same_rows,
    column,
    in_plain,
    needs_native,
    new_table,
    read,
    train_on,
)  # fmt: skip

BFLOAT16 = Storage(dtype="bfloat16")
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}-{rule.decay or ''}")

plays = st.builds(
    Play,
    blocks=st.lists(st.lists(st.sampled_from(["job", "page", "member"]), min_size=1, max_size=3).map(tuple), max_size=3)
    .map(tuple),
    num_steps=st.integers(1, 8), num_ids=st.integers(0, 30), num_loans=st.integers(1, 2), abandons=st.booleans(),
    reads=st.booleans(), scale=st.sampled_from([1.0, 0.3]), seed=st.integers(0, 99),
)  # fmt: skip


def assert_same_in_both(play: Play, rule: RowOptimizer, *, tolerance: float, **settings: object) -> None:
    compiled = new_table(JOB, PAGE, MEMBER, rule=rule, width=5, **settings)
    seen = play.run(compiled)
    with in_plain():
        plain = new_table(JOB, PAGE, MEMBER, rule=rule, width=5, **settings)
        for found, expected in zip(seen, play.run(plain), strict=True):
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for up_to_date in (False, True):
        assert_same_rows(compiled, plain, tolerance=tolerance, up_to_date=up_to_date)
    assert (compiled.num_seen, compiled.num_rows) == (plain.num_seen, plain.num_rows)


@needs_native
@settings(max_examples=60, deadline=None, derandomize=True)
@given(plays, st.sampled_from(RULES), st.sampled_from([1, 2, 4]), st.sampled_from([0.0, 0.3]))
def test_float32_rows_are_the_same_but_for_rounding(
    play: Play, rule: RowOptimizer, admission: int, default_rate: float
) -> None:
    assert_same_in_both(play, rule, tolerance=1e-5, admission=admission, default_rate=default_rate)


@needs_native
@pytest.mark.parametrize("storage", [Storage(), BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("admission", [1, 3])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_rows_are_bit_equal_where_the_rule_rounds_the_same(storage: Storage, admission: int, decay: float) -> None:
    """Births, sums over duplicates, draws and stochastic rounding included."""
    play = Play(num_loans=2, reads=True, abandons=True, num_steps=12, scale=0.5)
    rule = Sgd(learning_rate=0.125, decay=decay)
    assert_same_in_both(play, rule, tolerance=0.0, storage=storage, admission=admission, default_rate=0.3)


@needs_native
@each_rule
@pytest.mark.parametrize(
    "storage", [Storage(), BFLOAT16, Storage(layout="packed")], ids=["float32", "bfloat16", "packed"]
)
def test_the_number_of_threads_changes_no_bit(rule: RowOptimizer, storage: Storage) -> None:
    play = Play(
        blocks=(("member",), ("job", "page", "member")), num_steps=4, num_ids=2500, most=5000, reads=True, num_loans=2
    )
    tables, seen, squares = [], [], []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            tables.append(new_table(JOB, PAGE, MEMBER, rule=rule, storage=storage, admission=2, default_rate=0.2))
            seen.append(play.run(tables[-1]))
            loan = tables[-1].checkout([[*play.batch(torch.Generator().manual_seed(5))[0]]])
            loan.blocks[0].square().sum().backward()
            squares.append(tables[-1].collect())
            tables[-1].abandon()
    finally:
        torch.set_num_threads(before)
    for k in (1, 2):
        assert_same_rows(tables[0], tables[k], up_to_date=False)
        assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[k], strict=True))
    assert squares[0] == squares[1] == squares[2] > 0


@needs_native
def test_any_number_of_threads_may_read_while_another_table_trains() -> None:
    rule = RULES[-1]
    served, trained = new_table(MEMBER, JOB, rule=rule), new_table(MEMBER, rule=rule)
    for table in (served, trained):
        train_on(table, "member", range(5000))
        train_on(table, "member", range(0, 5000, 3))
    expected = read(served, "member", range(6000))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(4) as pool:
            readings = [pool.submit(read, served, "member", range(6000)) for _ in range(20)]
            for _ in range(5):
                train_on(trained, "member", range(5000))
            assert all(torch.equal(reading.result(), expected) for reading in readings)
    finally:
        torch.set_num_threads(before)
    again = new_table(MEMBER, rule=rule)
    for ids in (range(5000), range(0, 5000, 3), *[range(5000)] * 5):
        train_on(again, "member", ids)
    assert_same_rows(again, trained)


@each_rule
def test_a_growing_table_is_a_direct_one_that_is_not_laid_out_beforehand(rule: RowOptimizer) -> None:
    play = Play(blocks=(("member", "member"), ("member",)), num_steps=10, most=50, num_loans=2, reads=True)
    growing, direct = (
        new_table(TableSpec(name="member", **size), rule=rule, admission=2, default_rate=0.1)
        for size in ({"growing": True}, {"num_ids": 50})
    )
    for found, expected in zip(play.run(growing), play.run(direct), strict=True):
        assert torch.equal(found, expected)
    assert growing.num_seen <= direct.num_seen
    assert growing.num_seen > 40
    assert torch.equal(*(read(table, "member", range(50)) for table in (growing, direct)))


@needs_native
@each_rule
def test_rows_in_files_are_those_in_memory(rule: RowOptimizer, tmp_path: Path) -> None:
    play = Play(num_steps=6, num_ids=200, most=400, reads=True, abandons=True)
    memory = new_table(JOB, PAGE, MEMBER, rule=rule, admission=2)
    files = new_table(JOB, PAGE, MEMBER, rule=rule, admission=2, storage=Storage(folder=tmp_path, resident_bytes=2**24))
    for found, expected in zip(play.run(files), play.run(memory), strict=True):
        assert torch.equal(found, expected)
    assert {file.name for file in tmp_path.iterdir()} == {"job.rows", "page.rows", "member.rows"}
    everyone = [[column(name, range(-1, 400)) for name in ("job", "page", "member")]]
    assert torch.equal(*(table.read(everyone).blocks[0] for table in (files, memory)))


@needs_native
@pytest.mark.parametrize("rule", [RULES[3], RULES[8]], ids=["as_it_stands", "with_decay"])
@pytest.mark.parametrize(
    "eviction", [Eviction(max_rows=16_384), Eviction(max_age_steps=16), Eviction(max_age_steps=40)]
)
@pytest.mark.parametrize("admission", [1, 2])
def test_both_evict_the_same_ids(rule: RowOptimizer, eviction: Eviction, admission: int) -> None:
    settings = {"rule": rule, "storage": Storage(eviction=eviction), "admission": admission, "width": 1}
    compiled = new_table(MEMBER, **settings)
    with in_plain():
        plain = new_table(MEMBER, **settings)
    gone, waiting = [], []
    for table in (compiled, plain):
        table.track_removed(on=True)
        generator = torch.Generator().manual_seed(3)
        for _ in range(60):
            few = torch.randint(0, 2000, (100,), generator=generator)
            many = torch.randint(0, 10**9, (500,), generator=generator)
            ids = torch.cat([few, many, many[:250]]) if eviction.max_age_steps else torch.cat([few, many, many])
            train_on(table, "member", ids)
        waiting.append(table.num_waiting)
        gone.append(table.take_removed("member").sort().values)
    assert torch.equal(*gone)
    assert len(gone[0]) > 1000
    assert waiting[0] == waiting[1]
    for by_age in (True, False):
        assert compiled.num_evicted(by_age=by_age) == plain.num_evicted(by_age=by_age)
    assert compiled.num_evicted(by_age=eviction.max_age_steps is not None) > 0
    assert_same_rows(compiled, plain, tolerance=1e-6)
