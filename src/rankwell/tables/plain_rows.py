"""The rows of one named table in plain PyTorch.

Letters: n ids of a column, flat · U rows or ids, each once · W row width · S state columns.
"""

from __future__ import annotations

from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.errors import TrainingError
from rankwell.schema import TableSpec
from rankwell.tables.clock import Clock
from rankwell.tables.hashing import mix64_each, name_salt, stochastic_bfloat16, uniform_rows
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.row_store import DEFAULT_KEY, StoredRows, StoreShape
from rankwell.types import MISSING_ID

__all__ = ["PlainRows"]

_DEFAULT, _MISSING, _NUM_OWN = 0, 1, 2
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_NUM_SHARDS: Final = 1024
_MOST_SIGHTINGS: Final = 2**31 - 1


@final
class PlainRows:
    """Rows by slot: 0 is the default row, 1 the missing row; an id's is looked up or computed.

    Args:
        shape: Of the store.
        spec: Of the table.

    Raises:
        TrainingError: Memory cannot be had.
    """

    def __init__(self, shape: StoreShape, spec: TableSpec) -> None:
        self._shape, self._spec = shape, spec
        self._salt = name_salt(spec.name)
        self._seed = np.uint64((shape.seed ^ self._salt) % 2**64)
        self._dtype: torch.dtype = getattr(torch, shape.storage.dtype)
        self._slots: dict[int, int] = {}  # of a growing table: where an id's row stands
        self._waiting: dict[int, int] = {}  # and how often an id was seen that has no row yet
        self._free: list[int] = []
        self._num_slots = _NUM_OWN if spec.growing else spec.size + _NUM_OWN
        self._num_seen = 0
        self.num_evicted = {"age": 0, "frequency": 0}
        self.removed: list[int] | None = None
        room = 64 if spec.growing else self._num_slots
        try:
            self._rows = torch.zeros(room, shape.width, dtype=self._dtype)
            self._state = torch.zeros(room, shape.state_width)
            self._last = torch.zeros(room, dtype=torch.int32)
            self._sightings = torch.zeros(room, dtype=torch.int32)
            self._keys = torch.zeros(room if spec.growing else _NUM_OWN, dtype=torch.int64)
            self.changed = torch.zeros(room, dtype=torch.bool)  # anything of a row, since it was last taken to a file
        except RuntimeError as error:
            raise TrainingError(
                f"the rows of table {spec.name!r} cannot be kept", found=str(error),
                do="declare the table growing=True, or free memory",
            ) from error  # fmt: skip
        self._keys[_DEFAULT], self._keys[_MISSING] = DEFAULT_KEY, MISSING_ID

    # --- which row an id reads ---

    def sighted(self, ids_n: Tensor, is_dropped_n: NDArray[np.bool_]) -> Tensor:
        """Count ids seen in training, make rows for those admitted; int64, the slots that they read.

        Args:
            ids_n: int64.
            is_dropped_n: Which read the default row instead of their own, and count for nothing.
        """
        ids = ids_n.numpy()
        slots_n = np.where(ids == MISSING_ID, _MISSING, _DEFAULT)
        counts = ~is_dropped_n & (ids >= 0)
        if self._spec.num_ids is not None:
            counts &= ids < self._spec.size
        keys_U, inverse_n, counts_U = np.unique(self._keys_of(ids[counts]), return_inverse=True, return_counts=True)
        slots_U, before_U = self._known(keys_U)
        total_U = np.minimum(before_U + counts_U, _MOST_SIGHTINGS)
        is_born_U = (before_U < self._shape.admission) & (total_U >= self._shape.admission)
        if self._spec.growing:
            slots_U[is_born_U] = self._new_slots(keys_U[is_born_U])
            waits_U = total_U < self._shape.admission
            self._waiting.update(zip(keys_U[waits_U].tolist(), total_U[waits_U].tolist(), strict=True))
        self._num_seen += int((before_U == 0).sum())
        has_row_U = slots_U >= _NUM_OWN
        self._bear(slots_U[is_born_U], keys_U[is_born_U])
        seen_U = torch.from_numpy(slots_U[has_row_U])
        self._sightings[seen_U], self.changed[seen_U] = torch.from_numpy(total_U[has_row_U].astype(np.int32)), True
        sighting_n = before_U[inverse_n] + _rank_among_equals(inverse_n, counts_U)
        slots_n[counts] = np.where(sighting_n >= self._shape.admission, slots_U[inverse_n], _DEFAULT)
        return torch.from_numpy(slots_n)

    def found(self, ids_n: Tensor) -> Tensor:
        """int64, the slots that ids read at serving."""
        ids = ids_n.numpy()
        slots_n = np.where(ids == MISSING_ID, _MISSING, _DEFAULT)
        exist = ids >= 0
        if self._spec.num_ids is not None:
            exist &= ids < self._spec.size
        slots_U, sightings_U = self._known(self._keys_of(ids[exist]))
        slots_n[exist] = np.where(sightings_U >= self._shape.admission, slots_U, _DEFAULT)
        return torch.from_numpy(slots_n)

    def _keys_of(self, ids_n: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self._spec.hashed:
            return ids_n
        return (mix64_each(ids_n.view(np.uint64) ^ np.uint64(self._salt)) % np.uint64(self._spec.size)).view(np.int64)

    def _known(self, keys_U: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots, 0 where there is none, and sightings."""
        if not self._spec.growing:
            slots_U = keys_U + _NUM_OWN
            return slots_U, self._sightings.numpy()[slots_U].astype(np.int64)
        keys = keys_U.tolist()
        slots_U = np.array([self._slots.get(key, _DEFAULT) for key in keys], dtype=np.int64)
        waited_U = np.array([self._waiting.get(key, 0) for key in keys], dtype=np.int64)
        return slots_U, np.where(slots_U >= _NUM_OWN, self._sightings.numpy()[slots_U], waited_U)

    def _new_slots(self, keys_U: NDArray[np.int64]) -> NDArray[np.int64]:
        keys = keys_U.tolist()
        reused = [self._free.pop() for _ in range(min(len(self._free), len(keys)))]
        slots = reused + list(range(self._num_slots, self._num_slots + len(keys) - len(reused)))
        self._num_slots += len(keys) - len(reused)
        if self._num_slots > len(self._rows):
            room = max(self._num_slots, 2 * len(self._rows))
            for name in ("_rows", "_state", "_last", "_sightings", "_keys", "changed"):
                held = getattr(self, name)
                setattr(self, name, torch.cat([held, held.new_zeros(room - len(held), *held.shape[1:])]))
        for key, slot in zip(keys, slots, strict=True):
            self._waiting.pop(key, None)
            self._slots[key] = slot
        slots_U = np.array(slots, dtype=np.int64)
        self._keys[torch.from_numpy(slots_U)] = torch.from_numpy(keys_U)
        return slots_U

    def _bear(self, slots_U: NDArray[np.int64], keys_U: NDArray[np.int64]) -> None:
        """Rows at their start. Decay is owed from the first step on, as by each row of a dense table."""
        rows_UW, keys = torch.zeros(len(slots_U), self._shape.width), keys_U.view(np.uint64)
        if self._shape.init_scale:
            uniform_rows(rows_UW, keys, seed=int(self._seed), scale=self._shape.init_scale)
        if self._dtype == torch.bfloat16:
            rows_UW = stochastic_bfloat16(rows_UW, mix64_each(self._seed ^ keys))
        at_U = torch.from_numpy(slots_U)
        self._rows[at_U] = rows_UW
        self._state[at_U] = 0.0
        self._last[at_U] = 0

    # --- what stands in the rows ---

    def read(self, slots_n: Tensor, rule: RowOptimizer | None, clock: Clock) -> Tensor:
        """float32, n × W: rows as they are after ``clock.step``; changes nothing."""
        if rule is None or not rule.catches_up:
            return self._rows[slots_n].float()
        slots_U, inverse_n = torch.unique(slots_n, return_inverse=True)
        return self._fresh(slots_U, rule, clock)[0][inverse_n]

    def refresh(self, slots_n: Tensor, rule: RowOptimizer, clock: Clock) -> None:
        """Bring rows up to date where they stand."""
        if rule.catches_up:
            slots_U = torch.unique(torch.cat([slots_n, torch.tensor([_DEFAULT, _MISSING])]))
            slots_U = slots_U[self._last[slots_U] < clock.step]
            self._put(slots_U, *self._fresh(slots_U, rule, clock), clock.step)

    def move(self, slots_U: Tensor, grads_UW: Tensor, rule: RowOptimizer, clock: Clock) -> None:
        """Take step ``clock.step`` with rows lent."""
        rows_UW, state_US = self._rows[slots_U].float(), self._state[slots_U]
        rule.update(rows_UW, grads_UW, state_US, self._last[slots_U].long(), clock)
        self._put(slots_U, rows_UW, state_US, clock.step)

    def _fresh(self, slots_U: Tensor, rule: RowOptimizer, clock: Clock) -> tuple[Tensor, Tensor]:
        rows_UW, state_US, last_U = self._rows[slots_U].float(), self._state[slots_U], self._last[slots_U].long()
        owes_U = last_U < clock.step
        owing_UW, owing_US = rows_UW[owes_U], state_US[owes_U]
        rule.refresh(owing_UW, owing_US, last_U[owes_U], clock)
        rows_UW[owes_U], state_US[owes_U] = owing_UW, owing_US
        return rows_UW, state_US

    def _put(self, slots_U: Tensor, rows_UW: Tensor, state_US: Tensor, step: int) -> None:
        if self._dtype == torch.bfloat16:
            keys_U = self._keys_at(slots_U).numpy().view(np.uint64)
            rows_UW = stochastic_bfloat16(rows_UW, mix64_each(mix64_each(self._seed ^ keys_U) + np.uint64(step)))
        self._rows[slots_U], self._state[slots_U], self._last[slots_U] = rows_UW, state_US, step
        self.changed[slots_U] = True

    def _keys_at(self, slots_U: Tensor) -> Tensor:
        return self._keys[slots_U] if self._spec.growing else slots_U - _NUM_OWN

    # --- to a file and from one ---

    def slots_seen(self) -> Tensor:
        """int64, the slots of ids that training has seen, the table's own two first."""
        if self._spec.growing:
            slots = torch.tensor(list(self._slots.values()), dtype=torch.int64)
        else:
            slots = self._sightings[_NUM_OWN:].nonzero().squeeze(1) + _NUM_OWN
        return torch.cat([torch.tensor([_DEFAULT, _MISSING]), slots])

    def stored(self, slots_U: Tensor, rule: RowOptimizer | None, clock: Clock) -> StoredRows:
        """See `RowStore.scan`."""
        last_U = self._last[slots_U]
        rows_UW, state_US = self._rows[slots_U], self._state[slots_U]
        if rule is not None and rule.catches_up:
            fresh_UW, state_US = self._fresh(slots_U, rule, clock)
            owed_U = last_U < clock.step
            if self._dtype == torch.bfloat16:
                keys_U = self._keys_at(slots_U).numpy().view(np.uint64)
                salts_U = mix64_each(mix64_each(self._seed ^ keys_U) + np.uint64(clock.step))
                fresh_UW = stochastic_bfloat16(fresh_UW, salts_U)
            rows_UW = torch.where(owed_U.unsqueeze(1), fresh_UW, rows_UW)
            last_U = last_U.clamp(min=clock.step)
        return StoredRows(
            keys_n=self._keys_at(slots_U), last_n=last_U, sightings_n=self._sightings[slots_U], state_nS=state_US,
            rows_nW=rows_UW,
        )  # fmt: skip

    def waiting(self) -> StoredRows:
        """Ids of a growing table that were seen, but have no row yet."""
        n = len(self._waiting)
        return StoredRows(
            keys_n=torch.tensor(list(self._waiting), dtype=torch.int64), last_n=torch.zeros(n, dtype=torch.int32),
            sightings_n=torch.tensor(list(self._waiting.values()), dtype=torch.int32),
            state_nS=torch.zeros(n, self._shape.state_width),
            rows_nW=torch.zeros(n, self._shape.width, dtype=self._dtype),
        )  # fmt: skip

    def insert(self, rows: StoredRows, *, changed: bool) -> None:
        """See `RowStore`."""
        if self._spec.growing:
            waits_n = (rows.keys_n >= 0) & (rows.sightings_n < self._shape.admission)
            if waits_n.any():
                self._forget(rows.keys_n[waits_n])
                waiting = rows.where(waits_n)
                self._waiting.update(zip(waiting.keys_n.tolist(), waiting.sightings_n.tolist(), strict=True))
                rows = rows.where(~waits_n)
            keys_n = rows.keys_n.numpy()
            is_new_n = (keys_n >= 0) & (self._known(keys_n)[0] == _DEFAULT)
            self._new_slots(keys_n[is_new_n])
            slots_n = torch.from_numpy(self._known(keys_n)[0])
            slots_n[rows.keys_n == MISSING_ID] = _MISSING
        else:
            slots_n = rows.keys_n + _NUM_OWN
            self._num_seen += int(((rows.keys_n >= 0) & (self._sightings[slots_n] == 0) & (rows.sightings_n > 0)).sum())
        self._rows[slots_n], self._state[slots_n] = rows.rows_nW.to(self._dtype), rows.state_nS
        self._last[slots_n], self._sightings[slots_n] = rows.last_n, rows.sightings_n
        self.changed[slots_n] = changed

    def remove(self, keys_n: Tensor) -> None:
        """See `RowStore`."""
        if self.removed is not None:
            self.removed.extend(keys_n.tolist())
        self._forget(keys_n)

    def _forget(self, keys_n: Tensor) -> None:
        for key in keys_n.tolist():
            self._waiting.pop(key, None)
            slot = self._slots.pop(key, _DEFAULT)
            if slot != _DEFAULT:
                self._free.append(slot)

    # --- eviction, as in cpp/store.hpp ---

    def evict(self, step: int) -> None:
        """Drop the rows that were not lent for too long, then the least seen of shards that are too full.

        Called once a step, when nothing is lent.
        """
        eviction = self._shape.storage.eviction
        if eviction is None:
            return
        if eviction.max_age_steps is not None and step >= eviction.max_age_steps:
            turns = max(1, eviction.max_age_steps // 4)
            first, end = (turn * _NUM_SHARDS // turns for turn in (step % turns, step % turns + 1))
            self._evict_oldest(first, end, step - eviction.max_age_steps)
        most = (eviction.max_rows or 0) // _NUM_SHARDS
        if most and len(self._slots) + len(self._waiting) > most - most // 8:
            self._evict_rarest(most)

    def _entries(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        """Ids, slots (0 for those waiting), and hashes, whose first ten bits are the shard."""
        keys_U = np.array([*self._slots, *self._waiting], dtype=np.int64)
        slots_U = np.array([*self._slots.values(), *([_DEFAULT] * len(self._waiting))], dtype=np.int64)
        return keys_U, slots_U, mix64_each(keys_U.view(np.uint64) + _GOLDEN)

    def _evict_oldest(self, first: int, end: int, oldest: int) -> None:
        keys_U, slots_U, hashes_U = self._entries()
        shards_U = (hashes_U >> np.uint64(54)).astype(np.int64)
        has_turn_U = (shards_U >= first) & (shards_U < end)
        waits_U = slots_U == _DEFAULT
        old_U = has_turn_U & ~waits_U & (self._last.numpy()[slots_U] < oldest)
        tired = [(key, self._waiting[key] // 2) for key in keys_U[has_turn_U & waits_U].tolist()]
        self._waiting.update(tired)
        self._drop(np.concatenate([keys_U[old_U], np.array([k for k, left in tired if not left], np.int64)]), "age")

    def _evict_rarest(self, most: int) -> None:
        keys_U, slots_U, hashes_U = self._entries()
        shards_U = (hashes_U >> np.uint64(54)).astype(np.int64)
        sizes = np.bincount(shards_U, minlength=_NUM_SHARDS)
        quotas = most - most // 8 * np.arange(_NUM_SHARDS) // _NUM_SHARDS
        for shard in np.flatnonzero(sizes > quotas):
            quota = int(quotas[shard])
            here_U = np.flatnonzero(shards_U == shard)
            slots, keys = slots_U[here_U], keys_U[here_U]
            waited = [self._waiting.get(key, 0) for key in keys.tolist()]
            sightings = np.where(slots != _DEFAULT, self._sightings.numpy()[slots], waited)
            last = np.where(slots != _DEFAULT, self._last.numpy()[slots], 0)
            order = np.lexsort((hashes_U[here_U], last, sightings))
            least, others = np.split(order, [len(here_U) - (quota - quota // 8)])
            for i in others:
                halved = int(sightings[i] + 1) // 2
                if slots[i] != _DEFAULT:  # who has a row was admitted, and stays so
                    self._sightings[int(slots[i])] = max(halved, self._shape.admission)
                    self.changed[int(slots[i])] = True
                else:
                    self._waiting[int(keys[i])] = halved
            self._drop(keys[least], "frequency")

    def _drop(self, keys_U: NDArray[np.int64], reason: str) -> None:
        before = len(self._slots)
        self.remove(torch.from_numpy(keys_U))
        self.num_evicted[reason] += before - len(self._slots)

    # --- what it amounts to ---

    @property
    def num_rows(self) -> int:
        """See `RowStore`."""
        return self._num_slots - len(self._free)

    @property
    def num_seen(self) -> int:
        """See `RowStore`."""
        return len(self._slots) if self._spec.growing else self._num_seen

    @property
    def num_waiting(self) -> int:
        """See `RowStore`."""
        return len(self._waiting)

    @property
    def num_bytes(self) -> int:
        """See `RowStore`; a dict takes about 100 bytes an entry."""
        row = self._rows.element_size() * self._shape.width + 4 * self._shape.state_width + 16
        return self._num_slots * row + 100 * (len(self._slots) + len(self._waiting))


def _rank_among_equals(inverse_n: NDArray[np.int64], counts_U: NDArray[np.int64]) -> NDArray[np.int64]:
    """The how-manieth of its kind each is, from 1."""
    order_n = np.argsort(inverse_n, kind="stable")
    ranks_n = np.empty_like(order_n)
    ranks_n[order_n] = np.arange(1, len(order_n) + 1) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
    return ranks_n
