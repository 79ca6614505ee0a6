"""How to train on a simulated log: one recipe for the logistic model, the deep one, Wide & Deep and a Transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from rankwell.calibration.isotonic import fit_isotonic
from rankwell.data.split import TimeSplit
from rankwell.data.statistics import NumericStatistics
from rankwell.evaluation.sample import Floats
from rankwell.models.candidate_list import ListSettings
from rankwell.models.history import HistorySettings
from rankwell.models.model import Model
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.models.wide_deep import Deep, DeepSettings, Logistic, LogisticSettings, WideDeep, WideDeepSettings
from rankwell.schema import Schema
from rankwell.simulation.schema import marketplace_schema
from rankwell.simulation.truth import Truth
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.loop import LoopSettings
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.predictions import Predictions
from rankwell.training.recipe import LogPart, Recipe
from rankwell.training.trained import TrueProbabilities

__all__ = [
    "DEEP",
    "HISTORY",
    "KINDS",
    "LOGISTIC",
    "SEGMENTS",
    "TRANSFORMER",
    "WIDE_DEEP",
    "Kind",
    "marketplace_recipe",
    "true_clicks",
]

SEGMENTS: Final = ("seniority", "experience_band", "job_seniority", "gender")
"""The columns that reports are broken down by; two of them are no features."""

_WIDE = LogisticSettings()
_DEEP = DeepSettings(width=8, hidden=(128, 64), dropout=0.1, init_scale=0.3)
_HISTORY = TransformerSettings(
    row_width=8, width=64, hidden=(128,), dropout=0.2, init_scale=0.3,
    history=HistorySettings(width=32, num_layers=1, dropout=0.2), list=None,
)  # fmt: skip
_LIST = ListSettings(dropout=0.2, rank="retrieval_score", rank_encoding="sinusoidal")
_TRANSFORMER = _HISTORY.model_copy(update={"list": _LIST})


@final
@dataclass(frozen=True)
class Kind:
    """A kind of model on this log: its name in reports, and how it is built."""

    name: str
    build: Callable[[Schema, NumericStatistics, int], Model]


LOGISTIC: Final = Kind("Logistic", lambda s, n, seed: Logistic(s, n, _WIDE, seed=seed))
"""Wide only: a weight for each id, cross and numeric input."""
DEEP: Final = Kind("Deep", lambda s, n, seed: Deep(s, n, _DEEP, seed=seed))
"""Deep only: embeddings and numerics through a perceptron."""
WIDE_DEEP: Final = Kind(
    "Wide & Deep", lambda s, n, seed: WideDeep(s, n, WideDeepSettings(wide=_WIDE, deep=_DEEP), seed=seed)
)
"""Both, jointly."""
HISTORY: Final = Kind("Transformer, no list", lambda s, n, seed: RankingTransformer(s, n, _HISTORY, seed=seed))
"""Wide & Deep whose history is read event by event."""
TRANSFORMER: Final = Kind("Transformer", lambda s, n, seed: RankingTransformer(s, n, _TRANSFORMER, seed=seed))
"""The same, with candidates that see each other in the order in which retrieval gave them."""
KINDS: Final = (LOGISTIC, DEEP, WIDE_DEEP)
"""The Wide & Deep paper's own comparison."""


def marketplace_recipe(kind: Kind = WIDE_DEEP, *, schema: Schema | None = None) -> Recipe:
    """The recipe for a folder written by `rankwell.simulation.simulate.simulate`: log split by time, 60/10/15/15.

    Args:
        kind: Which model.
        schema: By default that of the default marketplace.
    """
    schema = schema or marketplace_schema()
    whole = LogPart(path="log", split=TimeSplit(train=0.6, tune=0.1, calibrate=0.15, test=0.15))
    return Recipe(
        name="marketplace",
        schema=schema,
        parts={"train": whole, "tune": whole, "calibrate": whole, "test": whole},
        build=lambda statistics, seed: kind.build(schema, statistics, seed),
        optimizers=OptimizerPlan(dense=DenseAdamW(learning_rate=3e-3), default_rows=RowWiseAdaGrad(learning_rate=0.2)),
        loop=LoopSettings(max_epochs=3, patience=3, drop_factor=1.0, anneal_to=0.05),
        num_requests=32,
        calibrate=fit_isotonic,
        segments=SEGMENTS,
    )


def true_clicks(truth: Truth) -> TrueProbabilities:
    """What `rankwell.training.trained.judge` takes as truth: p(click | shown at its position) beside predictions."""

    def of(predictions: Predictions) -> Floats:
        first_C = predictions.request_C.diff(prepend=predictions.request_C[:1] - 1) != 0
        return truth.of_requests(predictions.request_ids_C[first_C].numpy()).probabilities["click"]

    return of
