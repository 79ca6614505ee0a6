"""A Transformer over history and list against LambdaMART, by the order they give on a simulated marketplace.

One log a seed, one schema (clicks alone), the same splits, calibrator and judge for both: `Boosting` takes a model's
place in the recipe. nDCG@10 and calibrated log loss on test, paired by seed, with 95 % intervals.

    python benchmarks/marketplace_order.py [--requests 40000] [--seeds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from contenders.findings import Findings
from rankwell.losses.calibrated import RegressionCompatibleRanking
from rankwell.simulation.recipe import TRANSFORMER, marketplace_recipe
from rankwell.simulation.schema import marketplace_schema
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.studies.study import gain_of
from rankwell.training.boosting import Boosting
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.recipe import Recipe
from rankwell.training.trained import judge, train

LAMBDA_MART = "LambdaMART"
TRANSFORMERS = ("Transformer, cross-entropy", "Transformer, RCR")


def recipes() -> dict[str, Recipe]:
    """The contenders' recipes; what LightGBM does is its own default but for rate and rounds, which tune stops."""
    whole = marketplace_schema()
    schema = whole.model_copy(update={"actions": whole.actions[:1]})
    neural = marketplace_recipe(TRANSFORMER, schema=schema)
    ranked = replace(
        neural, objective=lambda schema: PointwiseObjective(schema, RegressionCompatibleRanking(share=1.0))
    )
    return {
        LAMBDA_MART: replace(neural, build=Boosting(objective="lambdarank", num_rounds=1000)),
        TRANSFORMERS[0]: neural,
        TRANSFORMERS[1]: ranked,
    }


def measure(given: argparse.Namespace) -> Findings:
    """All contenders on each seed's log."""
    found: dict[str, dict[str, list[float]]] = {name: {"ndcg@10": [], "log_loss": []} for name in recipes()}
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            simulate(MarketplaceSettings(), seed, num_requests=given.requests, directory=folder)
            for name, recipe in recipes().items():
                trained = train(recipe, Path(folder), seed=seed)
                judged = judge(recipe, trained.model, trained.calibrators, Path(folder))
                found[name]["ndcg@10"].append(judged.raw.ndcg[10])
                found[name]["log_loss"].append(judged.calibrated.log_loss)
                print(f"seed {seed}, {name}: nDCG@10 {judged.raw.ndcg[10]:.4f}", flush=True)
    findings = Findings(f"clicks on {given.requests:,} requests, {given.seeds} marketplaces")
    for name, numbers in found.items():
        for label, values in numbers.items():
            findings.add(f"{name}: {label}", sum(values) / len(values))
    for name in TRANSFORMERS:
        gain = gain_of(found[name]["ndcg@10"], found[LAMBDA_MART]["ndcg@10"])
        findings.add(f"{name}: nDCG@10 over LambdaMART, mean", gain.mean)
        findings.add(f"{name}: nDCG@10 over LambdaMART, low end", gain.low, at_least=-0.01)
    return findings


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--requests", type=int, default=40_000)
    arguments.add_argument("--seeds", type=int, default=3, help="at least 2")
    given = arguments.parse_args()
    findings = measure(given)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()
