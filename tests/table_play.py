"""Batches played through a table, in either of its stores.

Letters: n ids of a column, flat · F columns of a block · W row width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from rankwell.schema import TableSpec
from rankwell.tables.adagrad import AdaGrad, RowWiseAdaGrad
from rankwell.tables.adam import Adam
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.lazy_adam import LazyAdam
from rankwell.tables.loan import IdColumn, Loan
from rankwell.tables.momentum import Momentum
from rankwell.tables.native import native, why_absent
from rankwell.tables.rms_prop import RmsProp
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.row_store import StoredRows
from rankwell.tables.sgd import Sgd
from rankwell.tables.table import Table

RULES: tuple[RowOptimizer, ...] = (
    Sgd(learning_rate=0.1), Momentum(learning_rate=0.1), AdaGrad(learning_rate=0.1), RowWiseAdaGrad(learning_rate=0.1),
    RmsProp(learning_rate=0.1), LazyAdam(learning_rate=0.1), Ftrl(learning_rate=0.1), Adam(learning_rate=0.1),
    Sgd(learning_rate=0.1, decay=0.1), RowWiseAdaGrad(learning_rate=0.1, group_lasso=0.05),
    Adam(learning_rate=0.1, decay=0.02),
)  # fmt: skip

MEMBER = TableSpec(name="member", growing=True)
JOB = TableSpec(name="job", num_ids=40)
PAGE = TableSpec(name="page", num_rows=17)

needs_native = pytest.mark.skipif(native is None, reason=f"compares with the compiled store: {why_absent()}")


@contextmanager
def in_plain() -> Iterator[None]:
    """Tables made here keep their rows in plain PyTorch."""
    with mock.patch("rankwell.tables.table.native", None):
        yield


def new_table(
    *specs: TableSpec, rule: RowOptimizer | None = None, width: int = 3, init_scale: float = 0.1, **settings: Any
) -> Table:
    table = Table(specs, width=width, seed=1, init_scale=init_scale, **settings)
    if rule is not None:
        table.train_with(rule)
    return table


def column(name: str, ids: Sequence[int] | Tensor) -> IdColumn:
    return IdColumn(name, torch.as_tensor(ids, dtype=torch.int64))


def lend(table: Table, name: str, ids: Sequence[int] | Tensor) -> Tensor:
    return table.checkout([[column(name, ids)]]).blocks[0]


def read(table: Table, name: str, ids: Sequence[int] | Tensor) -> Tensor:
    return table.read([[column(name, ids)]]).blocks[0]


def train_on(table: Table, name: str, ids: Sequence[int] | Tensor, grad: float = 1.0) -> None:
    """One step in which each use of a row has the same gradient."""
    lend(table, name, ids).backward(torch.full((len(ids), table.width), grad))
    table.apply()


def stored(table: Table, name: str, **how: Any) -> StoredRows:
    """All rows of a table, by key."""
    pieces = list(table.chunks(name, **how))
    rows = StoredRows(**{f.name: torch.cat([getattr(piece, f.name) for piece in pieces]) for f in fields(StoredRows)})
    order = rows.keys_n.argsort()
    return StoredRows(**{f.name: getattr(rows, f.name)[order] for f in fields(StoredRows)})


@dataclass(frozen=True)
class Play:
    """What is done with a table: batches, some lent and given up, some read in between.

    Args:
        blocks: The names of the tables that the columns of each block read.
        num_loans: Forward passes before each step.
        abandons: Whether each third batch is given up.
        reads: Whether somebody reads before and after each step.
    """

    blocks: tuple[tuple[str, ...], ...] = (("job", "page"), ("member", "member"))
    num_steps: int = 8
    num_ids: int = 20
    num_loans: int = 1
    abandons: bool = False
    reads: bool = False
    scale: float = 1.0
    most: int = 45
    seed: int = 0

    def batch(self, generator: torch.Generator) -> list[list[IdColumn]]:
        """Few ids, that they repeat; ids unknown to `job` and missing ones among them."""
        return [
            [column(name, torch.randint(-1, self.most, (self.num_ids,), generator=generator)) for name in block]
            for block in self.blocks
        ]

    def run(self, table: Table) -> list[Tensor]:
        """All that was lent and read."""
        generator, seen = torch.Generator().manual_seed(self.seed), []
        for k in range(self.num_steps):
            for _ in range(self.num_loans):
                blocks = self.batch(generator)
                loan = table.checkout(blocks)
                seen += [block.detach().clone() for block in loan.blocks]
                give_back(loan, generator)
            if self.reads:
                seen += table.read(blocks).blocks
            if self.abandons and k % 3 == 1:
                table.abandon()
                continue
            table.apply(self.scale)
            if self.reads:
                seen += table.read(self.batch(generator)).blocks
        return seen


def give_back(loan: Loan, generator: torch.Generator) -> None:
    """Random gradients of all blocks but an odd one that nothing depends on."""
    for block in loan.blocks:
        block.backward(torch.randn(block.shape, generator=generator))


def assert_same_rows(one: Table, other: Table, *, tolerance: float = 0.0, **how: Any) -> None:
    for name in one.names:
        for field in fields(StoredRows):
            found, expected = (getattr(stored(table, name, **how), field.name) for table in (one, other))
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
