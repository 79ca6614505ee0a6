"""A log of two jobs, shown by a policy that favours one: trained as it is, beside an examination, and weighted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from rankwell.data.split import HashSplit
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Exposure, Schema
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.examination_objective import ExaminationObjective
from rankwell.training.loop import LoopSettings
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.own_table import recipe_of_table
from rankwell.training.predictions import predict
from rankwell.training.propensity_objective import PropensityObjective
from rankwell.training.trained import train

pytestmark = pytest.mark.slow

LOOKS, CLICKS = np.array([1.0, 0.3]), np.array([0.4, 0.6])
SCHEMA = Schema(
    features=(Categorical(name="job", num_ids=2),),
    actions=(Action(name="click"),),
    exposure=Exposure(position="position", propensity="propensity"),
    item="job",
    member_id=None,
    time=None,
)


def shown_log(num_requests: int) -> pa.Table:
    """Job 0 stands first eight times in ten; a click takes a look and relevance."""
    generator = np.random.default_rng(0)
    job_R = (generator.random(num_requests) < 0.2).astype(np.int64)
    job_C = np.column_stack([job_R, 1 - job_R]).ravel()
    place_C = np.tile([0, 1], num_requests)
    return pa.table(
        {
            "request_id": np.repeat(np.arange(num_requests), 2),
            "job": job_C,
            "click": generator.random(len(job_C)) < LOOKS[place_C] * CLICKS[job_C],
            "position": place_C + 1,
            "propensity": np.where(job_C == place_C, 0.8, 0.2).astype(np.float32),
        }
    )


@dataclass(frozen=True)
class Learned:
    """p of the two jobs by the trained model, what it holds, and what it was trained with."""

    chances: np.ndarray
    names: set[str]
    objective: Objective


@pytest.fixture(name="learn", scope="module")
def _learn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Objective], Learned]:
    folder = tmp_path_factory.mktemp("shown")
    recipe = recipe_of_table(
        shown_log(20_000), SCHEMA, Logistic, folder,
        split=HashSplit(train=0.85, tune=0.05, calibrate=0.05, test=0.05, seed=0), num_requests=32,
    )  # fmt: skip
    plan = OptimizerPlan(dense=DenseAdamW(learning_rate=0.05), default_rows=RowWiseAdaGrad(learning_rate=0.3))
    loop = LoopSettings(max_epochs=1, anneal_to=0.05)

    def learn(objective: Objective) -> Learned:
        own = {"objective": DenseAdamW(learning_rate=0.2)} if list(objective.parameters()) else {}
        mine = replace(
            recipe, objective=lambda schema: objective, optimizers=replace(plan, dense_groups=own), loop=loop
        )
        model = train(mine, folder, seed=0).model
        predictions = predict(model, mine.batches("tune", folder, seed=None))
        chance_C = predictions.logits_CA[:, 0].sigmoid().numpy()
        first = [int(np.argmax(predictions.item_ids_C.numpy() == job)) for job in (0, 1)]
        return Learned(chance_C[first], set(model.state_dict()), objective)

    return learn


def test_as_it_is_the_log_prefers_what_was_shown_first(learn: Callable[[Objective], Learned]) -> None:
    expected = [0.4 * (0.8 + 0.2 * 0.3), 0.6 * (0.2 + 0.8 * 0.3)]
    assert learn(PointwiseObjective(SCHEMA)).chances == pytest.approx(expected, abs=0.03)
    assert expected[0] > expected[1]  # though the other is more relevant


@pytest.mark.parametrize("known", [None, (1.0, 0.3)], ids=["learned", "given"])
def test_beside_an_examination_the_model_learns_relevance_and_keeps_nothing_of_it(
    learn: Callable[[Objective], Learned], known: tuple[float, float] | None
) -> None:
    found = learn(ExaminationObjective(SCHEMA, num_positions=2, examination=known))
    assert found.chances == pytest.approx(CLICKS, abs=0.05)
    assert isinstance(found.objective, ExaminationObjective)
    assert found.objective.learned.sigmoid().item() == pytest.approx(LOOKS[1], abs=0.04)
    assert found.names == learn(PointwiseObjective(SCHEMA)).names


def test_weighted_by_inverse_propensities_positions_are_shared_out_alike(learn: Callable[[Objective], Learned]) -> None:
    found = learn(PropensityObjective(SCHEMA, mean_ratio=2.0))
    assert found.chances == pytest.approx(CLICKS * LOOKS.mean(), abs=0.04)
