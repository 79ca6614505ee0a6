"""A teacher of 12 wide layers, and how students learn from it, on the simulated marketplace.

After ``rankwell simulate --out DIR``::

    rankwell train recipes/marketplace_student.py:teacher --data DIR --out out/teacher
    rankwell fit-budget out/teacher recipes/marketplace_student.py --data DIR --p95-ms 50 --candidates 500
"""

from __future__ import annotations

from dataclasses import replace

from rankwell.data.statistics import NumericStatistics
from rankwell.models.candidate_list import ListSettings
from rankwell.models.history import HistorySettings
from rankwell.models.model import Model
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.recipe import Recipe

_ROWS = RowWiseAdaGrad(learning_rate=0.2)


def teacher() -> Recipe:
    """12 layers of width 448 among candidates that all see each other: some five times over 50 ms a request of 500."""
    return _of(_settings(12, 448, 64), learning_rate=5e-4, warm_up_steps=100, max_epochs=1)


def recipe() -> Recipe:
    """A student; `rankwell fit-budget` sizes it otherwise."""
    return _of(_settings(2, 64, 32), learning_rate=3e-3, warm_up_steps=0, max_epochs=2)


def _settings(num_layers: int, width: int, history_width: int) -> TransformerSettings:
    return TransformerSettings(
        row_width=8, width=width, hidden=(2 * width,), dropout=0.2, init_scale=0.3,
        history=HistorySettings(width=history_width, num_layers=num_layers, dropout=0.2),
        list=ListSettings(num_layers=num_layers, dropout=0.2, rank="retrieval_score", rank_encoding="sinusoidal"),
    )  # fmt: skip


def _of(settings: TransformerSettings, *, learning_rate: float, warm_up_steps: int, max_epochs: int) -> Recipe:
    plain = marketplace_recipe()

    def build(statistics: NumericStatistics, seed: int) -> Model:
        return RankingTransformer(plain.schema, statistics, settings, seed=seed)

    return replace(
        plain,
        name="marketplace, student and teacher",
        build=build,
        optimizers=OptimizerPlan(
            dense=DenseAdamW(learning_rate=learning_rate),
            default_rows=_ROWS,
            warm_up_steps=warm_up_steps,
            clip_norm=1.0,
        ),
        loop=replace(plain.loop, max_epochs=max_epochs, matmul_precision="highest"),
    )
