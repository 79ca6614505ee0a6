"""Looks by position and exposure by item, estimated from the marketplace's log, against its truth.

Looks: θ of position k is k^-.5 in truth. Estimates are those of `rankwell.training.propensity` over the whole log,
where better candidates stand higher for reasons that no item shows (the more so, the more taste there is in retrieval);
and over exploration slots alone, weighted by the inverse of how likely the policy was to put there what it put. The
error is the mean of |ln(θ̂ / θ)| over the first 12 positions, or over the slots.

Exposure: rates by job and the member's seniority from the first eighth of the log, against the rest of it.

Models: the marketplace's Wide & Deep on clicks alone, one epoch, trained on clicks as they are, and inside
`ExaminationObjective`; each tested by its expected log loss against the true p(click | examined), which is what a
ranker's logit stands for once position is gone. Beside it stands the loss after the best shift of all logits, known
from the truth: what is left there is order and spread.

    python benchmarks/examination.py [--requests N] [--seeds SEED …] [--taste SD] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from contenders.findings import Findings
from rankwell.schema import Schema
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.simulation.schema import marketplace_schema
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.simulation.truth import read_truth
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.examination_objective import ExaminationObjective
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.predictions import predict
from rankwell.training.propensity import (
    PositionModel,
    examination_by_em,
    examination_by_regression,
    examination_given_relevance,
    exposure_rates,
)
from rankwell.training.recipe import Recipe
from rankwell.training.trained import train

Floats = NDArray[np.float64]
SETTINGS = MarketplaceSettings()
SLOTS, LAST, LOOKS_RATE = np.array(SETTINGS.exploration_slots), 12, 0.03


def recipe_of(objective: Callable[[Schema], Objective] = PointwiseObjective) -> Recipe:
    whole = marketplace_schema(SETTINGS)
    recipe = marketplace_recipe(schema=whole.model_copy(update={"actions": whole.actions[:1]}))
    plan = recipe.optimizers
    if list(objective(recipe.schema).parameters()):
        # few numbers that have far to go: at the model's own rate one epoch would not get them there
        plan = replace(plan, dense_groups={"objective": DenseAdamW(learning_rate=LOOKS_RATE)})
    return replace(
        recipe, objective=objective, optimizers=plan, loop=replace(recipe.loop, max_epochs=1), segments=()
    )  # fmt: skip


def columns_of(data: Path) -> dict[str, NDArray]:
    """The train split, flat."""
    batches = list(recipe_of().batches("train", data, seed=None))
    first, columns = 0, []
    for batch in batches:
        targets, request_C = batch.targets, batch.features.request_C
        columns.append(
            (
                targets.labels_CA[:, 0].numpy(), targets.position_C.numpy(), targets.propensity_C.numpy(),
                batch.audit.item_ids_C.numpy(), request_C.numpy() + first, batch.column_C("seniority").numpy(),
            )
        )  # fmt: skip
        first += batch.features.num_requests
    names = ("click", "position", "propensity", "item", "request", "segment")
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*columns, strict=True), strict=True)}


def looks_error(model: PositionModel, positions: NDArray[np.int64]) -> float:
    theta = model.examination_K[positions - 1]
    return float(np.abs(np.log(theta / positions**-SETTINGS.examination_decay)).mean())


def looks(log: dict[str, NDArray], data: Path, seed: int) -> tuple[dict[str, float], PositionModel]:
    """Errors by estimate; and the estimate that randomisation gives."""
    every = np.arange(1, LAST + 1)
    clicks, positions, items = log["click"], log["position"], log["item"]
    model = train(recipe_of(), data, seed=seed).model
    relevance = predict(model, recipe_of().batches("train", data, seed=None)).logits_CA[:, 0].sigmoid().numpy()
    in_slot = np.isin(positions, SLOTS)
    weights = 1 / log["propensity"][in_slot]
    shares = np.array([clicks[positions == k].mean() for k in every])
    nothing = np.zeros(0)
    randomised = examination_by_em(clicks[in_slot], positions[in_slot], items[in_slot], weights)
    found = {
        "share of clicks": (PositionModel(shares / shares[0], nothing, nothing, 1), every),
        "EM by item": (examination_by_em(clicks, positions, items), every),
        "regression by item": (examination_by_regression(clicks, positions, items), every),
        "a model's relevance": (examination_given_relevance(clicks, positions, relevance), every),
        "slots: share of clicks": (PositionModel(shares / shares[0], nothing, nothing, 1), SLOTS),
        "slots: EM by item": (examination_by_em(clicks, positions, items), SLOTS),
        "slots: EM by item, inverse propensities": (randomised, SLOTS),
        "slots: regression by item, inverse propensities": (
            examination_by_regression(clicks[in_slot], positions[in_slot], items[in_slot], weights), SLOTS
        ),
    }  # fmt: skip
    return {name: looks_error(*estimate) for name, estimate in found.items()}, randomised


def between_slots(randomised: PositionModel) -> tuple[float, ...]:
    """θ of all positions from that of the slots: linear in logs, and on beyond the last."""
    logs = np.log(np.arange(1, SETTINGS.max_slots + 1))
    known = np.log(randomised.examination_K[SLOTS - 1])
    slope = (known[-1] - known[-2]) / (np.log(SLOTS[-1]) - np.log(SLOTS[-2]))
    theta = np.exp(np.where(logs <= np.log(SLOTS[-1]), np.interp(logs, np.log(SLOTS), known),
                            known[-1] + slope * (logs - np.log(SLOTS[-1]))))  # fmt: skip
    return tuple(np.minimum(theta, 1.0).tolist())


def models(data: Path, seed: int, randomised: PositionModel) -> dict[str, float]:
    """Expected log loss of relevance on test, by training."""
    truth = read_truth(data)
    theta = between_slots(randomised)
    trainings: dict[str, Callable[[Schema], Objective]] = {
        "clicks as they are": PointwiseObjective,
        "product, learned": lambda schema: ExaminationObjective(schema, num_positions=SETTINGS.max_slots),
        "logit, learned": lambda schema: ExaminationObjective(schema, form="logit", num_positions=SETTINGS.max_slots),
        "product, looks from slots": lambda schema: ExaminationObjective(schema, examination=theta),
    }
    found = {}
    for name, objective in trainings.items():
        recipe = recipe_of(objective)
        predictions = predict(train(recipe, data, seed=seed).model, recipe.batches("test", data, seed=None))
        is_first_C = predictions.request_C.diff(prepend=predictions.request_C[:1] - 1) != 0
        true_C = truth.of_requests(predictions.request_ids_C[is_first_C].numpy()).click_examined_C
        logit_C = predictions.logits_CA[:, 0].double().numpy()

        def loss(shift: float, logit_C: Floats = logit_C, true_C: Floats = true_C) -> float:
            return float((np.logaddexp(0, logit_C + shift) - true_C * (logit_C + shift)).mean())

        found[f"{name}/log loss"] = loss(0.0)
        found[f"{name}/log loss, best shift"] = float(minimize_scalar(loss).fun)
        found[f"{name}/predicted by true"] = float(expit(logit_C).sum() / true_C.sum())
    return found


def exposure(log: dict[str, NDArray]) -> dict[str, float]:
    """Of rates by job and seniority: weighted mean |error| of an eighth of the log, raw and drawn to the job's own."""
    early = log["request"] < log["request"].max() // 8
    later = exposure_rates(*(log[name][~early] for name in ("item", "segment", "request")), strength=0.0)
    errors = {}
    for name, strength in (("raw", 0.0), ("drawn to the job's own", 20.0)):
        rates = exposure_rates(*(log[key][early] for key in ("item", "segment", "request")), strength=strength)
        known = np.isin(later.items_I, rates.items_I)
        truth = later.rates_SI[:, known]
        mine = rates.rates_SI[:, np.isin(rates.items_I, later.items_I[known])]
        errors[f"exposure, {name}/mean error by mean rate"] = float(np.abs(mine - truth).mean() / truth.mean())
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--taste", type=float, default=SETTINGS.retrieval_taste, help="sd of taste in retrieval")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    settings = replace(SETTINGS, retrieval_taste=given.taste)
    torch.set_num_threads(1)
    found: list[dict[str, float]] = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            simulate(settings, seed, num_requests=given.requests, directory=data)
            log = columns_of(data)
            errors, randomised = looks(log, data, seed)
            named = {f"looks/{name}": error for name, error in errors.items()}
            found.append(named | exposure(log) | models(data, seed, randomised))
        print(f"seed {seed} done")
    title = f"looks and exposure on {len(found)} marketplaces of {given.requests:,} requests, taste {given.taste:g}"
    findings = Findings(title)
    for name in found[0]:
        values = [one[name] for one in found]
        findings.add(name, float(np.mean(values)))
        findings.add(f"{name}, sd", float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"))
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
