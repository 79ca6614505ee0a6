"""The bytes of what is stored of one item or member: the same in a feature table and in Redis.

::

    row      words of 8 bytes, little-endian: a head, which each store uses for itself; ids (int64); lengths of lists
             (int32); numbers, vectors and places (float32); zeros to the end of the word
    lists    after the row, or apart from it: bag by bag, sequence by sequence and field by field, each from a word's
             beginning; ids and times int64, numbers float32

Rows are of one width, so those of many ids are read as one block, with no Python for each of them.

Letters: n rows of any number · K rows of one request · W words of a row · H events.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from rankwell.data.chunk import ragged_rows
from rankwell.schema import Sequence as EventSequence
from rankwell.schema.columns import Bag, Categorical, Numeric, Place, Vector
from rankwell.serving.feature_store import StoredEvents
from rankwell.serving.stored_columns import StoredColumns, StoredFeature
from rankwell.types import Column, Ragged

__all__ = ["FORMAT_VERSION", "PackedRows", "RowLayout"]

Ints = NDArray[np.int64]

FORMAT_VERSION: Final = 1
_WORD: Final = 8
_ID, _COUNT, _NUMBER = np.dtype("<i8"), np.dtype("<i4"), np.dtype("<f4")


@final
@dataclass(frozen=True, slots=True)
class _Values:
    """The entries of one list of a row: a bag's ids, or a field (or the times) of a sequence's events."""

    owner: str
    field: str
    dtype: np.dtype[Any]

    def words(self, lengths_n: NDArray[Any]) -> Ints:
        """Words that lists of these lengths take."""
        lengths = lengths_n.astype(np.int64)
        words: Ints = lengths if self.dtype == _ID else (lengths + 1) // 2
        return words


@final
@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows as they are stored.

    Args:
        words_nW: Their fixed parts, int64, C-contiguous; the head is 0.
        lists: Words of all their lists, row by row.
        starts: int64 of n + 1: the lists of row i are ``lists[starts[i]:starts[i + 1]]``.
    """

    words_nW: Ints
    lists: Ints
    starts: Ints


@final
class RowLayout:
    """Where in a row each feature of an item, or of a member, stands.

    Args:
        features: What is kept in a row.
        sequences: Sequences whose events stand in its lists.
        side: "items" or "members": rows of the one are never read as the other.

    >>> layout = RowLayout((Categorical(name="title"), Numeric(name="pay"), Bag(name="skills")), (), "items")
    >>> layout.num_words  # head, title; the number of skills and pay share a word
    3
    >>> packed = layout.pack({"title": np.array([7]), "pay": np.array([0.5], np.float32)},
    ...                      {"skills": (np.array([0, 2]), {"": np.array([30, 31])})}, num_rows=1)
    >>> columns = layout.columns(packed.words_nW, packed.lists, packed.starts[:-1])
    >>> columns["title"], columns["pay"], columns["skills"].values
    (tensor([7]), tensor([0.5000]), tensor([30, 31]))
    """

    def __init__(self, features: Sequence[StoredFeature], sequences: Sequence[EventSequence], side: str) -> None:
        self.features, self.sequences = tuple(features), tuple(sequences)
        bags = [feature.name for feature in features if isinstance(feature, Bag)]
        self._counted = (*bags, *(sequence.name for sequence in sequences))
        self._values = (*(_Values(name, "", _ID) for name in bags), *(v for s in sequences for v in _values_of(s)))
        fields: list[tuple[str, Any, int]] = [("head:", _ID, _WORD)]
        fields += [(f"of:{f.name}", _ID, _WORD) for f in features if isinstance(f, Categorical)]
        fields += [(f"num:{name}", _COUNT, 4) for name in self._counted]
        for feature in features:
            if isinstance(feature, Numeric):
                fields.append((f"of:{feature.name}", _NUMBER, 4))
            elif isinstance(feature, Vector | Place):
                width = feature.width if isinstance(feature, Vector) else 2
                fields.append((f"of:{feature.name}", (_NUMBER, (width,)), 4 * width))
        ends = np.cumsum([num_bytes for _, _, num_bytes in fields])
        self.num_words = int(-(-ends[-1] // _WORD))
        self.dtype = np.dtype(
            {
                "names": [name for name, _, _ in fields],
                "formats": [type_ for _, type_, _ in fields],
                "offsets": [int(end) - num_bytes for end, (_, _, num_bytes) in zip(ends, fields, strict=True)],
                "itemsize": self.num_words * _WORD,
            }
        )
        self.fingerprint = _fingerprint(self.features, self.sequences, side)

    @classmethod
    def of_items(cls, stored: StoredColumns) -> RowLayout:
        """Of what is kept of an item."""
        return cls(stored.item_features, (), "items")

    @classmethod
    def of_members(cls, stored: StoredColumns) -> RowLayout:
        """Of what is kept of a member."""
        return cls(stored.member_features, stored.member_sequences, "members")

    def no_lists(self, *, num_rows: int) -> dict[str, tuple[Ints, dict[str, NDArray[Any]]]]:
        """For `pack`: rows whose lists are all empty."""
        empty: dict[str, tuple[Ints, dict[str, NDArray[Any]]]] = {
            name: (np.zeros(num_rows + 1, np.int64), {}) for name in self._counted
        }
        for part in self._values:
            empty[part.owner][1][part.field] = np.zeros(0, part.dtype)
        return empty

    def pack(
        self,
        columns: Mapping[str, NDArray[Any]],
        lists: Mapping[str, tuple[Ints, Mapping[str, NDArray[Any]]]],
        *,
        num_rows: int,
    ) -> PackedRows:
        """Rows of checked values.

        Args:
            columns: By feature, n entries of the types that `rankwell.types.Features` has.
            lists: By bag or sequence its offsets and, by field ("" of a bag, the time's own name of times), its values.
            num_rows: n.
        """
        words_nW = np.zeros((num_rows, self.num_words), np.int64)
        rows_n = words_nW.view(self.dtype)[:, 0]
        for name, values_n in columns.items():
            rows_n[f"of:{name}"] = values_n
        for name, (offsets, _) in lists.items():
            rows_n[f"num:{name}"] = np.diff(offsets)
        words_n = np.zeros(num_rows, np.int64)
        for part in self._values:
            words_n += part.words(rows_n[f"num:{part.owner}"])
        starts = np.zeros(num_rows + 1, np.int64)
        np.cumsum(words_n, out=starts[1:])
        flat = np.zeros(int(starts[-1]), np.int64)
        for part, starts_n in zip(self._values, self._starts(rows_n, starts[:-1]), strict=True):
            offsets, values = lists[part.owner]
            entries = flat.view(part.dtype)
            first_n = starts_n * (_WORD // part.dtype.itemsize)
            places = np.repeat(first_n - offsets[:-1], np.diff(offsets)) + np.arange(offsets[-1])
            entries[places] = values[part.field]
        return PackedRows(words_nW, flat, starts)

    def columns(self, words_KW: Ints, lists: Ints, starts_K: Ints) -> dict[str, Column]:
        """Features of rows, each a tensor with memory of its own.

        Args:
            words_KW: C-contiguous.
            lists: Words in which their lists stand.
            starts_K: The first word of each row's lists.
        """
        rows_K = words_KW.view(self.dtype)[:, 0]
        bags = {
            part.owner: self._bag(rows_K, part, lists, first_K)
            for part, first_K in zip(self._values, self._starts(rows_K, starts_K), strict=True)
            if part.field == ""
        }
        return {
            feature.name: bags[feature.name]
            if isinstance(feature, Bag)
            else torch.from_numpy(rows_K[f"of:{feature.name}"].copy())
            for feature in self.features
        }

    def events(self, words_KW: Ints, lists: Ints, start: int) -> dict[str, StoredEvents]:
        """The events of the first of the rows, whose lists begin at `start`; they stand on the memory of `lists`."""
        row_1 = words_KW.view(self.dtype)[:1, 0]
        found: dict[str, dict[str, NDArray[Any]]] = {sequence.name: {} for sequence in self.sequences}
        for part, first_1 in zip(self._values, self._starts(row_1, np.array([start])), strict=True):
            if part.field != "":
                first = int(first_1[0]) * (_WORD // part.dtype.itemsize)
                found[part.owner][part.field] = lists.view(part.dtype)[
                    first : first + int(row_1[f"num:{part.owner}"][0])
                ]
        return {
            sequence.name: StoredEvents(
                {field.name: found[sequence.name][field.name] for field in sequence.fields},
                None if sequence.time is None else found[sequence.name][sequence.time],
            )
            for sequence in self.sequences
        }

    def list_words(self, words_KW: Ints) -> Ints:
        """int64 of K: how many words the lists of each row take, -1 where a length is none."""
        rows_K = words_KW.view(self.dtype)[:, 0]
        total_K = np.zeros(len(rows_K), np.int64)
        for part in self._values:
            total_K += part.words(rows_K[f"num:{part.owner}"])
        for name in self._counted:
            total_K[rows_K[f"num:{name}"] < 0] = -1
        return total_K

    def _starts(self, rows_n: NDArray[Any], starts_n: Ints) -> list[Ints]:
        """Of each kind of list the words at which they begin."""
        found = []
        for part in self._values:
            found.append(starts_n)
            starts_n = starts_n + part.words(rows_n[f"num:{part.owner}"])
        return found

    def _bag(self, rows_K: NDArray[Any], part: _Values, lists: Ints, first_K: Ints) -> Ragged:
        lengths_K = rows_K[f"num:{part.owner}"].astype(np.int64)
        bounds = np.stack([first_K, first_K + lengths_K], axis=1).ravel()
        places, offsets = ragged_rows(bounds, np.arange(0, len(bounds), 2))
        return Ragged(torch.from_numpy(lists[places]), torch.from_numpy(offsets))


def _values_of(sequence: EventSequence) -> list[_Values]:
    values = [_Values(sequence.name, f.name, _ID if isinstance(f, Categorical) else _NUMBER) for f in sequence.fields]
    return values if sequence.time is None else [*values, _Values(sequence.name, sequence.time, _ID)]


def _fingerprint(features: Sequence[StoredFeature], sequences: Sequence[EventSequence], side: str) -> int:
    """63 bits of all that decides what the bytes of a row mean; what models make of the values is none of it."""
    meaning = [
        [FORMAT_VERSION, side],
        [_meaning(feature) for feature in features],
        [[sequence.name, sequence.time, [_meaning(field) for field in sequence.fields]] for sequence in sequences],
    ]
    digest = blake2b(json.dumps(meaning).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _meaning(feature: StoredFeature) -> list[Any]:
    width = feature.width if isinstance(feature, Vector) else None
    missing = feature.missing if isinstance(feature, Categorical | Numeric) else None
    return [feature.name, feature.kind, width, missing]
