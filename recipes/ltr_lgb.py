"""Graded lists: the learning-to-rank example of LightGBM's tests, 3,005 documents in 201 requests, grades 0 to 4.

``rankwell train recipes/ltr_lgb.py --data DIR``, or ``recipes/ltr_lgb.py:lambdamart``, where DIR holds
``train.parquet``. It is small: what comes of one split says little. `benchmarks/ltr_cross_validation.py` compares over
many.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankwell.calibration.platt import fit_platt
from rankwell.data.split import PARTS, HashSplit
from rankwell.data.statistics import NumericStatistics
from rankwell.losses.calibrated import RegressionCompatibleRanking
from rankwell.models.candidate_list import ListSettings
from rankwell.models.ensemble import TransformerEnsemble, TransformerEnsembleSettings
from rankwell.models.list_attention import FullSettings
from rankwell.models.model import Model
from rankwell.models.transformer import TransformerSettings
from rankwell.ranking.utility import Utility
from rankwell.schema import Action, Schema, Vector
from rankwell.training.boosting import Boosting
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.estimator import Estimator
from rankwell.training.loop import LoopSettings
from rankwell.training.member_objective import MemberObjective
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.recipe import LogPart, Recipe

NUM_FEATURES: Final = 301
HIGHEST_GRADE: Final = 4
MEMBERS: Final = 4
EPOCHS: Final = 10
EPOCHS_OF_DISTILLATION: Final = 25
REQUESTS_OF_A_BATCH: Final = 20
FILE: Final = "train.parquet"

EXPECTED_GAIN: Final = Utility(values={"relevant": 1.0, "at_least_2": 2.0, "at_least_3": 4.0, "at_least_4": 8.0})
"""E[2^grade - 1] = Σ_j 2^(j - 1) · p(grade ≥ j): what nDCG counts, so its order is the best for nDCG."""


def schema() -> Schema:
    """301 numbers in [0, 1] a document; whether its grade is at least 1 (with the grade itself, for nDCG), 2, 3, 4."""
    higher = tuple(Action(name=f"at_least_{grade}") for grade in range(2, HIGHEST_GRADE + 1))
    return Schema(
        features=(Vector(name="features", width=NUM_FEATURES),),
        actions=(Action(name="relevant", column="grade", kind="graded", threshold=1), *higher),
        request_id="request_id",
        member_id=None,
        time=None,
    )


def log_table(file: Path) -> pa.Table:
    """The data set as a flat log: features side by side, and a label a grade."""
    given = pq.read_table(file)
    features_CN = np.column_stack([given[f"f{i}"].to_numpy() for i in range(NUM_FEATURES)]).astype(np.float32)
    columns = {
        "request_id": given["qid"].cast(pa.int64()),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(features_CN.ravel()), NUM_FEATURES),
        "grade": given["label"],
    }
    for grade in range(2, HIGHEST_GRADE + 1):
        columns[f"at_least_{grade}"] = pc.greater_equal(given["label"], grade).cast(pa.int8())
    return pa.table(columns)


def build(schema: Schema, statistics: NumericStatistics, seed: int) -> TransformerEnsemble:
    """Small rankers that see the whole list, averaged: so few requests make one network a matter of its seed."""
    member = TransformerSettings(
        width=64,
        hidden=(128,),
        history=None,
        list=ListSettings(attention=FullSettings(num_heads=2), feed_forward=1, dropout=0.2),
        wide=None,
        dropout=0.3,
    )
    settings = TransformerEnsembleSettings(num_members=MEMBERS, member=member)
    return TransformerEnsemble(schema, statistics, settings, seed=seed)


def optimizers() -> OptimizerPlan:
    """The heads move faster: their biases have the rarity of the high grades to find in few steps."""
    heads = {f"members.{m}.heads": DenseAdamW(learning_rate=0.1, decay=0.1) for m in range(MEMBERS)}
    return OptimizerPlan(dense=DenseAdamW(learning_rate=3e-3, decay=0.1), dense_groups=heads, warm_up_steps=10)


def objective(schema: Schema) -> MemberObjective:
    """Regression-compatible ranking of each grade, for each member by itself."""
    return MemberObjective(schema, PointwiseObjective(schema, RegressionCompatibleRanking()))


def boosting() -> Boosting:
    """LambdaMART with small, slow, penalised trees: the default ones learn so few lists by heart."""
    return Boosting(
        objective="lambdarank", num_rounds=75, patience=None, num_leaves=4, l2=10.0, input_rate=0.3, learning_rate=0.05
    )


def recipe() -> Recipe:
    """A list model with a probability for each grade; sort by `EXPECTED_GAIN`."""
    return _recipe("ltr_lgb", lambda statistics, seed: build(schema(), statistics, seed), schema())


def lambdamart() -> Recipe:
    """LightGBM's lambdarank on the grades alone."""
    only_grades = schema().model_copy(update={"actions": schema().actions[:1]})
    return _recipe("ltr_lgb, LambdaMART", boosting(), only_grades)


def _recipe(name: str, model: Callable[[NumericStatistics, int], Model] | Estimator, schema: Schema) -> Recipe:
    split = HashSplit(train=0.6, tune=0.1, calibrate=0.15, test=0.15)
    log = LogPart(path=FILE, layout="flat", split=split, convert=log_table)
    return Recipe(
        name=name,
        schema=schema,
        parts=dict.fromkeys(PARTS, log),
        build=model,
        objective=objective,
        optimizers=optimizers(),
        loop=LoopSettings(max_epochs=EPOCHS, patience=EPOCHS, drop_factor=1.0, anneal_to=0.05),
        num_requests=REQUESTS_OF_A_BATCH,
        calibrate=fit_platt,
        notes="201 requests in all: differences between two runs of one split are chance.",
    )
