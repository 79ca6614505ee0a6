"""Rows for ids: lent to a batch as small dense leaves, written back by the table's own rule.

Letters: n ids of a column, flat · W row width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, final

import torch
from torch import Tensor

from rankwell.errors import SchemaError, TrainingError
from rankwell.schema import TableSpec
from rankwell.tables.clock import Clock
from rankwell.tables.loan import IdColumn, LaidOut, Loan, lay_out
from rankwell.tables.native import native, warn_if_absent
from rankwell.tables.native_store import NativeStore
from rankwell.tables.plain_store import PlainStore
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.row_store import DEFAULT_KEY, Draw, LentColumn, RowStore, StoredRows, StoreShape
from rankwell.tables.storage import Storage

__all__ = ["Table"]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_ROWS_A_PIECE: Final = 1 << 18


@final
class Table:
    """The rows of one or more named tables of one width, moved by one rule.

    ``checkout`` lends, ``loss.backward()`` fills the leaves' gradients, ``apply`` writes back. Cost and memory of a
    step follow the batch, not the table; memory of a growing table follows the ids seen.

    Args:
        specs: The named tables. Features that share a table share its rows; named tables share nothing else.
        width: W, ≤ 1024.
        seed: Rows start uniform in [-init_scale, init_scale), from (seed, table's name, id) alone, so a row's start
            does not depend on when it is first seen.
        init_scale: 0 starts all rows at 0. The default and missing rows always start at 0.
        admission: An id reads its own row from its so-many-th sighting in training on, and before that the default row.
        default_rate: Share of the ids of a training batch that read the default row instead, drawn by
            (seed, step, place in the batch); so an unseen id at serving reads a row that was trained for it.
        storage: How rows are kept.

    Raises:
        SchemaError: A setting is out of range.
        TrainingError: Memory or a file cannot be had.

    >>> from rankwell.tables.adagrad import RowWiseAdaGrad
    >>> table = Table([TableSpec(name="member", growing=True)], width=2, seed=0, init_scale=0.1)
    >>> table.train_with(RowWiseAdaGrad(learning_rate=0.1))
    >>> loan = table.checkout([[IdColumn("member", torch.tensor([7, 7, 2**63 - 1]))]])
    >>> loan.blocks[0].shape, bool((loan.blocks[0][0] == loan.blocks[0][1]).all())
    (torch.Size([3, 2]), True)
    >>> loan.blocks[0].sum().backward()
    >>> table.collect()  # a row used twice has its gradients summed: 2² + 2² + 1² + 1²
    10.0
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
        storage: Storage | None = None,
    ) -> None:
        for what, found, met, allowed in (
            ("width", width, 1 <= width <= 1024, "1 … 1024"),
            ("admission", admission, 1 <= admission < 2**16, "1 … 65535 sightings"),
            ("default_rate", default_rate, 0 <= default_rate < 1, "[0, 1)"),
            ("init_scale", init_scale, 0 <= init_scale < math.inf, "≥ 0"),
        ):
            if not met:
                raise SchemaError(f"{what} of a table is out of range", found=found, allowed=allowed)
        warn_if_absent()
        self.specs, self.width, self.seed, self.init_scale = tuple(specs), width, seed, init_scale
        self.admission, self.default_rate = admission, default_rate
        self.storage = _checked(storage or Storage(), self.specs)
        self.names: tuple[str, ...] = tuple(spec.name for spec in specs)
        self._place = {name: t for t, name in enumerate(self.names)}
        self._rule: RowOptimizer | None = None
        self._learning_rate = 0.0
        self._clock = Clock()
        self._open: list[LaidOut] = []
        self._is_collected = False
        self._num_evicted_before = [0, 0]  # by stores before this one: by frequency, by age
        self._store = self._new_store(None)

    def _new_store(self, rule: RowOptimizer | None) -> RowStore:
        shape = StoreShape(
            specs=self.specs,
            width=self.width,
            state_width=0 if rule is None else rule.state_width(self.width),
            seed=self.seed,
            init_scale=0.0 if rule is not None and rule.starts_at_zero else self.init_scale,
            admission=self.admission,
            storage=self.storage,
        )
        if native is not None and (rule is None or rule.compiled() is not None):
            return NativeStore(shape)
        return PlainStore(shape)

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
    def step(self) -> int:
        """Steps taken."""
        return self._clock.step

    @property
    def num_rows(self) -> int:
        """Rows that there is room for, the tables' own rows included; of growing tables those in use."""
        return sum(self._store.num_rows(t) for t in range(len(self.specs)))

    @property
    def num_seen(self) -> int:
        """Rows of ids that training has seen."""
        return sum(self._store.num_seen(t) for t in range(len(self.specs)))

    @property
    def num_waiting(self) -> int:
        """Ids of growing tables that training has seen too seldom for a row yet; see `admission`."""
        return sum(self._store.num_waiting(t) for t in range(len(self.specs)))

    @property
    def num_bytes(self) -> int:
        """Bytes of rows, counts, state and index, in memory or in files."""
        return sum(self._store.num_bytes(t) for t in range(len(self.specs)))

    @property
    def num_resident_bytes(self) -> int:
        """Bytes of the tables' files that may be in memory; 0 without files."""
        return sum(self._store.num_resident_bytes(t) for t in range(len(self.specs)))

    def num_evicted(self, *, by_age: bool) -> int:
        """Rows evicted since the rule was given, over all starts of its training, by age or else by frequency."""
        return self._num_evicted_before[by_age] + self._num_evicted_of_store(by_age)

    def _num_evicted_of_store(self, by_age: bool) -> int:
        return sum(self._store.num_evicted(t, by_age=by_age) for t in range(len(self.specs)))

    def train_with(self, rule: RowOptimizer, storage: Storage | None = None) -> None:
        """Give the table the rule that moves its rows; the rule's state and the count of steps start at 0.

        Rows of a rule with `starts_at_zero` start at 0, whatever `init_scale` says.

        Args:
            rule: Moves the rows.
            storage: Where they are kept from now on; None changes nothing.

        Raises:
            SchemaError: Rows are to be evicted, and no table grows.
            TrainingError: Memory or a file cannot be had.
        """
        self.storage = _checked(storage or self.storage, self.specs)
        settled = {name: list(self.chunks(name)) for name in self.names} if self.num_seen else {}
        own = {name: next(self.chunks(name, max_rows=1)).where(slice(2)) for name in self.names}
        self._rule, self._learning_rate, self._clock = rule, rule.learning_rate, Clock(rule.decay)
        self._open.clear()
        self._num_evicted_before = [0, 0]
        del self._store  # a file is opened by one store at a time
        self._store = self._new_store(rule)
        for name in self.names:
            for piece in (own[name], *settled.get(name, [])):
                state = torch.zeros(len(piece), rule.state_width(self.width))
                self.insert(name, replace(piece, state_nS=state, last_n=torch.zeros_like(piece.last_n)))

    def checkout(self, blocks: Sequence[Sequence[IdColumn]]) -> Loan:
        """Lend the rows of the columns to a training pass; `apply` takes them back.

        Sightings are counted here, ids dropped to the default row are drawn here, and rows are brought up to date.

        Args:
            blocks: The columns of each block, of equal length.

        Raises:
            LogError: A negative id that isn't `MISSING_ID`.
            SchemaError: A column names a table that isn't here.
            TrainingError: The table has no rule, or no room for more rows.
        """
        if self._rule is None:
            raise TrainingError(
                f"the tables {list(self.names)} have no rule to move their rows by",
                do="call train_with(rule) first, or put the model into eval mode to read",
            )
        out = lay_out(blocks, self._place, self.width)
        draw = Draw((self.seed * _GOLDEN + self._clock.step) % 2**64, int(self.default_rate * 2.0**64))
        self._store.lend(out.columns, draw, self._rule, self._clock)
        for block in out.loan.blocks:
            block.requires_grad_()
        self._open.append(out)
        self._is_collected = False
        return out.loan

    def read(self, blocks: Sequence[Sequence[IdColumn]]) -> Loan:
        """The rows as they are now, changing nothing: ids without a row of their own read the default row.

        Raises:
            LogError: A negative id that isn't `MISSING_ID`.
            SchemaError: A column names a table that isn't here.
        """
        out = lay_out(blocks, self._place, self.width)
        self._store.read(out.columns, self._rule, self._clock)
        return out.loan

    def collect(self) -> float:
        """Sum the gradients of each row over all its uses since the last step; moves nothing.

        Returns:
            The sum of squares of the summed gradients, for clipping.

        Raises:
            TrainingError: A gradient is not finite; no row has moved.
        """
        returned = [column for out in self._open for column in out.returned()]
        square = self._store.collect(returned)
        if not math.isfinite(square):
            raise self._not_finite(returned)
        self._is_collected = True
        return square

    def apply(self, scale: float = 1.0) -> None:
        """Take back all rows lent since the last call: move those that have a gradient by the rule, once.

        A row lent twice (two forward passes before one step) has its gradients summed.

        Args:
            scale: Multiplies the gradients; below 1 it clips.

        Raises:
            TrainingError: A gradient is not finite; no row has moved.
        """
        if self._rule is None:
            self._open.clear()
            return
        if not self._is_collected:
            self.collect()
        self._clock.tick(self._learning_rate)
        self._store.apply(self._rule, self._clock, scale)
        self._open.clear()
        self._is_collected = False

    def abandon(self) -> None:
        """Forget what is lent, moving no row."""
        self._store.abandon()
        self._open.clear()
        self._is_collected = False

    def chunks(self, name: str, *, max_rows: int = _ROWS_A_PIECE, up_to_date: bool = True) -> Iterator[StoredRows]:
        """The rows of a named table that training has seen, its own two first, in pieces, while nothing is lent.

        Args:
            name: Of the table.
            max_rows: About the most in a piece.
            up_to_date: Whether the copies have paid for the steps they missed; training goes on bit-equal only if not.
        """
        rule = self._rule if up_to_date else None
        yield from self._store.scan(self._table(name), max_rows=max_rows, rule=rule, clock=self._clock)

    def take(self, name: str, *, only_changed: bool, max_rows: int = _ROWS_A_PIECE) -> Iterator[StoredRows]:
        """The rows of a named table as they stand, in pieces, while nothing is lent: for a file that goes on from them.

        A row counts as not changed from when it is taken until anything of it changes, be it a count. Who puts the rows
        taken first and then, each time, removes `take_removed` and puts the rows that changed has the table again.

        Args:
            name: Of the table.
            only_changed: Leaves out rows that did not change; ids that wait for admission are never left out.
            max_rows: About the most in a piece.
        """
        yield from self._store.take(self._table(name), only_changed=only_changed, max_rows=max_rows)

    def insert(self, name: str, rows: StoredRows, *, changed: bool = True) -> None:
        """Put rows with their counts and state, in the place of those that are there.

        Args:
            name: Of the table.
            rows: At most one of each key.
            changed: Whether `take` finds them changed.

        Raises:
            SchemaError: Their width, or their state's, is another; or a key lies outside the table.
        """
        spec = self.specs[self._table(name)]
        state_width = 0 if self._rule is None else self._rule.state_width(self.width)
        if rows.rows_nW.shape[1] != self.width or rows.state_nS.shape[1] != state_width:
            raise SchemaError(
                f"rows do not fit table {name!r}",
                found=f"width {rows.rows_nW.shape[1]}, state {rows.state_nS.shape[1]}",
                allowed=f"width {self.width}, state {state_width}",
            )
        limit = 2**63 - 1 if spec.growing else spec.size - 1
        if len(rows) and not DEFAULT_KEY <= int(rows.keys_n.min()) <= int(rows.keys_n.max()) <= limit:
            raise SchemaError(
                f"a row stands outside table {name!r}",
                found=f"{int(rows.keys_n.min())} … {int(rows.keys_n.max())}", allowed=f"0 … {limit}",
            )  # fmt: skip
        self._store.insert(self._table(name), rows, changed=changed)

    def clear(self) -> None:
        """Forget all rows: each is again as it starts. None of them counts as evicted."""
        self.abandon()
        self._num_evicted_before = [self.num_evicted(by_age=by_age) for by_age in (False, True)]
        del self._store
        self._store = self._new_store(self._rule)

    def remove(self, name: str, keys_n: Tensor) -> None:
        """Drop rows of a growing table."""
        self._store.remove(self._table(name), keys_n)

    def track_removed(self, *, on: bool) -> None:
        """Whether to remember the ids evicted or removed, for `take_removed`."""
        self._store.track_removed(on=on)

    def take_removed(self, name: str) -> Tensor:
        """int64: ids evicted or removed since the last call, some perhaps seen again since."""
        return self._store.take_removed(self._table(name))

    def progress(self) -> dict[str, Tensor]:
        """What besides its rows a table needs to go on bit-equal; `load_progress` takes it."""
        return {
            **self._clock.state(),
            "learning_rate": torch.tensor([self._learning_rate], dtype=torch.float64),
            "num_evicted": torch.tensor([self.num_evicted(by_age=by_age) for by_age in (False, True)]),
        }

    def load_progress(self, progress: Mapping[str, Tensor]) -> None:
        """Take what `progress` gave; rows evicted by whoever wrote no count of them are not counted."""
        self._clock.load_state(progress)
        self._learning_rate = float(progress["learning_rate"])
        if "num_evicted" in progress:
            evicted = progress["num_evicted"].tolist()
            self._num_evicted_before = [n - self._num_evicted_of_store(bool(b)) for b, n in enumerate(evicted)]

    def _table(self, name: str) -> int:
        try:
            return self._place[name]
        except KeyError:
            raise SchemaError(f"no table {name!r} here", found=list(self.names)) from None

    def _not_finite(self, returned: Sequence[LentColumn]) -> TrainingError:
        bad = [c for c in returned if not c.block_nFW[:, c.at : c.at + self.width].isfinite().all()]
        summed = bad or returned  # where each is a number, their sum over a row's uses is not
        names = {IdColumn(self.names[c.table], c.ids_n, c.feature).known_as for c in summed}
        return TrainingError(
            f"a gradient of the rows of {', '.join(sorted(names))} is not finite",
            allowed="finite gradients",
            do="lower the learning rates, or look for outliers among the numeric columns; no row has moved",
        )


def _checked(storage: Storage, specs: Sequence[TableSpec]) -> Storage:
    if storage.eviction is not None and not any(spec.growing for spec in specs):
        raise SchemaError(
            "only growing tables can evict rows", found=[spec.name for spec in specs],
            do="declare a table growing=True, or drop `eviction`",
        )  # fmt: skip
    return storage
