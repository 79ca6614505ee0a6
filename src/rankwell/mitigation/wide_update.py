"""The wide part of a model, brought up to date by the newest rows: small steps, and never far from the batch model.

Letters: n rows, in the order of time · F id columns · D distinct keys.

What comes out are changes: numbers that a correction adds to rows of a bundle that stays as it is. They are bounded
twice, by the step and by the distance from what the batch model learned from far more rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from rankwell.errors import MitigationError
from rankwell.serving.correction import LARGEST_CHANGE
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.loan import IdColumn
from rankwell.tables.table import Table

__all__ = ["FtrlUpdate", "ProximalUpdate", "WideRows", "row_changes"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
TableChanges = Mapping[str, Mapping[int, float]]
"""By table and key, what is added to a weight of one action."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class WideRows:
    """Attributed rows of one action, oldest first.

    Args:
        tables: F names: the table that each column reads.
        keys_nF: int64: the key of the row in it (an id; a number of a row where ids are hashed to rows); −1: none.
        logits_n: What the batch model says, without any change; log-odds.
        labels_n: 0 or 1.
        weights_n: How often a row counts; at least 0.

    Raises:
        MitigationError: The columns are not of one length, or hold what they may not.
    """

    tables: tuple[str, ...]
    keys_nF: _Ints
    logits_n: _Floats
    labels_n: _Floats
    weights_n: _Floats

    def __post_init__(self) -> None:
        num = len(self.logits_n)
        if self.keys_nF.shape != (num, len(self.tables)) or not len(self.labels_n) == len(self.weights_n) == num:
            raise MitigationError(
                "the columns of rows differ in length",
                found=(self.keys_nF.shape, num, len(self.labels_n), len(self.weights_n)),
            )
        if not (np.isfinite(self.logits_n).all() and np.isin(self.labels_n, (0, 1)).all() and self._has_weights):
            raise MitigationError(
                "rows can't be learned from", allowed="finite logits, labels 0 or 1, finite weights of 0 or more"
            )

    @property
    def _has_weights(self) -> bool:
        return bool(np.isfinite(self.weights_n).all() and (self.weights_n >= 0).all())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProximalUpdate:
    """Passive-aggressive in its log-loss form: as near to the weights before as a row's loss allows.

    For each row w ← argmin ½|w − w₀|² / η + ℓ(y, w·x), within ± `largest_change` of the batch model. Its step is
    ``η·s·x`` with the one root s of ``s = y − σ(z + η·|x|²·s)``: s is what the row lacks *after* the step, so |s| < 1,
    no weight moves by more than η, none shoots over, and a row that is right moves nothing. The hinge form moves until
    the margin is 1 instead, whatever the label's chance was.

    Args:
        step: η of a row of weight 1, > 0.
        largest_change: The trust region of each weight, in log-odds.

    Raises:
        MitigationError: A setting is out of range.

    >>> rows = WideRows(("job",), np.array([[4]]), np.zeros(1), np.ones(1), np.ones(1))
    >>> changes = ProximalUpdate(step=0.5).changes(rows)
    >>> round(changes["job"][4], 4)  # .5·s with s = 1 − σ(.5·s)
    0.2223

    Source: Crammer et al. 2006, "Online passive-aggressive algorithms"; Kulis and Bartlett 2010, "Implicit online
    learning"; Toulis and Airoldi 2017, "Asymptotic and finite-sample properties of estimators based on stochastic
    gradients".
    """

    step: float = 0.05
    largest_change: float = 0.5

    def __post_init__(self) -> None:
        _check(self.step, self.largest_change)

    def changes(self, rows: WideRows, before: TableChanges | None = None) -> dict[str, dict[int, float]]:
        """The changes after these rows.

        Args:
            rows: Each is learned from once, in order.
            before: Changes to go on from; none by default.
        """
        return self.learned(rows, before)[0]

    def learned(
        self, rows: WideRows, before: TableChanges | None = None
    ) -> tuple[dict[str, dict[int, float]], _Floats]:
        """The changes, and of each row the log-odds that it was predicted before it was learned from."""
        keys, places_nF = _compact(rows, before or {})
        changes_D = np.array([(before or {}).get(table, {}).get(key, 0.0) for table, key in keys])
        predicted_n = _proximal(
            places_nF, rows.logits_n, rows.labels_n, rows.weights_n, self.step, self.largest_change, changes_D
        )
        return _by_table(keys, changes_D), predicted_n


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FtrlUpdate:
    """FTRL goes on from the sums z and n that travelled with a bundle, at a lower rate, within the trust region.

    Rows that were seen often have a large n, and hardly move; new ones move freely. The table ends up moved: take one
    that was read for this purpose (`rankwell.serving.online_learning.read_states`).

    Args:
        learning_rate: In force; not above the rule's own.
        batch_size: Rows a step: that of training, since n stands for gradients of that size.
        largest_change: The trust region of each weight, in log-odds.

    Raises:
        MitigationError: A setting is out of range.
    """

    learning_rate: float = 0.02
    batch_size: int = 256
    largest_change: float = 0.5

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.largest_change)
        if self.batch_size < 1:
            raise MitigationError("a step needs a row", found=self.batch_size, allowed="batch_size ≥ 1")

    def learned(self, table: Table, rows: WideRows, *, action: int = 0) -> tuple[dict[str, dict[int, float]], _Floats]:
        """The changes after these rows, and the log-odds that each was predicted before.

        Args:
            table: With its rule, an `Ftrl`, and its state; nothing is lent. Its ids are the rows' keys.
            rows: Their logits are those of the batch model, whose rows the table holds.
            action: Which of the table's columns.

        Raises:
            MitigationError: The table is moved by another rule, or hashes its ids.
        """
        if not isinstance(table.rule, Ftrl):
            raise MitigationError("there is no z and n to go on from", found=table.rule, allowed="a table of Ftrl")
        hashed = [spec.name for spec in table.specs if spec.hashed and spec.name in rows.tables]
        if hashed:
            raise MitigationError(
                "ids are hashed to rows, by whose numbers changes go", found=hashed, do="take ProximalUpdate"
            )
        table.learning_rate = self.learning_rate
        started_nF = _weights(table, rows, slice(None), action)
        predicted_n = np.empty(len(rows.logits_n))
        for first in range(0, len(predicted_n), self.batch_size):
            part = slice(first, first + self.batch_size)
            loan = table.checkout([_columns(rows, part)])
            weights_nF = loan.blocks[0][:, action :: table.width]
            reach = self.largest_change
            raw_nF = (weights_nF - torch.from_numpy(started_nF[part])) * torch.from_numpy(rows.keys_nF[part] >= 0)
            moved_nF = raw_nF + (raw_nF.clamp(-reach, reach) - raw_nF).detach()  # held at the bound, free to come back
            logits_n = torch.from_numpy(rows.logits_n[part]) + moved_nF.sum(dim=1)
            predicted_n[part] = logits_n.detach().numpy()
            loss = binary_cross_entropy_with_logits(
                logits_n, torch.from_numpy(rows.labels_n[part]), torch.from_numpy(rows.weights_n[part])
            )
            loss.backward()  # type: ignore[no-untyped-call]
            table.collect()
            table.apply()
        ended_nF = _weights(table, rows, slice(None), action)
        moved_nF = np.clip(ended_nF - started_nF, -self.largest_change, self.largest_change)
        changes: dict[str, dict[int, float]] = {}
        for f, name in enumerate(rows.tables):
            known = changes.setdefault(name, {})
            known |= {
                int(key): float(moved)
                for key, moved in zip(rows.keys_nF[:, f].tolist(), moved_nF[:, f].tolist(), strict=True)
                if key >= 0 and moved
            }
        return changes, predicted_n


def row_changes(part: str, by_action: Sequence[TableChanges]) -> dict[str, dict[str, dict[str, tuple[float, ...]]]]:
    """Changes as `Correction.wide_changes` holds them: by part, table and key one number an action.

    Args:
        part: Of the model: "wide", "crosses".
        by_action: For each of the schema's actions, in its order; empty where it stays.

    >>> row_changes("wide", [{"job": {4: 0.2}}, {}])
    {'wide': {'job': {'4': (0.2, 0.0)}}}
    """
    tables: dict[str, dict[str, tuple[float, ...]]] = {}
    for table in sorted({table for changes in by_action for table in changes}):
        keys = sorted({key for changes in by_action for key in changes.get(table, {})})
        tables[table] = {
            str(key): tuple(float(changes.get(table, {}).get(key, 0.0)) for changes in by_action) for key in keys
        }
    return {part: tables}


def _check(step: float, largest_change: float) -> None:
    if not 0 < step < np.inf:
        raise MitigationError("a step must be a number above 0", found=step)
    if not 0 < largest_change <= LARGEST_CHANGE:
        raise MitigationError(
            "the trust region is out of range", found=largest_change, allowed=f"(0, {LARGEST_CHANGE}]"
        )


def _compact(rows: WideRows, before: TableChanges) -> tuple[list[tuple[str, int]], _Ints]:
    """All keys there are, and each row's places among them; −1 where it has none."""
    place: dict[tuple[str, int], int] = {}
    for table, known in before.items():
        for key in known:
            place.setdefault((table, key), len(place))
    places_nF = np.full(rows.keys_nF.shape, -1, np.int64)
    for f, table in enumerate(rows.tables):
        values_V, at_n = np.unique(rows.keys_nF[:, f], return_inverse=True)
        places_V = [place.setdefault((table, key), len(place)) if key >= 0 else -1 for key in values_V.tolist()]
        places_nF[:, f] = np.array(places_V, np.int64)[at_n]
    return list(place), places_nF


def _by_table(keys: Sequence[tuple[str, int]], changes_D: _Floats) -> dict[str, dict[int, float]]:
    changes: dict[str, dict[int, float]] = {}
    for (table, key), change in zip(keys, changes_D.tolist(), strict=True):
        if change:
            changes.setdefault(table, {})[key] = change
    return changes


def _columns(rows: WideRows, part: slice) -> list[IdColumn]:
    keys_nF = torch.from_numpy(rows.keys_nF[part])
    return [IdColumn(table, keys_nF[:, f].contiguous()) for f, table in enumerate(rows.tables)]


def _weights(table: Table, rows: WideRows, part: slice, action: int) -> NDArray[Any]:
    return table.read([_columns(rows, part)]).blocks[0][:, action :: table.width].double().numpy().copy()


@numba.njit(cache=True, nogil=True)
def _proximal(places_nF, logits_n, labels_n, weights_n, step, reach, changes_D):  # type: ignore[no-untyped-def]
    """Learns row by row, in place; returns what each was predicted."""
    predicted_n = np.empty(len(logits_n))
    for i in range(len(logits_n)):
        z, count = logits_n[i], 0
        for f in range(places_nF.shape[1]):
            if places_nF[i, f] >= 0:
                z += changes_D[places_nF[i, f]]
                count += 1
        predicted_n[i] = z
        reach_of_row = step * weights_n[i] * count
        low, high = (0.0, 1.0) if labels_n[i] > 0.5 else (-1.0, 0.0)
        for _ in range(50):  # s − y + σ(z + η·|x|²·s) rises, so its one root is halved in on
            s = (low + high) / 2
            if s - labels_n[i] + 1.0 / (1.0 + np.exp(-(z + reach_of_row * s))) < 0:
                low = s
            else:
                high = s
        moved = step * weights_n[i] * (low + high) / 2
        for f in range(places_nF.shape[1]):
            if places_nF[i, f] >= 0:
                changed = changes_D[places_nF[i, f]] + moved
                changes_D[places_nF[i, f]] = min(max(changed, -reach), reach)
    return predicted_n
