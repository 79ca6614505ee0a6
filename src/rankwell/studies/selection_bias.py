"""What a log that retrieval chose makes of a model, what weights mend of it, and what they cannot.

A simulated marketplace's retrieval lets jobs through by a score. What it lets through is shown, all of it, and where it
stands has no effect here: what is left is selection. One model is trained on that log as it is (naive), with inverse
propensities (IPW), doubly robust with the naive model for an imputation (DR), and on equally many rows that a coin let
through (uniform). All are tested where the coin decides, on later requests, against the true probabilities.

Twice: with the match of latent tastes, which drives clicks, in the retrieval score; and with nothing in it but what the
model knows, too. Each seed is a fresh marketplace, and differences are paired by seed. Nothing is chosen on it: one
epoch, the recipe's learning rates, and a largest ratio that was set on a marketplace that is not reported on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import expit

from rankwell.data.split import TimeSplit
from rankwell.evaluation.logged_feedback import effective_size
from rankwell.evaluation.sample import Floats
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.schema.actions import Exposure
from rankwell.simulation.marketplace import Marketplace
from rankwell.simulation.recipe import marketplace_recipe, true_clicks
from rankwell.simulation.schema import marketplace_schema
from rankwell.simulation.settings import NUM_SENIORITIES, MarketplaceSettings
from rankwell.simulation.simulate import simulate_marketplace
from rankwell.simulation.truth import read_truth
from rankwell.studies.selection_bias_result import BLIND, TOLD, UNIFORM_TOLD, Found, Outcome, result_of
from rankwell.studies.study import StudyResult
from rankwell.training.doubly_robust_objective import DoublyRobustObjective
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.predictions import predict
from rankwell.training.propensity import inverse_weights
from rankwell.training.propensity_objective import PropensityObjective
from rankwell.training.recipe import LogPart, Recipe
from rankwell.training.trained import TrueProbabilities, train

__all__ = ["study_selection_bias"]

_CLIP: Final = 30.0
_LATENT_TASTE: Final = 1.5
_NUM_ELIGIBLE: Final = 40
_SETTINGS: Final = MarketplaceSettings(
    num_eligible=_NUM_ELIGIBLE, min_slots=_NUM_ELIGIBLE, max_slots=_NUM_ELIGIBLE, retrieval_rate=0.3,
    retrieval_noise=1.0, exploration_slots=(), examination_decay=0.0, time_strength=0.0, click_rate=0.2,
)  # fmt: skip
_SPLIT: Final = TimeSplit(train=0.7, tune=0.05, calibrate=0.05, test=0.2)


def study_selection_bias(
    *, seeds: Sequence[int], num_requests: int = 40_000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Train on what retrieval chose, with and without weights, and test on what a coin chose.

    Args:
        seeds: At least two; one marketplace each.
        num_requests: Of each log.
        say: Told what is going on.

    Returns:
        Tables and figure; the paired 95 % intervals of the naive model's loss over the uniform one's, and of what IPW
        and DR save, with and without a latent; and what of the bias over jobs' seniority retrieval brought about.
    """
    latent, own = [], []
    for seed in seeds:
        settings = replace(_SETTINGS, retrieval_taste=_LATENT_TASTE)
        latent.append(_trained_on_each(settings, seed, num_requests, with_audit=True))
        own.append(_trained_on_each(replace(_SETTINGS, retrieval_taste=0.0), seed, num_requests, with_audit=False))
        costs = [f"{found[-1].naive_cost:+.4f}" for found in (latent, own)]
        say(f"seed {seed}: naive training costs {costs[0]} nats with a latent, {costs[1]} without")
    return result_of(latent, own, clip=_CLIP)


def _trained_on_each(settings: MarketplaceSettings, seed: int, num_requests: int, *, with_audit: bool) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        logs = _Logs.simulated(Marketplace.create(settings, seed), num_requests, Path(folder), with_audit=with_audit)
        ratio_C = logs.ratios()
        mean_ratio = float(ratio_C.mean())
        naive_model = logs.trained("biased", seed)
        outcomes = {
            "uniform": logs.tested(logs.trained("uniform", seed)),
            "naive": logs.tested(naive_model),
            "IPW": logs.tested(
                logs.trained(
                    "biased", seed, lambda schema: PropensityObjective(schema, clip=_CLIP, mean_ratio=mean_ratio)
                )
            ),
            "DR": logs.tested(
                logs.trained("offered", seed, lambda schema: DoublyRobustObjective(schema, naive_model, clip=_CLIP))
            ),
        }
        if with_audit:
            for name, log in ((TOLD, "biased"), (UNIFORM_TOLD, "uniform")):
                outcomes[name] = logs.tested(logs.trained(log, seed, with_score=True), with_score=True)
            outcomes[BLIND] = logs.tested(logs.trained("blind", seed))
    return Found(outcomes, num_rows=len(ratio_C), effective_rows=effective_size(ratio_C))


@final
@dataclass(frozen=True)
class _Logs:
    """The logs of one marketplace, each in a folder under its name, and the truth of the uniform one.

    Args:
        data: Holds "biased" (what retrieval lets through), "uniform" (what a coin does), "offered" (all, with the
            labels of what is in "biased" alone), and perhaps "blind" (biased, but for seniority).
        truth: Of the uniform log.
    """

    data: Path
    truth: TrueProbabilities

    @classmethod
    def simulated(cls, marketplace: Marketplace, num_requests: int, data: Path, *, with_audit: bool) -> _Logs:
        uniform = marketplace.exposed_uniformly()
        whole = replace(uniform, settings=replace(uniform.settings, retrieval_rate=1 - 1e-12))
        made = {"biased": marketplace, "uniform": uniform, "offered": whole}
        if with_audit:
            # the same truth and the same threshold: of retrieval nothing but its liking of seniority is gone
            made["blind"] = replace(marketplace, settings=replace(marketplace.settings, seniority_bias=0.0))
        for name, variant in made.items():
            simulate_marketplace(variant, num_requests=num_requests, directory=data / name)
        _label_what_was_shown(data / "offered" / "log", data / "biased" / "log")
        return cls(data, true_clicks(read_truth(data / "uniform")))

    def ratios(self) -> Floats:
        """The clipped inverse propensities of the biased log's train split."""
        batches = _recipe("biased").batches("train", self.data, seed=None)
        propensity_C = np.concatenate([batch.targets.propensity_C.numpy() for batch in batches])
        return inverse_weights(propensity_C, clip=_CLIP)

    def trained(
        self,
        log: str,
        seed: int,
        objective: Callable[[Schema], Objective] = PointwiseObjective,
        *,
        with_score: bool = False,
    ) -> Model:
        return train(replace(_recipe(log, with_score=with_score), objective=objective), self.data, seed=seed).model

    def tested(self, model: Model, *, with_score: bool = False) -> Outcome:
        """On the later requests of the uniform log, logits at their word."""
        recipe = _recipe("uniform", with_score=with_score)
        predictions = predict(model, recipe.batches("test", self.data, seed=None), ("job_seniority",))
        logit_C = predictions.logits_CA[:, 0].double().numpy()
        true_C, seniority_C = self.truth(predictions), predictions.segments["job_seniority"].numpy()
        loss_C = np.logaddexp(0, logit_C) - true_C * logit_C
        return Outcome(
            log_loss=float(loss_C.mean()),
            predicted_S=_sums(seniority_C, expit(logit_C)),
            true_S=_sums(seniority_C, true_C),
        )


def _sums(seniority_C: NDArray[np.int64], values_C: Floats) -> Floats:
    return np.bincount(seniority_C, values_C, NUM_SENIORITIES).astype(np.float64, copy=False)


def _recipe(log: str, *, with_score: bool = False) -> Recipe:
    """Wide & Deep on clicks alone, for one epoch.

    The retrieval score is no feature but where it is asked for: given the score exposure is certain, 0 or 1, and what
    has no chance to be shown no weight makes up for.
    """
    whole = marketplace_schema(_SETTINGS)
    features = tuple(feature for feature in whole.features if with_score or feature.name != "retrieval_score")
    schema = whole.model_copy(
        update={
            "actions": whole.actions[:1],
            "features": features,
            "exposure": Exposure(propensity="retrieval_exposure"),
        }
    )
    recipe = marketplace_recipe(schema=schema)
    part = LogPart(path=f"{log}/log", split=_SPLIT)
    return replace(
        recipe, parts=dict.fromkeys(recipe.parts, part), loop=replace(recipe.loop, max_epochs=1), segments=()
    )


def _label_what_was_shown(offered: Path, shown: Path) -> None:
    """Give the log of all that was offered the clicks and exposures of what was shown, and no other labels."""
    shown_log = pq.read_table(shown, columns=["request_id", "job_id", "click", "retrieval_exposure"])
    pair_C = _pairs(shown_log)
    order_C = np.argsort(pair_C)
    click_C, exposure_C = _flat(shown_log, "click"), _flat(shown_log, "retrieval_exposure")
    for file in sorted(offered.glob("*.parquet")):
        log = pq.read_table(file)
        wanted_O = _pairs(log)
        place_O = order_C[np.minimum(np.searchsorted(pair_C, wanted_O, sorter=order_C), len(order_C) - 1)]
        missing_O = pair_C[place_O] != wanted_O
        log = _with_values(log, "click", pa.array(click_C[place_O], pa.int8(), mask=missing_O))
        # the exposure of what has no label is looked at by nothing
        log = _with_values(log, "retrieval_exposure", pa.array(np.where(missing_O, np.float32(1), exposure_C[place_O])))
        pq.write_table(log, file, row_group_size=4_096)


def _pairs(log: pa.Table) -> NDArray[np.int64]:
    """One number for each request and job."""
    lengths_R = log["job_id"].combine_chunks().value_lengths().to_numpy()
    job_C: NDArray[np.int64] = _flat(log, "job_id")
    return np.repeat(log["request_id"].to_numpy(), lengths_R) * _SETTINGS.num_jobs + job_C


def _flat(log: pa.Table, name: str) -> NDArray[Any]:
    values: NDArray[Any] = log[name].combine_chunks().flatten().to_numpy()
    return values


def _with_values(log: pa.Table, name: str, values: pa.Array) -> pa.Table:
    offsets = log[name].combine_chunks().offsets
    place = log.schema.get_field_index(name)
    return log.set_column(place, log.schema.field(name), pa.ListArray.from_arrays(offsets, values))
