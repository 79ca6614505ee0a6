"""A logistic model of id rows and dense weights, learned from a Zipf log by any row rule, and what it has learned.

Letters: N rows of the log · B rows of a batch · I ids · W columns of an id's row · D dense features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.schema import TableSpec
from rankwell.studies.zipf_log import ZipfLog
from rankwell.tables.adam import Adam
from rankwell.tables.loan import IdColumn
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.table import Table

__all__ = ["DENSE_RULE", "Learned", "RowLearner", "learn", "losses"]

Floats = NDArray[np.float64]
DENSE_RULE: Final = Adam(learning_rate=0.01)
"""Moves the dense weights and the bias where nothing is asked of them. They are in every batch, so it is dense Adam."""

_IDS: Final = TableSpec(name="id", growing=True)
_DENSE: Final = TableSpec(name="dense", num_ids=1)


@final
class RowLearner:
    """p = σ(Σ_w row[id, w] · column_w + Σ_d weight_d · dense_d + bias), whose rows all start at 0.

    The dense weights and the bias are one row that is in every batch.

    Args:
        width: W.
        num_dense: D.
        rule: Moves the rows of ids.
        dense_rule: Moves the dense weights and the bias.
    """

    def __init__(self, width: int, num_dense: int, rule: RowOptimizer, dense_rule: RowOptimizer = DENSE_RULE) -> None:
        self.rows = Table([_IDS], width=width, seed=0, init_scale=0.0)
        self.dense = Table([_DENSE], width=num_dense + 1, seed=0, init_scale=0.0)
        self.rows.train_with(rule)
        self.dense.train_with(dense_rule)
        self._zero_1 = torch.zeros(1, dtype=torch.int64)

    def step(self, id_B: Tensor, columns_BW: Tensor, dense_BD: Tensor, labels_B: Tensor) -> Tensor:
        """One step of the mean loss over a batch; the probabilities before it."""
        [rows_BW] = self.rows.checkout([[IdColumn("id", id_B)]]).blocks
        [dense_1D] = self.dense.checkout([[IdColumn("dense", self._zero_1)]]).blocks
        probabilities_B = _probabilities(rows_BW.detach(), dense_1D.detach()[0], columns_BW, dense_BD)
        slope_B = (probabilities_B - labels_B) / len(labels_B)
        rows_BW.grad = slope_B.unsqueeze(1) * columns_BW
        dense_1D.grad = torch.cat([slope_B @ dense_BD, slope_B.sum().unsqueeze(0)]).unsqueeze(0)
        self.rows.apply()
        self.dense.apply()
        return probabilities_B

    def probabilities(self, log: ZipfLog) -> Floats:
        """Of all rows of a log, learning nothing."""
        [rows_NW] = self.rows.read([[IdColumn("id", torch.from_numpy(log.id_N))]]).blocks
        p_N = _probabilities(
            rows_NW, self._dense_row(), torch.from_numpy(log.columns_NW), torch.from_numpy(log.dense_ND)
        )
        return p_N.double().numpy()

    def id_rows(self, num_ids: int) -> NDArray[np.float32]:
        """The rows of ids 0 … num_ids - 1; zeros for ids never seen."""
        [rows_IW] = self.rows.read([[IdColumn("id", torch.arange(num_ids))]]).blocks
        return rows_IW.numpy()

    def dense_weights(self) -> NDArray[np.float32]:
        """The D dense weights, without the bias."""
        return self._dense_row()[:-1].numpy()

    def _dense_row(self) -> Tensor:
        [dense_1D] = self.dense.read([[IdColumn("dense", self._zero_1)]]).blocks
        return dense_1D[0]


def _probabilities(rows_BW: Tensor, dense_D: Tensor, columns_BW: Tensor, dense_BD: Tensor) -> Tensor:
    return torch.sigmoid((rows_BW * columns_BW).sum(1) + dense_BD @ dense_D[:-1] + dense_D[-1])


@final
@dataclass(frozen=True, eq=False, slots=True)
class Learned:
    """One pass over a log.

    Args:
        learner: As it stands at the end.
        progressive_N: float64, the probability of each row before it was learned from.
        watched: What `watch` gave, by step.
    """

    learner: RowLearner
    progressive_N: Floats
    watched: tuple[tuple[int, Floats], ...]

    def progressive_losses(self, log: ZipfLog) -> Floats:
        """Log loss of each row of the log, in nats, told before it was learned from."""
        return losses(self.progressive_N, log)


def losses(probabilities_N: Floats, log: ZipfLog) -> Floats:
    """Log loss of each row in nats."""
    p_N = np.clip(probabilities_N, 1e-7, 1 - 1e-7)
    return -np.where(log.labels_N > 0, np.log(p_N), np.log1p(-p_N))


def learn(
    log: ZipfLog,
    learner: RowLearner,
    *,
    batch: int,
    num_epochs: int = 1,
    anneal_to: float = 1.0,
    watch_at: Sequence[int] = (),
    watch: Callable[[RowLearner], Floats] | None = None,
) -> Learned:
    """Pass over a log in its order.

    Args:
        log: What to learn.
        learner: Is changed.
        batch: Rows a step.
        num_epochs: Passes; what is progressive is of the first.
        anneal_to: Learning rates of id rows fall linearly to this share of themselves.
        watch_at: Steps, from 1, after which to watch.
        watch: Gives the numbers to keep.
    """
    tensors = [torch.from_numpy(a) for a in (log.id_N, log.columns_NW, log.dense_ND, log.labels_N)]
    progressive_N = np.empty(len(log))
    watched: list[tuple[int, Floats]] = []
    start_rate, num_steps = learner.rows.learning_rate, num_epochs * -(-len(log) // batch)
    step, stops = 0, set(watch_at)
    for epoch in range(num_epochs):
        for start in range(0, len(log), batch):
            stop = min(start + batch, len(log))
            id_B, columns_BW, dense_BD, labels_B = (t[start:stop] for t in tensors)
            learner.rows.learning_rate = start_rate * (1 - (1 - anneal_to) * step / num_steps)
            p_B = learner.step(id_B, columns_BW, dense_BD, labels_B)
            if epoch == 0:
                progressive_N[start:stop] = p_B.numpy()
            step += 1
            if step in stops and watch is not None:
                watched.append((step, watch(learner)))
    return Learned(learner, progressive_N, tuple(watched))
