"""Lending and taking back, in each of the two stores: against dense embeddings that torch trains, and at the edges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from rankwell.errors import LogError, SchemaError, TrainingError
from rankwell.schema import TableSpec
from rankwell.tables.adagrad import AdaGrad, RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.lazy_adam import LazyAdam
from rankwell.tables.loan import IdColumn
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.row_store import DEFAULT_KEY, StoredRows
from rankwell.tables.sgd import Sgd
from rankwell.tables.storage import Storage
from rankwell.tables.table import Table
from rankwell.types import MISSING_ID
from table_play import (
    JOB,
    MEMBER,
    PAGE,
    RULES,
    Play,
    assert_same_rows,
    column,
    in_plain,
    lend,
    needs_native,
    new_table,
    read,
    stored,
    train_on,
)
from table_state import load_state, state_of

LARGEST = 2**63 - 1
SGD = Sgd(learning_rate=0.5)
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}-{rule.decay or ''}")
each_spec = pytest.mark.parametrize("spec", [JOB, PAGE, MEMBER], ids=lambda spec: spec.name)


@pytest.fixture(autouse=True, params=[pytest.param("compiled", marks=needs_native), "plain"])
def store(request: pytest.FixtureRequest) -> Iterator[None]:
    with in_plain() if request.param == "plain" else nullcontext():
        yield


def test_a_row_starts_by_seed_name_and_key_alone() -> None:
    small, large = (new_table(TableSpec(name="member", num_ids=n), rule=SGD) for n in (5, 50))
    among = new_table(JOB, MEMBER, rule=SGD)
    late = new_table(MEMBER, rule=SGD)
    for _ in range(3):
        train_on(late, "member", [40, 41])
    starts = [lend(table, "member", [4, 0]).detach() for table in (small, large, among, late)]
    assert all(torch.equal(start, starts[0]) for start in starts)
    assert not torch.equal(starts[0][0], starts[0][1])
    assert not torch.equal(starts[0], lend(among, "job", [4, 0]).detach())
    many = lend(large, "member", range(50)).detach()
    assert many.abs().max() <= 0.1
    assert many.std() == pytest.approx(0.1 / 3**0.5, rel=0.15)
    assert read(large, "member", [MISSING_ID, 77]).eq(0).all()


def test_rows_of_bfloat16_start_by_key_too() -> None:
    tables = [new_table(spec, rule=SGD, storage=Storage(dtype="bfloat16")) for spec in (MEMBER, MEMBER)]
    assert torch.equal(lend(tables[0], "member", [3, LARGEST]), lend(tables[1], "member", [3, LARGEST]))
    assert lend(tables[0], "member", range(999)).mean().abs() < 0.005


def test_training_is_a_dense_embedding_under_torchs_adagrad() -> None:
    table = new_table(MEMBER, rule=AdaGrad(learning_rate=0.3))
    dense = nn.Embedding(20, 3)
    dense.weight.data.copy_(lend(table, "member", range(20)).detach())
    table.abandon()
    reference = torch.optim.Adagrad(dense.parameters(), lr=0.3, eps=1e-10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        ids = torch.randint(0, 20, (12,), generator=generator)
        target = torch.randn(12, 3, generator=generator)
        ((lend(table, "member", ids) - target) ** 2).mean().backward()
        table.apply()
        reference.zero_grad()
        ((dense(ids) - target) ** 2).mean().backward()
        reference.step()
    torch.testing.assert_close(read(table, "member", range(20)), dense.weight.detach(), rtol=0, atol=1e-6)


@each_spec
def test_gradients_of_a_row_used_often_are_summed_and_it_moves_once(spec: TableSpec) -> None:
    table = new_table(spec, rule=SGD)
    start = lend(table, spec.name, [7, 7, 8, 7]).detach().clone()
    table.abandon()
    lend(table, spec.name, [7, 7, 8, 7]).backward(torch.tensor([[1.0], [10.0], [0.5], [100.0]]).expand(4, 3))
    assert table.collect() == 3 * (111.0**2 + 0.5**2)
    table.apply()
    torch.testing.assert_close(read(table, spec.name, [7, 8]), start[[0, 2]] - torch.tensor([[55.5], [0.25]]))
    assert table.step == 1


@each_rule
def test_using_all_ids_twice_in_two_blocks_is_one_gradient_of_twice_the_size(rule: RowOptimizer) -> None:
    once, twice = new_table(MEMBER, rule=rule), new_table(MEMBER, rule=rule)
    for k in range(4):
        train_on(once, "member", [k, 5, 9], grad=2.0)
        blocks = twice.checkout([[column("member", [k, 5, 9])], [column("member", [9, 5, k])]]).blocks
        for block in blocks:
            block.backward(torch.ones_like(block))
        twice.apply()
    ids = [0, 1, 2, 3, 5, 9]
    assert torch.equal(read(once, "member", ids), read(twice, "member", ids))


def test_two_forward_passes_before_a_step_are_one_batch() -> None:
    together, apart = (new_table(MEMBER, rule=RowWiseAdaGrad(learning_rate=0.5)) for _ in range(2))
    train_on(together, "member", [1, 2, 2, 3])
    first, second = lend(apart, "member", [1, 2]), lend(apart, "member", [2, 3])
    (first.sum() + second.sum()).backward()
    apart.apply()
    assert_same_rows(together, apart)


@each_rule
@each_spec
def test_rows_not_lent_stand_where_they_stood(rule: RowOptimizer, spec: TableSpec) -> None:
    table = new_table(spec, rule=rule, width=5)
    for _ in range(3):
        train_on(table, spec.name, [1, 2, 3, MISSING_ID])
    before, read_before = stored(table, spec.name, up_to_date=False), read(table, spec.name, [1, 2, 3])
    train_on(table, spec.name, [2, 2])
    after = stored(table, spec.name, up_to_date=False)
    moved_n = (after.rows_nW != before.rows_nW).any(dim=1)
    if not rule.catches_up:
        assert moved_n.sum() == 1
        assert torch.equal(read(table, spec.name, [1, 3]), read_before[[0, 2]])
    still_n = before.last_n == after.last_n
    assert still_n.sum() >= 2
    assert torch.equal(after.rows_nW[still_n], before.rows_nW[still_n])
    assert torch.equal(after.state_nS[still_n], before.state_nS[still_n])


@each_rule
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reading_changes_nothing(rule: RowOptimizer, dtype: str) -> None:
    """Not a bit of what is stored, and so not of the training that follows."""
    watched, alone = (
        new_table(JOB, PAGE, MEMBER, rule=rule, admission=2, storage=Storage(dtype=dtype))  # type: ignore[arg-type]
        for _ in range(2)
    )
    Play(num_steps=5).run(watched)
    before = state_of(watched)
    first = [read(watched, name, range(-1, 50)) for name in watched.names]
    stored(watched, "member")
    assert all(torch.equal(before[name], tensor) for name, tensor in state_of(watched).items())
    again = [read(watched, name, range(-1, 50)) for name in watched.names]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    watched.clear()
    watched.load_progress(alone.progress())
    Play(num_steps=5, reads=False).run(alone)
    Play(num_steps=5, reads=False).run(watched)
    assert_same_rows(watched, alone, up_to_date=False)


def test_what_is_read_is_what_is_then_lent() -> None:
    for rule in RULES:
        table = new_table(MEMBER, rule=rule)
        for k in range(6):
            train_on(table, "member", [k, 9])
        assert torch.equal(read(table, "member", range(6)), lend(table, "member", range(6)).detach())


def test_decay_owed_is_paid_in_what_is_read() -> None:
    table = new_table(MEMBER, rule=RowWiseAdaGrad(learning_rate=0.1, decay=1.0))
    start = lend(table, "member", [2]).detach().clone()
    table.abandon()
    for k in range(7):
        table.learning_rate = 0.1 if k < 4 else 0.05
        train_on(table, "member", [0])
    torch.testing.assert_close(read(table, "member", [2]), start * 0.9**4 * 0.95**3, rtol=1e-5, atol=0)
    torch.testing.assert_close(read(table, "member", [2]), lend(table, "member", [2]).detach(), rtol=0, atol=0)


@each_spec
def test_an_id_reads_its_own_row_from_its_kth_sighting_on(spec: TableSpec) -> None:
    table = new_table(spec, rule=SGD, admission=3)
    lent = lend(table, spec.name, [7, 7, 8, 7, 7])
    assert lent[[0, 1, 2]].eq(0).all()  # the default row
    assert torch.equal(lent[3], lent[4])
    assert lent[3].ne(0).any()
    assert read(table, spec.name, [8]).eq(0).all()
    assert torch.equal(read(table, spec.name, [7])[0], lent[3])
    table.abandon()
    assert lend(table, spec.name, [8]).eq(0).all()
    assert lend(table, spec.name, [8]).ne(0).any()
    counts = stored(table, spec.name)
    assert sorted(counts.sightings_n[counts.keys_n >= 0].tolist()) == [3, 4]


def test_a_reader_is_no_sighting() -> None:
    table = new_table(MEMBER, rule=SGD, admission=2)
    for _ in range(5):
        read(table, "member", [4])
    assert table.num_seen == 0
    assert lend(table, "member", [4]).eq(0).all()


def test_ids_dropped_read_the_default_row_and_train_it() -> None:
    table = new_table(MEMBER, rule=SGD, default_rate=0.25)
    lent = lend(table, "member", range(4000))
    dropped_n = lent.eq(0).all(dim=1)
    assert dropped_n.double().mean() == pytest.approx(0.25, abs=0.03)
    assert table.num_seen == 4000 - int(dropped_n.sum())
    assert torch.equal(lend(table, "member", range(4000)).eq(0).all(dim=1), dropped_n)  # by seed, step and place alone
    table.abandon()
    for _ in range(80):
        (lend(table, "member", range(10)) - 1).square().mean().backward()
        table.apply()
    torch.testing.assert_close(read(table, "member", [10**9]), torch.ones(1, 3), rtol=0, atol=0.05)
    next_draw = lend(table, "member", range(4000, 8000)).eq(read(table, "member", [10**9])).all(dim=1)
    assert not torch.equal(next_draw, dropped_n)


@pytest.mark.parametrize("spec", [PAGE, MEMBER], ids=lambda spec: spec.name)
def test_the_least_and_the_largest_id_have_rows(spec: TableSpec) -> None:
    table = new_table(spec, rule=SGD)
    first = lend(table, spec.name, [0, LARGEST, MISSING_ID, LARGEST]).detach().clone()
    table.abandon()
    train_on(table, spec.name, [0, LARGEST, MISSING_ID, LARGEST])
    moved = read(table, spec.name, [0, LARGEST, MISSING_ID])
    torch.testing.assert_close(first[:3] - moved, torch.tensor([[0.5], [1.0], [0.5]]).expand(3, 3))


def test_one_id_in_every_place() -> None:
    table = new_table(MEMBER, rule=SGD)
    train_on(table, "member", [5] * 3000, grad=2.0**-10)
    assert table.num_seen == 1
    start = lend(new_table(MEMBER, rule=SGD), "member", [5]).detach()
    torch.testing.assert_close(read(table, "member", [5]), start - 0.5 * 3000 / 1024)


def test_no_id_is_no_work() -> None:
    table = new_table(JOB, MEMBER, rule=SGD)
    blocks = table.checkout([[column("member", []), column("job", [])], [column("job", [1])]]).blocks
    assert [tuple(block.shape) for block in blocks] == [(0, 6), (1, 3)]
    sum(block.sum() for block in blocks).backward()
    table.apply()
    assert table.read([[column("member", [])]]).blocks[0].shape == (0, 3)
    assert table.checkout([]).blocks == ()
    table.apply()
    assert (table.step, table.num_seen) == (2, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number_is_refused_and_nothing_moves(bad: float) -> None:
    table = new_table(JOB, MEMBER, rule=LazyAdam(learning_rate=0.1))
    train_on(table, "member", [1, 2])
    before = state_of(table)
    blocks = table.checkout([[column("job", [1, 2])], [column("member", [1, 2])]]).blocks
    blocks[0].backward(torch.ones(2, 3))
    blocks[1].backward(torch.tensor([[1.0, 1.0, 1.0], [1.0, bad, 1.0]]))
    with pytest.raises(TrainingError, match="rows of table 'member' is not finite"):
        table.apply()
    table.abandon()
    after = state_of(table)
    assert table.step == 1
    for field in ("rows_nW", "state_nS", "last_n"):
        assert torch.equal(before[f"member.{field}"], after[f"member.{field}"])
    train_on(table, "member", [1, 2])
    assert read(table, "member", [1, 2]).isfinite().all()


def test_a_gradient_that_is_no_number_names_the_feature() -> None:
    table = new_table(MEMBER, rule=SGD)
    columns = [IdColumn("member", torch.tensor([1, 2]), feature) for feature in ("viewer", "author")]
    (block,) = table.checkout([columns]).blocks
    block.backward(torch.tensor([[0.0] * 5 + [math.nan]] * 2))
    with pytest.raises(TrainingError, match=r"rows of 'author' \(table 'member'\) is not finite"):
        table.collect()
    with pytest.raises(LogError, match=r"an id of 'author' \(table 'member'\) is negative"):
        table.read([[IdColumn("member", torch.tensor([-7]), "author")]])


def test_a_sum_of_gradients_that_overflows_is_refused() -> None:
    table = new_table(MEMBER, rule=SGD)
    with pytest.raises(TrainingError, match="rows of table 'member' is not finite"):
        train_on(table, "member", [1, 1], grad=3e38)


def test_loans_without_gradients_or_given_up_move_nothing() -> None:
    table = new_table(MEMBER, rule=SGD)
    train_on(table, "member", [1, 2])
    before = stored(table, "member").rows_nW
    lend(table, "member", [1])
    table.apply()
    lend(table, "member", [2]).sum().backward()
    table.abandon()
    table.apply()
    assert torch.equal(stored(table, "member").rows_nW, before)
    used, unused = table.checkout([[column("member", [1])], [column("member", [2])]]).blocks
    used.sum().backward()
    table.apply()
    assert unused.grad is None
    assert (stored(table, "member").rows_nW != before).any(dim=1).sum() == 1


def test_collecting_twice_counts_once_and_clipping_scales() -> None:
    table = new_table(MEMBER, rule=SGD)
    start = lend(table, "member", [3]).detach().clone()
    table.abandon()
    lend(table, "member", [3]).backward(torch.full((1, 3), 4.0))
    assert table.collect() == table.collect() == 48.0
    table.apply(scale=0.25)
    torch.testing.assert_close(read(table, "member", [3]), start - 0.5)


@each_rule
def test_state_goes_on_bit_equal(rule: RowOptimizer) -> None:
    settings = {"rule": rule, "admission": 2, "default_rate": 0.2}
    whole, rest = (new_table(JOB, PAGE, MEMBER, **settings) for _ in range(2))
    Play(num_steps=6, seed=1).run(whole)
    whole.learning_rate = 0.05
    load_state(rest, state_of(whole))
    assert (rest.step, rest.learning_rate, rest.num_seen) == (6, 0.05, whole.num_seen)
    for found, expected in zip(
        Play(num_steps=6, seed=2, reads=True).run(rest), Play(num_steps=6, seed=2, reads=True).run(whole), strict=True
    ):
        assert torch.equal(found, expected)
    assert_same_rows(rest, whole, up_to_date=False)


def test_what_was_taken_once_and_then_what_changed_is_the_table() -> None:
    """Base, then removed ids and changed rows, again and again: the way of a checkpoint."""
    rule = LazyAdam(learning_rate=0.1, decay=0.01)
    table, copy = (new_table(MEMBER, rule=rule, admission=2) for _ in range(2))
    table.track_removed(on=True)
    sizes = []
    for k in range(6):
        Play(blocks=(("member",),), num_steps=2, seed=k, num_ids=8, most=60).run(table)
        if k % 2:
            table.remove("member", torch.tensor([k, 2 * k, 999]))
        removed_n = table.take_removed("member")
        pieces = list(table.take("member", only_changed=k > 0, max_rows=7))
        copy.remove("member", removed_n)
        for rows in pieces:
            copy.insert("member", rows, changed=False)
        sizes.append(sum(int((rows.sightings_n >= 2).sum()) for rows in pieces))
        copy.load_progress(table.progress())
        assert_same_rows(copy, table, up_to_date=False)
    assert sizes[-1] < table.num_seen  # an untouched row is not taken again
    left = list(copy.take("member", only_changed=True))  # what was put in as unchanged is so; who waits is always taken
    assert all((rows.sightings_n < 2).all() for rows in left)


def test_a_row_put_in_takes_the_place_of_the_one_there() -> None:
    table = new_table(MEMBER, rule=SGD, admission=2)
    train_on(table, "member", [4, 4, 6, 6])
    rows = StoredRows(
        keys_n=torch.tensor([DEFAULT_KEY, MISSING_ID, 4, 6, 9]), last_n=torch.ones(5, dtype=torch.int32),
        sightings_n=torch.tensor([0, 0, 5, 1, 2], dtype=torch.int32), state_nS=torch.empty(5, 0),
        rows_nW=torch.arange(15.0).reshape(5, 3),
    )  # fmt: skip
    table.insert("member", rows)
    # 6 was put back among those that wait: it reads the default row
    assert torch.equal(read(table, "member", [77, MISSING_ID, 4, 9]), rows.rows_nW[[0, 1, 2, 4]])
    assert torch.equal(read(table, "member", [6]), rows.rows_nW[[0]])
    assert table.num_seen == 2
    table.remove("member", torch.tensor([4, 55]))
    assert torch.equal(read(table, "member", [4]), rows.rows_nW[[0]])
    assert table.num_seen == 1
    assert torch.equal(lend(table, "member", [6]), lend(new_table(MEMBER, rule=SGD), "member", [6]))


def test_pieces_hold_each_row_once() -> None:
    for spec in (JOB, PAGE, MEMBER):
        table = new_table(spec, rule=SGD)
        train_on(table, spec.name, range(35))
        pieces = list(table.chunks(spec.name, max_rows=10))
        assert len(pieces) >= 2
        assert all(len(piece) <= 12 for piece in pieces)
        assert pieces[0].keys_n[:2].tolist() == [DEFAULT_KEY, MISSING_ID]
        keys = torch.cat([piece.keys_n for piece in pieces]).tolist()
        assert len(keys) == len(set(keys)) == table.num_seen + 2


def test_a_rule_given_later_finds_the_rows_and_not_the_state() -> None:
    table = new_table(MEMBER, rule=LazyAdam(learning_rate=0.1, decay=0.1))
    train_on(table, "member", [1, 2])
    train_on(table, "member", [1])
    before = read(table, "member", [1, 2, 3])
    table.train_with(AdaGrad(learning_rate=0.1))
    assert torch.equal(read(table, "member", [1, 2, 3]), before)
    assert table.step == 0
    assert stored(table, "member").state_nS.eq(0).all()


def test_rows_of_ftrl_start_at_zero() -> None:
    table = new_table(MEMBER, rule=Ftrl(learning_rate=0.1))
    assert lend(table, "member", [1, 2]).eq(0).all()


def test_clearing_forgets_everything() -> None:
    table = new_table(MEMBER, rule=SGD)
    start = lend(table, "member", [1]).detach().clone()
    train_on(table, "member", [1])
    table.clear()
    assert table.num_seen == 0
    assert torch.equal(lend(table, "member", [1]), start)


def test_what_is_refused() -> None:
    table = new_table(JOB, MEMBER)
    with pytest.raises(TrainingError, match="no rule"):
        lend(table, "job", [1])
    with pytest.raises(SchemaError, match="no table 'page' here"):
        read(table, "page", [1])
    table.train_with(AdaGrad(learning_rate=0.1))
    with pytest.raises(LogError, match="negative"):
        lend(table, "member", [3, -2])
    with pytest.raises(SchemaError, match="differ in length"):
        table.read([[column("member", [1]), column("job", [1, 2])]])
    train_on(table, "job", [1])
    others = [
        new_table(JOB, MEMBER, rule=AdaGrad(learning_rate=0.1), width=4),
        new_table(JOB, MEMBER, rule=RowWiseAdaGrad(learning_rate=0.1)),
        new_table(TableSpec(name="job", num_ids=1), MEMBER, rule=AdaGrad(learning_rate=0.1)),
        new_table(PAGE, rule=AdaGrad(learning_rate=0.1)),
    ]
    for other in others:
        with pytest.raises(SchemaError, match="do not fit|outside table|no table"):
            load_state(other, state_of(table))


@pytest.mark.parametrize(
    "settings",
    [{"width": 0}, {"width": 1025}, {"admission": 0}, {"admission": 2**16}, {"default_rate": 1.0}, {"init_scale": -1.0},
     {"init_scale": math.nan}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SchemaError, match="out of range"):
        Table([MEMBER], **({"width": 2, "seed": 0, "init_scale": 0.1} | settings))  # type: ignore[arg-type]


def test_growing_through_many_layouts_finds_every_id() -> None:
    table = new_table(MEMBER, rule=SGD, width=1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, LARGEST, (300_000,), generator=generator)
    ids[::3] = torch.arange(100_000)  # neighbours beside ids from everywhere
    starts = torch.cat([lend(table, "member", some).detach() for some in ids.split(50_000)])
    table.abandon()
    assert table.num_seen == len(ids.unique())
    assert table.num_rows >= table.num_seen + 2
    assert torch.equal(read(table, "member", ids), starts)
    assert starts.unique().numel() > 250_000
    table.remove("member", ids[:150_000])
    assert read(table, "member", ids[:150_000]).eq(0).all()
    assert torch.equal(read(table, "member", ids[150_000:]), starts[150_000:])
    assert table.num_seen == len(ids.unique()) - 150_000


def test_composed_rows_take_their_parts_tables() -> None:
    spec = TableSpec(name="member", num_ids=1000, num_remainders=30)
    remainder, quotient = spec.parts()
    assert (remainder.name, remainder.size, quotient.name, quotient.size) == (
        "member_remainder", 30, "member_quotient", 34,
    )  # fmt: skip
    pairs = {(i % 30, i // 30) for i in range(1000)}
    assert len(pairs) == 1000
    assert max(q for _, q in pairs) == 33
    assert TableSpec(name="job", num_ids=5).parts() == (TableSpec(name="job", num_ids=5),)
    with pytest.raises(SchemaError):
        TableSpec(name="member", num_ids=10, num_remainders=10)
