"""Rows for ids: lent to a batch as a small dense leaf, written back by the table's own rule.

Letters: n ids of a batch, flat · F id columns · U unique rows lent · W row width · S state columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.errors import SchemaError, TrainingError
from rankwell.schema import TableSpec
from rankwell.tables.hashing import name_salt, uniform_rows
from rankwell.tables.row_map import NUM_OWN_ROWS, RowMap
from rankwell.tables.row_optimizers import RowOptimizer
from rankwell.tables.rows import put_rows, take_rows

__all__ = ["IdColumn", "Loan", "Table"]


@final
@dataclass(frozen=True, slots=True)
class IdColumn:
    """Ids of one table: ``ids`` is int64, of any length."""

    table: str
    ids: Tensor


@final
@dataclass(frozen=True, slots=True)
class Loan:
    """Rows lent to one forward pass.

    Args:
        rows_UW: The distinct rows of the batch; in training a leaf whose gradient `Table.apply` collects.
        index_n: int64; id i of the columns, one column after the other, reads ``rows_UW[index_n[i]]``.
        slots_U: int64; where the rows stand in the table. Outside training the slab itself is lent and this is empty.
    """

    rows_UW: Tensor
    index_n: Tensor
    slots_U: Tensor


@final
class Table:
    """The rows of one or more named tables of one width, moved by one rule.

    ``checkout`` lends, ``loss.backward()`` fills the leaf's gradient, ``apply`` writes back. Cost and autograd's memory
    follow the rows of the batch, not the size of the table.

    Args:
        specs: The named tables. Features that share a table share its rows; tables of one slab share nothing else.
        width: W.
        seed: Rows start uniform in [-init_scale, init_scale), from (seed, table's name, row) alone.
        init_scale: 0 starts all rows at 0. The default and missing rows always start at 0.
        admission: See `RowMap`.
        default_rate: See `RowMap`.

    >>> from rankwell.tables.row_optimizers import RowWiseAdaGrad
    >>> table = Table([TableSpec(name="job", num_ids=100)], width=2, seed=0, init_scale=0.1)
    >>> table.train_with(RowWiseAdaGrad(learning_rate=0.1))
    >>> loan = table.checkout([IdColumn("job", torch.tensor([7, 7, 3]))])
    >>> loan.rows_UW.shape, loan.index_n.tolist()
    (torch.Size([2, 2]), [0, 0, 1])
    >>> loan.rows_UW[loan.index_n].sum().backward()
    >>> loan.rows_UW.grad.tolist()  # a row used twice has its gradients summed
    [[2.0, 2.0], [1.0, 1.0]]
    >>> table.apply()
    >>> table.num_seen
    2
    """

    def __init__(
        self,
        specs: Sequence[TableSpec],
        *,
        width: int,
        seed: int,
        init_scale: float,
        admission: int = 1,
        default_rate: float = 0.0,
    ) -> None:
        self.specs, self.width, self.seed, self.init_scale = tuple(specs), width, seed, init_scale
        self._map = RowMap(specs, admission=admission, default_rate=default_rate, seed=seed)
        self.rows = torch.zeros(self._map.num_slots, width)
        self._sightings = np.zeros(self._map.num_slots, dtype=np.uint8)
        if init_scale:
            for spec in specs:
                first, size = self._map.region(spec.name)
                own = self.rows[first + NUM_OWN_ROWS : first + size]
                uniform_rows(own, seed=seed ^ name_salt(spec.name), scale=init_scale)
        self._rule: RowOptimizer | None = None
        self._learning_rate = 0.0
        self._state = torch.zeros(0, 0)
        self._log_shrink = 0.0
        self._paid = torch.zeros(0, dtype=torch.float64)
        self._step = 0
        self._loans: list[Loan] = []
        self._tables_of: dict[tuple[str, ...], NDArray[np.int64]] = {}

    @property
    def rule(self) -> RowOptimizer | None:
        """The rule that moves the rows, or None for a table that only reads."""
        return self._rule

    @property
    def learning_rate(self) -> float:
        """η in force; the loop lowers it."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate

    @property
    def num_rows(self) -> int:
        """Rows in the slab, the tables' own rows included."""
        return len(self.rows)

    @property
    def num_seen(self) -> int:
        """Rows that training has seen."""
        return int(np.count_nonzero(self._sightings))

    @property
    def num_bytes(self) -> int:
        """Bytes of rows, state and sightings."""
        state = self._state.nbytes + self._paid.nbytes
        return self.rows.nbytes + self._sightings.nbytes + state

    def train_with(self, rule: RowOptimizer) -> None:
        """Give the table the rule that moves its rows; the rule's state starts at 0."""
        self._rule, self._learning_rate = rule, rule.learning_rate
        self._state = torch.zeros(self.num_rows, rule.state_width(self.width))
        self._paid = torch.zeros(self.num_rows if rule.decay else 0, dtype=torch.float64)
        self._log_shrink = 0.0
        self._step = 0

    def checkout(self, columns: Sequence[IdColumn]) -> Loan:
        """Lend the distinct rows of the columns to a training pass; `apply` takes them back.

        Sightings are counted here, and ids dropped to the default row are drawn here.

        Raises:
            LogError: A negative id that isn't `MISSING_ID`.
            SchemaError: A column names a table that isn't here.
            TrainingError: The table has no rule.
        """
        if self._rule is None:
            raise TrainingError(
                f"the tables {[spec.name for spec in self.specs]} have no rule to move their rows by",
                do="call train_with(rule) first, or put the model into eval mode to read",
            )
        ids_n, bounds_F, tables_F = self._flat(columns)
        needed = self._map.needed(ids_n, bounds_F, tables_F, self._sightings, step=self._step)
        slots_U = torch.from_numpy(needed.slots_U)
        rows_UW = take_rows(self.rows, slots_U)
        if self._rule.decay:
            self._rule.refresh(rows_UW, self._state[:0], self._log_shrink - self._paid[slots_U])
        loan = Loan(rows_UW.requires_grad_(), torch.from_numpy(needed.index_n), slots_U)
        self._loans.append(loan)
        return loan

    def read(self, columns: Sequence[IdColumn]) -> Loan:
        """The rows as they stand, without training: ids never admitted read the default row.

        Raises:
            LogError: A negative id that isn't `MISSING_ID`.
            SchemaError: A column names a table that isn't here.
        """
        self._settle_decay()
        ids_n, bounds_F, tables_F = self._flat(columns)
        slots_n = self._map.slots(ids_n, bounds_F, tables_F, self._sightings)
        return Loan(self.rows, torch.from_numpy(slots_n), torch.empty(0, dtype=torch.int64))

    def apply(self) -> None:
        """Take back all rows lent since the last call: move those that have a gradient by the rule, once.

        A row lent twice (two forward passes before one step) has its gradients summed.
        """
        loans = [loan for loan in self._loans if loan.rows_UW.grad is not None]
        self._loans.clear()
        rule = self._rule
        if rule is None:
            return
        self._step += 1
        if rule.decay:
            self._log_shrink += rule.log_shrink(self._learning_rate)
        if not loans:
            return
        slots_U, grads_UW, rows_UW = _united(loans)
        state_US = take_rows(self._state, slots_U)
        rule.update(rows_UW, grads_UW, state_US, self._step, self._learning_rate)
        put_rows(self.rows, slots_U, rows_UW)
        put_rows(self._state, slots_U, state_US)
        if rule.decay:
            self._paid[slots_U] = self._log_shrink

    def abandon(self) -> None:
        """Forget what is lent, moving no row."""
        self._loans.clear()

    def state(self) -> dict[str, Tensor]:
        """All that training needs to go on bit-equal; `load_state` takes it. Copies nothing."""
        return {
            "rows": self.rows,
            "sightings": torch.from_numpy(self._sightings),
            "state": self._state,
            "paid": self._paid,
            "step": torch.tensor([self._step]),
            "rates": torch.tensor([self._learning_rate, self._log_shrink], dtype=torch.float64),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state` of a table of the same shape and rule.

        Raises:
            TrainingError: The shapes differ.
        """
        own = self.state()
        for name, tensor in own.items():
            if state[name].shape != tensor.shape:
                raise TrainingError(
                    f"{name} of the tables {[spec.name for spec in self.specs]} has another shape",
                    found=tuple(state[name].shape), allowed=tuple(tensor.shape),
                )  # fmt: skip
        for name in ("rows", "sightings", "state", "paid"):
            own[name].copy_(state[name])
        self._step = int(state["step"])
        self._learning_rate, self._log_shrink = state["rates"].tolist()

    def seen_rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a bundle keeps: slots, sightings and rows of all rows that serving can read, decay paid.

        Returns:
            int64 slots, ascending; uint8 sightings; float32 rows.
        """
        self._settle_decay()
        kept = self._sightings >= self._map.admission
        for spec in self.specs:
            first, _ = self._map.region(spec.name)
            kept[first : first + NUM_OWN_ROWS] = True
        slots = torch.from_numpy(np.flatnonzero(kept))
        return slots, torch.from_numpy(self._sightings)[slots], self.rows[slots]

    def load_seen_rows(self, slots: Tensor, sightings: Tensor, rows: Tensor) -> None:
        """Take the rows that `seen_rows` gave; all others read their default row."""
        if bool(((slots < 0) | (slots >= self.num_rows)).any()):
            raise SchemaError(
                "a row stands outside its table", found=int(slots.max()), allowed=f"0 … {self.num_rows - 1}"
            )
        self._settle_decay()  # what the old rows owe is no debt of the new ones
        self._sightings[:] = 0
        self._sightings[slots.numpy()] = sightings.numpy()
        self.rows[slots] = rows

    def _flat(self, columns: Sequence[IdColumn]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        names = tuple([column.table for column in columns])
        tables_F = self._tables_of.get(names)
        if tables_F is None:
            try:
                tables_F = np.array([self._map.table_index(name) for name in names], dtype=np.int64)
            except KeyError as error:
                raise SchemaError(f"no table {error.args[0]!r} here", found=list(self._map.names)) from None
            self._tables_of[names] = tables_F
        bounds_F = np.array([0, *accumulate([column.ids.shape[0] for column in columns])], dtype=np.int64)
        ids_n = torch.cat([column.ids for column in columns]) if len(columns) > 1 else columns[0].ids.contiguous()
        return ids_n.numpy(), bounds_F, tables_F

    def _settle_decay(self) -> None:
        # rows that were not lent owe the decay of the steps they missed; it must be paid before anyone reads the slab
        rule = self._rule
        if rule is None or not rule.decay:
            return
        owing = torch.nonzero(self._paid != self._log_shrink).squeeze(1)
        if len(owing):
            rows = self.rows[owing]
            rule.refresh(rows, self._state[:0], self._log_shrink - self._paid[owing])
            self.rows[owing] = rows
            self._paid[owing] = self._log_shrink


def _united(loans: list[Loan]) -> tuple[Tensor, Tensor, Tensor]:
    if len(loans) == 1:
        (loan,) = loans
        assert loan.rows_UW.grad is not None
        return loan.slots_U, loan.rows_UW.grad, loan.rows_UW.detach()
    slots_U, index_n = torch.unique(torch.cat([loan.slots_U for loan in loans]), return_inverse=True)
    lent = torch.cat([loan.rows_UW.detach() for loan in loans])
    grads = torch.cat([loan.rows_UW.grad for loan in loans if loan.rows_UW.grad is not None])
    grads_UW = torch.zeros(len(slots_U), lent.shape[1], dtype=lent.dtype).index_add_(0, index_n, grads)
    rows_UW = torch.empty_like(grads_UW).index_copy_(0, index_n, lent)
    return slots_U, grads_UW, rows_UW
