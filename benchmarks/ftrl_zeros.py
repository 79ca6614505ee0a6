"""How many rows of the wide part FTRL's L1 leaves exactly zero, and what that costs in AUC.

On the simulated marketplace, Wide & Deep by the recipe of the demonstration, but for the rule of the wide part:
`Ftrl(learning_rate=α, l1=λ)`, with a λ for ids and one for crosses. For each seed there is one marketplace, and models
that differ in nothing else: differences are paired. They are taken from the recipe as it stands, whose α was tuned
without L1, and from the same α without L1. Shares are of the rows that training touched at least once, ids and crosses
together. AUC is that of clicks on test.

A kept weight is λ / |z| short of what it would be, and |z| is |w| √n / α: a larger α than the best one without L1 gives
back what λ takes from the weights that stay.

    python benchmarks/ftrl_zeros.py [--requests N] [--seeds SEED …] [--l1 IDS,CROSSES …] [--rate α] [--json FILE]
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
AS_IT_STANDS = "the recipe"


def learned(data: Path, rules: dict[str, Ftrl], seed: int) -> dict[str, float]:
    """What a model with these rules is worth on test, and how much of its wide part is zero."""
    recipe = marketplace_recipe()
    plan = dataclasses.replace(recipe.optimizers, rows={**recipe.optimizers.rows, **rules})
    recipe = dataclasses.replace(recipe, optimizers=plan)
    model = train(recipe, data, seed=seed).model
    logits, labels, weights = predict_action(model, recipe.batches("test", data, seed=None), 0)
    rows, zeros = zero_rows(model)
    return {
        "rows": rows,
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


def of_pair(text: str) -> tuple[float, float]:
    """λ of ids and of crosses."""
    ids, crosses = text.split(",")
    return float(ids), float(crosses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rate", type=float, default=0.4, help="α with L1")
    parser.add_argument(
        "--l1", type=of_pair, nargs="+", default=[(0.04, 0.0125)], help="the last is held to the targets"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    models: dict[str, dict[str, Ftrl]] = {AS_IT_STANDS: {}}
    for ids, crosses in ((0.0, 0.0), *given.l1):
        models[f"α {given.rate:g}, l1 {ids:g}, {crosses:g}"] = {
            "wide": Ftrl(learning_rate=given.rate, l1=ids),
            "crosses": Ftrl(learning_rate=given.rate, l1=crosses),
        }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            simulate(MarketplaceSettings(), seed, num_requests=given.requests, directory=data)
            for name, rules in models.items():
                started = time.perf_counter()
                one = learned(data, rules, seed)
                found[name].append(one)
                told = ", ".join(f"{what} {value:.5g}" for what, value in one.items())
                print(f"seed {seed}, {name}: {told} ({time.perf_counter() - started:.0f} s)", flush=True)
    findings = Findings(f"FTRL's L1 on the wide part, {given.requests:,} requests, seeds {given.seeds}")
    names = list(models)
    without = names[1]

    def difference(name: str, other: str, what: str) -> np.ndarray:
        return np.array([one[what] - base[what] for one, base in zip(found[name], found[other], strict=True)])

    for name in names:
        is_held = name == names[-1]
        findings.add(f"{name}: AUC", float(np.mean([one["AUC"] for one in found[name]])))
        zeros = np.array([one["zeros"] for one in found[name]])
        findings.add(f"{name}: rows exactly zero", zeros.mean(), at_least=LEAST_ZEROS if is_held else None)
        if name == AS_IT_STANDS:
            continue
        findings.add(f"{name}: fewest in a seed", zeros.min())
        lost = -difference(name, AS_IT_STANDS, "AUC")
        findings.add(f"{name}: AUC lost", lost.mean(), at_most=MOST_AUC_LOST if is_held else None)
        if len(lost) > 1:
            findings.add(f"{name}: its sd over seeds", lost.std(ddof=1))
        findings.add(f"{name}: log loss gained", difference(name, AS_IT_STANDS, "log loss").mean())
        if name != without:
            findings.add(f"{name}: AUC lost against the same α without L1", -difference(name, without, "AUC").mean())
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
