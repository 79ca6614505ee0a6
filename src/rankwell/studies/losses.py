"""Which losses give probabilities, and which logits that order only? One model, trained by each.

The same Wide & Deep model learns the clicks of a simulated marketplace, once a loss and a seed; each seed is a fresh
marketplace, and differences are paired by seed. What a loss leaves open, its own setting and the learning rates, is
chosen first, on the tune split of a marketplace that is not reported on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from rankwell.data.split import TimeSplit
from rankwell.evaluation.discrimination import log_loss_from_logits
from rankwell.losses.calibrated import JointRankingCalibration, RegressionCompatibleRanking
from rankwell.losses.listwise import ApproxNDCG, ListNet, list_mle, softmax_cross_entropy
from rankwell.losses.loss import Loss
from rankwell.losses.pairwise import LambdaRank, MarginLoss, rank_net
from rankwell.losses.pointwise import binary_cross_entropy
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.simulation.schema import marketplace_schema
from rankwell.studies.contenders import best_rate
from rankwell.studies.loss_result import PLACE, Outcome, result_of
from rankwell.studies.study import StudyResult, simulated
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.list_order import ndcg_of_logits
from rankwell.training.objectives import ActionObjective, LossTerm
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.predictions import predict
from rankwell.training.recipe import LogPart, Recipe
from rankwell.training.trained import judge, train

__all__ = ["study_losses"]

_LOG_LOSS_ALLOWED: Final = 1.01
"""By pointwise's: on tune a loss that is to rank and stay calibrated may not cost more."""
_RATE_TRIALS: Final = 4


@final
@dataclass(frozen=True, slots=True)
class _Contender:
    """A loss, the settings that it may take, and what it says: a probability, an order, or both."""

    name: str
    settings: tuple[Loss, ...]
    says_probability: bool = False
    says_order: bool = True

    def cost(self, ndcg: float, log_loss: float, log_loss_pointwise: float) -> float:
        """What is least for the best setting on tune."""
        if not self.says_order:
            return log_loss
        excess = max(log_loss / log_loss_pointwise - _LOG_LOSS_ALLOWED, 0.0) if self.says_probability else 0.0
        return 1e3 * excess - ndcg


_POINTWISE: Final = _Contender("pointwise", (binary_cross_entropy,), says_probability=True, says_order=False)
_LISTWISE: Final = (
    _Contender("softmax", (softmax_cross_entropy,)),
    _Contender("ListNet", (ListNet(3.0), ListNet(1.0), ListNet(10.0))),
    _Contender("ListMLE", (list_mle,)),
    _Contender("ApproxNDCG", (ApproxNDCG(0.1), ApproxNDCG(0.3), ApproxNDCG(1.0))),
)
_JOINT: Final = (
    _Contender("RCR", tuple(map(RegressionCompatibleRanking, (1.0, 0.3, 3.0, 10.0))), says_probability=True),
    _Contender("JRC", tuple(map(JointRankingCalibration, (1.0, 0.3, 3.0, 10.0))), says_probability=True),
)
_CONTENDERS: Final = (
    _POINTWISE,
    _Contender("hinge", (MarginLoss(1.0), MarginLoss(0.3), MarginLoss(3.0))),
    _Contender("RankNet", (rank_net,)),
    _Contender("LambdaRank", (LambdaRank(), LambdaRank(PLACE))),
    *_LISTWISE,
    *_JOINT,
)


@final
@dataclass(frozen=True, slots=True)
class _Choice:
    loss: Loss
    rate: float
    log_loss: float


def study_losses(
    *, seeds: Sequence[int], num_requests: int = 40_000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Train one model by ten losses; nDCG@10, log loss and ECE on test, before and after calibration.

    Args:
        seeds: At least two; one marketplace each, and one more, of a seed above all of them, to choose settings on.
        num_requests: Of each log.
        say: Told what is going on.

    Returns:
        The table and the figure, what was chosen, and the paired 95 % intervals of RCR and JRC over the best listwise
        loss in nDCG@10, and over the pointwise one in log loss.
    """
    chosen: dict[str, _Choice] = {}
    with simulated(max(seeds) + 1, num_requests) as (data, _):
        for contender in _CONTENDERS:
            chosen[contender.name] = _chosen(contender, chosen.get(_POINTWISE.name), data)
            choice = chosen[contender.name]
            say(f"chosen on tune: {contender.name} with {_named(choice.loss)}, learning rates × {choice.rate:g}")
    found: dict[str, list[Outcome]] = {contender.name: [] for contender in _CONTENDERS}
    for seed in seeds:
        with simulated(seed, num_requests) as (data, truth):
            for contender in _CONTENDERS:
                choice = chosen[contender.name]
                recipe = _recipe(choice.loss, choice.rate)
                trained = train(recipe, data, seed=seed)
                judged = judge(recipe, trained.model, trained.calibrators, data, truth=truth)
                found[contender.name].append(Outcome.of(judged))
        say(f"seed {seed}: {len(_CONTENDERS)} losses")
    return result_of(
        found,
        settings={name: (_named(choice.loss), choice.rate) for name, choice in chosen.items()},
        pointwise=_POINTWISE.name,
        listwise=[contender.name for contender in _LISTWISE],
        joint=[contender.name for contender in _JOINT],
    )


def _chosen(contender: _Contender, pointwise: _Choice | None, data: Path) -> _Choice:
    """The best setting at the usual learning rates, then the best rates for it."""
    known: dict[tuple[str, float], _Choice] = {}

    def cost(loss: Loss, rate: float) -> float:
        ndcg, log_loss = _on_tune(_selecting(_recipe(loss, rate)), data)
        known[_named(loss), rate] = _Choice(loss, rate, log_loss)
        return contender.cost(ndcg, log_loss, log_loss if pointwise is None else pointwise.log_loss)

    costs = [cost(loss, 1.0) for loss in contender.settings]
    best = contender.settings[costs.index(min(costs))]
    at_once = min(costs)
    rate = best_rate(lambda rate: at_once if rate == 1.0 else cost(best, rate), 1.0, most=_RATE_TRIALS)
    return known[_named(best), rate]


def _on_tune(recipe: Recipe, data: Path) -> tuple[float, float]:
    """nDCG@10 and log loss of the logits."""
    model = train(recipe, data, seed=0).model
    predictions = predict(model, recipe.batches("tune", data, seed=None))
    logits_C, labels_C, weights_C, _ = predictions.of_action(0)
    ndcg = ndcg_of_logits(predictions, recipe.schema.actions[0].name, PLACE)
    return ndcg, log_loss_from_logits(logits_C, labels_C, weights_C)


def _recipe(loss: Loss, rate: float) -> Recipe:
    """The demonstration's, on clicks alone, and one epoch of it, so that there is no best epoch to be chosen."""
    whole = marketplace_schema()
    recipe = marketplace_recipe(schema=whole.model_copy(update={"actions": whole.actions[:1]}))
    labels: Final = "gains" if isinstance(loss, LambdaRank | ApproxNDCG) else "binary"
    term = LossTerm(whole.actions[0].name, loss, labels=labels)
    return replace(
        recipe,
        objective=lambda schema: ActionObjective(schema, (term,)),
        optimizers=OptimizerPlan(
            dense=DenseAdamW(learning_rate=3e-3 * rate),
            default_rows=RowWiseAdaGrad(learning_rate=0.2 * rate),
            linear_rows=Ftrl(learning_rate=0.1 * rate, beta=1e-6),  # so small that a loss's size is nothing
        ),
        loop=replace(recipe.loop, max_epochs=1),
        segments=(),
    )


def _selecting(recipe: Recipe) -> Recipe:
    """The recipe with more of the log for tune, and little for what choosing does not look at."""
    part = LogPart(path="log", split=TimeSplit(train=0.6, tune=0.3, calibrate=0.05, test=0.05))
    return replace(recipe, parts=dict.fromkeys(recipe.parts, part))


def _named(loss: Loss) -> str:
    name: str = getattr(loss, "__name__", repr(loss))
    return name
