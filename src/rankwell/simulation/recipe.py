"""How to train on a simulated log: one recipe for the logistic model, the deep one, and Wide & Deep."""

from __future__ import annotations

from collections.abc import Callable

from rankwell.calibration.isotonic import fit_isotonic
from rankwell.data.split import TimeSplit
from rankwell.data.statistics import NumericStatistics
from rankwell.evaluation.sample import Floats
from rankwell.models.model import Model
from rankwell.models.wide_deep import Deep, DeepSettings, Logistic, LogisticSettings, WideDeep, WideDeepSettings
from rankwell.schema import Schema
from rankwell.simulation.schema import marketplace_schema
from rankwell.simulation.truth import Truth
from rankwell.tables.row_optimizers import AdaGrad, RowWiseAdaGrad
from rankwell.training.loop import LoopSettings
from rankwell.training.optimizers import DenseAdamW, OptimizerPlan
from rankwell.training.predictions import Predictions
from rankwell.training.recipe import LogPart, Recipe
from rankwell.training.trained import TrueProbabilities

__all__ = ["SEGMENTS", "Build", "build_deep", "build_logistic", "build_wide_deep", "marketplace_recipe", "true_clicks"]

Build = Callable[[Schema, NumericStatistics, int], Model]
SEGMENTS = ("seniority", "experience_band", "job_seniority", "gender")

_WIDE = LogisticSettings(default_rate=0.01)
_DEEP = DeepSettings(width=16, hidden=(128, 64), init_scale=0.05, default_rate=0.01)


def build_logistic(schema: Schema, statistics: NumericStatistics, seed: int) -> Logistic:
    """Wide only."""
    return Logistic(schema, statistics, _WIDE, seed=seed)


def build_deep(schema: Schema, statistics: NumericStatistics, seed: int) -> Deep:
    """Deep only."""
    return Deep(schema, statistics, _DEEP, seed=seed)


def build_wide_deep(schema: Schema, statistics: NumericStatistics, seed: int) -> WideDeep:
    """Both, jointly."""
    return WideDeep(schema, statistics, WideDeepSettings(wide=_WIDE, deep=_DEEP), seed=seed)


def marketplace_recipe(build: Build = build_wide_deep, *, schema: Schema | None = None) -> Recipe:
    """The recipe for a folder written by `rankwell.simulation.simulate.simulate`: log split by time, 70/10/10/10.

    Args:
        build: Which model.
        schema: By default that of the default marketplace.
    """
    schema = schema or marketplace_schema()
    whole = LogPart(path="log", split=TimeSplit())
    return Recipe(
        name="marketplace",
        schema=schema,
        parts={"train": whole, "tune": whole, "calibrate": whole, "test": whole},
        build=lambda statistics, seed: build(schema, statistics, seed),
        optimizers=OptimizerPlan(
            dense=DenseAdamW(learning_rate=1e-3),
            rows={"wide": AdaGrad(learning_rate=0.05), "deep": RowWiseAdaGrad(learning_rate=0.05)},
        ),
        loop=LoopSettings(max_epochs=4, patience=1),
        num_requests=64,
        calibrate=fit_isotonic,
        segments=SEGMENTS,
    )


def true_clicks(truth: Truth) -> TrueProbabilities:
    """What `rankwell.training.trained.judge` takes as truth: p(click | shown at its position) beside predictions."""

    def of(predictions: Predictions) -> Floats:
        first_C = predictions.request_C.diff(prepend=predictions.request_C[:1] - 1) != 0
        return truth.of_requests(predictions.request_ids_C[first_C].numpy()).probabilities["click"]

    return of
