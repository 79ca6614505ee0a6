"""Sequences of items as request logs: all but the last two to train on, the last but one to tune by, the last to test.

Letters: R requests, one a sequence · N negatives of a request.

Source: Kang and McAuley 2018, "Self-attentive sequential recommendation", ICDM, §IV-A (the split) and §IV-C (negatives
are drawn uniformly from the items that the member has no event with).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from rankwell.errors import LogError
from rankwell.evaluation.next_item import draw_negatives
from rankwell.evaluation.sample import Ints
from rankwell.types import Ragged

__all__ = ["LEAST_EVENTS", "ItemSequences", "read_sequences"]

LEAST_EVENTS: Final = 3
"""A shorter sequence is trained on as a whole, and neither tunes nor tests."""


@final
@dataclass(frozen=True, slots=True)
class ItemSequences:
    """Who acted on which items, in order.

    Args:
        members_R: int64.
        items: int64 ids ≥ 0 of each member, oldest first.

    >>> sequences = ItemSequences(np.array([7, 8]), Ragged(torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 4, 5])))
    >>> sequences.train().to_pylist()
    [{'member_id': 7, 'history_item': [1], 'item': [2], 'next': [1]}]
    >>> sequences.held_out(back=1, num_negatives=2, seed=0).to_pylist()
    [{'member_id': 7, 'history_item': [1, 2, 3], 'item': [4, 5, 5], 'next': [1, 0, 0]}]
    """

    members_R: Ints
    items: Ragged

    @property
    def item_ids(self) -> torch.Tensor:
        """int64, ascending: every item that is named."""
        ids_U: torch.Tensor = torch.unique(self.items.values)
        return ids_U

    def judged(self) -> ItemSequences:
        """Those that are long enough to be held out from."""
        return self._where(self._lengths() >= LEAST_EVENTS)

    def train(self) -> pa.Table:
        """A request for each member with two events or more to train on; the last of them is its candidate."""
        lengths_R = self._lengths()
        trained_R = np.where(lengths_R >= LEAST_EVENTS, lengths_R - 2, lengths_R)
        kept = self._where(trained_R >= 2)
        ends_R = kept.items.offsets[:-1].numpy() + trained_R[trained_R >= 2] - 1
        return kept._table(ends_R, kept.items.values.numpy()[ends_R][:, None])

    def held_out(self, *, back: int, num_negatives: int, seed: int) -> pa.Table:
        """A request for each member whose sequence is long enough: its candidates are what came next, and negatives.

        Args:
            back: 1 for the last event, to test; 2 for the last but one, to tune by.
            num_negatives: Drawn uniformly for each from the items that the member has no event with.
            seed: Of the draws.

        Raises:
            MetricError: A member has events with all items.
        """
        kept = self.judged()
        ends_R = kept.items.offsets[1:].numpy() - back
        negatives_RN = kept.negatives(self.item_ids, num_negatives, seed=seed)
        return kept._table(ends_R, np.column_stack([kept.items.values.numpy()[ends_R], negatives_RN]))

    def negatives(self, item_ids_U: torch.Tensor, num: int, *, seed: int) -> Ints:
        """R × N ids, drawn uniformly from `item_ids_U` but those of the member's own events.

        Args:
            item_ids_U: int64, ascending.
            num: N.
            seed: Of the draws.

        Raises:
            MetricError: A member has events with all items.
        """
        known = Ragged(torch.searchsorted(item_ids_U, self.items.values), self.items.offsets)
        return np.asarray(item_ids_U[draw_negatives(known, len(item_ids_U), num, seed=seed)])

    def _lengths(self) -> Ints:
        return np.asarray(self.items.lengths)

    def _where(self, kept_R: Any) -> ItemSequences:
        lengths_R = self.items.lengths
        kept = torch.from_numpy(np.asarray(kept_R))
        values = self.items.values[kept.repeat_interleave(lengths_R)]
        return ItemSequences(self.members_R[kept_R], _ragged(values, lengths_R[kept]))

    def _table(self, ends_R: Ints, items_RN: Ints) -> pa.Table:
        """Requests of the events before `ends_R`, whose first candidate is the one that came next."""
        starts_R = self.items.offsets[:-1].numpy()
        place_H = np.arange(len(self.items.values))
        before_H = place_H < np.repeat(ends_R, self._lengths())
        next_RN = np.zeros(items_RN.shape, np.int8)
        next_RN[:, 0] = 1
        return pa.table(
            {
                "member_id": self.members_R,
                "history_item": _lists(self.items.values.numpy()[before_H], ends_R - starts_R),
                "item": _lists(items_RN.ravel(), np.full(len(items_RN), items_RN.shape[1])),
                "next": _lists(next_RN.ravel(), np.full(len(items_RN), items_RN.shape[1])),
            }
        )


def read_sequences(path: Path) -> ItemSequences:
    """A Parquet file with a member a row: ``user_id``, and a list ``items`` of item ids, oldest first.

    Raises:
        LogError: There is no such file or column, a value is null, or an id is negative.
    """
    if not path.is_file():
        raise LogError(f"no sequences at {path}", do="name a Parquet file with the columns user_id and items")
    table = pq.read_table(path)
    missing = sorted({"user_id", "items"} - set(table.column_names))
    if missing:
        raise LogError(f"{path} lacks columns", found=table.column_names, allowed=["user_id", "items"])
    lists = table["items"].combine_chunks()
    items = pc.list_flatten(lists)
    if table["user_id"].null_count or lists.null_count or items.null_count:
        raise LogError(f"{path} holds nulls", do="drop the rows, or the events, that are not known")
    values = torch.from_numpy(items.cast(pa.int64()).to_numpy().copy())
    if len(values) and int(values.min()) < 0:
        raise LogError(f"{path} holds negative item ids", found=int(values.min()), allowed="≥ 0")
    lengths = pc.list_value_length(lists).cast(pa.int64()).to_numpy().copy()
    return ItemSequences(table["user_id"].cast(pa.int64()).to_numpy(), _ragged(values, torch.from_numpy(lengths)))


def _ragged(values: torch.Tensor, lengths_R: torch.Tensor) -> Ragged:
    return Ragged(values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths_R.cumsum(0)]))


def _lists(values: NDArray[np.integer], lengths_R: Ints) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths_R)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
