"""Rows taken as they change, and put elsewhere, make the same table again: bit by bit, and for good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from rankwell.schema import TableSpec
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.adam import Adam
from rankwell.tables.loan import IdColumn
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.row_store import StoredRows
from rankwell.tables.storage import Eviction, Storage
from rankwell.tables.table import Table

MEMBER = TableSpec(name="member", growing=True)
KINDS = (MEMBER, TableSpec(name="job", num_ids=997), TableSpec(name="page", num_rows=300))
DECAYING = RowWiseAdaGrad(learning_rate=0.1, decay=0.1)


def new_table(*specs: TableSpec, rule: RowOptimizer, **settings: Any) -> Table:
    table = Table(specs, width=3, seed=1, init_scale=0.1, **{"default_rate": 0.1} | settings)
    table.train_with(rule)
    return table


def train(table: Table, generator: torch.Generator, num_steps: int) -> None:
    """Popular ids and new ones; each fourth loan is abandoned: its sightings count, and no row moves."""
    for k in range(num_steps):
        ids_n = (torch.rand(200, generator=generator) ** 3 * 3000).long()
        ids_n[::4] += torch.randint(0, 10**6, (50,), generator=generator)
        columns = [IdColumn(name, ids_n if name == "member" else ids_n % 997) for name in table.names]
        (block,) = table.checkout([columns]).blocks
        block.backward(torch.randn(block.shape, generator=generator))
        if k % 4 == 3:
            table.abandon()
        else:
            table.apply()


def held(table: Table) -> dict[str, Tensor]:
    """All rows as they stand, in the order of their keys."""
    fields = {}
    for name in table.names:
        pieces = list(table.chunks(name, up_to_date=False))
        order_n = torch.cat([piece.keys_n for piece in pieces]).argsort()
        for field in StoredRows.__slots__:
            fields[f"{name}.{field}"] = torch.cat([getattr(piece, field) for piece in pieces])[order_n]
    return fields


def same(one: Table, other: Table) -> bool:
    ours, theirs = held(one), held(other)
    return all(torch.equal(ours[field], theirs[field]) for field in ours)


def follow(follower: Table, table: Table, *, only_changed: bool, max_rows: int = 100) -> int:
    num_taken = 0
    for name in table.names:
        if len(gone_n := table.take_removed(name)):
            follower.remove(name, gone_n)
        for rows in table.take(name, only_changed=only_changed, max_rows=max_rows):
            follower.insert(name, rows, changed=False)
            num_taken += len(rows)
    return num_taken


def settings() -> Iterator[Any]:
    for dtype in ("float32", "bfloat16"):
        yield pytest.param(KINDS, Adam(learning_rate=0.01), 1, Storage(dtype=dtype), id=f"every_kind-{dtype}")
        yield pytest.param(KINDS, DECAYING, 3, Storage(dtype=dtype), id=f"every_kind-late-{dtype}")
    for admission in (1, 2):
        by_age = Storage(eviction=Eviction(max_age_steps=16))
        yield pytest.param((MEMBER,), DECAYING, admission, by_age, id=f"by_age-{admission}")
        rarest = Storage(eviction=Eviction(max_rows=16_384))
        yield pytest.param((MEMBER,), DECAYING, admission, rarest, id=f"rarest-{admission}")


@pytest.mark.parametrize(("specs", "rule", "admission", "storage"), list(settings()))
def test_what_changed_makes_the_table_again(
    specs: tuple[TableSpec, ...], rule: RowOptimizer, admission: int, storage: Storage
) -> None:
    table, follower = (new_table(*specs, rule=rule, admission=admission, storage=storage) for _ in range(2))
    table.track_removed(on=True)
    generator = torch.Generator().manual_seed(0)
    if storage.eviction is not None and storage.eviction.max_rows:  # shards that are nearly full
        (block,) = table.checkout([[IdColumn("member", torch.arange(10**7, 10**7 + 14_000))]]).blocks
        block.backward(torch.ones_like(block))
        table.apply()
    for turn in range(6):
        train(table, generator, 9)
        follow(follower, table, only_changed=turn > 0)
        assert same(table, follower)
    if storage.eviction is not None and admission == 1:
        assert sum(table.num_evicted(by_age=by_age) for by_age in (True, False)) > 0
    follower.load_progress(table.progress())
    again = torch.Generator()
    again.set_state(generator.get_state())
    train(table, generator, 20)
    train(follower, again, 20)
    assert same(table, follower)
    assert (table.num_seen, table.num_rows) == (follower.num_seen, follower.num_rows)


def test_only_what_changed_is_taken() -> None:
    table = new_table(*KINDS, rule=DECAYING)
    train(table, torch.Generator().manual_seed(0), 9)
    assert sum(len(rows) for name in table.names for rows in table.take(name, only_changed=False)) > 1000
    assert not [rows for name in table.names for rows in table.take(name, only_changed=True)]
    table.read([[IdColumn("member", torch.arange(50))]])  # who looks changes nothing
    assert not list(table.take("member", only_changed=True))
    (block,) = table.checkout([[IdColumn("job", torch.tensor([5, 5, 7]))]]).blocks
    block.backward(torch.ones_like(block))
    table.apply()
    (rows,) = table.take("job", only_changed=True)
    assert {5, 7} >= set(rows.keys_n.tolist()) - {-2, -1}
    assert not list(table.take("page", only_changed=True))


def test_rows_put_in_count_as_changed_unless_told() -> None:
    table, other = (new_table(MEMBER, rule=DECAYING) for _ in range(2))
    train(table, torch.Generator().manual_seed(0), 3)
    (rows,) = table.chunks("member")
    other.insert("member", rows, changed=False)
    assert not list(other.take("member", only_changed=True))
    other.insert("member", rows.where(slice(2, 12)))
    (found,) = other.take("member", only_changed=True)
    assert sorted(found.keys_n.tolist()) == sorted(rows.keys_n[2:12].tolist())


def test_removed_ids_are_told_once() -> None:
    table = new_table(MEMBER, rule=DECAYING, default_rate=0.0)
    table.track_removed(on=True)
    (block,) = table.checkout([[IdColumn("member", torch.tensor([3, 4, 2**63 - 1]))]]).blocks
    block.backward(torch.ones_like(block))
    table.apply()
    table.remove("member", torch.tensor([4, 2**63 - 1]))
    assert sorted(table.take_removed("member").tolist()) == [4, 2**63 - 1]
    assert table.take_removed("member").tolist() == []
    assert table.num_seen == 1
