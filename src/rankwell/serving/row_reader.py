"""Stored rows into what a feature store answers, with the declared defaults where there is no row.

Letters: K rows of one request · W words of a row.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from rankwell.errors import SchemaError
from rankwell.schema.columns import Bag
from rankwell.serving.feature_defaults import FeatureDefaults
from rankwell.serving.feature_store import StoredCandidates, StoredMember
from rankwell.serving.row_layout import RowLayout
from rankwell.serving.stored_columns import StoredColumns
from rankwell.types import MISSING_ID, Column

__all__ = ["RowReader"]

Ints = NDArray[np.int64]


@final
class RowReader:
    """Reads rows of items and of members.

    Args:
        stored: What is kept of them.
        defaults: Of what is not there.

    Raises:
        SchemaError: A stored feature has no default, or nothing would be stored.
    """

    def __init__(self, stored: StoredColumns, defaults: FeatureDefaults) -> None:
        self.stored = stored
        self.item_layout, self.member_layout = RowLayout.of_items(stored), RowLayout.of_members(stored)
        if not stored.candidate_columns and not stored.context_columns and not stored.sequences:
            raise SchemaError(
                "a feature store of this schema holds nothing",
                found=f"item={stored.schema.item!r}, member_id={stored.schema.member_id!r}",
                do="declare the item or the member in the schema",
            )
        self.item_default_W = _default_row(self.item_layout, defaults)
        self.member_default_W = _default_row(self.member_layout, defaults)
        self._member_columns = {name: defaults.of(name) for name in stored.member_columns}

    def candidates(
        self, item_ids_K: Ints, words_KW: Ints, lists: Ints, starts_K: Ints, is_missing_K: NDArray[np.bool_]
    ) -> StoredCandidates:
        """The candidates' features; the rows of missing ones are overwritten."""
        if is_missing_K.any():
            words_KW[is_missing_K] = self.item_default_W
        found = self.item_layout.columns(words_KW, lists, starts_K)
        item = self.stored.schema.item
        columns = {
            name: torch.from_numpy(item_ids_K.copy()) if name == item else found[name]
            for name in self.stored.candidate_columns
        }
        return StoredCandidates(columns, is_missing_K)

    def member(self, member_id: int, words_1W: Ints, lists: Ints, start: int, *, is_missing: bool) -> StoredMember:
        """The member's features and histories; the row of a missing one is not looked at."""
        if is_missing:
            words_1W = self.member_default_W[None, :]
        found = self.member_layout.columns(words_1W, lists, np.array([start]))
        context: dict[str, Column] = {}
        for name in self.stored.context_columns:
            if name not in self._member_columns:
                context[name] = found[name]
            elif member_id == MISSING_ID:
                context[name] = torch.from_numpy(self._member_columns[name].reshape(1).copy())
            else:
                context[name] = torch.tensor([member_id])
        return StoredMember(context, self.member_layout.events(words_1W, lists, start), is_missing)


def _default_row(layout: RowLayout, defaults: FeatureDefaults) -> Ints:
    columns = {f.name: defaults.of(f.name)[None] for f in layout.features if not isinstance(f, Bag)}
    row_W: Ints = layout.pack(columns, layout.no_lists(num_rows=1), num_rows=1).words_nW[0]
    return row_W
