"""A factorisation machine on Frappe, whose rows are all moved by one rule: what studies of rules learn there.

Letters: N rows of the log · B rows of a batch · F = 10 id columns · W row width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.errors import LogError
from rankwell.schema import TableSpec
from rankwell.tables.loan import IdColumn
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.table import Table

__all__ = ["FIELDS", "Frappe", "FrappeSample", "machine_on", "probabilities_of", "read_frappe"]

FIELDS: Final = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
_BATCH: Final = 1024


@final
@dataclass(frozen=True, eq=False, slots=True)
class FrappeSample:
    """Rows of the log."""

    ids_FN: Tensor
    labels_N: Tensor


@final
@dataclass(frozen=True, eq=False, slots=True)
class Frappe:
    """The log in three: what is learned from, what settings are chosen on, and what is told."""

    train: FrappeSample
    tune: FrappeSample
    told: FrappeSample


def read_frappe(data: Path) -> Frappe:
    """Train with its redrawn negatives; one half of valid to choose on, the other to tell.

    Raises:
        LogError: A file isn't there.
    """
    train, valid = _read(data / "train_reconstructed.parquet"), _read(data / "valid.parquet")
    is_tune_N = torch.from_numpy(np.random.default_rng(0).random(len(valid.labels_N)) < 0.5)
    halves = (FrappeSample(valid.ids_FN[:, half_N], valid.labels_N[half_N]) for half_N in (is_tune_N, ~is_tune_N))
    return Frappe(train, *halves)


def _read(path: Path) -> FrappeSample:
    try:
        table = pq.read_table(path, columns=[*FIELDS, "label"])
    except OSError as error:
        raise LogError(f"no Frappe log at {path}", found=str(error), do="name the folder that holds it") from None
    ids = [table.column(name).to_numpy().astype(np.int64) for name in FIELDS]
    return FrappeSample(
        torch.from_numpy(np.stack(ids)), torch.from_numpy(table.column("label").to_numpy().astype(np.float32))
    )


def machine_on(train: FrappeSample, rule: RowOptimizer, *, width: int, num_epochs: int, seed: int) -> Table:
    """Learn by passes in random order, the rate falling to a twentieth.

    Args:
        train: To learn from.
        rule: Moves the rows.
        width: W; a row holds a weight, then the W - 1 numbers of its vector, whose inner products count for pairs of
            columns. With 1 it is a logistic model.
        num_epochs: Passes.
        seed: Of starts and orders.

    Raises:
        TrainingError: The rate is so high that products of rows run away.
    """
    table = Table([TableSpec(name="feature", growing=True)], width=width, seed=seed, init_scale=0.05)
    table.train_with(rule)
    numbers = np.random.default_rng(seed)
    num_rows, num_steps = len(train.labels_N), num_epochs * -(-len(train.labels_N) // _BATCH)
    step = 0
    for _ in range(num_epochs):
        order = torch.from_numpy(numbers.permutation(num_rows))
        for start in range(0, num_rows, _BATCH):
            rows = order[start : start + _BATCH]
            table.learning_rate = rule.learning_rate * (1 - 0.95 * step / num_steps)
            [block] = table.checkout([_columns(train.ids_FN[:, rows])]).blocks
            rows_BFW = block.detach().view(len(rows), len(FIELDS), width)
            sums_B1W = rows_BFW[:, :, 1:].sum(1, keepdim=True)
            slope_B = (torch.sigmoid(_logits(rows_BFW)) - train.labels_N[rows]) / len(rows)
            grads_BFW = torch.cat([torch.ones_like(rows_BFW[:, :, :1]), sums_B1W - rows_BFW[:, :, 1:]], dim=2)
            block.grad = (grads_BFW * slope_B.view(-1, 1, 1)).view_as(block)
            table.apply()
            step += 1
    return table


def probabilities_of(table: Table, sample: FrappeSample) -> NDArray[np.float64]:
    """What the machine says of each row, within [1e-7, 1 - 1e-7]."""
    [block] = table.read([_columns(sample.ids_FN)]).blocks
    logits_N = _logits(block.view(len(block), len(FIELDS), table.width))
    p_N: NDArray[np.float64] = torch.sigmoid(logits_N.double()).numpy().clip(1e-7, 1 - 1e-7)
    return p_N


def _columns(ids_FB: Tensor) -> list[IdColumn]:
    return [IdColumn("feature", ids_B) for ids_B in ids_FB]


def _logits(rows_BFW: Tensor) -> Tensor:
    """Σ weights + Σ over pairs of the inner product of their vectors."""
    vectors = rows_BFW[:, :, 1:]
    pairs_B = (vectors.sum(1).square() - vectors.square().sum(1)).sum(1) / 2
    return rows_BFW[:, :, 0].sum(1) + pairs_B
