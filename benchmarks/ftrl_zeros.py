"""How many rows of the wide part FTRL's L1 leaves exactly zero, and what that costs in AUC.

On the simulated marketplace, Wide & Deep by the recipe of the demonstration, with `Ftrl(l1=λ)` on ids and crosses of
the wide part. For each seed there is one marketplace, and models that differ in nothing but λ: differences are paired.
Shares are of the rows that training touched at least once, ids and crosses together. AUC is that of clicks on test.

    python benchmarks/ftrl_zeros.py [--requests N] [--seeds N] [--l1 λ …] [--chosen λ] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from contenders.findings import Findings
from rankwell.evaluation.discrimination import auc, log_loss_from_logits
from rankwell.models.model import Model
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.tables.ftrl import Ftrl
from rankwell.training.predictions import predict_action
from rankwell.training.trained import train

MOST_AUC_LOST, LEAST_ZEROS = 0.0005, 0.8


def learned(data: Path, l1: float, learning_rate: float, seed: int) -> dict[str, float]:
    """What a model with this λ is worth on test, and how much of its wide part is zero."""
    recipe = marketplace_recipe()
    rule = Ftrl(learning_rate=learning_rate, l1=l1)
    recipe = dataclasses.replace(recipe, optimizers=dataclasses.replace(recipe.optimizers, linear_rows=rule))
    started = time.perf_counter()
    model = train(recipe, data, seed=seed).model
    seconds = time.perf_counter() - started
    logits, labels, weights = predict_action(model, recipe.batches("test", data, seed=None), 0)
    rows, zeros = zero_rows(model)
    print(f"seed {seed}, l1 {l1:g}: {zeros:,} of {rows:,} rows are zero; trained in {seconds:.0f} s", flush=True)
    return {
        "zeros": zeros / rows,
        "AUC": auc(torch.sigmoid(logits.double()), labels, weights),
        "log loss": log_loss_from_logits(logits, labels, weights),
    }


def zero_rows(model: Model) -> tuple[int, int]:
    """Rows of the linear parts that training touched, and those of them that are exactly zero."""
    rows = zeros = 0
    for part in model.linear_parts:
        table = model.tables[part]
        for name in table.names:
            for piece in table.chunks(name):
                touched = (piece.keys_n >= 0) & (piece.sightings_n > 0)
                rows += int(touched.sum())
                zeros += int((touched & (piece.rows_nW == 0).all(dim=1)).sum())
    return rows, zeros


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=0.1, help="α of FTRL")
    parser.add_argument("--l1", type=float, nargs="+", default=[0.001, 0.003, 0.01, 0.03], help="beside 0")
    parser.add_argument("--chosen", type=float, help="the λ that is held to the targets; by default the last")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    figures: dict[float, list[dict[str, float]]] = {l1: [] for l1 in (0.0, *given.l1)}
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            simulate(MarketplaceSettings(), seed, num_requests=given.requests, directory=data)
            for l1, found in figures.items():
                found.append(learned(data, l1, given.learning_rate, seed))
    findings = Findings(f"FTRL's L1 on the wide part, {given.requests:,} requests, {given.seeds} seeds")
    without = figures[0.0]
    chosen = given.l1[-1] if given.chosen is None else given.chosen
    findings.add("AUC without L1", np.mean([one["AUC"] for one in without]))
    for l1, found in figures.items():
        is_chosen = l1 == chosen
        zeros = np.mean([one["zeros"] for one in found])
        findings.add(f"l1 {l1:g}: rows exactly zero", zeros, at_least=LEAST_ZEROS if is_chosen else None)
        if l1 == 0:
            continue
        lost = np.array([base["AUC"] - one["AUC"] for base, one in zip(without, found, strict=True)])
        findings.add(f"l1 {l1:g}: AUC lost", lost.mean(), at_most=MOST_AUC_LOST if is_chosen else None)
        findings.add(f"l1 {l1:g}: AUC lost, most of any seed", lost.max())
        worse = [one["log loss"] - base["log loss"] for base, one in zip(without, found, strict=True)]
        findings.add(f"l1 {l1:g}: log loss gained", np.mean(worse))
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
