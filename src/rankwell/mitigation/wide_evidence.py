"""Whether clicks of a few keys have moved, and by how much: what a wide update would change, and whether it would gain.

Letters: n rows, oldest first · F columns of keys · V entries: a request with a key · D distinct keys.

**One key after another.** A concept that moves (the clicks of one job, of one skill) moves few keys. Small steps on all
keys there are would move thousands by noise, each a little, and lose more by it than the few gain. So the key whose
clicks are off most surely is taken and learned, and what remains is looked at again: no title stands in for its job.

**What is gained is told by rows that had no part in it.** Rows are cut into pieces by time; each is predicted with what
earlier ones alone would have chosen and learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.mitigation.attributed_rows import AttributedRows, RowChanges
from rankwell.mitigation.mitigation_state import InForce
from rankwell.mitigation.wide_update import ProximalUpdate, WideRows, row_changes

__all__ = ["MovedKeys", "WideEvidence", "gain_z"]

_NUM_PIECES: Final = 8
_MOST_KEYS: Final = 32
_SURE_OF_KEY: Final = 4.0

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
KeyChanges = dict[str, dict[int, float]]


@final
@dataclass(frozen=True, slots=True)
class MovedKeys:
    """What is to be added to weights, by table and key, and how sure it is.

    Args:
        changes: By table and key, of the action; empty where nothing is off.
        gain_z: Of log loss, by rows that had no part in it, in standard errors.
        gain: Of the same rows together, in nats.
    """

    changes: KeyChanges
    gain_z: float
    gain: float


@final
class WideEvidence:
    """Rows of which it is known what was changed of them: those served without a correction, or under wide changes.

    Args:
        rows: Of the bundle that answers.
        history: What was in force when.
        update: How is learned, and how far.

    Letters: see the module.
    """

    def __init__(self, rows: AttributedRows, history: Sequence[InForce], update: ProximalUpdate) -> None:
        known: dict[str, RowChanges] = {"": {}}
        for entry in history:
            if entry.wide_changes and not entry.offsets and not entry.blend_weight:
                known[entry.correction_id] = entry.wide_changes
        self.rows = rows.kept(np.isin(rows.corrections_n, list(known)))
        self.added_n = np.zeros(len(self.rows))
        for correction_id, changes in known.items():
            of_it_n = self.rows.corrections_n == correction_id
            self.added_n[of_it_n] = self.rows.kept(of_it_n).added_by(changes)
        self.is_changed_n: NDArray[np.bool_] = self.rows.corrections_n != ""
        self._update = update

    def moved(self) -> MovedKeys:
        """What all rows say, and what it would have gained on pieces that came after those it was learned from."""
        wide, requests_n, update = self._wide(), self.rows.requests_n, self._update
        gains_n = np.zeros(len(self.rows))
        starts = _starts(requests_n)
        for start, end in pairwise(starts[1:]):
            changes = _learned(_kept(wide, slice(0, start)), requests_n[:start], update)
            piece = _kept(wide, slice(start, end))
            gains_n[start:end] = _gains(piece, _added(piece, changes))
        return MovedKeys(_learned(wide, requests_n, update), gain_z(gains_n, requests_n), float(gains_n.sum()))

    def wanted(self) -> KeyChanges:
        """`moved().changes` alone."""
        return _learned(self._wide(), self.rows.requests_n, self._update)

    def served_gain(self, since_us: int) -> tuple[float, float]:
        """What wide changes gained of log loss on rows that were served under them: z, and nats.

        Args:
            since_us: Rows before it are left out.
        """
        where_n = self.is_changed_n & (self.rows.times_us_n >= since_us)
        gains_n = _gains(_kept(self._wide(), where_n), self.added_n[where_n])
        return gain_z(gains_n, self.rows.requests_n[where_n]), float(gains_n.sum())

    def row_changes(self, changes: KeyChanges) -> dict[str, dict[str, dict[str, tuple[float, ...]]]]:
        """Changes as a correction has them, by part of the model."""
        rows, found = self.rows, dict[str, dict[str, dict[str, tuple[float, ...]]]]()
        for part in sorted(set(rows.parts)):
            mine = {table for of, table in zip(rows.parts, rows.tables, strict=True) if of == part}
            of_part = {table: keys for table, keys in changes.items() if table in mine}
            by_action = [of_part if action == rows.action else {} for action in range(rows.num_actions)]
            if of_part:
                found |= row_changes(part, by_action)
        return found

    def _wide(self) -> WideRows:
        rows = self.rows
        return WideRows(rows.tables, rows.keys_nF, rows.logits_n - self.added_n, rows.labels_n, np.ones(len(rows)))


def gain_z(gains_n: _Floats, requests_n: _Ints) -> float:
    """A sum in standard errors, by whole requests: Σ g / √Σ g²; 0 where nothing was gained or lost.

    >>> round(gain_z(np.array([1.0, 1.0, -1.0, 3.0]), np.array([5, 5, 6, 7])), 2)
    1.07
    """
    _, place_n = np.unique(requests_n, return_inverse=True)
    by_request = np.bincount(place_n, gains_n) if len(gains_n) else np.zeros(1)
    spread = math.sqrt(float(by_request @ by_request))
    return float(by_request.sum()) / spread if spread else 0.0


def _starts(requests_n: _Ints) -> list[int]:
    """Where pieces begin, between requests; the end of the last one too."""
    num = len(requests_n)
    borders = np.flatnonzero(np.diff(requests_n)) + 1
    wanted = np.arange(1, _NUM_PIECES) * num // _NUM_PIECES
    places = borders[np.searchsorted(borders, wanted).clip(max=len(borders) - 1)] if len(borders) else wanted[:0]
    return [0, *np.unique(places).tolist(), num]


def _learned(wide: WideRows, requests_n: _Ints, update: ProximalUpdate) -> KeyChanges:
    """Keys that are off, the surest first, and what each lacks."""
    keys, entry_m, row_m, key_V = _entries(wide, requests_n)
    changes: KeyChanges = {}
    chosen_D = np.zeros(len(keys), bool)
    while chosen_D.sum() < min(_MOST_KEYS, len(keys)):
        p_n = _sigmoid(wide.logits_n + _added(wide, changes))
        lacking_V = np.bincount(entry_m, (wide.labels_n - p_n)[row_m], len(key_V))
        sums = [np.bincount(key_V, part_V, len(keys)) for part_V in (lacking_V, lacking_V**2)]
        clicks = [np.bincount(key_V[entry_m], of_n[row_m], len(keys)) for of_n in (wide.labels_n, p_n)]
        z_D = np.abs(sums[0]) / np.sqrt(np.maximum(np.maximum(sums[1], np.maximum(*clicks)), 1.0))
        z_D[chosen_D] = 0.0
        surest = int(z_D.argmax())
        if z_D[surest] < _SURE_OF_KEY:
            break
        chosen_D[surest] = True
        changes = update.changes(_only(wide, [keys[d] for d in np.flatnonzero(chosen_D).tolist()]))
    return changes


def _entries(wide: WideRows, requests_n: _Ints) -> tuple[list[tuple[str, int]], _Ints, _Ints, _Ints]:
    """The keys; of each pair of a row and a key its entry (request and key) and its row; of each entry its key."""
    place: dict[tuple[str, int], int] = {}
    keys_m, rows_m = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for f, table in enumerate(wide.tables):
        rows = np.flatnonzero(wide.keys_nF[:, f] >= 0)
        values, at = np.unique(wide.keys_nF[rows, f], return_inverse=True)
        places = np.array([place.setdefault((table, key), len(place)) for key in values.tolist()], np.int64)
        keys_m.append(places[at])
        rows_m.append(rows)
    key_m, row_m = np.concatenate(keys_m), np.concatenate(rows_m)
    _, request_n = np.unique(requests_n, return_inverse=True)
    num = max(len(place), 1)
    entries, entry_m = np.unique(request_n[row_m] * num + key_m, return_inverse=True)
    return list(place), entry_m, row_m, entries % num


def _only(wide: WideRows, keys: Sequence[tuple[str, int]]) -> WideRows:
    """The rows with one of these keys, and no other key in them."""
    kept_nF = np.full(wide.keys_nF.shape, -1, np.int64)
    for f, table in enumerate(wide.tables):
        mine = [key for of, key in keys if of == table]
        kept_nF[:, f] = np.where(np.isin(wide.keys_nF[:, f], mine), wide.keys_nF[:, f], -1)
    return _kept(replace(wide, keys_nF=kept_nF), np.any(kept_nF >= 0, axis=1))


def _kept(wide: WideRows, where_n: NDArray[np.bool_] | slice) -> WideRows:
    return WideRows(
        wide.tables, wide.keys_nF[where_n], wide.logits_n[where_n], wide.labels_n[where_n], wide.weights_n[where_n]
    )


def _added(wide: WideRows, changes: KeyChanges) -> _Floats:
    added_n = np.zeros(len(wide.logits_n))
    for f, table in enumerate(wide.tables):
        for key, change in changes.get(table, {}).items():
            added_n += change * (wide.keys_nF[:, f] == key)
    return added_n


def _gains(wide: WideRows, added_n: _Floats) -> _Floats:
    """Log loss of each row without, less that with what is added."""
    z_n = wide.logits_n
    return np.asarray(np.logaddexp(0, z_n) - np.logaddexp(0, z_n + added_n) + wide.labels_n * added_n)


def _sigmoid(z_n: _Floats) -> _Floats:
    return np.asarray(1 / (1 + np.exp(-z_n)))
