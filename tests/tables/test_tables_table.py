"""Lending and taking back, against dense embeddings that torch trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rankwell.errors import SchemaError, TrainingError
from rankwell.schema import TableSpec
from rankwell.tables.row_map import NUM_OWN_ROWS
from rankwell.tables.row_optimizers import AdaGrad, RowWiseAdaGrad
from rankwell.tables.table import IdColumn, Table


def new_table(num_ids: int = 20, width: int = 3, **settings: float) -> Table:
    return Table([TableSpec(name="job", num_ids=num_ids)], width=width, seed=1, init_scale=0.1, **settings)  # type: ignore[arg-type]


def job(*ids: int) -> list[IdColumn]:
    return [IdColumn("job", torch.tensor(ids, dtype=torch.int64))]


def test_start_depends_on_seed_name_and_row_alone() -> None:
    small, large = new_table(num_ids=5), new_table(num_ids=50)
    both = Table(
        [TableSpec(name="other", num_ids=3), TableSpec(name="job", num_ids=5)], width=3, seed=1, init_scale=0.1
    )
    assert torch.equal(small.rows[2:7], large.rows[2:7])
    assert torch.equal(small.rows[2:7], both.rows[-5:])
    assert small.rows[:NUM_OWN_ROWS].eq(0).all()
    assert small.rows.abs().max() <= 0.1
    assert large.rows[2:].std() == pytest.approx(0.1 / 3**0.5, rel=0.15)


def test_training_equals_a_dense_embedding_under_torchs_adagrad() -> None:
    table = new_table()
    table.train_with(AdaGrad(learning_rate=0.3))
    dense = nn.Embedding(20, 3)
    dense.weight.data.copy_(table.rows[NUM_OWN_ROWS:])
    reference = torch.optim.Adagrad(dense.parameters(), lr=0.3, eps=1e-10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        ids = torch.randint(0, 20, (12,), generator=generator)
        target = torch.randn(12, 3, generator=generator)
        loan = table.checkout(job(*ids.tolist()))
        ((loan.rows_UW[loan.index_n] - target) ** 2).mean().backward()
        table.apply()
        reference.zero_grad()
        ((dense(ids) - target) ** 2).mean().backward()
        reference.step()
    assert torch.allclose(table.rows[NUM_OWN_ROWS:], dense.weight, atol=1e-6)


def test_rows_not_lent_are_bit_equal() -> None:
    table = new_table()
    table.train_with(RowWiseAdaGrad(learning_rate=1.0))
    before = table.rows.clone()
    loan = table.checkout(job(3, 5, 3))
    loan.rows_UW.square().sum().backward()
    table.apply()
    moved = (table.rows != before).any(dim=1).nonzero().squeeze(1).tolist()
    assert moved == [3 + NUM_OWN_ROWS, 5 + NUM_OWN_ROWS]


def test_two_loans_before_one_step_count_as_one_batch() -> None:
    together, apart = new_table(), new_table()
    for table in (together, apart):
        table.train_with(RowWiseAdaGrad(learning_rate=0.5))
    loan = together.checkout(job(1, 2, 2, 3))
    loan.rows_UW[loan.index_n].pow(2).sum().backward()
    together.apply()
    first, second = apart.checkout(job(1, 2)), apart.checkout(job(2, 3))
    (first.rows_UW[first.index_n].pow(2).sum() + second.rows_UW[second.index_n].pow(2).sum()).backward()
    apart.apply()
    assert torch.allclose(together.rows, apart.rows, atol=1e-7)


def test_decay_owed_is_paid_before_anyone_reads() -> None:
    table = new_table(num_ids=3)
    table.train_with(RowWiseAdaGrad(learning_rate=0.1, decay=1.0))
    start = table.rows[NUM_OWN_ROWS + 2].clone()
    for _ in range(4):
        loan = table.checkout(job(0))
        loan.rows_UW.sum().backward()
        table.apply()
    table.learning_rate = 0.05
    for _ in range(3):
        table.checkout(job(0)).rows_UW.sum().backward()
        table.apply()
    table.read(job(2))
    assert torch.allclose(table.rows[NUM_OWN_ROWS + 2], start * 0.9**4 * 0.95**3, rtol=1e-5)


def test_decay_paid_late_equals_decay_paid_each_step() -> None:
    lazy, eager = new_table(), new_table()
    for table in (lazy, eager):
        table.train_with(RowWiseAdaGrad(learning_rate=0.1, decay=0.5))
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        ids = torch.randint(0, 20, (4,), generator=generator).tolist()
        for table in (lazy, eager):
            loan = table.checkout(job(*ids))
            (loan.rows_UW[loan.index_n] - 1).square().sum().backward()
            table.apply()
        eager.read(job(0))  # makes every row pay now
    lazy.read(job(0))
    assert torch.allclose(lazy.rows, eager.rows, atol=1e-5)


def test_state_goes_on_bit_equal() -> None:
    def train(table: Table, first: int, last: int) -> None:
        for step in range(first, last):
            ids = torch.randint(0, 20, (8,), generator=torch.Generator().manual_seed(step)).tolist()
            loan = table.checkout(job(*ids))
            (loan.rows_UW[loan.index_n] - 1).square().sum().backward()
            table.apply()

    rule = RowWiseAdaGrad(learning_rate=0.1, decay=0.01)
    whole, half, rest = (new_table(default_rate=0.2) for _ in range(3))
    for table in (whole, half, rest):
        table.train_with(rule)
    train(whole, 0, 20)
    train(half, 0, 10)
    rest.load_state({name: tensor.clone() for name, tensor in half.state().items()})
    train(rest, 10, 20)
    assert all(torch.equal(rest.state()[name], tensor) for name, tensor in whole.state().items())


def test_seen_rows_are_all_that_reading_needs() -> None:
    table, served = new_table(), new_table()
    table.train_with(RowWiseAdaGrad(learning_rate=0.1))
    loan = table.checkout(job(4, 9, -1))
    loan.rows_UW.sum().backward()
    table.apply()
    slots, sightings, rows = table.seen_rows()
    assert slots.tolist() == [0, 1, 6, 11]
    served.load_seen_rows(slots, sightings, rows)
    for columns in (job(4), job(9), job(-1), job(12), job(10**9)):
        mine, theirs = table.read(columns), served.read(columns)
        assert torch.equal(mine.rows_UW[mine.index_n], theirs.rows_UW[theirs.index_n])
    assert served.read(job(12)).index_n.tolist() == [0]


def test_learned_default_row_is_what_unseen_ids_read() -> None:
    table = new_table(default_rate=0.3)
    table.train_with(RowWiseAdaGrad(learning_rate=0.5))
    for _ in range(50):
        loan = table.checkout(job(*range(10)))
        (loan.rows_UW[loan.index_n] - 1.0).square().sum().backward()
        table.apply()
    unseen = table.read(job(15))
    assert torch.allclose(unseen.rows_UW[unseen.index_n], torch.ones(1, 3), atol=0.05)


def test_what_is_refused() -> None:
    table = new_table()
    with pytest.raises(TrainingError, match="no rule"):
        table.checkout(job(1))
    with pytest.raises(SchemaError, match="no table 'member' here"):
        table.read([IdColumn("member", torch.tensor([1]))])
    with pytest.raises(SchemaError, match="outside its table"):
        table.load_seen_rows(torch.tensor([99]), torch.ones(1, dtype=torch.uint8), torch.zeros(1, 3))
    with pytest.raises(TrainingError, match="another shape"):
        table.load_state(new_table(num_ids=3).state())


def test_loans_that_got_no_gradient_move_nothing() -> None:
    table = new_table()
    table.train_with(RowWiseAdaGrad())
    before = table.rows.clone()
    table.checkout(job(1))
    table.apply()
    assert torch.equal(table.rows, before)
    table.checkout(job(1)).rows_UW.sum().backward()
    table.abandon()
    table.apply()
    assert torch.equal(table.rows, before)
