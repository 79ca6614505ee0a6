"""What the lookups of a model read for one request, out of mapped files, in one compiled call.

`RowLookup` says what is read, and reads it column by column; here its columns are laid out once, as tables of numbers
that a compiled loop goes through: buckets of numerics, crosses, then the rows of all tables. What a call costs, and the
Python of a column, would otherwise be most of what 500 ids take.

Letters: S id columns ("slots") · B blocks of rows · D derived columns · R columns that are read · n entries of one
column · W row width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.errors import SchemaError
from rankwell.models.embedding import RowLookup, list_means
from rankwell.serving.mapped_table import MappedTable
from rankwell.serving.row_map import pointer_of, read_column
from rankwell.tables.hashing import fold_in
from rankwell.tables.loan import IdColumn, negative_id
from rankwell.types import Features

__all__ = ["RowGather", "is_gathered"]

_BUCKET: Final = 0
_CROSS: Final = 1
_SIDES: Final = {"candidate": "candidates", "request": "context"}


def is_gathered(lookup: RowLookup) -> bool:
    """Whether a `RowGather` reads what this lookup does: rows of mapped files, none of them composed of two."""
    is_whole = all(spec.num_remainders is None for spec in lookup.columns.specs)
    return isinstance(lookup.table, MappedTable) and is_whole


@final
class RowGather:
    """Reads what some lookups would, bit for bit; any number of threads may ask at once.

    Args:
        lookups: By the names that a graph knows them by; `is_gathered` each.
        example: Any request of their schema.
    """

    def __init__(self, lookups: Mapping[str, RowLookup], example: Features) -> None:
        self._lookups = tuple(lookups.values())
        self._tables = [lookup.table for lookup in self._lookups]  # what addresses point to
        self._sources: dict[tuple[str, str, torch.dtype], int] = {}
        """The slots of features: side, name, type."""
        self._derived: dict[tuple[str, tuple[str, ...]], int] = {}
        """The slots of buckets and crosses: side, features."""
        self._blocks: list[tuple[str, str, int, int]] = []
        """Name in the graph ("" of rows to be averaged), side ("" of a list's), slot of that list, width."""
        self._means: list[tuple[int, int, int, int]] = []
        """Number of the list, its block, and the block and column where their mean goes."""
        self._num_lists = len(list(self._lists(example)))
        reads, descriptors, steps, members = self._laid_out(lookups, example)
        self._reads_R4, self._descriptors = np.array(reads, np.int64).reshape(-1, 4), descriptors
        self._derived_D5, self._members = np.array(steps, np.int64).reshape(-1, 5), np.array(members, np.int64)

    def inputs(self, features: Features) -> dict[str, NDArray[np.float32]]:
        """The rows of a request by their names in a graph.

        Args:
            features: R = 1.

        Raises:
            LogError: A negative id that isn't `MISSING_ID`.
            SchemaError: A column is not as long as its side has entries, or of another type.
        """
        if not self._lookups:  # all are read otherwise, as those of a linear model are whose rows are changed
            return {}
        num = {"candidate": features.num_candidates, "request": 1}
        columns = [_checked(features, *source, num) for source in self._sources]
        lists = list(self._lists(features))
        columns += [column.ids.contiguous() for column, _ in lists]
        derived_n = np.empty(sum(num[side] for side, _ in self._derived), np.int64)
        slots = [(column.data_ptr(), column.shape[0]) for column in columns]
        address = derived_n.ctypes.data
        for side, _ in self._derived:
            slots.append((address, num[side]))
            address += 8 * num[side]
        shapes = [(num[side] if side else slots[slot][1], width) for _, side, slot, width in self._blocks]
        ends = list(accumulate(n * width for n, width in shapes))
        floats = np.empty(ends[-1] if ends else 0, np.float32)
        address, most = floats.ctypes.data, max((n for n, _ in shapes), default=0)
        blocks_B3 = [(address + 4 * (end - n * w), n, w) for end, (n, w) in zip(ends, shapes, strict=True)]
        slots_S2 = np.array(slots, np.int64).reshape(-1, 2)
        _derive(slots_S2, self._derived_D5, self._members)
        wrong = _read(
            slots_S2, self._reads_R4, self._descriptors, np.array(blocks_B3, np.int64).reshape(-1, 3),
            np.empty(most, np.int64),
        )  # fmt: skip
        if wrong >= 0:
            raise self._refusal(features, lists, wrong)
        blocks = [floats[end - n * w : end].reshape(n, w) for end, (n, w) in zip(ends, shapes, strict=True)]
        for number, of, into, at in self._means:
            offsets = lists[number][1]
            assert offsets is not None
            rows_nW = torch.from_numpy(blocks[of])
            blocks[into][:, at : at + rows_nW.shape[1]] = list_means(rows_nW, offsets).numpy()
        return {name: block for (name, *_), block in zip(self._blocks, blocks, strict=True) if name}

    def _lists(self, features: Features) -> Iterator[tuple[IdColumn, Tensor | None]]:
        """Columns of several ids an entry, with the offsets of those that are averaged; always as many."""
        for lookup in self._lookups:
            for side in _SIDES:
                yield from lookup.columns.lists(features, side)
            for columns in lookup.columns.events(features).values():
                yield from ((column, None) for column in columns)

    def _laid_out(
        self, lookups: Mapping[str, RowLookup], example: Features
    ) -> tuple[list[tuple[int, int, int, int]], NDArray[np.int64], list[tuple[int, int, int, int, int]], list[int]]:
        singles = [(lookup, side, column) for lookup in self._lookups for side in _SIDES
                   for column in lookup.columns.single_columns[side]]  # fmt: skip
        for lookup, _, column in singles:
            for name in column.of:
                is_id = lookup.columns.ids.edges(name) is None
                source = (lookup.columns.ids.side[name], name, torch.int64 if is_id else torch.float32)
                self._sources.setdefault(source, len(self._sources))
        first_derived = len(self._sources) + self._num_lists
        steps: list[tuple[int, int, int, int, int]] = []
        members: list[int] = []
        self._edges: list[Tensor] = []  # as those of the tables, good for as long as this object lives

        def slot_of(lookup: RowLookup, side: str, of: tuple[str, ...]) -> int:
            ids = lookup.columns.ids
            edges = ids.edges(of[0]) if len(of) == 1 else None
            if len(of) == 1 and edges is None:
                return self._sources[ids.side[of[0]], of[0], torch.int64]
            if (side, of) not in self._derived:
                if edges is not None:
                    edges = edges.contiguous()
                    self._edges.append(edges)
                    source = self._sources[ids.side[of[0]], of[0], torch.float32]
                    step = (_BUCKET, source, edges.data_ptr(), edges.shape[0])
                else:
                    crossed = [slot_of(lookup, ids.side[name], (name,)) for name in of]
                    step = (_CROSS, len(members), 0, len(of))
                    members.extend(crossed)
                self._derived[side, of] = first_derived + len(self._derived)
                steps.append((self._derived[side, of], *step))
            return self._derived[side, of]

        reads: list[tuple[int, int, int, int]] = []
        descriptors: list[NDArray[np.int64]] = []

        def read(slot: int, table: MappedTable, name: str, block: int, at: int) -> None:
            reads.append((slot, len(descriptors), block, at))
            descriptors.append(table.descriptor(name))

        def new_block(name: str, side: str, slot: int, width: int) -> int:
            self._blocks.append((name, side, slot, width))
            return len(self._blocks) - 1

        number = 0
        for lookup_name, lookup in lookups.items():
            table, columns = lookup.table, lookup.columns
            assert isinstance(table, MappedTable)
            for side, label in _SIDES.items():
                lists, single = columns.lists(example, side), columns.single_columns[side]
                if not lists and not single:
                    continue
                block = new_block(f"rows.{lookup_name}.{label}", side, -1, (len(single) + len(lists)) * table.width)
                for f, column in enumerate(single):
                    read(slot_of(lookup, side, column.of), table, column.table, block, f * table.width)
                for f, (listed, _) in enumerate(lists, len(single)):
                    slot = len(self._sources) + number
                    rows = new_block("", "", slot, table.width)
                    read(slot, table, listed.table, rows, 0)
                    self._means.append((number, rows, block, f * table.width))
                    number += 1
            for sequence, fields in columns.events(example).items():
                slot = len(self._sources) + number
                block = new_block(f"rows.{lookup_name}.history.{sequence}", "", slot, len(fields) * table.width)
                for f, field in enumerate(fields):
                    read(slot + f, table, field.table, block, f * table.width)
                number += len(fields)
        return reads, np.array(descriptors, np.int64), steps, members

    def _refusal(self, features: Features, lists: Sequence[tuple[IdColumn, Tensor | None]], wrong: int) -> Exception:
        slot = int(self._reads_R4[wrong, 0])
        if slot < len(self._sources):
            side, name, _ = list(self._sources)[slot]
            ids = (features.candidates if side == "candidate" else features.context)[name]
            assert isinstance(ids, Tensor)
            return negative_id(IdColumn(name, ids))
        return negative_id(lists[slot - len(self._sources)][0])


def _checked(features: Features, side: str, name: str, dtype: torch.dtype, num: Mapping[str, int]) -> Tensor:
    column = (features.candidates if side == "candidate" else features.context)[name]
    if not isinstance(column, Tensor) or column.dtype != dtype or column.shape[0] != num[side]:
        raise SchemaError(
            f"the column {name!r} cannot be read from tables of rows",
            found=f"{column.shape[0]} entries, {column.dtype}" if isinstance(column, Tensor) else "lists",
            allowed=f"{num[side]} entries, {dtype}",
        )
    return column.contiguous()


@numba.njit(cache=True, nogil=True)
def _derive(slots_S2, derived_D5, members):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Buckets and crosses, each after those that it is made of."""
    for d in range(len(derived_D5)):
        slot, kind, first, edges, count = derived_D5[d]
        num = slots_S2[slot, 1]
        if kind == _BUCKET:
            _bucket(slots_S2[first, 0], edges, count, numba.carray(pointer_of(slots_S2[slot, 0]), (num,), np.int64))
            continue
        crossed = numba.carray(pointer_of(slots_S2[slot, 0]), (num,), np.uint64)
        crossed[:] = np.uint64(0)
        for member in members[first : first + count]:
            fold_in(crossed, numba.carray(pointer_of(slots_S2[member, 0]), (slots_S2[member, 1],), np.int64))
        for n in range(num):
            crossed[n] &= np.uint64(0x7FFFFFFFFFFFFFFF)


@numba.njit(cache=True, nogil=True)
def _read(slots_S2, reads_R4, descriptors, blocks_B3, places_n):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """The rows of all columns; the first column with an id that is none, or -1. Apart, it takes a third of the time."""
    for r in range(len(reads_R4)):
        slot, descriptor, block, at = reads_R4[r]
        num, width = blocks_B3[block, 1], blocks_B3[block, 2]
        ids_n = numba.carray(pointer_of(slots_S2[slot, 0]), (num,), np.int64)
        block_nFW = numba.carray(pointer_of(blocks_B3[block, 0]), (num, width), np.float32)
        if not read_column(descriptors[descriptor], ids_n, block_nFW, at, places_n):
            return r
    return -1


@numba.njit(cache=True)
def _bucket(numbers, edges, count, ids_n):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    numbers_n = numba.carray(pointer_of(numbers), (len(ids_n),), np.float32)
    edges_e = numba.carray(pointer_of(edges), (count,), np.float32)
    for n in range(len(ids_n)):
        bucket = np.int64(0)
        for edge in edges_e:
            bucket += numbers_n[n] >= edge
        ids_n[n] = -1 if np.isnan(numbers_n[n]) else bucket
